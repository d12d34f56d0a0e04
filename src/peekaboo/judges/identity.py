"""Whose face it is: the network that helps to make the edit, and the networks that took no part in it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peekaboo import gpu, metrics, stagefile
from peekaboo.judges import crops, weights
from peekaboo.judges.embedded import CropJudge
from peekaboo.judges.judge import Face
from peekaboo.nets import irse, mobilefacenet, residual

CHIP = 150
# Room around the face in dlib's chips, as its recognition network was trained with.
CHIP_PADDING = 0.25
# dlib's five points in the face mesh: the subject's left eye (outer and inner corner), right eye, base of the nose.
CHIP_POINTS = (263, 362, 33, 133, 2)


def apart(cosine: float) -> float:
    """Euclidean distance between unit embeddings whose cosine this is."""
    return float(np.sqrt(2 - 2 * cosine))


class Recogniser:
    """What identity judges share. Two faces count as one person's where their embeddings are less than the judge's
    `operating_point` apart. Embeddings have unit length unless the judge says otherwise.
    """

    real_faces = True
    role = "measures"
    operating_point: float
    columns = ("identity_cos", "identity_distance")

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Cosine and Euclidean distance between both embeddings."""
        pair = original["embedding"], anonymized["embedding"]
        return {"identity_cos": metrics.cosine(*pair), "identity_distance": metrics.distance(*pair)}

    def template(self, embeddings: np.ndarray) -> np.ndarray:
        """The one embedding [D] that stands for a person seen in [N, D]: their mean, brought to unit length."""
        mean = embeddings.mean(0)
        return mean / np.linalg.norm(mean)


class Dlib(Recogniser):
    """dlib's ResNet (dlib_face_recognition_resnet_model_v1, public domain), an independent judge of real faces. It
    computes on the CPU.

    Its published operating point: two faces are one person's when their embeddings are less than 0.6 apart (99.38 %
    correct on Labeled Faces in the Wild). The embeddings have no unit length and their cosines lie close together:
    different people reach 0.9, so its cosine is not to be read against the 0.71 of ArcFace.
    """

    name = "dlib face recognition"
    trained_on = "about 3 million photographs of 7485 real people"
    operating_point = 0.6

    def __init__(self, path: None = None, device: torch.device | None = None) -> None:
        spec = find_spec("face_recognition_models")
        if spec is None:
            raise FileNotFoundError(
                "identity: expected the package face_recognition_models with dlib's weights, found none; install it, "
                "or set measure: identity to another judge, or to none and do without a verdict"
            )
        import dlib

        file = Path(spec.submodule_search_locations[0]) / "models" / "dlib_face_recognition_resnet_model_v1.dat"
        self.network = dlib.face_recognition_model_v1(str(file))
        self.sha256 = stagefile.checksum(file)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut dlib's aligned chip [150, 150, 3] uint8 at the known landmarks; None where the face has none."""
        points = face.landmarks[list(CHIP_POINTS), :2]
        return chip(frame, points) if np.isfinite(points).all() else None

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Embed chips [150, 150, 3]: embeddings [B, 128], of lengths about 1.3 to 1.6."""
        return {"embedding": np.array(self.network.compute_face_descriptor(inputs), np.float32)}

    def template(self, embeddings: np.ndarray) -> np.ndarray:
        """The mean [D] of embeddings [N, D] of one person, for they have no unit length."""
        return embeddings.mean(0)


class FivePoints(Recogniser):
    """A judge that reads faces brought to ArcFace's five points at the source's resolution."""

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut the aligned face [112, 112, 3] uint8 at the known landmarks; None where the face has none."""
        return crops.arcface(frame, face.landmarks) if np.isfinite(face.landmarks).all() else None


