"""What every judge looks like, and what it is told of a face."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from peekaboo.faces.alignment import crop


@dataclass(frozen=True)
class Face:
    """Where the extract stage tracked a face in one source frame; NaN where it has no landmarks or no transform."""

    box: np.ndarray  # [4] x0, y0, x1, y1 in source pixels
    landmarks: np.ndarray  # [478, 3] in source pixels
    transform: np.ndarray  # [2, 3] source to crop pixels
    resolution: int  # side of the crop


def aligned(frame: np.ndarray, face: Face) -> np.ndarray | None:
    """Cut the FFHQ-aligned crop [S, S, 3] uint8 out of an RGB frame; None where the face has no transform."""
    return crop(frame, face.transform, face.resolution) if np.isfinite(face.transform).all() else None


class Judge(Protocol):
    """A network that reads something off a face, built as `Class(weights, device)`. To add one, write such a class in
    the file of what it measures and name it in resources/models.yaml; config.yaml can then ask for it.

    The same face is judged twice, in the original and in the anonymised frame, at the place where it was tracked in the
    original: a blurred or masked face is judged too, whether or not a detector would find it.
    """

    name: str
    trained_on: str
    real_faces: bool  # trained on real faces, not on rendered ones
    role: str  # "optimises" (helped to make the edit), "measures", or both
    sha256: str  # of the weights
    columns: tuple[str, ...]  # what `compare` returns

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut the input for one face out of an RGB frame [H, W, 3] uint8; None where the face lacks what it takes."""

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Judge a batch of inputs; every value has the batch as its first axis."""

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Turn the values of a batch in both clips into the columns [B] of the per-frame table."""
