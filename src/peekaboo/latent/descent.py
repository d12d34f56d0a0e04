"""The way on which what a generator draws loses an identity the most."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from peekaboo.latent.readings import Readings, picture


@torch.enable_grad()
def slope(
    rows: np.ndarray, placed: np.ndarray, generator: nn.Module, identity: nn.Module, mean: np.ndarray, batch: int
) -> np.ndarray:
    """Gradient `[D]` float32, by a move that all flattened latents `[N, D]` share, of the mean cosine between `mean`
    `[E]`, of unit length, and the identity embeddings of their pictures at placements `[N, 3, 3]`.
    """
    device = generator.mapping.w_avg.device
    towards, total = torch.from_numpy(mean).float().to(device), Tensor()
    for start in range(0, len(rows), batch):
        latents = torch.from_numpy(rows[start : start + batch]).to(device).requires_grad_()
        images = picture(latents, placed[start : start + batch], generator)
        cosines = identity.embed(images).float() @ towards
        total = torch.cat([total, torch.autograd.grad(cosines.sum(), latents)[0].cpu()])
    return total.mean(0).numpy()


def downhill(slope: np.ndarray, random: np.ndarray, readings: Readings) -> np.ndarray:
    """Direction `[D]` float32, of unit length, in which a function of gradient `slope` `[D]` falls and linear readings
    stay as they are.

    Distances are told by how `random` latents `[M, D]`, of mean 0, vary: of all ways that are as likely among them this
    one is the steepest (the natural gradient, by their covariance). The plain gradient leads to latents that the
    generator has never seen and deceives the network whose gradient it is.
    """

    def spread(moves: np.ndarray) -> np.ndarray:
        return (moves @ random.T) @ random / len(random)

    # With shifts by the same covariance the rest never points uphill, whatever the readings.
    way = replace(readings, shifts=spread(readings.gradients)).clear(-spread(slope))
    return way / np.linalg.norm(way)
