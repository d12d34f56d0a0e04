"""Tracks: detections linked over the clip, bridged where they fail, held at both ends, so that no face slips by."""

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise

import h5py
import numpy as np
from scipy.optimize import linear_sum_assignment

from peekaboo.faces.detection import overlap

# Frame-to-frame linking: a face may be missed this long, and then be this far off its prediction, in its own sizes,
# plus this much per second. Joining over gaps allows the same speed.
LINK_SECONDS, REACH, SPEED, RATIO = 0.3, 0.6, 2.0, 2.0
# Boxes that overlap this much are taken for one face: at both ends of a gap it stayed there unseen, within a gap it is
# what a doubtful detection saw.
SAME = 0.3
# Velocities are fitted over this long, and at most so many sightings; beyond the last one they fade with this constant.
VELOCITY_SECONDS, VELOCITY_FRAMES, FADE_SECONDS = 0.2, 30, 0.25
# Where a face isn't seen its box grows by this share per second since or until it is, up to this share in all.
GROWTH, MOST_GROWTH = 1.0, 0.5
# Doubtful detections are a face if they are in sight for so many seconds or that share of the clip.
LASTING_SECONDS, LASTING_SHARE = 1.0, 0.5
IMPOSSIBLE = 1e6


@dataclass(frozen=True, eq=False, slots=True)
class Sighting:
    """What is kept of a detection while all frames are linked: little, for it grows with the clip."""

    box: np.ndarray  # [4] x0, y0, x1, y1 in frame pixels
    score: float  # 0 to 1
    sure: bool
    landmarks: int | None = None  # their number where they are kept; None where the mesh found none


@dataclass(frozen=True, eq=False)
class Tracks:
    """Faces over the clip, the track of the largest summed area first."""

    boxes: np.ndarray  # [N, T, 4] float32, NaN where absent
    present: np.ndarray  # [N, T] bool: detected, bridged or held
    faces: list[dict[int, Sighting]]  # [T] the detections by frame number
    rejected: list[tuple[int, Sighting]]  # of each that was no face, frame number and the best of its detections

    @property
    def detected(self) -> np.ndarray:
        """Where [N, T] a detector found the face."""
        detected = np.zeros(self.present.shape, bool)
        for t, faces in enumerate(self.faces):
            detected[list(faces), t] = True
        return detected


@dataclass(eq=False)
class Tracklet:
    """Detections of one face in rising order of frames, and doubtful ones, of it or what covers it, in the gaps."""

    frames: list[int] = field(default_factory=list)
    faces: list[Sighting] = field(default_factory=list)
    doubtful: dict[int, Sighting] = field(default_factory=dict)


def track(
    detections: list[list[Sighting]], times: np.ndarray, bridge: float, hold: float, size: tuple[int, int]
) -> Tracks:
    """Link the detections of N frames into tracks.

    `times` [N] are the frames' time stamps in seconds. Gaps of up to `bridge` seconds are bridged if the face could
    have moved so far; longer ones if both ends overlap, as if it had stayed. Tracks go on for `hold` seconds before
    their first and after their last detection. `size` is the frame's width and height: boxes wholly outside are absent.
    """
    # Sure detections are linked first, so that a hand before a face can't lead its track away.
    sure = [[face for face in faces if face.sure] for faces in detections]
    doubtful = [[face for face in faces if not face.sure] for faces in detections]
    tracklets = _join(_link(sure, times), times, bridge)
    for tracklet in tracklets:
        _absorb(tracklet, doubtful, times)
    tracklets = _join(tracklets + _link(doubtful, times), times, bridge)
    kept = [tracklet for tracklet in tracklets if _is_face(tracklet, times)]
    others = [tracklet for tracklet in tracklets if tracklet not in kept]
    boxes = np.empty((len(times), len(kept), 4), np.float32)
    for t, tracklet in enumerate(kept):
        boxes[:, t] = _fill(tracklet, times, hold, size)
    areas = np.nansum(np.prod(boxes[..., 2:] - boxes[..., :2], axis=2), axis=0)
    order = np.argsort(-areas, kind="stable")
    faces = [dict(zip(kept[t].frames, kept[t].faces, strict=True)) | kept[t].doubtful for t in order]
    boxes = boxes[:, order]
    rejected = [max(zip(t.frames, t.faces, strict=True), key=lambda seen: seen[1].score) for t in others]
    return Tracks(boxes, np.isfinite(boxes).all(2), faces, rejected)


