"""Head rotation: from face-mesh landmarks, by turning the canonical face onto them, and by networks that learned it.

Measured on real clips, this weighted fit of x, y and z follows a learned head-pose network more closely (correlation of
yaw 0.99) than a perspective or an orthographic fit of x and y alone, and shakes no more than either.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peekaboo import gpu, metrics, stagefile
from peekaboo.judges import crops, weights
from peekaboo.judges.judge import Face
from peekaboo.nets import deca

ANGLES = ("yaw", "pitch", "roll")
COLUMNS = (*(f"{angle}_{clip}" for clip in ("original", "anonymized") for angle in ANGLES), "pose_rmat")
# DECA's square, in mean sides of the landmarks' box (yfeng95/DECA, decalib/datasets: 1.1 for 68 landmarks, times 1.25).
DECA_MARGIN = 1.1 * 1.25
# FSA-Net's input in pixels, and its square in the longer sides of the tracked box: of 1.0 to 2.0, the one with which
# it agrees best with the mesh on a real clip of a head that turns (2.1 degrees on average; 5.5 without any margin).
FSANET_SIDE, FSANET_MARGIN = 64, 1.5

# Landmark number, weight, x, y, z (centimetres; x to the right of the image, y up, z towards the camera): points that
# keep their place in most expressions, from MediaPipe's face geometry module (google-ai-edge/mediapipe,
# mediapipe/modules/face_geometry/data/geometry_pipeline_metadata_landmarks.pbtxt, Apache-2.0).
BASIS = np.array(
    [
        (4, 0.070910, 0.0000, -0.4632, 7.5866),
        (6, 0.032100, 0.0000, 2.4733, 5.7886),
        (10, 0.008447, 0.0000, 8.2618, 4.4815),
        (33, 0.058724, -4.4459, 2.6640, 3.1734),
        (54, 0.007667, -6.2793, 6.6154, 1.4259),
        (67, 0.009078, -3.5240, 8.0060, 3.7292),
        (117, 0.009792, -5.2587, 0.9458, 2.9743),
        (119, 0.014565, -3.3007, 0.8616, 3.8728),
        (121, 0.018591, -1.8207, 1.4680, 4.2241),
        (127, 0.005198, -7.7431, 2.3650, -2.0052),
        (129, 0.120625, -1.7858, -0.9783, 4.8505),
        (132, 0.005560, -7.2709, -2.8909, -2.2525),
        (133, 0.053286, -1.8564, 2.5852, 3.7579),
        (136, 0.066890, -5.0853, -7.1786, 0.7147),
        (143, 0.014817, -6.4076, 2.2360, 1.5608),
        (147, 0.014263, -6.2349, -1.9444, 1.6635),
        (198, 0.025462, -1.2468, 0.2303, 5.6810),
        (205, 0.047252, -3.8329, -1.5373, 4.1377),
        (263, 0.058724, 4.4459, 2.6640, 3.1734),
        (284, 0.007667, 6.2793, 6.6154, 1.4259),
        (297, 0.009078, 3.5240, 8.0060, 3.7292),
        (346, 0.009792, 5.2587, 0.9458, 2.9743),
        (348, 0.014565, 3.3007, 0.8616, 3.8728),
        (350, 0.018591, 1.8207, 1.4680, 4.2241),
        (356, 0.005198, 7.7431, 2.3650, -2.0052),
        (358, 0.120625, 1.7858, -0.9783, 4.8505),
        (361, 0.005560, 7.2709, -2.8909, -2.2525),
        (362, 0.053286, 1.8564, 2.5852, 3.7579),
        (365, 0.066890, 5.0853, -7.1786, 0.7147),
        (372, 0.014817, 6.4076, 2.2360, 1.5608),
        (376, 0.014263, 6.2349, -1.9444, 1.6635),
        (420, 0.025462, 1.2468, 0.2303, 5.6810),
        (425, 0.047252, 3.8329, -1.5373, 4.1377),
    ]
)
LANDMARKS = BASIS[:, 0].astype(int)


def rotation(landmarks: np.ndarray) -> np.ndarray:
    """Head rotations [B, 3, 3] (float64, determinant 1) of face-mesh landmarks [B, 478, 3]; NaN where a landmark is.

    Landmarks are in pixels, x right, y down, z away from the camera in the scale of x, as the mesh gives them. A
    rotation maps the canonical head (x right, y up, z towards the camera; identity when it faces the camera) to the
    landmarks: the solution of weighted absolute orientation (Umeyama 1991), whatever the position and scale.
    """
    weights, model = BASIS[:, 1:2] / BASIS[:, 1].sum(), BASIS[:, 2:]
    points = landmarks[:, LANDMARKS].astype(np.float64) * [1, -1, -1]
    found = np.isfinite(points).all((1, 2))
    points = np.where(found[:, None, None], points, model)
    model = model - (weights * model).sum(0)
    points = points - (weights * points).sum(1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("bni,nj->bij", points, weights * model))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    return np.where(found[:, None, None], u @ vt, np.nan)


def angles(rotations: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll [B, 3] in degrees of head rotations [B, 3, 3].

    R = Ry(yaw) Rx(pitch) Rz(roll) up to sign. Signs as usual for head-pose networks: positive when the nose points to
    the left of the image, when it points up, and when the top of the head leans to the right of the image.
    """
    r = rotations
    yaw = np.arctan2(r[:, 0, 2], r[:, 2, 2])
    pitch = np.arcsin(np.clip(-r[:, 1, 2], -1, 1))
    roll = np.arctan2(r[:, 1, 0], r[:, 1, 1])
    return -np.degrees(np.stack([yaw, pitch, roll], axis=1))


