"""Decode: draw the anonymised crops from latents, with the tracks' tuned generators where they are given."""

import argparse

import h5py
import numpy as np
import torch
from torch import nn

from peekaboo import gpu, models, stagefile
from peekaboo.latent import placement


def decode_track(
    source: h5py.File, crops: h5py.Dataset, decoded: np.ndarray, track: int, generator: nn.Module, batch: int
) -> None:
    """Draw one track's latents, each at its placement, into `crops` `[N, T, S, S, 3]` and mark them in `decoded`
    `[N, T]`.
    """
    device = generator.mapping.w_avg.device
    for pairs, rows in stagefile.present_latents(source["latents"], track, batch):
        placed = torch.from_numpy(stagefile.gather(source["placements"], pairs)).to(device)
        with torch.inference_mode():
            latents, transforms = torch.from_numpy(rows).to(device), placement.transforms(placed)
            images = generator.synthesis(latents, transform=transforms)
        finite = images.isfinite().flatten(1).all(1).cpu().numpy()
        # A picture that is not finite is not released: compose covers that face instead.
        drawn = pairs[finite]
        stagefile.scatter(crops, drawn, gpu.to_crops(images)[finite])
        decoded[drawn[:, 0], track] = True


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", required=True, help="invert's or traverse's stage file")
    parser.add_argument("--generator", required=True, help="generator weights, safetensors")
    parser.add_argument("--tuned", help="tune's stage file; without it the generator stays as it is")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("decode")
    device = gpu.device(args.device)
    generator = models.load(args.generator, device)
    side = generator.img_resolution
    with stagefile.read(args.latents) as source, stagefile.write(args.output) as file:
        decoded = np.zeros(source["latents"].shape[:2], bool)
        crops = stagefile.frame_dataset(file, "crops", (*decoded.shape, side, side, 3), "u1")
        for track in range(decoded.shape[1]):
            own = generator
            if args.tuned:
                with stagefile.read(args.tuned) as tuned:
                    # A track without aligned faces has no generator of its own, and no latents to draw.
                    if f"track_{track:03d}" not in tuned:
                        continue
                    own = models.tuned(generator, tuned[f"track_{track:03d}"])
            decode_track(source, crops, decoded, track, own, args.batch)
        file["decoded"] = decoded
    checksums = {"generator": stagefile.checksum(args.generator)}
    report.write(args.report, len(decoded), gpu.describe(device), faces=int(decoded.sum()), models=checksums)


if __name__ == "__main__":
    main()
