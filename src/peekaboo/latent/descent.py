"""The way on which what a generator draws loses an identity the most."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from peekaboo.latent.readings import Readings, picture

BATCH = 2  # pictures at a time; for their gradients all that draws them is held


@torch.enable_grad()
def slope(
    rows: np.ndarray, placed: np.ndarray, generator: nn.Module, identity: nn.Module, mean: np.ndarray
) -> np.ndarray:
    """Gradient `[D]` float32, by a move that all flattened latents `[N, D]` share, of the mean cosine between `mean`
    `[E]`, of unit length, and the identity embeddings of their pictures at placements `[N, 3, 3]`.
    """
    device = generator.mapping.w_avg.device
    towards, total = torch.from_numpy(mean).float().to(device), Tensor()
    for start in range(0, len(rows), BATCH):
        latents = torch.from_numpy(rows[start : start + BATCH]).to(device).requires_grad_()
        images = picture(latents, placed[start : start + BATCH], generator)
        cosines = identity.embed(images).float() @ towards
        total = torch.cat([total, torch.autograd.grad(cosines.sum(), latents)[0].cpu()])
    return total.mean(0).numpy()


def downhill(slope: np.ndarray, random: np.ndarray, readings: Readings) -> np.ndarray:
    """Direction `[D]` float32, of unit length, in which a function of gradient `slope` `[D]` falls and linear readings
    stay as they are.

    Of all ways that are as likely among `random` latents `[M, D]`, of mean 0, this one is the steepest: the gradient
    times their covariance. The plain gradient takes no account of which latents the generator draws faces from.
    """

    def spread(moves: np.ndarray) -> np.ndarray:
        return (moves @ random.T) @ random / len(random)

    # With shifts by the same covariance the rest never points uphill, whatever the readings.
    way = replace(readings, shifts=spread(readings.gradients)).clear(-spread(slope))
    return way / np.linalg.norm(way)
