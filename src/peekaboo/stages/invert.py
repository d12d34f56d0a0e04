"""Invert: one W+ latent per aligned face, by ReStyle, and where in its crop the generator is to draw it."""

import argparse
from itertools import chain, pairwise

import h5py
import numpy as np
import torch
from torch import nn

from peekaboo import gpu, models, stagefile
from peekaboo.latent import placement, restyle

RUN = 1024  # frames smoothed at a time


def invert(
    faces: h5py.File, file: h5py.File, encoder: nn.Module, generator: nn.Module, settings: argparse.Namespace
) -> int:
    """Fill `latents` `[N, T, num_ws, w_dim]` and `placements` `[N, T, 3, 3]` of `file` where `faces` has an aligned
    crop; returns the number of faces inverted.
    """
    device = generator.mapping.w_avg.device
    pairs = np.argwhere(faces["aligned"][:])
    for chunk in stagefile.batches(pairs, settings.batch):
        crops = gpu.to_images(stagefile.gather(faces["crops"], chunk), device)
        if settings.place:
            landmarks, transforms = (stagefile.gather(faces[name], chunk) for name in ("landmarks", "transforms"))
            placed = placement.placements(landmarks, transforms, crops.shape[-1])
            stagefile.scatter(file["placements"], chunk, placed)
            crops = placement.aligned(crops, torch.from_numpy(placed).to(device)).clamp(-1, 1)
        with torch.inference_mode():
            found = restyle.invert(crops, encoder, generator, settings.passes).cpu().numpy()
        stagefile.scatter(file["latents"], chunk, found)
    return len(pairs)


def smooth(latents: h5py.Dataset, track: int) -> None:
    """Smooth one track's latents `[N, T, num_ws, w_dim]` over time in place; fine layers become their mean."""
    count = len(latents)
    total, known = 0.0, 0
    for _, rows in stagefile.present_latents(latents, track, RUN):
        total, known = total + rows[:, restyle.FINE_LAYERS :].sum(0, dtype=np.float64), known + len(rows)
    margin = len(restyle.KERNEL) // 2
    runs = ((start, latents[max(0, start - margin) : start + RUN + margin, track]) for start in range(0, count, RUN))
    # In pairs, so that a run is read before the one ahead of it is written: all see their neighbours as they were.
    for (start, rows), _ in pairwise(chain(runs, [None])):
        rows = restyle.smooth(rows)[min(start, margin) :][:RUN]
        here = np.flatnonzero(np.isfinite(rows[:, 0, 0]))
        rows[here, restyle.FINE_LAYERS :] = total / max(known, 1)
        stagefile.scatter(latents, np.stack([start + here, np.full_like(here, track)], 1), rows[here])


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", required=True, help="extract's stage file")
    parser.add_argument("--generator", required=True, help="generator weights, safetensors")
    parser.add_argument("--encoder", required=True, help="encoder weights, safetensors")
    parser.add_argument("--passes", type=int, default=3, help="refinement passes")
    parser.add_argument("--place", action="store_true", help="turn and shift faces by the generator's input transform")
    parser.add_argument("--smooth", action="store_true", help="smooth the latents over time")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("invert")
    device = gpu.device(args.device)
    generator, encoder = models.load(args.generator, device), models.load(args.encoder, device)
    with stagefile.read(args.faces) as faces, stagefile.write(args.output) as file:
        shape = (*faces["aligned"].shape, generator.num_ws, generator.w_dim)
        latents = stagefile.frame_dataset(file, "latents", shape, "f4", np.nan)
        file["placements"] = np.broadcast_to(np.eye(3, dtype=np.float32), (*shape[:2], 3, 3))
        count = invert(faces, file, encoder, generator, args)
        for track in range(shape[1] if args.smooth else 0):
            smooth(latents, track)
    checksums = {"generator": stagefile.checksum(args.generator), "encoder": stagefile.checksum(args.encoder)}
    report.write(args.report, frames=shape[0], faces=count, device=gpu.describe(device), models=checksums)


if __name__ == "__main__":
    main()
