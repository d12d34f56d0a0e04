"""How old and of which sex a face looks, by the project's own network."""

import numpy as np
import torch

from peekaboo import gpu
from peekaboo.judges.embedded import CropJudge


class Demographics(CropJudge):
    """Age and sex of the FFHQ-aligned crop; the network also labels what the edit has to keep."""

    name = "embedded age and sex"
    role = "optimises and measures"
    columns = tuple(f"{value}_{clip}" for value in ("age", "sex") for clip in ("original", "anonymized"))

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [S, S, 3]: age [B] from 0 (newborn) to 1 (adult), sex [B] as the probability of male."""
        values = self.network(gpu.to_images(np.stack(inputs), self.device))
        return {"age": values["age"].float().cpu().numpy(), "sex": values["sex"].sigmoid().float().cpu().numpy()}
