"""Traverse: walk every latent away from its track's identity, and look on the way at what the frames will show: what
they are still to show and no longer do is taken back, and the face is kept where it was, as upright and as large.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from peekaboo import gpu, models, stagefile
from peekaboo.faces import cover
from peekaboo.judges.landmarks import Mesh
from peekaboo.latent import placement
from peekaboo.latent.descent import downhill, likely, slopes, strangeness
from peekaboo.latent.frames import Frames, outlines
from peekaboo.latent.others import others
from peekaboo.latent.readings import (
    COMPLEXION,
    OPENINGS,
    PLACE,
    POSE,
    Judges,
    Readings,
    drawn,
    fit_readings,
    joined,
    seen,
)
from peekaboo.latent.scorers import RETAINED, Scorer, direction, reach
from peekaboo.stages.score import TRUNCATION, clip_samples, random_latents

Values = dict[str, np.ndarray]  # readings by name

# What is to be as in the frame's own face, of it what the judge of affect tells with a gradient. All else is to stay
# as a part of the walk left it.
FELT = ("emotion", "arousal")
HELD = (*POSE, *OPENINGS, *FELT, *COMPLEXION)
PART, STRIDES = 0.5, 4  # how long a further part is, of how far random latents lie around their mean, and its steps
FEW = 16  # frames whose pictures tell a step's way, the framing, and how another's face would look
RANDOM = 600  # random latents: faces to lead to, and by which ways are told likely and unlikely
ACROSS = 2  # parts in which a walk leads to another's face
FADED = 0.7  # by how much the identity cosine is told to fall from these faces on
FEWEST = 12  # of these faces are looked at in the frames: the least alike
ERRING = 0.15  # identity cosine that weighs as much in the choice of that face as erring by what may be
NEAR = 120  # latents around the walked ones, after each part, by which readings are fitted
SPREAD = 0.25  # how far these lie around, of how far random ones lie around their mean
LATELY = 3  # parts of the walk whose latents count in the fit
# Root mean squares over the frames by which what is HELD may err, in its own units, and how many of them a lost face
# counts.
LIMITS, LOST = dict.fromkeys(POSE, 5.0) | dict.fromkeys(FELT, 0.15), 6.0
# A part that brings the identity cosine down by less has led nowhere; one after which more errs than may, and more than
# before it, too far, and a shorter one is tried, down to this share of its length.
LEAST, SHORTEST = 0.04, 0.25
# How far out a walk may lead, of how far random latents lie, the infant's own or the other's, whichever lie furthest.
STRANGEST = 1.2
# Standard deviations of a reading: as far as a linear function may be believed, and where no difference counts more.
NEXT, FAR = 1.0, 3.0
SHARES = (1, 0.5, 0.25)  # of a step that are tried, until one brings the picture nearer
ROUNDS, ENOUGH = 4, 0.5  # how often a frame is moved after a part at most, and by how much it may err then
BENT = 0.02  # share of the variance of what is felt that a frame's own slope does not tell


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


class Place(NamedTuple):
    """Where a track's latents are on the walk, and what their pictures show there."""

    latents: np.ndarray  # float32 [N, D]
    placements: np.ndarray  # float32 [N, 3, 3]
    cosine: float  # mean over the frames, of the identity to the mean of the frames' own faces
    error: float  # what errs the most over the frames, of what may err; see `worst`


def lacking(wanted: Values, found: Values, readings: Readings, most: float) -> np.ndarray:
    """How far readings `[N]` by name are from what is wanted, in their standard deviations, at most `most`: `[N, k]`.
    An identity cosine below the wanted one is no lack.
    """
    off = {name: wanted[name] - found[name] for name in found}
    return readings.standardised(off | {"identity": np.minimum(off["identity"], 0)}, most)


def errors(wanted: Values, found: Values, readings: Readings) -> np.ndarray:
    """Mean squares `[N]` of what is lacking; what could not be read counts as far off."""
    return np.square(np.nan_to_num(lacking(wanted, found, readings, FAR), nan=FAR)).mean(1)


def erring(own: Values, found: Values) -> np.ndarray:
    """How much each of LIMITS errs between readings `[n]` by name of frames' own faces and found ones, as a multiple of
    its limit: `[n, len(LIMITS)]`. A pose that is not read any more counts LOST, one that never was NaN.
    """
    off = [np.nan_to_num(np.abs(found[name] - own[name]) / limit, nan=LOST) for name, limit in LIMITS.items()]
    return np.where([np.isfinite(own[name]) for name in LIMITS], off, np.nan).T


def worst(own: Values, found: Values) -> float:
    """The largest of what errs, as a root mean square over the frames: of the readings that their own faces have."""
    squares = np.square(erring(own, found))
    return float(np.sqrt(np.nanmean(squares[:, ~np.isnan(squares).all(0)], 0).max()))


