"""Traverse: move every latent away from its track's identity, along a direction kept clear of emotion, age and sex."""

import argparse

import h5py
import numpy as np
from scipy.special import expit

from peekaboo import stagefile
from peekaboo.latent.scorers import Scorer, direction, reach

RETAINED = ("emotion", "age", "sex")


def read_scorers(group: h5py.Group) -> dict[str, Scorer]:
    """One track's scorers by attribute, from score's stage file."""
    return {
        name: Scorer(scorer["weight"][:], float(scorer.attrs["bias"]), float(scorer.attrs["accuracy"]))
        for name, scorer in group.items()
    }


def traverse_track(
    latents: h5py.Dataset, edited: h5py.Dataset, track: int, scorers: dict[str, Scorer], settings: argparse.Namespace
) -> tuple[float, float]:
    """Edit one track's latents; returns the mean identity score before and after."""
    identity = scorers["identity"]
    along = direction(identity, [scorers[name] for name in RETAINED], settings.top_k)
    parts = stagefile.present_latents(latents, track, 256)
    logits = np.concatenate([identity.logits(rows.reshape(len(rows), -1)) for _, rows in parts])
    distance = reach(logits, identity, along, settings.alpha, settings.steps)
    after = []
    for pairs, rows in stagefile.present_latents(latents, track, 256):
        moved = rows.reshape(len(rows), -1) + np.float32(distance) * along
        after.append(identity(moved))
        stagefile.scatter(edited, pairs, moved.reshape(rows.shape))
    return float(expit(logits).mean()), float(np.concatenate(after).mean())


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", required=True, help="invert's stage file")
    parser.add_argument("--scorers", required=True, help="score's stage file")
    parser.add_argument("--alpha", type=float, default=-50.0, help="step size; negative walks away from the identity")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--top-k", type=int, default=400, help="largest components kept of each retained attribute")
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("traverse")
    scores = {}
    with (
        stagefile.read(args.latents) as source,
        stagefile.read(args.scorers) as file,
        stagefile.write(args.output) as out,
    ):
        latents = source["latents"]
        edited = stagefile.frame_dataset(out, "latents", latents.shape, "f4", np.nan)
        source.copy("placements", out)
        for name, group in file.items():
            track = int(name.removeprefix("track_"))
            before, after = traverse_track(latents, edited, track, read_scorers(group), args)
            scores[name] = {"before": round(before, 4), "after": round(after, 4)}
        n_frames = len(latents)
    report.write(args.report, n_frames, identity_score=scores)


if __name__ == "__main__":
    main()
