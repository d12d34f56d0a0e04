"""What a face expresses: valence, arousal and an expression, by the project's own network or by EmoNet."""

from pathlib import Path

import numpy as np
import torch

from peekaboo import gpu
from peekaboo.judges import crops
from peekaboo.judges.embedded import CropJudge
from peekaboo.judges.judge import Face
from peekaboo.nets import emonet, residual

COLUMNS = tuple(
    f"{value}_{clip}" for value in ("valence", "arousal", "expression") for clip in ("original", "anonymized")
)
# EmoNet's crop, in mean sides of the landmarks' box: its evaluation on AffectNet cuts (width + height) / 1.1
# (face-analysis/emonet, emonet/data_augmentation.py).
EMONET_MARGIN = 2 / 1.1


class Affect(CropJudge):
    """Valence, arousal and one of seven expressions of the FFHQ-aligned crop, by the project's own network."""

    name = "embedded affect"
    trained_on = "rendered synthetic faces"
    real_faces = False
    kinds = (residual.FaceAttributes,)
    columns = COLUMNS

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [S, S, 3]: valence and arousal [B] in [-1, 1], the name of the likeliest expression [B]."""
        values = self.network(gpu.to_images(np.stack(inputs), self.device))
        return {
            "valence": values["valence"].float().cpu().numpy(),
            "arousal": values["arousal"].float().cpu().numpy(),
            "expression": np.array(self.network.expressions, object)[values["expression"].argmax(1).cpu().numpy()],
        }


class EmoNet(Affect):
    """EmoNet (Toisoul et al. 2021) with eight or five expressions, as many as its weights have.

    Its own error on AffectNet, the floor under what it says of a clip: valence 0.29 and arousal 0.27 (root mean square)
    with eight expressions, 0.24 and 0.24 with five (README of face-analysis/emonet).
    """

    trained_on = "photographs of real people (AffectNet)"
    real_faces = True
    kinds = (emonet.EmoNet,)

    def __init__(self, path: str | Path, device: torch.device) -> None:
        super().__init__(path, device)
        self.name = f"EmoNet, {len(self.network.expressions)} expressions"

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut the square [256, 256, 3] uint8 around the landmarks, parallel to the frame; None where there are none."""
        box = crops.box68(face.landmarks)
        if box is None:
            return None
        return crops.square(frame, box, EMONET_MARGIN * crops.mean_side(box), emonet.SIZE)

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [256, 256, 3]: valence and arousal [B], clamped to [-1, 1], the likeliest expression [B]."""
        values = self.network((gpu.to_images(np.stack(inputs), self.device) + 1) / 2)
        return {
            **{name: values[name].clamp(-1, 1).cpu().numpy() for name in ("valence", "arousal")},
            "expression": np.array(self.network.expressions, object)[values["expression"].argmax(1).cpu().numpy()],
        }
