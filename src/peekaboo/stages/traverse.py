"""Traverse: move every latent away from its track's identity, along a direction kept clear of emotion, arousal, age,
sex, pose and the colour around the head.
"""

import argparse

import h5py
import numpy as np
from scipy.special import expit

from peekaboo import stagefile
from peekaboo.latent.scorers import POSE, RETAINED, Readings, Scorer, amplified, direction, reach


def read_scorers(group: h5py.Group) -> tuple[dict[str, Scorer], Readings]:
    """One track's scorers by attribute and its readings, from score's stage file."""
    scorers = {
        name: Scorer(group[name]["weight"][:], float(group[name].attrs["bias"]), float(group[name].attrs["accuracy"]))
        for name in ("identity", *RETAINED)
    }
    found = group["readings"]
    return scorers, Readings(tuple(found.attrs["names"]), found["gradients"][:], found["shifts"][:])


def traverse_track(
    latents: h5py.Dataset,
    edited: h5py.Dataset,
    track: int,
    scorers: dict[str, Scorer],
    readings: Readings,
    settings: argparse.Namespace,
) -> tuple[float, float]:
    """Edit one track's latents; returns the mean identity score before and after."""
    identity = scorers["identity"]
    along = direction(identity, [scorers[name] for name in RETAINED], settings.top_k, readings)
    logits, total = [], np.zeros(len(along))
    for _, rows in stagefile.present_latents(latents, track, 256):
        logits.append(identity.logits(rows.reshape(len(rows), -1)))
        total += rows.reshape(len(rows), -1).sum(0, dtype=np.float64)
    logits = np.concatenate(logits)
    mean, pose = (total / len(logits)).astype(np.float32), readings.only(POSE)
    distance = reach(logits, identity, along, settings.alpha, settings.steps)
    after = []
    for pairs, rows in stagefile.present_latents(latents, track, 256):
        moved = amplified(rows.reshape(len(rows), -1), mean, settings.gain, pose) + np.float32(distance) * along
        after.append(identity(moved))
        stagefile.scatter(edited, pairs, moved.reshape(rows.shape))
    return float(expit(logits).mean()), float(np.concatenate(after).mean())


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", required=True, help="invert's stage file")
    parser.add_argument("--scorers", required=True, help="score's stage file")
    parser.add_argument("--alpha", type=float, default=-50.0, help="step size; negative walks away from the identity")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=0, help="largest components kept of each retained attribute")
    parser.add_argument(
        "--gain", type=float, default=2.0, help="of what sets a frame apart within its track, pose aside"
    )
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
            before, after = traverse_track(latents, edited, track, *read_scorers(group), args)
            scores[name] = {"before": round(before, 4), "after": round(after, 4)}
        n_frames = len(latents)
    report.write(args.report, n_frames, identity_score=scores)


if __name__ == "__main__":
    main()
