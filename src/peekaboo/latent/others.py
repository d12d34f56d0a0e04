"""Random faces: other infants, to whom a walk could lead."""

import numpy as np
import torch
from torch import Tensor, nn

from peekaboo.latent.descent import downhill
from peekaboo.latent.readings import fit_readings

TRUNCATION = 0.7  # of the random latents
ALIKE, NEAREST = ("age", "sex"), 0.25  # readings in which the other infant is like this one, and what share of all are
AGED = "age"  # left alone besides what is held where faces are led away: else that way would lead to the old first


@torch.inference_mode()
def random_latents(generator: nn.Module, samples: int, seed: int) -> Tensor:
    """Latents `[samples, num_ws, w_dim]`, drawn on the CPU so that every device sees the same."""
    z = torch.randn(samples, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return generator.mapping(z.to(generator.mapping.w_avg.device), truncation_psi=TRUNCATION)


def others(
    faces: np.ndarray,
    found: dict[str, np.ndarray],
    rows: np.ndarray,
    own: dict[str, np.ndarray],
    held: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Latents `[m, D]` float32 of faces to which an infant's latents `[N, D]`, of readings `own` `[N]` by name, could
    be led, and the way `[D]` on which these lose the infant's identity, as long as makes its cosine fall by 1.

    They are those of random ones `[M, D]`, of readings `found` `[M]` by name, their identity's cosine to the infant's
    among these, that are about as old and of its sex; they and the way are clear of what would change the readings that
    are `held`. The way is told from all random faces together, so it is no answer to peculiarities of a picture.
    """
    off = np.zeros(len(faces))
    for name in ALIKE:
        if name in found:
            off += np.abs(found[name] - np.mean(own[name])) / np.std(found[name])
    alike = np.argsort(off, kind="stable")[: max(1, int(NEAREST * len(off)))]
    told = fit_readings(faces, found)
    identity = told.only(("identity",))
    away = downhill(identity.gradients[0], faces - faces.mean(0), told.only((*held, AGED)))
    fall = -identity.scales[0] * (identity.gradients[0] @ away)
    start = rows.mean(0)
    return start + told.only(held).clear(faces[alike] - start), away / np.float32(fall)
