"""How judges cut a face out of a frame: squares as a network was trained on, and ArcFace's five-point alignment."""

import cv2
import numpy as np

from peekaboo.faces.alignment import LEFT_EYE, MOUTH, RIGHT_EYE, crop

NOSE_TIP = 4
# Eyes from left to right in the image, tip of the nose, corners of the mouth in a picture of 112 x 112, where
# ArcFace-style networks expect them (deepinsight/insightface, python-package/insightface/utils/face_align.py).
ARCFACE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])
ARCFACE_SIDE = 112
# Landmarks of the face mesh that bound what the usual 68 landmarks bound: jaw line from temple to temple, and brows.
JAW = [127, 234, 93, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 323, 454, 356]
BROWS = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]


def square(frame: np.ndarray, box: np.ndarray, side: float, size: int) -> np.ndarray:
    """Cut the square of `side` source pixels around the centre of a box [4] (x0, y0, x1, y1) out of a frame [H, W, 3]:
    [size, size, 3] uint8, the frame's borders repeated.
    """
    scale = size / side
    x, y = (box[:2].astype(np.float64) + box[2:]) / 2
    middle = (size - 1) / 2
    return crop(frame, np.array([[scale, 0, middle - scale * x], [0, scale, middle - scale * y]], np.float32), size)


def box68(landmarks: np.ndarray) -> np.ndarray | None:
    """Box [4] (x0, y0, x1, y1) of the 68 landmarks that many networks are trained with, from a face mesh [478, 3] in
    the same pixels; None where the mesh holds NaN.
    """
    points = landmarks[JAW + BROWS, :2]
    return np.concatenate([points.min(0), points.max(0)]) if np.isfinite(points).all() else None


def mean_side(box: np.ndarray) -> float:
    """Mean of width and height of a box [4]."""
    return float((box[2:] - box[:2]).mean())


def arcface(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Cut [112, 112, 3] out of a picture by the similarity that brings a face mesh [478, 3] onto ARCFACE best."""
    eyes = [landmarks[points, :2].mean(0) for points in (LEFT_EYE, RIGHT_EYE)]
    points = np.array([*eyes, landmarks[NOSE_TIP, :2], *landmarks[MOUTH, :2]], np.float64)
    return cv2.warpAffine(picture, similarity(points, ARCFACE), (ARCFACE_SIDE, ARCFACE_SIDE), flags=cv2.INTER_LINEAR)


def similarity(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift [2, 3] that bring points [N, 2] onto others [N, 2] with the least squared error."""
    complex_points, complex_onto = (p[:, 0] + 1j * p[:, 1] for p in (points, onto))
    middle, target = complex_points.mean(), complex_onto.mean()
    turn = np.vdot(complex_points - middle, complex_onto - target) / np.square(np.abs(complex_points - middle)).sum()
    shift = target - turn * middle
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
