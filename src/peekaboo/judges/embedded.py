"""What judges by a network in a safetensors file share: its weights, and the FFHQ-aligned crop as input."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from peekaboo import stagefile
from peekaboo.judges import weights
from peekaboo.judges.judge import Face, aligned


class CropJudge:
    """A judge that reads the FFHQ-aligned crop, by a network of one of `kinds`."""

    kinds: ClassVar[tuple[type[nn.Module], ...]]
    role = "measures"

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.network, self.device = weights.network(path, device, *self.kinds), device
        self.sha256 = stagefile.checksum(path)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut the aligned crop [S, S, 3] uint8; None where the face has no transform."""
        return aligned(frame, face)

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Both clips' values side by side."""
        return side_by_side(original, anonymized)


def side_by_side(original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
    """Values of both clips by the columns NAME_original and NAME_anonymized."""
    sides = {"original": original, "anonymized": anonymized}
    return {f"{value}_{clip}": values[value] for clip, values in sides.items() for value in values}
