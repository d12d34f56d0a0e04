"""The way on which what a generator draws loses an identity the most, and that back to what frames expressed."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from peekaboo.latent.frames import Frames
from peekaboo.latent.readings import Readings, picture

BATCH = 2  # pictures at a time; for their gradients all that draws them is held
LEADING = 0.9  # share of the variance of random latents, in whose principal components others are told strange


@torch.enable_grad()
def slopes(
    rows: np.ndarray,
    numbers: np.ndarray,
    frames: Frames,
    generator: nn.Module,
    told: Callable[[Tensor], Iterable[Tensor]],
) -> np.ndarray:
    """Gradients `[n, k, D]` float32, by their flattened latents `[n, D]`, of the k values `[b]` that are `told` of
    images `[b, 3, S, S]` in [-1, 1]: of what the frames of n `numbers` show.
    """
    device = generator.mapping.w_avg.device
    parts = []
    for start in range(0, len(rows), BATCH):
        latents = torch.from_numpy(rows[start : start + BATCH]).to(device).requires_grad_()
        part = numbers[start : start + BATCH]
        images = frames.shown(picture(latents, frames.placements[part], generator), part)
        falls = [torch.autograd.grad(value.sum(), latents, retain_graph=True)[0] for value in told(images)]
        parts.append(torch.stack(falls, 1).cpu())
    return torch.cat(parts).numpy()


def downhill(slope: np.ndarray, random: np.ndarray, readings: Readings) -> np.ndarray:
    """Direction `[D]` float32, of unit length, in which a function of gradient `slope` `[D]` falls and linear readings
    stay as they are.

    Of all ways that are as likely among `random` latents `[M, D]`, of mean 0, this one is the steepest: the gradient
    times their covariance. The plain gradient takes no account of which latents the generator draws faces from.
    """
    # With shifts by the same covariance the rest never points uphill, whatever the readings.
    way = replace(readings, shifts=likely(readings.gradients, random)).clear(-likely(slope, random))
    return way / np.linalg.norm(way)


def likely(gradients: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Gradients `[..., D]` times the covariance of `random` latents `[M, D]`, of mean 0: what commonly differs where
    their functions do.
    """
    return (gradients @ random.T) @ random / len(random)


def strangeness(rows: np.ndarray, random: np.ndarray) -> float:
    """How far out flattened latents `[N, D]` lie on the whole among `random` ones `[M, D]`, both less the latter's
    mean: the root mean square of their mean's leading principal components, standardised; about 1 for a random latent.
    """
    _, spread, axes = np.linalg.svd(random, full_matrices=False)
    leading = 1 + np.searchsorted(np.cumsum(spread**2), LEADING * np.sum(spread**2))
    standardised = axes[:leading] @ rows.mean(0) / spread[:leading] * np.sqrt(len(random))
    return float(np.sqrt(np.square(standardised).mean()))
