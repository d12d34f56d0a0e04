"""Make docs/demo.png after `make demo`: moments of the sample clip, the original above what each method made of it."""

from pathlib import Path

import cv2
import numpy as np

from peekaboo import media, stagefile
from peekaboo.judges import pose
from peekaboo.synth.head import EXPRESSIONS

METHODS = ("pti_traversal", "pti", "traversal", "blur", "pixelate", "mask")
TILE, LABEL = 176, 124
HOME = Path(__file__).parents[1]
RESULTS = HOME / "results" / "infant"


def moments(truth: dict[str, np.ndarray]) -> list[int]:
    """Numbers of the frames to show: at first, the clearest smile, distress and cry, turned away, and hidden."""

    def clearest(name: str, sign: int) -> int:
        found = np.flatnonzero(truth["expression"] == EXPRESSIONS.index(name))
        return int(found[(sign * truth["valence"][found]).argmax()])

    yaw = np.abs(pose.angles(truth["rotation"])[:, 0])
    states = [clearest("smile", 1), clearest("distress", -1), clearest("cry", -1)]
    return [0, *states, int(yaw.argmax()), int(truth["visibility"].argmin())]


def place() -> np.ndarray:
    """The similarity [2, 3] that brings the square which holds the subject's face in every frame to a tile."""
    with stagefile.read(RESULTS / "extract.h5") as faces:
        boxes = faces["boxes"][:, 0]
    low, high = np.nanmin(boxes[:, :2], 0), np.nanmax(boxes[:, 2:], 0)
    scale = TILE / (1.15 * (high - low).max())
    return np.column_stack([scale * np.eye(2), TILE / 2 - scale * (low + high) / 2])


if __name__ == "__main__":
    with np.load(HOME / "resources/demo/infant_truth.npz") as file:
        numbers = moments(dict(file))
    transform = place()
    clips = [RESULTS / "source", *(RESULTS / name / "anonymized.mp4" for name in METHODS)]
    rows = []
    for clip, name in zip(clips, ("original", *METHODS), strict=True):
        frames = {n: frame for n, frame in enumerate(media.frames(clip)) if n in numbers}
        tiles = [cv2.warpAffine(frames[n], transform, (TILE, TILE), flags=cv2.INTER_CUBIC) for n in numbers]
        label = np.full((TILE, LABEL, 3), 255, np.uint8)
        middle = (6, TILE // 2 + 4)
        cv2.putText(label, name, middle, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        rows.append(np.concatenate([label, *tiles], 1))
    cv2.imwrite(str(HOME / "docs/demo.png"), np.concatenate(rows)[..., ::-1])
