"""Score: per track, single-layer scorers of identity, emotion, age and sex, labelled by judges on the tuned
generator's pictures, and linear readings of all that a walk is to leave alone.
"""

import argparse

import h5py
import numpy as np
from torch import nn

from peekaboo import gpu, models, stagefile
from peekaboo.judges.landmarks import Mesh
from peekaboo.latent.others import random_latents
from peekaboo.latent.readings import Judges, Readings, drawn, fit_readings, seen
from peekaboo.latent.scorers import RETAINED, Scorer, explained, fit


def same_identity(cosines: np.ndarray, pivots: int, threshold: float) -> np.ndarray:
    """Which faces are the clip's, by their cosine `[B]` to its mean; the first `pivots` of them are the clip's own
    frames.

    The threshold gives way where it would leave one class almost empty, for a generator tuned to one clip may draw all
    faces alike: at least half the random faces are others, and before that at least half the clip's frames are its own.
    """
    own, random = (np.quantile(part, 0.5, method="lower") for part in np.split(cosines, [pivots]))
    return cosines >= min(max(threshold, random), own)


def labelled(
    pivots: np.ndarray,
    generator: nn.Module,
    judges: Judges,
    settings: argparse.Namespace,
    seed: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Readings]:
    """What the scorers of one track, of latents `[n, num_ws, w_dim]`, are fitted to, from these and random ones: by
    name, flattened latents `[M, D]` and labels `[M]`; and what is read off all latents.

    The identity's scorer sees what the identity tells of the latents alone. Same is where the cosine to the clip's
    mean embedding reaches the threshold. The others split the random latents and the clip's at the median of what the
    judge reads, which puts as many on either side.
    """
    random = random_latents(generator, settings.samples, seed).flatten(1).cpu().numpy()
    flat = np.concatenate([pivots.reshape(len(pivots), -1), random])
    values, embeddings = seen(drawn(flat, None, generator, settings.batch), judges)
    mean = embeddings[: len(pivots)].mean(0)
    labels = {
        "identity": same_identity(embeddings @ mean / np.linalg.norm(mean), len(pivots), settings.threshold),
        **{name: values[name] > np.median(values[name]) for name in RETAINED},
    }
    told = dict.fromkeys(labels, flat) | {"identity": explained(flat, embeddings, len(pivots))}
    return told, labels, fit_readings(flat, values)


def fitted(
    told: dict[str, np.ndarray], labels: dict[str, np.ndarray], weight_decay: float, seed: int
) -> dict[str, Scorer]:
    """Scorers by attribute of what `labelled` returns for a track."""
    return {name: fit(told[name], label, weight_decay, seed) for name, label in labels.items()}


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", required=True, help="invert's stage file")
    parser.add_argument("--tuned", required=True, help="tune's stage file")
    parser.add_argument("--generator", required=True, help="generator weights, safetensors")
    parser.add_argument("--identity", required=True, help="weights of the identity judge that steers the edit")
    parser.add_argument("--affect", required=True, help="weights of the judge of affect, age and sex")
    parser.add_argument("--samples", type=int, default=600, help="random latents per track")
    parser.add_argument("--clip-samples", type=int, default=600, help="latents of the clip per track, evenly spaced")
    parser.add_argument(
        "--threshold", type=float, default=0.71, help="cosine from which two faces count as one identity"
    )
    parser.add_argument("--weight-decay", type=float, default=100.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("score")
    device = gpu.device(args.device)
    generator, identity, affect = (models.load(path, device) for path in (args.generator, args.identity, args.affect))
    judges, accuracies = Judges(identity, affect, Mesh()), {}
    with (
        stagefile.read(args.latents) as latents,
        stagefile.read(args.tuned) as tuned,
        stagefile.write(args.output) as file,
    ):
        for name, parameters in tuned.items():
            track = int(name.removeprefix("track_"))
            own = models.tuned(generator, parameters)
            pairs = clip_samples(latents["latents"], track, args.clip_samples)
            seed = args.seed + track
            told, labels, readings = labelled(stagefile.gather(latents["latents"], pairs), own, judges, args, seed)
            scorers = fitted(told, labels, args.weight_decay, seed)
            for attribute, scorer in scorers.items():
                group = file.create_group(f"{name}/{attribute}")
                group["weight"] = scorer.weight
                group.attrs["bias"], group.attrs["accuracy"] = scorer.bias, scorer.accuracy
            group = file.create_group(f"{name}/readings")
            group.attrs["names"] = readings.names
            for part in ("gradients", "shifts", "scales", "noise"):
                group[part] = getattr(readings, part)
            accuracies[name] = {attribute: round(scorer.accuracy, 4) for attribute, scorer in scorers.items()}
        n_frames = len(latents["latents"])
    checksums = {name: stagefile.checksum(getattr(args, name)) for name in ("generator", "identity", "affect")}
    report.write(args.report, n_frames, gpu.describe(device), models=checksums, held_out_accuracy=accuracies)


def clip_samples(latents: h5py.Dataset, track: int, count: int) -> np.ndarray:
    """Pairs `[n, 2]` of frame and track: at most `count` frames that have a latent, evenly spaced over the clip."""
    frames = np.array([frame for frame in range(len(latents)) if np.isfinite(latents[frame, track, 0, 0])])
    frames = frames[np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))]
    return np.stack([frames, np.full_like(frames, track)], 1)


if __name__ == "__main__":
    main()
