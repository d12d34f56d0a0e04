"""Pivotal Tuning (Roich et al. 2021): the generator is tuned until fixed latents, the pivots, draw the frames they
stand for.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peekaboo.optimiser import Optimiser

LOSSES = ("total", "perceptual", "l2")
AWAY = 0.75  # how far from the pivots towards random latents a tuned generator is to stay as it was


def tuned_parameters(synthesis: nn.Module) -> dict[str, nn.Parameter]:
    """All synthesis parameters but those of the input layer, which place the picture (as stylegan3-editing tunes
    them).
    """
    return {name: p for name, p in synthesis.named_parameters() if not name.startswith("input.")}


def tuning_loss(
    drawn: Tensor, frames: Tensor, perceptual: nn.Module, perceptual_weight: float, l2_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, perceptual and squared-error loss of images `[B, 3, S, S]` in [-1, 1] (paper, equation 1), means over
    the batch.
    """
    distance, l2 = perceptual.distance(drawn, frames).mean(), F.mse_loss(drawn, frames)
    return perceptual_weight * distance + l2_weight * l2, distance, l2


def locality_loss(
    synthesis: Callable[[Tensor], Tensor],
    original: Callable[[Tensor], Tensor],
    pivots: Tensor,
    random: Tensor,
    perceptual: nn.Module,
) -> Tensor:
    """Keep the tuned generator as it was on the way from the pivots to random latents (paper, section 3.3).

    `pivots` and `random` are latents `[B, num_ws, w_dim]`. Generators differ in the scale of their latents, so that in
    place of the paper's step of 30 this one is a share of the way, AWAY. Losses within are those of danielroich/PTI:
    squared error and perceptual distance to the untuned picture, each weighted 0.1.
    """
    latents = pivots.lerp(random, AWAY)
    with torch.no_grad():
        wanted = original(latents)
    drawn = synthesis(latents)
    return 0.1 * F.mse_loss(drawn, wanted) + 0.1 * perceptual.distance(drawn, wanted).mean()


class Tuner:
    """One track's tuning: its generator, its optimiser and the losses so far; resumes from `state_dict`."""

    def __init__(self, generator: nn.Module, perceptual: nn.Module, learning_rate: float, dtype: torch.dtype) -> None:
        self.generator, self.perceptual, self.dtype = generator, perceptual, dtype
        self.parameters = tuned_parameters(generator.synthesis)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        # Six passes over a clip by Muon bring what fifteen by Adam do.
        self.optimiser = Optimiser([(list(self.parameters.values()), learning_rate)], muon=True)
        self.curve: list[list[float]] = []  # one row an epoch, columns LOSSES

    def epoch(
        self,
        read: Callable[[np.ndarray], tuple[Tensor, Tensor, Tensor]],
        order: np.ndarray,
        batch: int,
        weights: tuple[float, float],
        locality: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Pass once over the frames in `order`; `read` gives pivots `[B, num_ws, w_dim]`, the input transforms
        `[B, 3, 3]` that place them and images `[B, 3, S, S]` of some.

        `weights` are those of the perceptual and the squared-error loss; `locality` adds a term from the batch's
        pivots.
        """
        sums = np.zeros(len(LOSSES))
        for start in range(0, len(order), batch):
            pivots, transforms, frames = read(order[start : start + batch])
            drawn = self.generator.synthesis(pivots, self.dtype, transforms)
            losses = tuning_loss(drawn, frames, self.perceptual, *weights)
            total = losses[0] if locality is None else losses[0] + locality(pivots)
            self.optimiser.zero_grad()
            total.backward()
            self.optimiser.step()
            sums += len(pivots) * np.array([loss.item() for loss in losses])
        self.curve.append((sums / len(order)).tolist())

    def state_dict(self) -> dict:
        """Everything that the next epoch depends on, as tensors and plain containers."""
        parameters = {name: p.detach() for name, p in self.parameters.items()}
        return {"parameters": parameters, "optimiser": self.optimiser.state_dict(), "curve": self.curve}

    def load_state_dict(self, state: dict) -> None:
        """Go back to where `state_dict` was taken."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.curve = state["curve"]
