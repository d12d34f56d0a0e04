"""ReStyle inversion (Alaluf et al. 2021): an encoder that looks at a frame and its reconstruction, pass after pass."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import convolve1d
from torch import Tensor, nn
from torch.nn import functional as F

# Over neighbouring frames, and the first of the layers that stay the same over a clip: yuval-alaluf/stylegan3-editing.
KERNEL, FINE_LAYERS = np.array([0.25, 0.75, 1.0, 0.75, 0.25]), 9


def iterate(
    images: Tensor, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], average: Tensor, passes: int
) -> tuple[Tensor, Tensor]:
    """Refine latents over `passes`, starting from the average latent and its image.

    Args:
        images: frames `[B, 3, S, S]` in [-1, 1], at the encoder's resolution.
        encode: maps `[B, 6, S, S]`, frame then current image, to residual latents `[B, num_ws, w_dim]`.
        decode: maps latents to images `[B, 3, R, R]`, R a multiple of S.
        average: the mean latent `[num_ws, w_dim]`.
        passes: number of refinements, at least 1; the paper's StyleGAN3 set-up uses 3.

    Returns:
        Latents `[B, passes, num_ws, w_dim]` after every pass, and what they draw, `[B, passes, 3, R, R]`.

    The update is that of yuval-alaluf/stylegan3-editing: the residual is added to the codes of the pass before, and the
    image fed back is the aligned one, average-pooled to the encoder's resolution.

    """
    size = images.shape[-1]
    codes = average.expand(len(images), *average.shape)
    shown = F.adaptive_avg_pool2d(decode(average[None]), size).expand_as(images)
    latents, drawn = [], []
    for _ in range(passes):
        codes = encode(torch.cat([images, shown], 1)) + codes
        image = decode(codes)
        shown = F.adaptive_avg_pool2d(image, size)
        latents.append(codes)
        drawn.append(image)
    return torch.stack(latents, 1), torch.stack(drawn, 1)


def invert(images: Tensor, encoder: nn.Module, generator: nn.Module, passes: int) -> Tensor:
    """Latents W+ `[B, num_ws, w_dim]` of aligned crops `[B, 3, S, S]`, RGB in [-1, 1], after `passes` refinements.

    Crops are brought to the encoder's resolution. The iterations start at the encoder's own `latent_avg` where it has
    one, else at the generator's average. Raises ValueError for an encoder that was made for another generator.
    """
    if (encoder.num_ws, encoder.w_dim) != (generator.num_ws, generator.w_dim):
        raise ValueError(
            f"models.encoder: expected latents of {generator.num_ws} x {generator.w_dim} for this generator, found "
            f"{encoder.num_ws} x {encoder.w_dim}; choose the encoder that was made for it"
        )
    if images.shape[-1] != encoder.size:
        side = (encoder.size, encoder.size)
        images = F.interpolate(images, side, mode="bilinear", align_corners=False, antialias=True)
    average = getattr(encoder, "latent_avg", generator.mapping.w_avg).expand(generator.num_ws, -1)
    latents, _ = iterate(images, encoder, generator.synthesis, average, passes)
    return latents[:, -1]


def smooth(latents: np.ndarray) -> np.ndarray:
    """Smooth latents W+ [N, num_ws, w_dim] of one track over time: N in, N out.

    The kernel's weights of absent neighbours, beyond the ends or NaN, go to those that are there; NaN stays NaN.
    """
    known = np.isfinite(latents[:, 0, 0])
    values = np.where(known[:, None, None], latents, 0).astype(np.float64)
    weights = convolve1d(known.astype(np.float64), KERNEL, mode="constant")
    sums = convolve1d(values, KERNEL, axis=0, mode="constant")
    return np.where(known[:, None, None], sums / np.maximum(weights, 1e-9)[:, None, None], np.nan).astype(np.float32)
