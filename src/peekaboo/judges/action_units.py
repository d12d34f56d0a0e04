"""Which muscles of the face move: the blendshapes of MediaPipe's Face Landmarker, close to action units."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peekaboo import stagefile
from peekaboo.judges import crops
from peekaboo.judges.embedded import side_by_side
from peekaboo.judges.judge import Face
from peekaboo.judges.landmarks import MARGIN, central

REGION, BLENDSHAPES = 512, 52
SMILE, JAW_OPEN, EYE_BLINK = ("mouthSmileLeft", "mouthSmileRight"), ("jawOpen",), ("eyeBlinkLeft", "eyeBlinkRight")


class Blendshapes:
    """The 52 blendshapes of MediaPipe's Face Landmarker (face_landmarker_v2_with_blendshapes.task, Apache-2.0), each
    from 0 to 1, on the region around a tracked box, each frame by itself. It computes on the CPU.
    """

    name = "mediapipe face blendshapes"
    trained_on = "photographs of real people"
    real_faces = True
    role = "measures"
    columns = (
        "action_units_mae",
        *(f"{shape}_{clip}" for clip in ("original", "anonymized") for shape in ("smile", "jaw_open", "eye_blink")),
    )

    def __init__(self, path: str | Path, device: torch.device) -> None:
        import mediapipe

        self.image, self.format = mediapipe.Image, mediapipe.ImageFormat.SRGB
        vision = mediapipe.tasks.vision
        # A neighbour may be in the region as well, so it looks for more than one face.
        options = vision.FaceLandmarkerOptions(
            mediapipe.tasks.BaseOptions(model_asset_buffer=Path(path).read_bytes()),
            output_face_blendshapes=True,
            num_faces=4,
        )
        try:
            self.landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{Path(path).name}: expected a Face Landmarker task with blendshapes, found {str(error)[:200]}; "
                "download face_landmarker_v2_with_blendshapes.task again"
            ) from error
        self.sha256 = stagefile.checksum(path)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """Cut a square region [512, 512, 3] uint8, twice as wide as the tracked box and centred on it."""
        return crops.square(frame, face.box, MARGIN * float((face.box[2:] - face.box[:2]).max()), REGION)

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read regions [512, 512, 3]: blendshapes [B, 52], smile, jaw_open and eye_blink [B], from 0 to 1; NaN where no
        face is found.
        """
        found = [self._nearest(region) for region in inputs]

        def mean(names: tuple[str, ...]) -> np.ndarray:
            return np.array([np.mean([shapes.get(name, np.nan) for name in names]) for shapes in found])

        return {
            "blendshapes": np.array([list(shapes.values()) or [np.nan] * BLENDSHAPES for shapes in found]),
            "smile": mean(SMILE),
            "jaw_open": mean(JAW_OPEN),
            "eye_blink": mean(EYE_BLINK),
        }

    def _nearest(self, region: np.ndarray) -> dict[str, float]:
        """Blendshapes by name of the face centred inside the tracked box; empty without one."""
        found = self.landmarker.detect(self.image(self.format, np.ascontiguousarray(region)))
        centres = [tuple(np.mean([(p.x, p.y) for p in points], axis=0)) for points in found.face_landmarks]
        face = central(centres)
        return {} if face is None else {shape.category_name: shape.score for shape in found.face_blendshapes[face]}

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Mean absolute difference over all blendshapes, and what stands for smile, open mouth and blink in both."""
        difference = np.abs(original["blendshapes"] - anonymized["blendshapes"]).mean(1)
        kept = ({name: side[name] for name in ("smile", "jaw_open", "eye_blink")} for side in (original, anonymized))
        return {"action_units_mae": difference, **side_by_side(*kept)}