def _link(detections: list[list[Sighting]], times: np.ndarray) -> list[Tracklet]:
    """Link frame by frame to what goes on, at least total cost (Hungarian method)."""
    done: list[Tracklet] = []
    active: list[Tracklet] = []
    for n, faces in enumerate(detections):
        lost = [tracklet for tracklet in active if times[n] - times[tracklet.frames[-1]] > LINK_SECONDS]
        done += lost
        active = [tracklet for tracklet in active if tracklet not in lost]
        costs = np.full((len(active), len(faces)), IMPOSSIBLE)
        for i, tracklet in enumerate(active):
            predicted = _predict(tracklet.frames, tracklet.faces, times, times[n])
            reach = REACH + SPEED * (times[n] - times[tracklet.frames[-1]])
            costs[i] = [_cost(predicted, face.box, reach) for face in faces]
        linked = {k: active[i] for i, k in _assign(costs)}
        for k, face in enumerate(faces):
            if k not in linked:
                active.append(linked.setdefault(k, Tracklet()))
            linked[k].frames.append(n)
            linked[k].faces.append(face)
    return done + active


def _join(tracklets: list[Tracklet], times: np.ndarray, bridge: float) -> list[Tracklet]:
    """Join tracklets end to start over gaps, each with at most one successor, at least total cost."""
    costs = np.full((len(tracklets), len(tracklets)), IMPOSSIBLE)
    for i, before in enumerate(tracklets):
        for j, after in enumerate(tracklets):
            end, start = before.frames[-1], after.frames[0]
            if end >= start:
                continue
            gap = times[start] - times[end]
            boxes = before.faces[-1].box, after.faces[0].box
            if gap <= bridge:
                # Each end's prediction for the other's moment, and both as they stand: the nearest counts.
                forward = _predict(before.frames, before.faces, times, times[start])
                backward = _predict(after.frames, after.faces, times, times[end])
                pairs = [(forward, boxes[1]), (boxes[0], backward), boxes]
                costs[i, j] = min(_cost(a, b, REACH + SPEED * gap) for a, b in pairs) + gap
            elif overlap(*boxes) >= SAME:
                costs[i, j] = 1 + gap
    successor = dict(_assign(costs))
    joined = []
    for first in sorted(set(range(len(tracklets))) - set(successor.values())):
        row = [first]
        while row[-1] in successor:
            row.append(successor[row[-1]])
        whole = Tracklet()
        for k in row:
            whole.frames += tracklets[k].frames
            whole.faces += tracklets[k].faces
            whole.doubtful |= tracklets[k].doubtful
        joined.append(whole)
    return joined


def _absorb(tracklet: Tracklet, doubtful: list[list[Sighting]], times: np.ndarray) -> None:
    """Move doubtful detections from their frames' lists into the gaps of a tracklet where they lie as predicted."""
    for after, (start, end) in enumerate(pairwise(tracklet.frames), 1):
        for n in range(start + 1, end):
            box = _between(tracklet, after, times, times[n])
            best = max(doubtful[n], key=lambda face: overlap(face.box, box), default=None)
            if best is not None and overlap(best.box, box) >= SAME:
                doubtful[n].remove(best)
                tracklet.doubtful[n] = best


def _is_face(tracklet: Tracklet, times: np.ndarray) -> bool:
    """Whether to believe a track: sure in any frame, or so lasting that a doubt must not leave it uncovered."""
    clip = times[-1] - times[0]
    # In sight, not from first to last: something seen now and then in one place for long is no face.
    seconds = len(tracklet.faces) * clip / max(1, len(times) - 1)
    return any(face.sure for face in tracklet.faces) or seconds >= min(LASTING_SECONDS, LASTING_SHARE * clip)


def _fill(tracklet: Tracklet, times: np.ndarray, hold: float, size: tuple[int, int]) -> np.ndarray:
    """Boxes [N, 4] of one track in every frame from `hold` before its first to `hold` after its last detection, and in
    the frames next to these.
    """
    boxes = np.full((len(times), 4), np.nan)
    boxes[tracklet.frames] = [face.box for face in tracklet.faces]
    first, last = times[tracklet.frames[0]], times[tracklet.frames[-1]]
    held = (times >= first - hold) & (times <= last + hold)
    held[max(0, tracklet.frames[0] - 1) : tracklet.frames[-1] + 2] = True
    unseen = held & np.isnan(boxes[:, 0])
    for n in np.flatnonzero(unseen):
        after = bisect_left(tracklet.frames, n)
        box = _between(tracklet, after, times, times[n])
        away = min(abs(times[n] - times[k]) for k in tracklet.frames[max(0, after - 1) : after + 1])
        grow = min(GROWTH * away, MOST_GROWTH) * (box[2:] - box[:2]) / 2
        boxes[n] = np.concatenate([box[:2] - grow, box[2:] + grow])
    for n, face in tracklet.doubtful.items():
        boxes[n] = around(boxes[n], face.box)
    outside = (boxes[:, :2] >= size).any(1) | (boxes[:, 2:] <= 0).any(1)
    boxes[outside] = np.nan
    return boxes


