"""Head rotation from face-mesh landmarks: the canonical face turned onto them.

Measured on real clips, this weighted fit of x, y and z follows a learned head-pose network more closely (correlation of
yaw 0.99) than a perspective or an orthographic fit of x and y alone, and shakes no more than either.
"""

import numpy as np

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
