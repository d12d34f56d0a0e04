"""The walk away from an infant, in parts: after each it looks at what the frames will show, keeps the face where it
was, as upright and as large, and takes back what they are still to show and no longer do.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from peekaboo.latent import placement
from peekaboo.latent.descent import downhill, likely, slopes, strangeness
from peekaboo.latent.frames import Frames
from peekaboo.latent.others import TRUNCATION, others, random_latents
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
LOOKS = 4  # frames in which each of these faces is looked at
# Identity cosine that weighs as much in the choice of that face as another shape by a distance between the eyes, and as
# erring by what may be.
SHAPED, ERRING = 2.0, 0.15
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


class Subject(NamedTuple):
    """Whom a walk leads away from, and what looks at where it is."""

    own: Values  # of the frames' own faces, [N] each
    identity: np.ndarray  # float32 [E], the mean of their embeddings, of unit length
    shapes: np.ndarray  # of their faces, [N, 478, 2]
    generator: nn.Module
    judges: Judges
    batch: int

    def cosines(self, images: Tensor) -> list[Tensor]:
        """Of the identity in images `[B, 3, S, S]` in [-1, 1] to the subject's: `[B]`, with a gradient."""
        return [self.judges.identity.embed(images).float() @ torch.from_numpy(self.identity).to(images.device)]

    def felt(self, images: Tensor) -> list[Tensor]:
        """FELT of images `[B, 3, S, S]` in [-1, 1]: `[B]` each, with a gradient."""
        labels = self.judges.affect.labels(images)
        return [labels[name] for name in FELT]

    def read(self, pictures: Iterable[Tensor]) -> Values:
        """Readings of batches of images `[b, 3, S, S]` in [-1, 1], and as `identity` their cosine to the subject's."""
        found, embeddings = seen(pictures, self.judges)
        return found | {"identity": embeddings @ self.identity}

    def drawn(self, latents: np.ndarray, placed: np.ndarray | None = None) -> Iterator[Tensor]:
        """Pictures of flattened latents `[n, D]` at their placements `[n, 3, 3]`, a batch at a time."""
        return drawn(latents, placed, self.generator, self.batch)

    def shown(self, frames: Frames, latents: np.ndarray, numbers: np.ndarray) -> Iterator[Tensor]:
        """What the frames of n `numbers` will show with flattened latents `[n, D]` drawn in them, a batch at a time."""
        parts = np.split(numbers, range(self.batch, len(numbers), self.batch))
        return map(frames.shown, self.drawn(latents, frames.placements[numbers]), parts)

    def look(self, frames: Frames, latents: np.ndarray, numbers: np.ndarray) -> Values:
        """Readings of what the frames of n `numbers` will show with flattened latents `[n, D]` drawn in them."""
        return self.read(self.shown(frames, latents, numbers))


def subject_of(frames: Frames, generator: nn.Module, judges: Judges, batch: int) -> Subject:
    """The infant of a track's frames, drawn by its own generator."""
    device = generator.mapping.w_avg.device
    own, embeddings = seen(frames.own(batch, device), judges)
    shapes = np.concatenate([*map(judges.shapes, frames.own(batch, device))])
    return Subject(own, embeddings.mean(0) / np.linalg.norm(embeddings.mean(0)), shapes, generator, judges, batch)


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


