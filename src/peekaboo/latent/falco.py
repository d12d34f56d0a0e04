"""The objective of FALCO (Barattin et al. 2023, arXiv:2303.11296), which anonymises a picture by moving the middle
layers of its latent; chi0tzp/FALCO (Apache-2.0) is the reference for the numbers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Of 18 layers: those before keep the pose, those after colour and light.
FIRST, LAST = 3, 8
IDENTITY_WEIGHT, ATTRIBUTE_WEIGHT = 10.0, 0.1


def start(real: Tensor, fake: Tensor) -> Tensor:
    """Latents W+ `[B, 18, w_dim]` to start from: those of the picture, with the middle layers of a `fake`
    neighbour's.
    """
    return torch.cat([real[:, :FIRST], fake[:, FIRST:LAST], real[:, LAST:]], 1)


def identity_loss(anonymized: Tensor, real: Tensor, margin: float = 0.0) -> Tensor:
    """How far the cosines of unit embeddings `[B, D]` are from `margin`, mean over the batch; no gradient reaches
    `real`.
    """
    return ((anonymized * real.detach()).sum(1) - margin).abs().mean()


def attribute_loss(real: Tensor, anonymized: Tensor) -> Tensor:
    """L1 distance of features `[B, tokens, D]`, the mean of each token summed over the tokens."""
    return F.l1_loss(anonymized, real) * real.shape[1]


def objective(identity: Tensor, attributes: Tensor) -> Tensor:
    """What is minimised, of both losses."""
    return IDENTITY_WEIGHT * identity + ATTRIBUTE_WEIGHT * attributes
