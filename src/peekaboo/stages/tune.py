"""Tune: each track's own generator, by Pivotal Tuning over all its frames; resumes after an interruption."""

import argparse
import copy
import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from peekaboo import gpu, models, stagefile
from peekaboo.latent import placement
from peekaboo.latent.tuning import LOSSES, Tuner, locality_loss


def tune_track(
    faces: h5py.File,
    latents: h5py.File,
    track: int,
    generator: nn.Module,
    perceptual: nn.Module,
    settings: argparse.Namespace,
    checkpoint: Path,
    key: str,
) -> Tuner:
    """Tune a copy of `generator` on the aligned frames of one track until the epoch mean falls below the stop loss.

    After every epoch the state goes to `checkpoint`, from where a run with the same `key` goes on.
    """
    device = generator.mapping.w_avg.device
    tuner = Tuner(copy.deepcopy(generator), perceptual, settings.learning_rate, gpu.precision(device))
    frames = np.flatnonzero(faces["aligned"][:, track])
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if state["key"] == key and state["track"] == track:
            tuner.load_state_dict(state["tuner"])

    def read(numbers: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        pairs = np.stack([numbers, np.full_like(numbers, track)], 1)
        pivots, placed = (
            torch.from_numpy(stagefile.gather(latents[name], pairs)).to(device) for name in ("latents", "placements")
        )
        return pivots, placement.transforms(placed), gpu.to_images(stagefile.gather(faces["crops"], pairs), device)

    weights = (settings.perceptual_weight, settings.l2_weight)
    bar = tqdm(range(len(tuner.curve), settings.epochs), unit="epoch", mininterval=5, disable=None)
    for epoch in bar:
        if tuner.curve and tuner.curve[-1][LOSSES.index("perceptual")] < settings.stop_loss:
            break
        rng = np.random.default_rng([settings.seed, track, epoch])
        randoms = torch.Generator().manual_seed(int(rng.integers(2**63)))

        def locality(pivots: Tensor, randoms: torch.Generator = randoms) -> Tensor:
            z = torch.randn(len(pivots), generator.z_dim, generator=randoms).to(device)
            # Untruncated: walks lead as far out, and there a tuned generator that nothing holds burns brows and eyes.
            random = generator.mapping(z)
            tuned = tuner.generator.synthesis
            return settings.locality_weight * locality_loss(tuned, generator.synthesis, pivots, random, perceptual)

        tuner.epoch(
            read, rng.permutation(frames), settings.batch, weights, locality if settings.locality_weight else None
        )
        bar.set_postfix(dict(zip(LOSSES, np.round(tuner.curve[-1], 4), strict=True)))
        with stagefile.replacing(checkpoint) as partial:
            torch.save({"key": key, "track": track, "tuner": tuner.state_dict()}, partial)
    return tuner


def fingerprint(settings: argparse.Namespace) -> str:
    """Name what the tuning depends on: inputs by checksum, settings by value."""
    inputs = {
        name: stagefile.checksum(getattr(settings, name)) for name in ("faces", "latents", "generator", "perceptual")
    }
    plain = {k: v for k, v in vars(settings).items() if k not in (*inputs, "output", "report")}
    return hashlib.sha256(json.dumps(inputs | plain, sort_keys=True).encode()).hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", required=True, help="extract's stage file")
    parser.add_argument("--latents", required=True, help="invert's stage file")
    parser.add_argument("--generator", required=True, help="generator weights, safetensors")
    parser.add_argument("--perceptual", required=True, help="weights of the perceptual features, safetensors")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--epochs", type=int, default=6, help="passes over the track's frames at most")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--perceptual-weight", type=float, default=1.0)
    parser.add_argument("--l2-weight", type=float, default=10.0)
    parser.add_argument("--locality-weight", type=float, default=10.0)
    parser.add_argument("--stop-loss", type=float, default=0.03, help="epoch mean of the perceptual loss to stop at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("tune")
    device = gpu.device(args.device)
    generator, perceptual = models.load(args.generator, device), models.load(args.perceptual, device)
    checkpoint, finished, curves = Path(args.output).with_suffix(".checkpoint"), Path(args.output), {}
    key = fingerprint(args)
    with (
        stagefile.read(args.faces) as faces,
        stagefile.read(args.latents) as latents,
        stagefile.write(finished) as file,
    ):
        n_frames, tracks = faces["aligned"].shape
        for track in range(tracks):
            if not faces["aligned"][:, track].any():
                continue
            own = checkpoint.with_suffix(f".{track}.checkpoint")
            tuner = tune_track(faces, latents, track, generator, perceptual, args, own, key)
            group = file.create_group(f"track_{track:03d}")
            for name, parameter in tuner.parameters.items():
                group[name] = parameter.detach().cpu().numpy()
            curves[group.name[1:]] = group.attrs["loss"] = tuner.curve
    for path in finished.parent.glob(f"{finished.stem}.*.checkpoint"):
        path.unlink()
    losses = {name: {"epochs": len(curve), "first": curve[0], "last": curve[-1]} for name, curve in curves.items()}
    checksums = {"generator": stagefile.checksum(args.generator), "perceptual": stagefile.checksum(args.perceptual)}
    device_name = gpu.describe(device)
    report.write(args.report, n_frames, device_name, models=checksums, columns=LOSSES, losses=losses, curves=curves)


if __name__ == "__main__":
    main()
