"""Covering faces in a frame: the region to cover, its soft edge, and what is put there.

All outlines are convex polygons, float [K, 2] (x, y) in frame pixels. A window is a pair of slices (rows, columns) of
the frame; `alpha` is float32 over a window, 1 where the cover hides the frame wholly.
"""

from typing import NamedTuple

import cv2
import h5py
import numpy as np

from peekaboo.faces.detection import SURE
from peekaboo.faces.matting import matted

Window = tuple[slice, slice]


class Region(NamedTuple):
    """What is covered of a frame: over a window the alpha of the cover and of where its head may show, both [h, w], and
    how wide soft edges are, in pixels.
    """

    where: Window
    alpha: np.ndarray
    head: np.ndarray
    feather: float


GREY = 128
# Shares of the face's size (the longer side of its bounding box), or of its height for the forehead.
GROW, FEATHER, FOREHEAD = 0.04, 0.08, 0.2
BOX_GROWTH = 1.3
# Shares of the face's size on both sides of the mesh. It ends before the ears, by which people are told apart as well.
# And for a head turned by 45 degrees and more it is too narrow: without so much one in five of rendered heads turned by
# 30 or more kept a brow or a cheek uncovered.
EARS = TURNED = 0.12
BEHIND = 0.4  # where the ears of a turned head lie, of how far its nose is before the middle of its cheeks
BLUR_SIGMA = 0.2
FAINT = 1e-4  # share of open frame around a pixel below which the mean of all that is open stands there
BLOCKS = 8
# Face-mesh landmarks of the upper half of the face oval, its top and the chin.
BROW_TO_BROW = [127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356]
TOP, CHIN = 10, 152
# The nose tip; the oval's sides from the temples to the lobes and, of these, the cheeks' outer edges, left to right in
# an upright image.
NOSE, SIDES, CHEEKS = 4, [127, 234, 93, 356, 454, 323], [234, 454]


def certain(faces: h5py.File) -> np.ndarray:
    """Which faces [N, T] of extract's stage file have certain landmarks: behind a hand the mesh finds a face that is
    not quite there, and the detectors doubt it.
    """
    return faces["meshed"][:] & (faces["confidence"][:] >= SURE)


def hull(points: np.ndarray) -> np.ndarray:
    """The outline around points [N, 2]."""
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)


def face_outline(landmarks: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The face alone: hull of the landmarks [478, 3], or when they are NaN the ellipse in `box` (x0, y0, x1, y1)."""
    return hull(landmarks[:, :2]) if np.isfinite(landmarks).all() else _ellipse(box, 1.0)


def head_outline(landmarks: np.ndarray, box: np.ndarray, certain: bool) -> np.ndarray:
    """Where a new face may show.

    The hull of the landmarks [478, 3] with the forehead raised by FOREHEAD of the face's height, and wider by TURNED
    where the head is turned to a side. Unless the landmarks are certain, that is measured in this very frame and not
    doubted by the detectors, also the ellipse in `box` (x0, y0, x1, y1) enlarged by BOX_GROWTH; that alone where they
    are NaN.
    """
    ellipse = _ellipse(box, BOX_GROWTH)
    if not np.isfinite(landmarks).all():
        return ellipse
    points = landmarks[:, :2]
    up = points[TOP] - points[CHIN]
    face = np.concatenate([points, points[BROW_TO_BROW] + FOREHEAD * up])
    aside = TURNED * _turn(points) * _across(points)
    return hull(np.concatenate([face + aside, face - aside, *([] if certain else [ellipse])]))


def cover_outline(landmarks: np.ndarray, box: np.ndarray, certain: bool) -> np.ndarray:
    """What is to be covered, before `alpha_over` grows it by GROW of the face's size: the head, see `head_outline`, and
    EARS on both sides of it, as well where a turned head's ears lie BEHIND these.
    """
    head = head_outline(landmarks, box, certain)
    if not np.isfinite(landmarks).all():
        return head
    points = landmarks[:, :2]
    behind = points[SIDES] + BEHIND * (points[CHEEKS].mean(0) - points[NOSE])
    sides, aside = np.concatenate([points[SIDES], behind]), EARS * _across(points)
    return hull(np.concatenate([head, sides + aside, sides - aside]))


def _across(points: np.ndarray) -> np.ndarray:
    """To the side of the face [478, 2], as long as the face is large: [2]."""
    up = points[TOP] - points[CHIN]
    return size(points) * np.array([-up[1], up[0]]) / max(1e-6, float(np.linalg.norm(up)))


def _turn(points: np.ndarray) -> float:
    """How unequally the nose tip parts the face [478, 2]: 0 in the middle, 1 on an edge or beyond."""
    left, right = points[CHEEKS]
    across = right - left
    share = (points[NOSE] - left) @ across / max(1e-6, float(across @ across))
    return abs(2 * float(np.clip(share, 0, 1)) - 1)


def size(outline: np.ndarray) -> float:
    """The longer side of the bounding box, in pixels, at least 1."""
    return max(1.0, float(np.ptp(outline, axis=0).max()))


def window(outline: np.ndarray, margin: float, height: int, width: int) -> Window:
    """The part of a frame of `height` x `width` within `margin` pixels of the outline's bounding box; may be empty."""
    low = np.floor(outline.min(axis=0) - margin)
    high = np.ceil(outline.max(axis=0) + margin) + 1
    (x0, x1), (y0, y1) = (
        (int(np.clip(a, 0, end)), int(np.clip(b, 0, end))) for a, b, end in zip(low, high, (width, height), strict=True)
    )
    return slice(y0, y1), slice(x0, x1)


def cover_window(outline: np.ndarray, feather: float, height: int, width: int) -> Window:
    """The part of a frame of `height` x `width` that `alpha_over` covers with this `feather`; may be empty."""
    return window(outline, (GROW + feather) * size(outline) + 1, height, width)


def inside(outline: np.ndarray, where: Window) -> np.ndarray:
    """Bool mask over a window: the pixels within the outline or touched by it."""
    rows, cols = where
    mask = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.uint8)
    if mask.size:
        # OpenCV's fixed-point polygons: 1/16 pixel.
        points = np.rint((outline - (cols.start, rows.start)) * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, points, 1, shift=4)
    return mask.astype(bool)


