"""Scripted clips, with ground truth, of a rendered infant who smiles, cries, looks away and is briefly hidden."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from peekaboo import media, stagefile
from peekaboo.synth import head as heads
from peekaboo.synth import render
from peekaboo.synth.head import ACTIONS, PARAMETERS, HeadModel

_OFF, _ON = -2.0, 2.0

# Keys (share of the clip, value); between two keys the value eases from one to the other.
_EXPRESSION_KEYS = {
    "smile": [(0.12, _OFF), (0.20, _ON), (0.31, _ON), (0.37, _OFF)],
    "distress": [(0.33, _OFF), (0.39, 1.4), (0.42, 1.4), (0.47, _OFF)],
    "cry": [(0.39, _OFF), (0.46, _ON), (0.56, _ON), (0.64, _OFF)],
    "blink": [
        *((0.075, _OFF), (0.09, _ON), (0.105, _OFF), (0.64, _OFF), (0.655, _ON), (0.67, _OFF)),
        *((0.93, _OFF), (0.945, _ON), (0.96, _OFF)),
    ],
}
# In degrees: yaw and pitch of the head, gaze to its left and up.
_MOTION_KEYS = {
    "yaw": [
        *((0.12, 0), (0.2, -6), (0.3, 5), (0.44, -4), (0.56, 3), (0.64, 0)),
        *((0.72, 34), (0.78, 34), (0.84, 2), (1, 0)),
    ],
    "pitch": [(0.12, 0), (0.2, -4), (0.34, 2), (0.46, -5), (0.58, 3), (0.72, 6), (0.78, 6), (0.84, 0)],
    "left": [(0.2, 0), (0.3, -5), (0.6, 0), (0.66, 20), (0.77, 20), (0.81, -4), (0.86, 0)],
    "up": [(0.2, 0), (0.3, 3), (0.64, 0), (0.68, -5), (0.77, -5), (0.82, 0)],
}
# The hand is before the face between these shares of the clip: 6 frames of 96 on most of it, 2 or 3 more on its rim.
_HAND_FROM, _HAND_TO = 0.83, 0.92


@dataclass(frozen=True)
class ClipTruth:
    """What is known of a clip of N frames; the arrays' names are those in the file."""

    times: np.ndarray  # float64 [N], seconds
    rotation: np.ndarray  # float32 [N, 3, 3], see `head.rotation`
    landmarks68: np.ndarray  # float32 [N, 68, 2], pixels, the centre of the first pixel is (0, 0)
    valence: np.ndarray  # float32 [N], -1..1, see `head.affect`
    arousal: np.ndarray  # float32 [N], -1..1
    expression: np.ndarray  # uint8 [N], index into `head.EXPRESSIONS`
    actions: np.ndarray  # float32 [N, 16], weights of `head.ACTIONS`
    gaze: np.ndarray  # float32 [N, 2], degrees relative to the head: to its left, up
    visibility: np.ndarray  # float32 [N], share of the landmarks' hull that nothing hides
    identity: np.ndarray  # float32 [60], the parameters of head.IDENTITY


def _eased(share: np.ndarray, keys: list[tuple[float, float]]) -> np.ndarray:
    """Return the value at each share of the clip, with no speed at the keys."""
    times, values = np.array(keys, np.float64).T
    step = np.clip(np.searchsorted(times, share, "right") - 1, 0, len(times) - 2)
    t = np.clip((share - times[step]) / (times[step + 1] - times[step]), 0, 1)
    return values[step] + (values[step + 1] - values[step]) * t * t * (3 - 2 * t)


def script(seed: int, n: int, seconds: float) -> np.ndarray:
    """Return the parameters [n, P] of a scripted infant: neutral, smile, fuss and cry, look away, hidden, neutral.

    The identity, the light and the background follow from the seed; slow sways of the head make the motion natural.
    """
    rng = np.random.default_rng(seed)
    base = 0.7 * heads.sample(rng, 1)[0]
    base[PARAMETERS["age"]] = -0.4 + 0.4 * base[PARAMETERS["age"]]
    base[PARAMETERS["expression"]] = 0
    base[PARAMETERS["rotation"]] = 0
    base[PARAMETERS["gaze"]] = 0
    base[PARAMETERS["framing"]] = 0
    parameters = np.repeat(base[None], n, 0).astype(np.float64)
    share = np.arange(n) / max(n - 1, 1)

    expression = parameters[:, PARAMETERS["expression"]]
    for i, name in enumerate(ACTIONS):
        if name in _EXPRESSION_KEYS:
            expression[:, i] = _eased(share, _EXPRESSION_KEYS[name])
        elif name not in heads.SIGNED:
            expression[:, i] = _OFF

    def sway(size: float) -> np.ndarray:
        frequency, phase = rng.uniform(0.3, 0.9, 3), rng.uniform(0, 2 * np.pi, 3)
        waves = np.sin(2 * np.pi * frequency * seconds * share[:, None] + phase)
        return size * waves @ np.array([0.6, 0.3, 0.1])

    motion = {name: _eased(share, keys) for name, keys in _MOTION_KEYS.items()}
    angles = np.stack([motion["yaw"] + sway(2.5), motion["pitch"] + sway(1.5), sway(3.0)], 1)
    parameters[:, PARAMETERS["rotation"]] = angles / heads.ROTATION_DEGREES
    looks = np.stack([motion["left"] + sway(1.5), motion["up"] + sway(1.0)], 1)
    parameters[:, PARAMETERS["gaze"]] = 2 * np.arctanh(np.clip(looks / heads.GAZE_DEGREES, -0.95, 0.95))
    parameters[:, PARAMETERS["framing"]][:, :2] += np.stack([sway(0.2), sway(0.15)], 1)
    return parameters.astype(np.float32)


