"""What a face expresses: valence, arousal and one of seven expressions, by the project's own network."""

import numpy as np
import torch

from peekaboo import gpu
from peekaboo.judges.embedded import CropJudge


class Affect(CropJudge):
    """Valence, arousal and expression of the FFHQ-aligned crop; the network also labels what the edit has to keep."""

    name = "embedded affect"
    role = "optimises and measures"
    columns = tuple(
        f"{value}_{clip}" for value in ("valence", "arousal", "expression") for clip in ("original", "anonymized")
    )

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [S, S, 3]: valence and arousal [B] in [-1, 1], the name of the likeliest expression [B]."""
        values = self.network(gpu.to_images(np.stack(inputs), self.device))
        return {
            "valence": values["valence"].float().cpu().numpy(),
            "arousal": values["arousal"].float().cpu().numpy(),
            "expression": np.array(self.network.expressions, object)[values["expression"].argmax(1).cpu().numpy()],
        }
