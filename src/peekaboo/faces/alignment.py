"""FFHQ alignment: from 478 landmarks to a similarity transform per frame, smoothed over time, and the crop it gives."""

import cv2
import numpy as np

# Face-mesh landmarks at the places of dlib's six points per eye (as they appear from left to right in an upright image)
# and of its outer mouth corners, which define FFHQ's alignment. Lids, not irises: gaze must not turn the crop.
LEFT_EYE = [33, 160, 158, 133, 153, 144]
RIGHT_EYE = [362, 385, 387, 263, 373, 380]
MOUTH = [61, 291]
# Gaussian smoothing in frames, as in STIT (rotemtzaban/STIT, utils/alignment.py: sigma_center 1, sigma_xy 3).
SIGMA_CENTRE, SIGMA_AXES = 1.0, 3.0
# Weight of a frame whose landmarks are interpolated, next to 1 where they are measured.
INTERPOLATED_WEIGHT = 0.1
# A pose this far from what so many neighbours on each side say is an error: the centre's distance in sides, log side
# and angle. On real faces in sight the largest seen were 0.09, 0.08 and 0.07; with a hand before half of it 0.2.
NEIGHBOURS, OUTLYING = 4, (0.15, 0.15, 0.3)


def ffhq_pose(landmarks: np.ndarray) -> np.ndarray:
    """Centre x, y, log side and angle (radians) of the FFHQ square [..., 4], from landmarks [..., 478, 2 or 3].

    The full form of NVlabs/ffhq-dataset (download_ffhq.py, recreate_aligned_images), with max(2 eye, 1.8 eye-mouth).
    NaN landmarks give NaN.
    """
    points = landmarks[..., :2].astype(np.float64)
    left, right = points[..., LEFT_EYE, :].mean(-2), points[..., RIGHT_EYE, :].mean(-2)
    eye_to_eye, eyes = right - left, (left + right) / 2
    eye_to_mouth = points[..., MOUTH, :].mean(-2) - eyes
    axis = eye_to_eye - eye_to_mouth[..., ::-1] * [-1, 1]
    half = np.maximum(2.0 * np.linalg.norm(eye_to_eye, axis=-1), 1.8 * np.linalg.norm(eye_to_mouth, axis=-1))
    centre = eyes + 0.1 * eye_to_mouth
    angle = np.arctan2(axis[..., 1], axis[..., 0])
    # A face whose points coincide has no size; it must not become minus infinity.
    log_side = np.log(2 * np.maximum(half, 0.5))
    return np.concatenate([centre, log_side[..., None], angle[..., None]], axis=-1)


def to_transform(pose: np.ndarray, size: int) -> np.ndarray:
    """Similarity transforms [..., 2, 3] float32, source to crop pixels, that map the squares `pose` [..., 4] to `size`.

    Pixel centres have integer coordinates in both: the square's edges come to -0.5 and size - 0.5.
    """
    centre, scale, angle = pose[..., :2], size / np.exp(pose[..., 2]), pose[..., 3]
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], -2)
    offset = (size - 1) / 2 - (linear @ centre[..., None])[..., 0]
    return np.concatenate([linear, offset[..., None]], axis=-1).astype(np.float32)


def smooth(poses: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Smooth poses [N, 4] of one track over time; `measured` bool [N] says where they are not interpolated.

    N in, N out: NaN stays NaN and is skipped by its neighbours.
    """
    known = np.isfinite(poses).all(1)
    if not known.any():
        return poses
    values = np.where(known[:, None], poses, 0.0)
    values[known, 3] = np.unwrap(values[known, 3])
    weights = np.where(measured, 1.0, INTERPOLATED_WEIGHT) * known
    centre = _local_line(values[:, :2], weights, SIGMA_CENTRE)
    axes = _local_line(values[:, 2:], weights, SIGMA_AXES)
    return np.where(known[:, None], np.concatenate([centre, axes], axis=1), np.nan)


def outliers(poses: np.ndarray) -> np.ndarray:
    """Which [N] of the poses [N, 4] of one track are far from the median line (Theil-Sen) through their neighbours."""
    known = np.isfinite(poses).all(1)
    far = np.zeros(len(poses), bool)
    for n in np.flatnonzero(known):
        near = np.arange(max(0, n - NEIGHBOURS), min(len(poses), n + NEIGHBOURS + 1))
        near = near[known[near] & (near != n)]
        if len(near) < NEIGHBOURS:
            continue
        offset = poses[near] - poses[n]
        offset[:, 3] = np.angle(np.exp(1j * offset[:, 3]))
        a, b = np.triu_indices(len(near), 1)
        slope = np.median((offset[b] - offset[a]) / (near[b] - near[a])[:, None], axis=0)
        away = np.median(offset - slope * (near - n)[:, None], axis=0)
        distance = np.hypot(away[0], away[1]) / np.exp(poses[n, 2])
        far[n] = (np.abs([distance, away[2], away[3]]) > OUTLYING).any()
    return far


def _local_line(values: np.ndarray, weights: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian-weighted straight line through the neighbours of each of `values` [N, C], read at its place.

    In the middle of evenly weighted frames that is the Gaussian filter; beside a gap or an end it doesn't lag behind.
    """
    reach = int(np.ceil(4 * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    padded = np.pad(weights, reach)
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(offsets)) * kernel
    neighbours = np.lib.stride_tricks.sliding_window_view(
        np.pad(values, ((reach, reach), (0, 0))), len(offsets), axis=0
    )
    s0, s1, s2 = (windows @ offsets**power for power in (0, 1, 2))
    t0, t1 = (np.einsum("nk,nck->nc", windows * offsets**power, neighbours) for power in (0, 1))
    determinant = s0 * s2 - s1**2
    # A frame with no neighbour has no line; it keeps its own value.
    alone = determinant <= 1e-9 * np.maximum(s0, 1e-9) ** 2
    line = (s2[:, None] * t0 - s1[:, None] * t1) / np.where(alone, 1, determinant)[:, None]
    return np.where(alone[:, None], values, line)


def crop(frame: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Cut uint8 RGB [size, size, 3] out of a frame [H, W, 3] by a similarity [2, 3] from frame to crop pixels.

    Shrinking is antialiased (sampled at the frame's own resolution, then averaged); borders are repeated.
    """
    matrix = transform.astype(np.float64)
    shrink = int(np.ceil(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))) - 1e-6))
    if shrink <= 1:
        return _warp(frame, matrix, size, cv2.INTER_CUBIC)
    # Centres of the `shrink` samples within a pixel lie evenly around the pixel's own.
    fine = matrix * shrink
    fine[:, 2] += (shrink - 1) / 2
    samples = _warp(frame, fine, size * shrink, cv2.INTER_LINEAR)
    return cv2.resize(samples, (size, size), interpolation=cv2.INTER_AREA)


def _warp(frame: np.ndarray, matrix: np.ndarray, size: int, interpolation: int) -> np.ndarray:
    return cv2.warpAffine(frame, matrix, (size, size), flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