def _between(tracklet: Tracklet, after: int, times: np.ndarray, time: float) -> np.ndarray:
    """Box [4] at a `time` between sightings `after - 1` and `after` of a tracklet, or beyond its ends."""
    before = slice(max(0, after - VELOCITY_FRAMES), after)
    behind = slice(after, after + VELOCITY_FRAMES)
    ends = [
        _predict(tracklet.frames[part], tracklet.faces[part], times, time)
        for part in (before, behind)
        if tracklet.frames[part]
    ]
    if len(ends) == 1:
        # It may go on or have stopped.
        return around(ends[0], tracklet.faces[after - 1 if after else 0].box)
    start, end = times[tracklet.frames[after - 1]], times[tracklet.frames[after]]
    share = (time - start) / (end - start)
    share = share * share * (3 - 2 * share)
    return (1 - share) * ends[0] + share * ends[1]


def _predict(frames: list[int], faces: list[Sighting], times: np.ndarray, time: float) -> np.ndarray:
    """Box [4] at a `time` after the last sighting or before the first, by a velocity that fades away."""
    after = time >= times[frames[-1]]
    end, seen = (frames[-1], faces[-1]) if after else (frames[0], faces[0])
    part = slice(-VELOCITY_FRAMES, None) if after else slice(VELOCITY_FRAMES)
    near = [
        (times[n] - times[end], _centre(face.box))
        for n, face in zip(frames[part], faces[part], strict=True)
        if abs(times[n] - times[end]) <= VELOCITY_SECONDS
    ]
    box = seen.box.astype(np.float64)
    if len(near) < 2:
        return box
    moments = np.array([moment for moment, _ in near])
    moments -= moments.mean()
    velocity = moments @ np.array([centre for _, centre in near]) / (moments @ moments)
    ahead = time - times[end]
    travelled = velocity * np.sign(ahead) * FADE_SECONDS * (1 - np.exp(-abs(ahead) / FADE_SECONDS))
    return box + np.tile(travelled, 2)


def _cost(a: np.ndarray, b: np.ndarray, reach: float) -> float:
    """Dissimilarity of two boxes by distance in face sizes, ratio of sizes and overlap; or IMPOSSIBLE."""
    sizes = [np.sqrt(np.prod(np.maximum(box[2:] - box[:2], 1.0), dtype=np.float64)) for box in (a, b)]
    distance = np.linalg.norm(_centre(a) - _centre(b)) / max(sizes)
    ratio = max(sizes) / min(sizes)
    if distance > reach or ratio > RATIO:
        return IMPOSSIBLE
    return float(distance + np.log(ratio) + 1 - overlap(a, b))


def _assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of row and column at least total cost, impossible ones left out."""
    rows, columns = linear_sum_assignment(costs)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if costs[i, j] < IMPOSSIBLE]


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]).astype(np.float64) / 2


def around(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest box [4] that holds both."""
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def loose_ends(present: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> list[tuple[int, np.ndarray]]:
    """Where tracks, present in [N, T] with boxes [N, T, 4], begin or end while the clip goes on and the face is not at
    the edge of a picture of that size (width, height).

    Returns the nearest frame without the track and its box [4] beside it.
    """
    found = []
    # A face that only ever was beyond the edge is in no frame.
    for t in np.flatnonzero(present.any(0)):
        frames = np.flatnonzero(present[:, t])
        gaps = np.flatnonzero(np.diff(frames) > 1)
        ends = [(frames[0], -1), *((frames[g], 1) for g in gaps), *((frames[g + 1], -1) for g in gaps), (frames[-1], 1)]
        for n, step in ends:
            box = boxes[n, t]
            if 0 <= n + step < len(present) and (box[:2] > 0).all() and (box[2:] < size).all():
                found.append((int(n + step), box))
    return found


def open_places(faces: h5py.File) -> list[tuple[int, np.ndarray]]:
    """Frame and box [4] of every place where, by extract's stage file, a face may be in sight and is not covered: where
    tracks begin or end within the picture, and what was seen and taken for no face.
    """
    size = int(faces.attrs["width"]), int(faces.attrs["height"])
    rejected = zip(faces["rejected_frames"][:].tolist(), faces["rejected_boxes"][:], strict=True)
    return sorted([*loose_ends(faces["present"][:], faces["boxes"][:], size), *rejected], key=lambda place: place[0])