def from_angles(degrees: np.ndarray) -> np.ndarray:
    """Head rotations [B, 3, 3] of a head-pose network's yaw, pitch and roll [B, 3] in degrees.

    R = Rx(-pitch) Ry(-yaw) Rz(-roll), the order of turns and the signs in which networks trained on 300W-LP draw their
    axes (shamangary/FSA-Net, demo). As for one angle alone `angles` gives it back; several together it splits in
    another order.
    """
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.radians(degrees)).T, np.sin(np.radians(degrees)).T
    rows = [
        [cy * cr, cy * sr, -sy],
        [sp * sy * cr - cp * sr, cp * cr + sp * sy * sr, sp * cy],
        [sp * sr + cp * sy * cr, cp * sy * sr - sp * cr, cp * cy],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def compared(original: np.ndarray, anonymized: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of head rotations [B, 3, 3] in both clips: their angles, and the geodesic angle between them, in
    degrees.
    """
    columns = {}
    for clip, rotations in (("original", original), ("anonymized", anonymized)):
        columns |= {f"{angle}_{clip}": turns for angle, turns in zip(ANGLES, angles(rotations).T, strict=True)}
    return columns | {"pose_rmat": metrics.rotation_angle(original, anonymized)}


class PoseJudge:
    """What the judges of head rotation share: the columns, in the place of the face mesh's."""

    real_faces = True
    role = "measures"
    columns = COLUMNS

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Head angles in both clips and their geodesic angle, in degrees."""
        return compared(original["rotation"], anonymized["rotation"])


class Deca(PoseJudge):
    """Head rotation among the FLAME parameters that DECA (Feng et al. 2021) reads off a face."""

    name = "DECA head rotation"
    trained_on = "photographs of real people (VGGFace2, BUPT-Balancedface, VoxCeleb2)"

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.network, self.device = weights.network(path, device, deca.CoarseEncoder), device
        self.sha256 = stagefile.checksum(path)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        """Cut the square [224, 224, 3] uint8 around the landmarks, parallel to the frame; None where there are none."""
        box = crops.box68(face.landmarks)
        return None if box is None else crops.square(frame, box, DECA_MARGIN * crops.mean_side(box), deca.SIZE)

    @torch.inference_mode()
    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [224, 224, 3]: rotation [B, 3, 3], as `rotation` has it."""
        found = self.network((gpu.to_images(np.stack(inputs), self.device) + 1) / 2)
        return {"rotation": deca.rotation(found["pose"][:, :3].double()).cpu().numpy()}


class FsaNet(PoseJudge):
    """FSA-Net (Yang et al. 2019), as omasaht/headpose-fsanet-pytorch trained it: the mean of two networks.

    The file of these weights is a pair, `fsanet-1x1...onnx,fsanet-var...onnx`. Its publisher reports mean errors on
    AFLW2000 of 4.6 (yaw), 6.1 (pitch) and 4.8 degrees (roll).
    """

    name = "FSA-Net head pose"
    trained_on = "photographs of real people, turned by computer (300W-LP)"

    def __init__(self, paths: str, device: torch.device) -> None:
        files = paths.split(",")
        if len(files) != 2:
            raise ValueError(
                f"FSA-Net: expected two files, separated by a comma, found {len(files)}; give both networks"
            )
        self.sessions = [weights.session(file, device, FSANET_SIDE) for file in files]
        self.sha256 = ",".join(stagefile.checksum(file) for file in files)

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """Cut the square [64, 64, 3] uint8 RGB around the tracked box, parallel to the frame."""
        side = FSANET_MARGIN * float((face.box[2:] - face.box[:2]).max())
        return crops.square(frame, face.box, side, FSANET_SIDE)

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read crops [64, 64, 3]: rotation [B, 3, 3], as `rotation` has it."""
        images = weights.chw([picture[..., ::-1] for picture in inputs], 127.5, 128)  # BGR
        degrees = np.mean([weights.run(session, images) for session in self.sessions], axis=0)
        return {"rotation": from_angles(degrees.astype(np.float64))}
