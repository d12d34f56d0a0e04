"""What trainings and tunings descend with: torch's Adam, and its Muon for weights that are matrices or kernels."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def is_wide(parameter: nn.Parameter) -> bool:
    """Whether a parameter mixes many values into many: a matrix or a kernel that is neither a bias nor reads a few
    numbers off its input.
    """
    return parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) > 4


class Optimiser:
    """Adam; with `muon`, wide parameters go by Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)
    with steps as large as Adam's (Liu et al. 2025, arXiv:2502.16982).
    """

    def __init__(self, rated: Iterable[tuple[list[nn.Parameter], float]], muon: bool) -> None:
        """`rated` are parameters and the learning rate of each list of them."""
        rated = list(rated)
        self.parameters = [p for parameters, _ in rated for p in parameters]
        # Muon takes matrices alone, so that kernels go as matrices in the same memory.
        self.matrices = {p: nn.Parameter(p.detach().view(len(p), -1)) for p in self.parameters if muon and is_wide(p)}
        by_adam = [{"params": [p for p in some if p not in self.matrices], "rate": rate} for some, rate in rated]
        by_muon = [{"params": [self.matrices[p] for p in some if p in self.matrices], "rate": r} for some, r in rated]
        by_adam, by_muon = ([group for group in groups if group["params"]] for groups in (by_adam, by_muon))
        self.parts: list[torch.optim.Optimizer] = [torch.optim.Adam(by_adam, betas=(0.9, 0.99))]
        if by_muon:
            self.parts.append(torch.optim.Muon(by_muon, weight_decay=0, adjust_lr_fn="match_rms_adamw"))
        self.scale(1)

    def scale(self, share: float) -> None:
        """Set every learning rate to a share of what it is at most."""
        for group in (group for part in self.parts for group in part.param_groups):
            group["lr"] = group["rate"] * share

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Take one step down the gradients."""
        for p, matrix in self.matrices.items():
            matrix.grad = None if p.grad is None else p.grad.view_as(matrix)
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What the next step depends on beside the parameters, as tensors and plain containers."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Go back to where `state_dict` was taken."""
        for part, former in zip(self.parts, state, strict=True):
            part.load_state_dict(former)
