"""What changed between a clip and its anonymised version, as formulas over arrays.

NaN marks a missing measurement. Every summary leaves missing ones out and says how many were left in: `Value.count`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CONSISTENCY_SECONDS = 3.0
# Two frames count as 3 s apart when their time stamps differ from that by no more than this.
CONSISTENCY_TOLERANCE = 0.1
# Outer corners of both eyes in the face mesh.
EYES = (33, 263)


class Value(NamedTuple):
    """A number, from how many frames (or pairs of frames), and why it is missing if it is."""

    value: float | None
    count: int
    reason: str | None = None


def _value(numbers: np.ndarray, missing: str, summary=np.mean) -> Value:
    numbers = numbers[np.isfinite(numbers)]
    return Value(float(summary(numbers)), len(numbers)) if len(numbers) else Value(None, 0, missing)


def mean(numbers: np.ndarray, missing: str = "no frame could be judged") -> Value:
    """Mean of the numbers [N] that are not NaN; `missing` is the reason given when there are none."""
    return _value(numbers, missing)


def rmse(original: np.ndarray, anonymized: np.ndarray) -> Value:
    """Root mean square difference of two series [N] over the frames where both are known."""
    return _value(
        np.subtract(anonymized, original, dtype=np.float64) ** 2,
        "no frame was judged in both clips",
        lambda x: np.sqrt(np.mean(x)),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines [N] between the rows of two arrays [N, D] of any length; NaN where a row holds NaN."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [N] between the rows of two arrays [N, D] (or one row [D]); NaN where a row holds NaN."""
    return np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=-1)


def rotation_angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Geodesic angles in degrees [...] between rotation matrices [..., 3, 3]: arccos((trace(a b') - 1) / 2).

    Computed as the arctangent of sine (from the skew part of a' b) over cosine (from its trace), because the arccosine
    loses half of its digits near 0 and 180 degrees. Phi6 of Huynh (2009); NaN where either matrix holds NaN.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    relative = np.swapaxes(a, -1, -2) @ b
    skew = np.stack(
        [
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ],
        axis=-1,
    )
    trace = np.trace(relative, axis1=-2, axis2=-1)
    return np.degrees(np.arctan2(np.linalg.norm(skew, axis=-1), trace - 1))


def temporal_consistency(
    cosines: Callable[[np.ndarray, np.ndarray], np.ndarray],
    seconds: np.ndarray,
    tracks: np.ndarray,
    confidence: np.ndarray,
) -> Value:
    """Weighted mean cosine between embeddings of the same track 3 s apart (Table I of the paper, TC).

    `cosines` gives those [P] between the embeddings of the frames [P] and [P]. A frame's partner is the frame of its
    track whose time stamp `seconds` [N] is nearest to 3 s later, if it is within 0.1 s of that and the track lasts so
    long. The weight is the product of both frames' detection confidence [N] (0..1, 0 where no face was found). The
    count is that of the pairs with a weight.
    """
    total = weights = 0.0
    count = pairs = 0
    for track in np.unique(tracks):
        rows = np.flatnonzero(tracks == track)
        rows = rows[np.argsort(seconds[rows], kind="stable")]
        times = seconds[rows]
        # A hair of slack: time stamps are rounded to binary fractions.
        wanted = times[times + CONSISTENCY_SECONDS <= times[-1] + 1e-9] + CONSISTENCY_SECONDS
        after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
        partner = np.where(wanted - times[after - 1] < times[after] - wanted, after - 1, after)
        near = np.flatnonzero(np.abs(times[partner] - wanted) <= CONSISTENCY_TOLERANCE)
        first, second = rows[near], rows[partner[near]]
        pairs += len(first)
        similar, weight = cosines(first, second), confidence[first] * confidence[second]
        used = np.isfinite(similar) & (weight > 0)
        total += float((similar[used] * weight[used]).sum())
        weights += float(weight[used].sum())
        count += int(used.sum())
    if count:
        return Value(total / weights, count)
    if pairs:
        return Value(None, 0, f"in no pair of frames {CONSISTENCY_SECONDS:g} s apart was a face found in both")
    return Value(None, 0, f"no track has two frames {CONSISTENCY_SECONDS:g} s apart")


def landmark_error(original: np.ndarray, anonymized: np.ndarray) -> np.ndarray:
    """Mean distance in x and y between landmarks [N, 478, 3], in units of the original's distance between the eyes [N].

    The eyes are their outer corners, as is usual for the normalised mean error. NaN where either face has no landmarks.
    """
    original, anonymized = original[..., :2].astype(np.float64), anonymized[..., :2].astype(np.float64)
    eyes = np.linalg.norm(original[:, EYES[0]] - original[:, EYES[1]], axis=-1)
    return np.linalg.norm(original - anonymized, axis=-1).mean(-1) / eyes


def share(flags: np.ndarray, among: np.ndarray, missing: str) -> Value:
    """Share of True in the flags [N] among the frames where `among` [N] is True."""
    return _value(np.asarray(flags, np.float64)[among], missing)


def expression_kept(original: np.ndarray, anonymized: np.ndarray) -> Value:
    """Share of frames with the same expression name [N] in both, among those where both are known (not empty)."""
    known = (original != "") & (anonymized != "")
    return share(original == anonymized, known, "no frame was judged in both clips")
