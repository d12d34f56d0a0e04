"""Whose face it is: the project's own embedding, which helps to make the edit, and dlib's, which took no part in it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peekaboo import gpu, metrics, models
from peekaboo.judges.embedded import CropJudge
from peekaboo.judges.landmarks import Face

CHIP = 150
# Room around the face in dlib's chips, as its recognition network was trained with.
CHIP_PADDING = 0.25
# dlib's five points in the face mesh: the subject's left eye (outer and inner corner), right eye, base of the nose.
CHIP_POINTS = (263, 362, 33, 133, 2)


class Embedded(CropJudge):
    """ArcFace-style embedding of the FFHQ-aligned crop by the project's own network."""

    name = "embedded identity"
    role = "optimises"
    columns = ("identity_cos_optimised",)

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Embed crops [S, S, 3]: unit embeddings [B, D]."""
        return {"embedding": self.network(gpu.to_images(np.stack(inputs), self.device)).float().cpu().numpy()}

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Cosine between both embeddings."""
        return {"identity_cos_optimised": metrics.cosine(original["embedding"], anonymized["embedding"])}


class Dlib:
    """dlib's ResNet (dlib_face_recognition_resnet_model_v1, public domain), an independent judge of real faces.

    Its published operating point: two faces are one person's when their embeddings are less than 0.6 apart (99.38 %
    correct on Labeled Faces in the Wild). The embeddings have no unit length and their cosines lie close together:
    different people reach 0.9, so its cosine is not to be read against the 0.71 of ArcFace.
    """

    name = "dlib face recognition"
    trained_on = "about 3 million photographs of 7485 real people"
    real_faces = True
    role = "measures"
    operating_point = 0.6
    columns = ("identity_cos", "identity_distance")

    def __init__(self) -> None:
        spec = find_spec("face_recognition_models")
        if spec is None:
            raise FileNotFoundError(
                "identity: expected the package face_recognition_models with dlib's weights, found none; install it, "
                "or run with --independent none and do without a verdict"
            )
        import dlib

        weights = Path(spec.submodule_search_locations[0]) / "models" / "dlib_face_recognition_resnet_model_v1.dat"
        self.network = dlib.face_recognition_model_v1(str(weights))
        self.sha256 = models.checksum(weights)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut dlib's aligned chip [150, 150, 3] uint8 at the known landmarks; None where the face has none."""
        points = face.landmarks[list(CHIP_POINTS), :2]
        return chip(frame, points) if np.isfinite(points).all() else None

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Embed chips [150, 150, 3]: embeddings [B, 128], of lengths about 1.3 to 1.6."""
        return {"embedding": np.array(self.network.compute_face_descriptor(inputs), np.float32)}

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Cosine and Euclidean distance between both embeddings."""
        pair = original["embedding"], anonymized["embedding"]
        return {"identity_cos": metrics.cosine(*pair), "identity_distance": metrics.distance(*pair)}


def chip(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cut the chip [150, 150, 3] that dlib cuts for its five points [5, 2] in source pixels; black beyond the frame."""
    import dlib

    # dlib takes whole pixels: place the chip for an enlarged face, then shrink the rectangle about its scaled centre.
    enlarged = 64
    corners = [dlib.point(int(x), int(y)) for x, y in np.rint(points * enlarged)]
    details = dlib.get_face_chip_details(dlib.full_object_detection(dlib.rectangle(), corners), CHIP, CHIP_PADDING)
    centre = np.array([details.rect.dcenter().x, details.rect.dcenter().y]) / enlarged
    # A rectangle of dlib's holds the pixels of both its sides: its width is right - left + 1.
    reach = (details.rect.width() / enlarged - 1) / 2
    place = dlib.drectangle(*(centre - reach), *(centre + reach))
    found = dlib.chip_details(place, dlib.chip_dims(CHIP, CHIP), details.angle)
    return dlib.extract_image_chips(np.ascontiguousarray(frame), [found])[0]
