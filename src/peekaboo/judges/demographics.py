"""How old and of which sex a face looks: by the project's own network, AnyCost GAN's predictor or insightface's."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peekaboo import gpu, stagefile
from peekaboo.judges import crops, weights
from peekaboo.judges.embedded import CropJudge, side_by_side
from peekaboo.judges.judge import Face
from peekaboo.nets import anycost, residual

COLUMNS = tuple(f"{value}_{clip}" for value in ("age", "sex") for clip in ("original", "anonymized"))
# Side of insightface's input in pixels, and of its square in the longer sides of a face's box.
INSIGHTFACE_SIDE, INSIGHTFACE_MARGIN = 96, 1.5


class Demographics(CropJudge):
    """Age and sex of the FFHQ-aligned crop, by the project's own network."""

    name = "embedded age and sex"
    trained_on = "rendered synthetic faces"
    real_faces = False
    kinds = (residual.FaceAttributes,)
    columns = COLUMNS

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [S, S, 3]: age [B] from 0 (newborn) to 1 (adult), sex [B] as the probability of male."""
        values = self.network(gpu.to_images(np.stack(inputs), self.device))
        return {"age": values["age"].float().cpu().numpy(), "sex": values["sex"].sigmoid().float().cpu().numpy()}


class AnyCost(CropJudge):
    """Attribute predictor of AnyCost GAN (Lin et al. 2021): Young and Male of CelebA's 40 attributes.

    Its age is 1 - P(Young), so that it rises with age: a probability, not years. Every subject of CelebA-HQ is an
    adult, so it says little of how old an infant looks, only whether that changed.
    """

    name = "AnyCost attribute predictor"
    trained_on = "photographs of adults (CelebA-HQ)"
    real_faces = True
    kinds = (anycost.AttributePredictor,)
    columns = COLUMNS

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [S, S, 3]: age [B] as 1 - P(Young), sex [B] as P(Male)."""
        values = self.network.labels(gpu.to_images(np.stack(inputs), self.device))
        return {name: values[name].cpu().numpy() for name in ("age", "sex")}


class Insightface:
    """The age and sex network of insightface's model pack buffalo_l, genderage.onnx.

    Input and output as in deepinsight/insightface, python-package/insightface/model_zoo/attribute.py: RGB [B, 3, 96,
    96] from 0 to 255, which the network normalises itself, the face's box in the middle of a square 1.5 times its
    longer side; out of it come the scores of female and male and the age in hundreds of years. The tests run a stand-in
    of that input and output, not the published file.
    """

    name = "insightface age and sex"
    trained_on = "photographs of real people, which ones is not published"
    real_faces = True
    role = "measures"
    columns = COLUMNS

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.session = weights.session(path, device, INSIGHTFACE_SIDE)
        self.sha256 = stagefile.checksum(path)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """Cut the square [96, 96, 3] uint8 around the tracked box, parallel to the frame."""
        side = INSIGHTFACE_MARGIN * float((face.box[2:] - face.box[:2]).max())
        return crops.square(frame, face.box, side, INSIGHTFACE_SIDE)

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [96, 96, 3]: age [B] in hundreds of years, sex [B] as the probability of male."""
        female, male, age = weights.run(self.session, weights.chw(inputs, 0, 1)).T
        return {"age": age, "sex": 1 / (1 + np.exp(female - male))}

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Both clips' values side by side."""
        return side_by_side(original, anonymized)
