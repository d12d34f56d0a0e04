"""Traverse: walk every latent away from its track's identity, and look on the way at what the frames will show: what
they are still to show and no longer do is taken back, and the face is kept where it was, as upright and as large.
"""

import argparse
from itertools import islice

import h5py
import numpy as np

from peekaboo import gpu, models, stagefile
from peekaboo.faces import cover
from peekaboo.judges.landmarks import Mesh
from peekaboo.latent.frames import Frames, outlines
from peekaboo.latent.readings import Judges, Readings
from peekaboo.latent.scorers import RETAINED, Scorer, direction, reach
from peekaboo.latent.walk import until, walk
from peekaboo.stages.score import clip_samples


def read_scorers(group: h5py.Group) -> tuple[dict[str, Scorer], Readings]:
    """One track's scorers by attribute and its readings, from score's stage file."""
    scorers = {
        name: Scorer(group[name]["weight"][:], float(group[name].attrs["bias"]), float(group[name].attrs["accuracy"]))
        for name in ("identity", *RETAINED)
    }
    found = group["readings"]
    parts = (found[part][:] for part in ("gradients", "shifts", "scales", "noise"))
    return scorers, Readings(tuple(found.attrs["names"]), *parts)


def way(rows: np.ndarray, scorers: dict[str, Scorer], clear: Readings, settings: argparse.Namespace) -> np.ndarray:
    """How all of one track's flattened latents `[N, D]` move along the gradient of the identity's scorer: `[D]`."""
    identity = scorers["identity"]
    along = direction(identity, [scorers[name] for name in RETAINED], settings.top_k, clear)
    return np.float32(reach(identity.logits(rows), identity, along, settings.alpha, settings.steps)) * along


def frames_of(faces: h5py.File, pairs: np.ndarray, placements: np.ndarray) -> Frames:
    """A track's frames, by `pairs` `[N, 2]` of frame and track in extract's stage file, which must stay open."""
    landmarks, boxes, transforms = (
        stagefile.gather(faces[name], pairs) for name in ("landmarks", "boxes", "transforms")
    )
    certain = cover.certain(faces)[tuple(pairs.T)]
    covered = outlines(landmarks, boxes, certain, transforms)
    return Frames(placements, covered, certain, lambda numbers: stagefile.gather(faces["crops"], pairs[numbers]))


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", required=True, help="extract's stage file")
    parser.add_argument("--latents", required=True, help="invert's stage file")
    parser.add_argument("--tuned", required=True, help="tune's stage file")
    parser.add_argument("--scorers", required=True, help="score's stage file")
    parser.add_argument("--generator", required=True, help="generator weights, safetensors")
    parser.add_argument("--identity", required=True, help="weights of the identity judge that steers the edit")
    parser.add_argument("--affect", required=True, help="weights of the judge of affect, age and sex")
    parser.add_argument("--alpha", type=float, default=-50.0, help="step size; negative walks away from the identity")
    parser.add_argument("--steps", type=int, default=150, help="along the scorers' way")
    parser.add_argument("--top-k", type=int, default=100, help="largest components kept of each retained attribute")
    parser.add_argument(
        "--parts", type=int, default=8, help="of the walk at most; it looks after each. 0: the scorers' way alone"
    )
    parser.add_argument("--cosine", type=float, default=-0.8, help="to the infant's identity, at which the walk ends")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("traverse")
    device = gpu.device(args.device)
    generator, identity, affect = (models.load(path, device) for path in (args.generator, args.identity, args.affect))
    judges, scores, looks = Judges(identity, affect, Mesh()), {}, {}
    with (
        stagefile.read(args.faces) as faces,
        stagefile.read(args.latents) as source,
        stagefile.read(args.tuned) as tuned,
        stagefile.read(args.scorers) as scorers,
        stagefile.write(args.output) as out,
    ):
        shape = source["latents"].shape
        edited = stagefile.frame_dataset(out, "latents", shape, "f4", np.nan)
        source.copy("placements", out)  # of latents that are not walked
        for name, group in scorers.items():
            track = int(name.removeprefix("track_"))
            own = models.tuned(generator, tuned[name])
            pairs = clip_samples(source["latents"], track, len(edited))
            rows = stagefile.gather(source["latents"], pairs).reshape(len(pairs), -1)
            placed = stagefile.gather(source["placements"], pairs)
            own_scorers, readings = read_scorers(group)
            first = way(rows, own_scorers, readings, args)
            frames = frames_of(faces, pairs, placed)
            moved, framed = rows + first, placed
            if args.parts:
                places = walk(rows, first, frames, own, judges, args.batch, args.seed + track)
                for place in until(islice(places, args.parts), args.cosine):
                    moved, framed = place.latents, place.placements
                    looks.setdefault(name, []).append([round(place.cosine, 3), round(place.error, 3)])
            before, after = (float(own_scorers["identity"](latents).mean()) for latents in (rows, moved))
            scores[name] = {"before": round(before, 4), "after": round(after, 4)}
            stagefile.scatter(edited, pairs, moved.reshape(-1, *shape[2:]))
            stagefile.scatter(out["placements"], pairs, framed)
    checksums = {name: stagefile.checksum(getattr(args, name)) for name in ("generator", "identity", "affect")}
    report.write(
        args.report, shape[0], gpu.describe(device), models=checksums, identity_score=scores, cosine_and_error=looks
    )


if __name__ == "__main__":
    main()
