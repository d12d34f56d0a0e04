"""Where a face lies in its crop, told to the generator instead of to the encoder (Alaluf et al. 2022, arXiv:2201.13433,
section 5).

Crops follow smoothed landmarks, so that a face is a little turned and shifted against the FFHQ alignment of its own
frame. The encoder, which knows aligned faces alone, sees the crop with that taken out; the generator's input transform
puts it back in. A placement [3, 3] maps points of an aligned picture to those of the crop, both with the origin in the
middle, x to the right, y down and the side 1. Those of a clip's faces turn and shift, as the reference does, and leave
scale alone; a walk's framing, which keeps the face where it was, as upright and as large, scales as well.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peekaboo.faces import alignment


def placements(landmarks: np.ndarray, transforms: np.ndarray, size: int) -> np.ndarray:
    """Placements [B, 3, 3] float32 of faces with landmarks [B, 478, 3] in crops of side `size`, which the `transforms`
    [B, 2, 3] cut out of the frame.
    """
    own = alignment.to_transform(alignment.ffhq_pose(landmarks), size).astype(np.float64)
    smoothed = transforms.astype(np.float64)
    # Both are similarities: their quotient turns by the difference of their angles.
    angle = np.arctan2(smoothed[:, 1, 0], smoothed[:, 0, 0]) - np.arctan2(own[:, 1, 0], own[:, 0, 0])
    middle = np.full(2, (size - 1) / 2)
    in_frame = np.linalg.solve(own[:, :, :2], (middle - own[:, :, 2])[..., None])
    shift = ((smoothed[:, :, :2] @ in_frame)[..., 0] + smoothed[:, :, 2] - middle) / size
    found = np.tile(np.eye(3), (len(landmarks), 1, 1))
    found[:, 0, 0] = found[:, 1, 1] = np.cos(angle)
    found[:, 1, 0], found[:, 0, 1] = np.sin(angle), -np.sin(angle)
    found[:, :2, 2] = shift
    return found.astype(np.float32)


def between(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The one similarity [3, 3] float32 that brings faces found in crops to where they are wanted, and to that size.

    Faces are squares [N, 4]: middle x and y in sides of the crop from its upper left corner, log side, degrees turned
    clockwise; NaN where there is none. It is by the medians of what each needs, for a square moves with its mouth, and
    the identity where none is known.
    """
    both = np.isfinite(found + wanted).all(1)
    if not both.any():
        return np.eye(3, dtype=np.float32)
    off = np.median((wanted - found)[both], axis=0)
    turn, scale = np.radians(off[3]), np.exp(off[2])
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = np.median(wanted[both, :2] - 0.5 - (found[both, :2] - 0.5) @ linear.T, axis=0)
    return np.vstack([np.column_stack([linear, shift]), [0, 0, 1]]).astype(np.float32)


def aligned(crops: Tensor, placements: Tensor) -> Tensor:
    """Take the placements [B, 3, 3] out of crops `[B, 3, S, S]`; beyond their edge the crops are mirrored."""
    matrix = placements[:, :2].clone()
    # torch's grids have the side 2.
    matrix[:, :, 2] *= 2
    grid = F.affine_grid(matrix, list(crops.shape), align_corners=False)
    return F.grid_sample(crops, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def transforms(placements: Tensor) -> Tensor:
    """Input transforms [B, 3, 3] by which the generator draws faces at their placements [B, 3, 3]: the inverses."""
    return torch.linalg.inv(placements)
