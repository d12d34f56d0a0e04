"""Invert: one W+ latent per aligned face, by ReStyle."""

import argparse

import h5py
import numpy as np
import torch
from torch import nn

from peekaboo import gpu, models, stagefile
from peekaboo.latent import restyle


def invert(
    faces: h5py.File, latents: h5py.Dataset, encoder: nn.Module, generator: nn.Module, passes: int, batch: int
) -> int:
    """Fill `latents` `[N, T, num_ws, w_dim]` where `faces` has an aligned crop; returns the number of faces
    inverted.
    """
    device = generator.mapping.w_avg.device
    pairs = np.argwhere(faces["aligned"][:])
    for chunk in stagefile.batches(pairs, batch):
        images = gpu.to_images(stagefile.gather(faces["crops"], chunk), device)
        with torch.inference_mode():
            stagefile.scatter(latents, chunk, restyle.invert(images, encoder, generator, passes).cpu().numpy())
    return len(pairs)


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", required=True, help="extract's stage file")
    parser.add_argument("--generator", required=True, help="generator weights, safetensors")
    parser.add_argument("--encoder", required=True, help="encoder weights, safetensors")
    parser.add_argument("--passes", type=int, default=3, help="refinement passes")
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
        count = invert(faces, latents, encoder, generator, args.passes, args.batch)
    checksums = {"generator": models.checksum(args.generator), "encoder": models.checksum(args.encoder)}
    report.write(args.report, frames=shape[0], faces=count, device=gpu.describe(device), models=checksums)


if __name__ == "__main__":
    main()