def steps(lack: np.ndarray, readings: Readings, felt: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Moves `[N, D]` float32 of latents for what their frames lack `[N, k]`, the likeliest among `random` latents
    `[M, D]`, of mean 0.

    What is felt answers each frame otherwise, so there the frame's own gradients `[N, len(FELT), D]` stand for those
    of the readings.
    """
    told = [i for i, name in enumerate(FELT) if name in readings.names]
    rows = [readings.names.index(FELT[i]) for i in told]
    gradients, noise = readings.gradients.copy(), readings.noise.copy()
    shifts = likely(gradients, random)
    noise[rows] = BENT
    moves = np.empty_like(felt[:, 0])
    for n, own in enumerate(felt[:, told] / readings.scales[rows, None]):
        gradients[rows], shifts[rows] = own, likely(own, random)
        moves[n] = lack[n] @ replace(readings, gradients=gradients, shifts=shifts, noise=noise).moves()
    return moves


def taken_back(
    rows: np.ndarray,
    moving: np.ndarray,
    step: np.ndarray,
    wanted: Values,
    found: Values,
    readings: Readings,
    look: Callable[[np.ndarray, np.ndarray], Values],
) -> tuple[np.ndarray, Values]:
    """Move those flattened latents of `[N, D]` whose numbers `[n]` are `moving` by their `step` `[n, D]`, or a part of
    it, where that brings their frame nearer to what is wanted.

    `found` are the readings of all frames, `look` reads those of other latents `[n, D]` in frames of numbers `[n]`.
    Returns the latents and the readings then.
    """
    rows, found = rows.copy(), {name: value.copy() for name, value in found.items()}
    # Readings are less linear than they look: where a whole step leads astray, a part of it may not.
    for share in SHARES:
        moved = rows[moving] + np.float32(share) * step
        after = look(moved, moving)
        aim, now = ({name: value[moving] for name, value in values.items()} for values in (wanted, found))
        lost = np.isnan(after["yaw"]) & np.isfinite(now["yaw"])
        better = (errors(aim, after, readings) < errors(aim, now, readings)) & ~lost
        rows[moving[better]] = moved[better]
        for name, value in after.items():
            found[name][moving[better]] = value[better]
        moving, step = moving[~better], step[~better]
        if not len(moving):
            break
    return rows, found


def squares(values: Values) -> np.ndarray:
    """Where the faces are, how large and how upright: `[N, 4]`, by PLACE and roll."""
    return np.stack([values[name] for name in (*PLACE, "roll")], 1)


def settled(frames: Frames, numbers: np.ndarray, found: np.ndarray, sure: np.ndarray) -> Frames:
    """The frames with those faces of n `numbers` that are drawn as squares `found` `[n, 4]` brought to where, and as
    large as, those `[m, 4]` usually are that are sure, as turned as they are.

    The encoder takes a hand before a face for a part of it, and the face for a larger one.
    """
    placements, usual = frames.placements.copy(), np.median(sure, 0)
    for number, square in zip(numbers, found, strict=True):
        wanted = np.append(usual[:3], square[3])
        placements[number] = placement.between(square[None], wanted[None]) @ placements[number]
    return frames._replace(placements=placements)


def walk(
    rows: np.ndarray,
    first: np.ndarray,
    frames: Frames,
    generator: nn.Module,
    judges: Judges,
    batch: int,
    seed: int,
) -> Iterator[Place]:
    """Lead flattened latents `[N, D]` of N frames away from the infant in parts, and yield where they are after each,
    as long as it leads away and enough can be taken back of it, or of one half or a quarter as long, up to the first
    that is among strange latents. The first part is always among them.

    It looks at what the frames will show: the face under its cover, amid all that the infant's own frame has around.
    Heads of other infants are of other sizes at other places. So all placements are framed alike after each part: what
    is drawn fills the face that it is to cover, is as upright, and no judge is led away by a face that shrinks. Faces
    whose landmarks are not certain are then settled one by one.

    Scorers and readings are linear and were fitted around the infant; where the walk leads, pictures answer otherwise.
    The first part, `[D]`, is the scorers', the next ACROSS lead to another infant's face as the generator draws it: of
    random faces, untruncated, about as old and of its sex, led on where such lose the infant's identity, the one that
    looks the least like the infant in a few frames, and errs the least there. From there the identity network tells the
    way by the pictures of a few frames. After each part readings are fitted anew, to random latents around the walked
    ones and to these, and frames are moved, a few times over while they err, by what they lack of what their own faces
    show of HELD; of what is felt each knows its own gradient through the generator. All else is to stay as the part
    left it, and the identity cosine no higher, so that the way back is not taken.
    """
    own, embeddings = seen(frames.own(batch, generator.mapping.w_avg.device), judges)
    mean = embeddings.mean(0) / np.linalg.norm(embeddings.mean(0))

    def look(frames: Frames, latents: np.ndarray, numbers: np.ndarray) -> Values:
        pictures = drawn(latents, frames.placements[numbers], generator, batch)
        parts = np.split(numbers, range(batch, len(numbers), batch))
        found, embeddings = seen(map(frames.shown, pictures, parts), judges)
        return found | {"identity": embeddings @ mean}

    numbers = np.arange(len(rows))
    sample = np.unique(np.linspace(0, len(rows) - 1, min(NEAR, len(rows))).round().astype(int))
    few = sample[:: -(-len(sample) // FEW)]
    random = random_latents(generator, RANDOM, seed).flatten(1).cpu().numpy()
    middle = random.mean(0)
    spread = random - middle
    faces = middle + spread / np.float32(TRUNCATION)
    shown, embeddings = seen(drawn(faces, None, generator, batch), judges)
    alike, away = others(faces, shown, embeddings @ mean, rows, own, HELD)
    faces = alike + np.float32(FADED) * away
    _, embeddings = seen(drawn(faces, None, generator, batch), judges)
    faces = faces[np.argsort(embeddings @ mean, kind="stable")[:FEWEST]]

    def likeness(face: np.ndarray) -> float:
        shown = look(frames, rows[few] + face - rows.mean(0), few)
        return shown["identity"].mean() + ERRING * worst({name: own[name][few] for name in HELD}, shown)

    def cosine(images: Tensor) -> list[Tensor]:
        return [judges.identity.embed(images).float() @ torch.from_numpy(mean).to(images.device)]

    def felt(images: Tensor) -> list[Tensor]:
        labels = judges.affect.labels(images)
        return [labels[name] for name in FELT]

    places = squares(own)
    sure = frames.certain & np.isfinite(places).all(1)
    doubted = np.flatnonzero(~frames.certain & sure.any())
    outermost = strangeness(rows - middle, spread)
    rows = rows + first
    other = min(faces, key=likeness)
    outermost = STRANGEST * max(1, outermost, strangeness(other[None] - middle, spread))
    stride = np.float32(PART / STRIDES * np.sqrt(np.square(spread).sum(1).mean()))
    around, rng = np.float32(SPREAD) * spread[:NEAR], np.random.default_rng(seed)
    latents, values, before, framing = [], [], None, np.eye(3, dtype=np.float32)
    # Parts to the other's face that are left, this one included, and how much of a part is gone.
    left, share = ACROSS + 1, np.float32(1)
    while True:
        shown = look(frames.framed(framing), rows[few], few)
        framing = placement.between(squares(shown), places[few]) @ framing
        framed, beside = frames.framed(framing), rng.choice(sample, NEAR)
        if len(doubted):
            framed = settled(framed, doubted, squares(look(framed, rows[doubted], doubted)), places[sure])
        found, near = look(framed, rows, numbers), rows[beside] + around
        told = look(framed, near, beside)
        latents = [*latents[2 - 2 * LATELY :], near, rows[sample]]
        values = [*values[2 - 2 * LATELY :], told, {name: value[sample] for name, value in found.items()}]
        readings = fit_readings(np.concatenate(latents), joined(values))
        # An open mouth moves the square as well: to keep a face in its place would keep the mouth as it is.
        kept = readings.only(tuple(name for name in readings.names if name not in PLACE))
        wanted = found | {name: own[name] for name in HELD}
        answers, moving, anew = np.empty((len(rows), len(FELT), rows.shape[1]), np.float32), numbers, numbers
        for _ in range(ROUNDS):
            if len(anew):
                answers[anew] = slopes(rows[anew], anew, framed, generator, felt)
            lack, stood = np.nan_to_num(lacking(wanted, found, kept, NEXT)).astype(np.float32), rows
            step = steps(lack[moving], kept, answers[moving], spread)
            rows, found = taken_back(rows, moving, step, wanted, found, kept, partial(look, framed))
            # Once all have moved, only frames that still err do again, but for those that found no way, as they would
            # not now; how they answer is asked anew where it is the felt that errs.
            off = erring(own, found)
            moving = np.flatnonzero((np.nanmax(off, 1) > ENOUGH) & (rows != stood).any(1))
            anew = moving[off[moving][:, np.isin([*LIMITS], FELT)].max(1) > ENOUGH]
            if not len(moving):
                break
        place = Place(rows, framed.placements, float(found["identity"].mean()), worst(own, found))
        if before and place.error > max(1, before.error):
            # Go back, and not as far; what was seen there counts in the next fit.
            share, rows = share / 2, before.latents
            if share < SHORTEST:
                if not left:
                    break
                left, share = 0, np.float32(1)
        elif before and not left and place.cosine > before.cosine - LEAST:
            break
        else:
            yield place
            before, left = place, max(left - 1, 0)
            if strangeness(rows - middle, spread) > outermost:
                break
        if left:
            rows = rows + share / left * (other - rows.mean(0))
            continue
        for _ in range(STRIDES):
            chosen = rng.choice(sample, len(few), replace=False)
            falls = slopes(rows[chosen], chosen, framed, generator, cosine).mean(0)[0]
            rows = rows + share * stride * downhill(falls, spread, readings.only(tuple(own)))


def until(places: Iterable[Place], cosine: float) -> Iterator[Place]:
    """The places of a walk up to the first where the identity cosine is as low; it goes no further."""
    for place in places:
        yield place
        if place.cosine <= cosine:
            break


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
    checksums = {name: models.checksum(getattr(args, name)) for name in ("generator", "identity", "affect")}
    report.write(
        args.report, shape[0], gpu.describe(device), models=checksums, identity_score=scores, cosine_and_error=looks
    )


if __name__ == "__main__":
    main()
