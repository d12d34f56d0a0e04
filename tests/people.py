"""Faces of the real clips, with landmarks and crops as the extract stage leaves them."""

from pathlib import Path

import numpy as np
import pytest

from peekaboo import media
from peekaboo.faces import alignment, detection
from peekaboo.judges.judge import Face
from peekaboo.judges.landmarks import MARGIN, REGION, Mesh

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
# Where the people of a clip stay, as relative boxes.
PLACES = {
    "adult_smile.mp4": [(0.34, 0.27, 0.58, 0.81)],
    "adult_yaw.mp4": [(0.2, 0.1, 0.8, 0.9)],
    "two_faces.mp4": [(0.22, 0.23, 0.33, 0.41), (0.56, 0.12, 0.7, 0.34)],
}


def seen(clip: str, numbers: list[int]) -> list[tuple[np.ndarray, list[Face]]]:
    """Frames of a clip by their numbers, each with the face of every person, in the order of PLACES."""
    if not CLIPS.is_dir():
        pytest.skip(f"no test clips: {CLIPS} is absent")
    mesh, found = Mesh(), []
    for number, frame in enumerate(media.frames(CLIPS / clip)):
        if number in numbers:
            places = np.array(PLACES[clip]) * np.tile(frame.shape[1::-1], 2)
            found.append((frame, [face(mesh, frame, place) for place in places]))
        if number >= max(numbers):
            break
    return found


def face(mesh: Mesh, frame: np.ndarray, place: np.ndarray) -> Face:
    """The face at a place [4] of a frame, to be cut to 256 pixels."""
    nowhere = Face(place, np.full((478, 3), np.nan), np.full((2, 3), np.nan), 256)
    landmarks = mesh([mesh.prepare(frame, nowhere)])["landmarks"][0]
    assert np.isfinite(landmarks).all(), f"no face in {place}"
    side = MARGIN * (place[2:] - place[:2]).max() / REGION
    landmarks[:, :2] = (landmarks[:, :2] - (REGION - 1) / 2) * side + (place[:2] + place[2:]) / 2
    landmarks[:, 2] *= side
    return Face(
        detection.box_of(landmarks), landmarks, alignment.to_transform(alignment.ffhq_pose(landmarks), 256), 256
    )
