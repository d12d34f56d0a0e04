"""Which pixels of a face's crop show a person, and which the room that a generator draws around one."""

import functools
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np

from peekaboo.faces.detection import load_mediapipe

# Where an FFHQ-aligned crop shows the face in any case, as shares of its sides: rows and columns between the temples,
# from the eyes to the mouth.
FACE = (0.45, 0.75), (0.38, 0.62)
SURE = 0.7  # how sure the segmentation has to be
RIM = 1 / 64  # of a crop's side, at a person's edge, where what a soft generator draws is half room


def package_version() -> dict[str, str]:
    """The networks that tell persons and their faces, with the version of the package that holds their weights."""
    return dict.fromkeys(("mediapipe selfie segmentation", "mediapipe face mesh"), f"mediapipe {version('mediapipe')}")


@functools.cache
def _segmentation() -> Any:
    return load_mediapipe().solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)


def matted(crop: np.ndarray) -> np.ndarray:
    """Add its matte to an FFHQ-aligned crop, uint8 RGB [S, S, 3]: uint8 [S, S, 4], the last 255 where the person of the
    face is and 0 where it is not.

    By MediaPipe's selfie segmentation where that is SURE, as it half takes a soft room beside a jaw for a person; holes
    and, above the nose, hollows filled, as eyes and brows may leave, and without the rim, which would stand around the
    head in the colours of another room. Where that sees no person in the middle of the face, all of the crop counts as
    one.
    """
    side = len(crop)
    sure = _segmentation().process(np.ascontiguousarray(crop)).segmentation_mask >= SURE
    if sure[tuple(slice(round(low * side), round(high * side)) for low, high in FACE)].mean() < 0.5:
        return np.dstack([crop, np.full((side, side), 255, np.uint8)])
    shapes, _ = cv2.findContours(sure.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    row, column = (side * sum(ends) / 2 for ends in FACE)
    own = max(shapes, key=lambda shape: cv2.pointPolygonTest(shape, (column, row), True))
    # A head is convex, shoulders beside it are not a part of it.
    head = cv2.convexHull(np.int32([(column, row), *own[own[..., 1] <= row]]))
    person = np.zeros((side, side), np.uint8)
    for shape in (own, head):
        cv2.drawContours(person, [shape], -1, 255, cv2.FILLED)
    across = 2 * round(RIM * side) + 1
    person = cv2.erode(person, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across)))
    return np.dstack([crop, cv2.GaussianBlur(person, (0, 0), RIM * side / 2)])