def alpha_over(outline: np.ndarray, where: Window, feather: float) -> np.ndarray:
    """Alpha over a window: 1 within GROW of the outline's size around it, then falling smoothly to 0 over `feather`.

    `feather` is a share of the outline's size; 0 gives a hard edge. The window must reach as far as the alpha does, or
    to the frame's edge.
    """
    grow, fall = GROW * size(outline), feather * size(outline)
    rows, cols = where
    # The part of the outline beyond the frame's edge counts too when distances are measured.
    reach = int(np.ceil(grow + fall)) + 1
    around = slice(rows.start - reach, rows.stop + reach), slice(cols.start - reach, cols.stop + reach)
    outside = ~inside(outline, around)
    if not outside.any():
        return np.ones((rows.stop - rows.start, cols.stop - cols.start), np.float32)
    found = cv2.distanceTransform(outside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squares of distances are whole numbers; the last bit of OpenCV's roots depends on where in memory they lie.
    distance = np.sqrt(np.rint(np.square(found[reach:-reach, reach:-reach])))
    if outside.all():
        return np.zeros_like(distance)
    return np.where(distance <= grow, np.float32(1), _smooth(1 - (distance - grow) / max(fall, 1e-6)))


def blend(frame: np.ndarray, where: Window, cover: np.ndarray | int, alpha: np.ndarray) -> None:
    """Put `cover` (RGB [h, w, 3] or one grey value, 0..255) into a window of `frame` in place, weighted by `alpha`
    [h, w].
    """
    part = frame[where].astype(np.float32)
    frame[where] = np.rint(part + alpha[..., None] * (np.asarray(cover, np.float32) - part)).astype(np.uint8)


def blurred(part: np.ndarray, face_size: float) -> np.ndarray:
    """Gaussian blur of uint8 RGB [h, w, 3] with a sigma of BLUR_SIGMA of the face's size (pixels): a face has 5 sigma.

    Fine detail is gone for good.
    """
    return _smoothed(part, BLUR_SIGMA * face_size)


def pixelated(part: np.ndarray, face_size: float) -> np.ndarray:
    """Means of uint8 RGB [h, w, 3] over blocks, BLOCKS of them along the face's size (pixels)."""
    height, width = part.shape[:2]
    block = face_size / BLOCKS
    few = cv2.resize(part, (_at_least_1(width / block), _at_least_1(height / block)), interpolation=cv2.INTER_AREA)
    return cv2.resize(few, (width, height), interpolation=cv2.INTER_NEAREST)


def warp_back(crop: np.ndarray, transform: np.ndarray, where: Window) -> tuple[np.ndarray, np.ndarray]:
    """Bring a crop back to its place: uint8 [h, w, C] over a window of the frame, and where it has pixels.

    `crop` is uint8 [S, S, C], C at most 4, `transform` [2, 3] maps frame to crop pixels. The second array, float32
    [h, w], is the distance in frame pixels to the crop's edge, negative outside, where the first repeats the edge.
    """
    rows, cols = where
    matrix = transform.astype(np.float64)
    # Crop pixels per frame pixel.
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    matrix[:, 2] += matrix[:, :2] @ (cols.start, rows.start)
    x, y = np.arange(cols.stop - cols.start), np.arange(rows.stop - rows.start)[:, None]
    u, v = (m[0] * x + m[1] * y + m[2] for m in matrix)
    last = len(crop) - 1
    distance = np.minimum(np.minimum(u, last - u), np.minimum(v, last - v)) / scale
    if scale > 1:
        # Averaged down to the frame's resolution first, as sampling alone would alias.
        side = _at_least_1(len(crop) / scale)
        matrix = rescaled(matrix, side / len(crop))
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    warped = cv2.warpAffine(
        crop,
        matrix,
        (len(x), len(y)),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return warped, distance.astype(np.float32)


def rescaled(transform: np.ndarray, factor: float) -> np.ndarray:
    """The transform [2, 3] (float64) to a crop resized by `factor`, both with pixel centres at integers."""
    matrix = transform.astype(np.float64)
    # cv2.resize aligns the images' edges, half a pixel before the first centre.
    matrix[:, :2] *= factor
    matrix[:, 2] = (matrix[:, 2] + 0.5) * factor - 0.5
    return matrix


def square(width: int, height: int) -> int:
    """The side of the largest square with an even side in a frame."""
    return min(width, height) // 2 * 2


def region(outline: np.ndarray, head: np.ndarray, height: int, width: int) -> Region:
    """What to cover of a frame of `height` x `width` for an outline, and where its head's may show."""
    where = cover_window(outline, FEATHER, height, width)
    return Region(where, *(alpha_over(each, where, FEATHER) for each in (outline, head)), FEATHER * size(outline))


def paste(
    frame: np.ndarray, region: Region, crop: np.ndarray, transform: np.ndarray, drawn: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Put the person of a crop, uint8 [S, S, 4] with its matte, into a region of `frame` in place; return the alpha
    that was used and how much of it shows nothing but drawn persons, both float32 [h, w].

    Where the crop shows the room around the person, or ends, and beside the head, what is around in the frame is spread
    instead: a head that is smaller than the one it covers would stand in a halo of another room, and a larger one fill
    the cover to its corners. Persons `drawn` [H, W] before, of whom nothing is left of the source, stay there. Into
    that the person fades over the region's feather before the crop's own edge, and where alpha is below 1 into the
    frame, so that no seam shows there.
    """
    where, alpha, head, feather = region
    warped, distance = warp_back(crop, transform, where)
    fading = _smooth(distance / feather)
    warped, person = warped[..., :3], np.float32(warped[..., 3:] / 255) * (head * fading)[..., None]
    covered = np.where(alpha >= 1, np.float32(1), alpha * fading)
    behind = spread(frame[where], 1 - covered[..., None], feather)
    shown = person
    if drawn is not None and drawn[where].any():
        kept = _within(drawn[where], feather / 4)[..., None]
        behind += kept * (frame[where] - behind)
        shown = person + (1 - person) * kept
    blend(frame, where, np.rint(behind + person * (warped - behind)), covered)
    return covered, covered * shown[..., 0]


def composed(
    part: np.ndarray, outline: np.ndarray, head: np.ndarray, crop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `part`, uint8 RGB [S, S, 3] of a frame, shows once `crop` [S, S, 3] is pasted into it over an outline in its
    pixels and the head's, and how much of that is the crop's person [S, S].
    """
    frame, shown = part.copy(), np.zeros(part.shape[:2], np.float32)
    covered = region(outline, head, *part.shape[:2])
    if covered.alpha.size:
        _, shown[covered.where] = paste(frame, covered, matted(crop), np.eye(2, 3))
    return frame, shown


def spread(part: np.ndarray, open_: np.ndarray, sigma: float) -> np.ndarray:
    """Spread the colours of `part`, uint8 RGB [h, w, 3], from where it is `open_` [h, w, 1] (0..1) over all of it, by
    Gaussian means of `sigma` pixels; float32 [h, w, 3], grey where nothing is open.

    Nothing of what is not open has a part in it.
    """
    total = float(open_.sum())
    mean = (open_ * part).sum((0, 1)) / total if total else np.full(3, GREY, np.float32)
    near = _smoothed(np.concatenate([open_ * part, open_], -1), sigma)
    return (near[..., :3] + FAINT * mean) / (near[..., 3:] + FAINT)


def _smoothed(part: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of [h, w, C]: shrunk before and enlarged after, so that the cost doesn't grow with sigma."""
    shrink = max(1.0, sigma / 4)
    height, width = part.shape[:2]
    small = cv2.resize(part, (_at_least_1(width / shrink), _at_least_1(height / shrink)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _ellipse(box: np.ndarray, growth: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    low, high = box[:2].astype(np.float64), box[2:].astype(np.float64)
    # The polygon's edges, not its corners, lie on the ellipse.
    radius = growth * (high - low) / 2 / np.cos(np.pi / 64)
    return (low + high) / 2 + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _within(mask: np.ndarray, sigma: float) -> np.ndarray:
    """How far inside a bool mask [h, w] each pixel is: 0 outside and at the edge, to 1 within 3 `sigma`."""
    return mask * np.clip(2 * cv2.GaussianBlur(np.float32(mask), (0, 0), sigma) - 1, 0, 1)


def _smooth(x: np.ndarray) -> np.ndarray:
    """Smoothstep: 0 below 0, 1 above 1, level at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _at_least_1(x: float) -> int:
    return max(1, round(x))
