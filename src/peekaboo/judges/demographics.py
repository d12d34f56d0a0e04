"""How old and of which sex a face looks, by the project's own network."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peekaboo import gpu, models
from peekaboo.judges.landmarks import Face, aligned


class Demographics:
    """Age and sex of the FFHQ-aligned crop; the network also labels what the edit has to keep."""

    name = "embedded age and sex"
    trained_on = "rendered synthetic faces"
    real_faces = False
    role = "optimises and measures"
    columns = tuple(f"{value}_{clip}" for value in ("age", "sex") for clip in ("original", "anonymized"))

    def __init__(self, weights: str | Path, device: torch.device) -> None:
        self.network, self.device = models.load(weights, device), device
        self.sha256 = models.checksum(weights)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut the aligned crop [S, S, 3] uint8; None where the face has no transform."""
        return aligned(frame, face)

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [S, S, 3]: age [B] from 0 (newborn) to 1 (adult), sex [B] as the probability of male."""
        values = self.network(gpu.to_images(np.stack(inputs), self.device))
        return {"age": values["age"].float().cpu().numpy(), "sex": values["sex"].sigmoid().float().cpu().numpy()}

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Both clips' values side by side."""
        sides = {"original": original, "anonymized": anonymized}
        return {f"{value}_{clip}": values[value] for clip, values in sides.items() for value in values}
