"""Cutting a drawn head out of its crop: what of it is put into a frame, and what stands behind it there.

Crops are uint8 [S, S, 4], RGB and a matte, see `matted`; landmarks are those of the drawn face, finite [478, 3] in the
crop's pixels.
"""

import cv2
import numpy as np

from peekaboo.faces.cover import CHEEKS, CHIN, NOSE, TOP, hull, inside
from peekaboo.faces.matting import RIM

# Face-mesh landmarks: the middle of the inner lips, the outer corners of the eyes, the middle between the brows.
LIPS, EYES, GLABELLA = [13, 14], [33, 263], 9
# How far a head reaches beside its face, as a share of the face's width, times the cube of how far the nose is from
# there: ears by a sixth on both sides, the back of a turned head by nearly all, next to nothing where it turns to.
BESIDE = 1.4
# A neck's width as a share of its face's, and its red, green and blue as shares of its cheeks', as rendered infants
# have them beneath the chin.
NECK, SHADE = 0.62, (0.80, 0.84, 0.89)
CROWN = 1.3  # how high a head is above its eyes, of how far its chin is beneath them


def trimmed(crop: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Take away what is no part of the head.

    Beneath the mouth a head ends with its face: else a smaller chin than the infant's would leave a collar hanging in
    the frame. Above, it ends where heads do BESIDE their faces: what the segmentation takes of the room along with the
    person may reach as far as the crop.
    """
    side, points = len(crop), landmarks[:, :2].astype(np.float64)
    head = np.uint8(255) * _face(points, side)
    (left, right), nose = (points[:, 0].min(), points[:, 0].max()), points[NOSE, 0]
    width = right - left
    ends = left - BESIDE * width * ((nose - left) / width) ** 3, right + BESIDE * width * ((right - nose) / width) ** 3
    head[: _pixel(points[LIPS, 1].mean(), side), slice(*(_pixel(end, side) for end in ends))] = 255
    across = 2 * round(RIM * side) + 1
    head = cv2.dilate(head, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across)))
    head = cv2.GaussianBlur(head, (0, 0), RIM * side)
    return np.dstack([crop[..., :3], np.minimum(crop[..., 3], head)])


def necked(crop: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Put a neck behind the head, in the colour of its cheeks, down to the crop's lower edge.

    Where a drawn chin is smaller than the infant's, shirt and room, spread from around, would stand between it and the
    shoulders. There is no neck where the crop shows no cheeks.
    """
    side, points = len(crop), landmarks[:, :2].astype(np.float64)
    nose, lips = (_pixel(height, side) for height in (points[NOSE, 1], points[LIPS, 1].mean()))
    # Beneath the middle of the cheeks' outer edges, whichever way the face is turned.
    middle, half = points[CHEEKS, 0].mean(), NECK / 2 * np.ptp(points[:, 0])
    neck = np.zeros((side, side), bool)
    neck[lips:, slice(*(_pixel(end, side) for end in (middle - half, middle + half)))] = True
    return _backed(crop, neck, _skin(crop, points, nose, lips) * SHADE)


def crowned(crop: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Put the upper half of a head behind the head, in the colour of its forehead: half an ellipse, as wide as it is at
    the forehead, CROWN high.

    Above a drawn head that is smaller than the infant's, the infant's hair would hang over a gap. There is none where
    the crop shows no forehead.
    """
    side, points = len(crop), landmarks[:, :2].astype(np.float64)
    top, brow = (_pixel(points[number, 1], side) for number in (TOP, GLABELLA))
    columns = np.flatnonzero((crop[top:brow, :, 3] >= 128).any(0))
    if not len(columns):
        return crop
    eyes = points[EYES, 1].mean()
    height = max(1, brow - eyes + CROWN * (points[CHIN, 1] - eyes))
    y, x = np.mgrid[:side, :side]
    middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0] + 1) / 2
    skull = (((x - middle) / half) ** 2 + ((y - brow) / height) ** 2 <= 1) & (y < brow)
    return _backed(crop, skull, _skin(crop, points, top, brow))


def _backed(crop: np.ndarray, shape: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The crop with a shape [S, S] of one colour [3] behind it, blurred by RIM; as it is where the colour is NaN."""
    if not np.isfinite(colour).all():
        return crop
    front = np.float32(crop[..., 3:] / 255)
    behind = (1 - front) * cv2.GaussianBlur(np.float32(shape), (0, 0), RIM * len(crop))[..., None]
    matte = front + behind
    rgb = crop[..., :3] + behind / np.maximum(matte, 1e-6) * (colour - crop[..., :3])
    return np.rint(np.dstack([rgb, 255 * matte])).astype(np.uint8)


def _skin(crop: np.ndarray, points: np.ndarray, first: int, last: int) -> np.ndarray:
    """The median colour [3] of the face [478, 2] from one row to another, NaN where the crop shows nothing of it."""
    face = (_face(points, len(crop)) & (crop[..., 3] == 255))[first:last]
    return np.median(crop[first:last, :, :3][face], axis=0) if face.any() else np.full(3, np.nan)


def _face(points: np.ndarray, side: int) -> np.ndarray:
    """Which pixels of a crop [side, side] the landmarks [478, 2] are around."""
    return inside(hull(points), (slice(0, side), slice(0, side)))


def _pixel(place: float, side: int) -> int:
    """The pixel of a row or column of a crop, at its edges for places beyond."""
    return int(np.clip(round(place), 0, side))