def another(rows: np.ndarray, few: np.ndarray, frames: Frames, subject: Subject, random: np.ndarray) -> np.ndarray:
    """The latent `[D]` of another infant's face, to which flattened latents `[N, D]` of frames are to be led.

    Of `random` faces `[M, D]`, drawn untruncated, those about as old and of its sex are led on where such lose the
    subject's identity; the one is taken that looks the least like the subject in some of the `few` frames of n numbers,
    by the identity network and by its shape, and errs the least there.
    """
    faces = random.mean(0) + (random - random.mean(0)) / np.float32(TRUNCATION)
    alike, away = others(faces, subject.read(subject.drawn(faces)), rows, subject.own, HELD)
    few = few[:: -(-len(few) // LOOKS)]

    def likeness(face: np.ndarray) -> float:
        pictures = list(subject.shown(frames, rows[few] + face - rows.mean(0), few))
        found, shapes = subject.read(pictures), np.concatenate([*map(subject.judges.shapes, pictures)])
        apart = np.sqrt(np.square(shapes - subject.shapes[few]).sum(-1).mean(-1))
        err = worst({name: subject.own[name][few] for name in HELD}, found)
        # What errs counts where no face is found.
        return found["identity"].mean() - SHAPED * np.nan_to_num(apart).mean() + ERRING * err

    return min(alike + np.float32(FADED) * away, key=likeness)


def reframed(
    frames: Frames, framing: np.ndarray, rows: np.ndarray, few: np.ndarray, subject: Subject
) -> tuple[Frames, np.ndarray]:
    """The frames with all faces of flattened latents `[N, D]` brought by one framing to where the subject's own are,
    as upright and as large, and that framing [3, 3]: the `framing` before, corrected by the `few` frames of n numbers.

    Faces whose landmarks are not certain are then settled one by one.
    """
    places = squares(subject.own)
    shown = subject.look(frames.framed(framing), rows[few], few)
    framing = placement.between(squares(shown), places[few]) @ framing
    framed = frames.framed(framing)
    sure = frames.certain & np.isfinite(places).all(1)
    doubted = np.flatnonzero(~frames.certain & sure.any())
    if len(doubted):
        found = squares(subject.look(framed, rows[doubted], doubted))
        framed = settled(framed, doubted, found, places[sure])
    return framed, framing


def restored(
    rows: np.ndarray, found: Values, frames: Frames, readings: Readings, subject: Subject, random: np.ndarray
) -> tuple[np.ndarray, Values]:
    """Move flattened latents `[N, D]`, whose frames show `found`, by what these lack of what the subject's own faces
    show of HELD, the likeliest way among `random` latents `[M, D]`, of mean 0; a few times over while they err.

    All else is to stay as it is, and the identity cosine no higher, so that the way back is not taken. Returns the
    latents and the readings then.
    """
    # An open mouth moves the square as well: to keep a face in its place would keep the mouth as it is.
    kept = readings.only(tuple(name for name in readings.names if name not in PLACE))
    wanted = found | {name: subject.own[name] for name in HELD}
    answers = np.empty((len(rows), len(FELT), rows.shape[1]), np.float32)
    moving = anew = np.arange(len(rows))
    for _ in range(ROUNDS):
        if len(anew):
            answers[anew] = slopes(rows[anew], anew, frames, subject.generator, subject.felt)
        lack, stood = np.nan_to_num(lacking(wanted, found, kept, NEXT)).astype(np.float32), rows
        step = steps(lack[moving], kept, answers[moving], random)
        rows, found = taken_back(rows, moving, step, wanted, found, kept, partial(subject.look, frames))
        # Once all have moved, only frames that still err do again, but for those that found no way, as they would not
        # now; how they answer is asked anew where it is the felt that errs.
        off = erring(subject.own, found)
        moving = np.flatnonzero((np.nanmax(off, 1) > ENOUGH) & (rows != stood).any(1))
        anew = moving[off[moving][:, np.isin([*LIMITS], FELT)].max(1) > ENOUGH]
        if not len(moving):
            break
    return rows, found


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
    Heads of other infants are of other sizes at other places, so all are framed alike after each part: what is drawn
    fills the face that it is to cover, and no judge is led away by a face that shrinks.

    Scorers and readings are linear and were fitted around the infant; where the walk leads, pictures answer otherwise.
    The first part, `[D]`, is the scorers', the next ACROSS lead to another infant's face as the generator draws it.
    From there the identity network tells the way by the pictures of a few frames. After each part readings are fitted
    anew, to random latents around the walked ones and to these, and what has changed is taken back.
    """
    subject = subject_of(frames, generator, judges, batch)
    sample = np.unique(np.linspace(0, len(rows) - 1, min(NEAR, len(rows))).round().astype(int))
    few = sample[:: -(-len(sample) // FEW)]
    random = random_latents(generator, RANDOM, seed).flatten(1).cpu().numpy()
    middle = random.mean(0)
    spread = random - middle
    other = another(rows, few, frames, subject, random)
    outermost = STRANGEST * max(1, *(strangeness(latents - middle, spread) for latents in (rows, other[None])))
    rows = rows + first
    stride = np.float32(PART / STRIDES * np.sqrt(np.square(spread).sum(1).mean()))
    around, rng = np.float32(SPREAD) * spread[:NEAR], np.random.default_rng(seed)
    latents, values, before, framing = [], [], None, np.eye(3, dtype=np.float32)
    # Parts to the other's face that are left, this one included, and how much of a part is gone.
    left, share = ACROSS + 1, np.float32(1)
    while True:
        framed, framing = reframed(frames, framing, rows, few, subject)
        found, beside = subject.look(framed, rows, np.arange(len(rows))), rng.choice(sample, NEAR)
        near = rows[beside] + around
        latents = [*latents[2 - 2 * LATELY :], near, rows[sample]]
        told = subject.look(framed, near, beside)
        values = [*values[2 - 2 * LATELY :], told, {name: value[sample] for name, value in found.items()}]
        readings = fit_readings(np.concatenate(latents), joined(values))
        rows, found = restored(rows, found, framed, readings, subject, spread)
        place = Place(rows, framed.placements, float(found["identity"].mean()), worst(subject.own, found))
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
            falls = slopes(rows[chosen], chosen, framed, generator, subject.cosines).mean(0)[0]
            rows = rows + share * stride * downhill(falls, spread, readings.only(tuple(subject.own)))


def until(places: Iterable[Place], cosine: float) -> Iterator[Place]:
    """The places of a walk up to the first where the identity cosine is as low; it goes no further."""
    for place in places:
        yield place
        if place.cosine <= cosine:
            break