def _hand(image: np.ndarray, centre: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw an open hand on image [H, W, 3]; return the picture and the hand's opacity float32 [H, W].

    `centre` is the palm's in pixels, `size` its half width; the forearm comes from below on the right.
    """
    fine = 4
    height, width = image.shape[:2]
    mask = np.zeros((fine * height, fine * width), np.uint8)

    def capsule(start: tuple[float, float], stop: tuple[float, float], radius: float) -> None:
        ends = [np.rint((centre + size * np.array(end) + 0.5) * fine).astype(int).tolist() for end in (start, stop)]
        cv2.line(mask, ends[0], ends[1], 255, max(1, round(2 * radius * size * fine)), cv2.LINE_AA)

    capsule((0.0, 0.2), (0.0, -0.3), 0.95)
    capsule((0.35, 0.9), (1.7, 4.5), 0.75)
    capsule((-0.7, 0.4), (-1.75, -0.7), 0.3)
    for root, tip in ((-0.72, -1.0), (-0.25, -0.4), (0.25, 0.2), (0.72, 0.85)):
        capsule((root, -0.7), (tip, -2.7 + 0.5 * abs(tip)), 0.27)
    opacity = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    # Darker towards the rim, as round things are.
    inside = cv2.distanceTransform((opacity > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / size
    shade = (0.62 + 0.38 * np.clip(cv2.GaussianBlur(inside, (0, 0), 0.06 * size) / 0.45, 0, 1))[..., None]
    drawn = image + opacity[..., None] * (shade * np.array([214.0, 160.0, 130.0]) - image)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8), opacity


def _visibility(landmarks: np.ndarray, opacity: np.ndarray) -> float:
    """Return the share of the landmarks' convex hull, within the picture, that is not hidden."""
    hull = np.zeros(opacity.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.rint(landmarks).astype(np.int32)), 1)
    return float(1 - opacity[hull > 0].mean()) if hull.any() else 0.0


def draw(head: HeadModel, parameters: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, render.Truth, float]]:
    """Yield for each of parameters [N, P] the frame uint8 RGB [size, size, 3], its truth and the face's visibility."""
    n = len(parameters)
    for i in range(n):
        image, truth = render.frame(head, parameters[i], size, size)
        share = i / max(n - 1, 1)
        opacity = np.zeros((size, size), np.float32)
        if _HAND_FROM <= share <= _HAND_TO:
            passed = (share - _HAND_FROM) / (_HAND_TO - _HAND_FROM)
            middle, width = truth.landmarks.mean(0), np.ptp(truth.landmarks[:, 0])
            # In quickly, a moment before the face, and out.
            across = 1.5 * (2 * passed - 1) ** 3
            image, opacity = _hand(image, middle + width * np.array([-across, 0.25]), 0.36 * width)
        yield image, truth, _visibility(truth.landmarks, opacity)


def write(head: HeadModel, seed: int, size: int, seconds: float, rate: int, output: Path) -> ClipTruth:
    """Write the clip of a seed to `output` (mp4) with `rate` frames a second and return its truth."""
    n = round(seconds * rate)
    parameters = script(seed, n, seconds)
    base, ticks = Fraction(1, 512 * rate), 512
    info = media.ClipInfo(
        width=size,
        height=size,
        time_base=base,
        pts=ticks * np.arange(n, dtype=np.int64),
        durations=np.full(n, ticks, np.int64),
        rate=Fraction(rate),
        has_audio=False,
    )
    truths, visibility = [], []
    with media.writer(output, info) as write_frame:
        for image, truth, visible in draw(head, parameters, size):
            write_frame(image)
            truths.append(truth)
            visibility.append(visible)
    return ClipTruth(
        times=np.arange(n) / rate,
        rotation=np.stack([truth.rotation for truth in truths]).astype(np.float32),
        landmarks68=np.stack([truth.landmarks for truth in truths]),
        valence=np.array([truth.valence for truth in truths], np.float32),
        arousal=np.array([truth.arousal for truth in truths], np.float32),
        expression=np.array([truth.expression for truth in truths], np.uint8),
        actions=np.stack([heads.actions(row) for row in parameters]),
        gaze=np.stack([truth.gaze for truth in truths]),
        visibility=np.array(visibility, np.float32),
        identity=parameters[0, heads.IDENTITY],
    )


def main(argv: list[str] | None = None) -> None:
    """Write one clip and its truth (npz, the arrays of ClipTruth)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", type=Path, required=True, help="the face model's arrays, ict_facekit.npz")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, default=256, help="width and height in pixels, even")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=int, default=24, help="frames a second")
    parser.add_argument("--output", type=Path, required=True, help="the clip, mp4")
    parser.add_argument("--truth", type=Path, required=True, help="its ground truth, npz")
    args = parser.parse_args(argv)
    with stagefile.replacing(args.output) as clip, stagefile.replacing(args.truth) as arrays:
        truth = write(heads.load(args.head), args.seed, args.size, args.seconds, args.rate, clip)
        np.savez_compressed(arrays, **vars(truth))


if __name__ == "__main__":
    main()
