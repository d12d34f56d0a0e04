"""The frames of a track: where its faces are drawn, and what is seen once a drawn face is composed into its frame."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from peekaboo import gpu, stagefile
from peekaboo.faces import cover


class Frames(NamedTuple):
    """The N frames of a track that has latents for them."""

    placements: np.ndarray  # float32 [N, 3, 3], of the faces in their crops
    outlines: list[tuple[np.ndarray, np.ndarray]]  # [K, 2] each, of what compose covers and of the head, in crop pixels
    certain: np.ndarray  # bool [N], whose landmarks are; see cover.certain
    crops: Callable[[np.ndarray], np.ndarray]  # uint8 RGB [n, S, S, 3] of the frames of n numbers

    def framed(self, framing: np.ndarray) -> "Frames":
        """With all placements brought elsewhere by `framing` [3, 3]."""
        return self._replace(placements=framing @ self.placements)

    def own(self, batch: int, device: torch.device) -> Iterator[Tensor]:
        """The infant's own faces, images `[b, 3, S, S]` in [-1, 1], a batch at a time."""
        for numbers in stagefile.batches(np.arange(len(self.placements)), batch):
            yield gpu.to_images(self.crops(numbers), device)

    def shown(self, images: Tensor, numbers: np.ndarray) -> Tensor:
        """Images `[n, 3, S, S]` in [-1, 1] as they look in the frames of n `numbers`: composed, and cut out again.

        The gradient is that of the persons in the pictures under their alpha.
        """
        outlines, heads = zip(*(self.outlines[number] for number in numbers), strict=True)
        composed = map(cover.composed, self.crops(numbers), outlines, heads, gpu.to_crops(images))
        parts, alphas = zip(*composed, strict=True)
        alpha = torch.from_numpy(np.stack(alphas)[:, None]).to(images.device)
        return gpu.to_images(np.stack(parts), images.device) + alpha * (images - images.detach())


def outlines(
    landmarks: np.ndarray, boxes: np.ndarray, certain: np.ndarray, transforms: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What compose covers of N faces, and where heads may show, in the pixels of the crops that `transforms` [N, 2, 3]
    cut of frames with these landmarks [N, 478, 3] and boxes [N, 4].
    """
    found = []
    for points, box, sure, transform in zip(landmarks, boxes, certain, transforms, strict=True):
        both = (outline(points, box, bool(sure)) for outline in (cover.cover_outline, cover.head_outline))
        found.append(tuple(each @ transform[:, :2].T + transform[:, 2] for each in both))
    return found