class MobileFaceNet(FivePoints):
    """MobileFaceNet (Chen et al. 2018), as foamliu/MobileFaceNet trained it (99.48 % on Labeled Faces in the Wild).

    Its operating point is the only one its publisher gives: an angle of 70.36 degrees between the embeddings, a cosine
    of 0.336, noted beside the evaluation on Labeled Faces in the Wild (lfw_eval.py). On short clips of four adults the
    cosines of one person's frames were 0.52 to 0.99, those of two people at most 0.21; of two faces 40 pixels wide in
    one picture they reached 0.35.
    """

    name = "MobileFaceNet"
    trained_on = "3.8 million photographs of 85164 real people (refined MS-Celeb-1M)"
    operating_point = apart(np.cos(np.radians(70.36)))

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.network, self.device = weights.network(path, device, mobilefacenet.MobileFaceNet), device
        self.sha256 = stagefile.checksum(path)

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Embed faces [112, 112, 3]: unit embeddings [B, 128]."""
        found = self.network(gpu.to_images(np.stack(inputs), self.device))
        return {"embedding": torch.nn.functional.normalize(found).cpu().numpy()}


class ArcFace(Recogniser, CropJudge):
    """ArcFace with an IR-SE50, as TreB1eN/InsightFace_Pytorch trained it and ReStyle and FALCO steer by it.

    Its operating point is its publisher's: a squared distance of 1.5 (config.py, threshold), a cosine of 0.25. That
    holds for faces aligned by five points; here it sees the part of the FFHQ-aligned crop that ReStyle's identity loss
    shows it, for which none is published.
    """

    name = "ArcFace IR-SE50"
    trained_on = "5.8 million photographs of 85 thousand real people (refined MS-Celeb-1M)"
    operating_point = float(np.sqrt(1.5))
    kinds = (irse.ArcFace,)

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Embed crops [S, S, 3]: unit embeddings [B, 512]."""
        return {"embedding": self.network.embed(gpu.to_images(np.stack(inputs), self.device)).cpu().numpy()}


class Insightface(FivePoints):
    """The recognition network of insightface's model pack buffalo_l, w600k_r50.onnx (ArcFace, a ResNet-50).

    Its operating point is its publisher's: from a cosine of 0.28 on two faces are one person's, from 0.2 on they are
    likely to be (deepinsight/insightface, web-demos/src_recognition/main.py). The tests run MobileFaceNet, which has
    the same input, not the published file.
    """

    name = "insightface buffalo_l"
    trained_on = "12 million photographs of 600 thousand real people (WebFace600K)"
    operating_point = apart(0.28)

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.session = weights.session(path, device, crops.ARCFACE_SIDE)
        self.sha256 = stagefile.checksum(path)

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Embed faces [112, 112, 3]: unit embeddings [B, D]."""
        found = weights.run(self.session, weights.chw(inputs, 127.5, 127.5))
        return {"embedding": found / np.linalg.norm(found, axis=1, keepdims=True)}


class Embedded(CropJudge):
    """The identity network that steers the edit, on the FFHQ-aligned crop: the project's own or a published one."""

    role = "optimises"
    name = "embedded identity"
    trained_on = "rendered synthetic faces"
    real_faces = False
    kinds = (residual.FaceEmbedder, irse.ArcFace, mobilefacenet.MobileFaceNet)
    columns = ("identity_cos_optimised",)

    def __init__(self, path: str | Path, device: torch.device) -> None:
        super().__init__(path, device)
        published = {irse.ArcFace: ArcFace, mobilefacenet.MobileFaceNet: MobileFaceNet}.get(type(self.network))
        if published:
            self.name, self.trained_on, self.real_faces = published.name, published.trained_on, True

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Embed crops [S, S, 3]: unit embeddings [B, D]."""
        return {"embedding": self.network.embed(gpu.to_images(np.stack(inputs), self.device)).float().cpu().numpy()}

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Cosine between both embeddings."""
        return {"identity_cos_optimised": metrics.cosine(original["embedding"], anonymized["embedding"])}


# By name, for the limit in the report's charts.
OPERATING_POINTS = {judge.name: judge.operating_point for judge in (Dlib, MobileFaceNet, ArcFace, Insightface)}


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
