"""The way on which what a generator draws loses an identity the most."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from peekaboo.latent.frames import Frames
from peekaboo.latent.readings import Readings, picture

BATCH = 2  # pictures at a time; for their gradients all that draws them is held
LEADING = 0.9  # share of the variance of random latents, in whose principal components others are told strange


@torch.enable_grad()
def slope(
    rows: np.ndarray, numbers: np.ndarray, frames: Frames, generator: nn.Module, identity: nn.Module, mean: np.ndarray
) -> np.ndarray:
    """Gradient `[D]` float32, by a move that all flattened latents `[n, D]` share, of the mean cosine between `mean`
    `[E]`, of unit length, and the identity embeddings of what the frames of n `numbers` show.
    """
    device = generator.mapping.w_avg.device
    towards, total = torch.from_numpy(mean).float().to(device), Tensor()
    for start in range(0, len(rows), BATCH):
        latents = torch.from_numpy(rows[start : start + BATCH]).to(device).requires_grad_()
        part = numbers[start : start + BATCH]
        images = frames.shown(picture(latents, frames.placements[part], generator), part)
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


def strangeness(rows: np.ndarray, random: np.ndarray) -> float:
    """How far out flattened latents `[N, D]` lie on the whole among `random` ones `[M, D]`, both less the latter's
    mean: the root mean square of their mean's leading principal components, standardised; about 1 for a random latent.
    """
    _, spread, axes = np.linalg.svd(random, full_matrices=False)
    leading = 1 + np.searchsorted(np.cumsum(spread**2), LEADING * np.sum(spread**2))
    standardised = axes[:leading] @ rows.mean(0) / spread[:leading] * np.sqrt(len(random))
    return float(np.sqrt(np.square(standardised).mean()))
