"""What the project's own judges share: weights from a file, and the FFHQ-aligned crop as input."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peekaboo import models
from peekaboo.judges.landmarks import Face, aligned


class CropJudge:
    """A judge by a network of the project's own, trained on rendered faces, that reads the FFHQ-aligned crop."""

    trained_on = "rendered synthetic faces"
    real_faces = False

    def __init__(self, weights: str | Path, device: torch.device) -> None:
        self.network, self.device = models.load(weights, device), device
        self.sha256 = models.checksum(weights)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut the aligned crop [S, S, 3] uint8; None where the face has no transform."""
        return aligned(frame, face)

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Both clips' values side by side."""
        sides = {"original": original, "anonymized": anonymized}
        return {f"{value}_{clip}": values[value] for clip, values in sides.items() for value in values}
