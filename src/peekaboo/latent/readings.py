"""What a walk is to leave alone: read off pictures, and as linear functions of the latents that draw them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from peekaboo import gpu
from peekaboo.faces import alignment
from peekaboo.faces.detection import EYE_CORNERS
from peekaboo.judges import landmarks, pose
from peekaboo.latent import placement

# How the head is turned, and where in the crop the face is and how large: an aligned crop shows hardly any roll, and
# all faces at one place, until a walk turns and moves them.
POSE, PLACE = ("yaw", "pitch", "roll"), ("across", "down", "size")
# How far mouth and lids are apart: landmarks in the middle of the inner lips and of the lids, as eyes appear from left
# to right in an upright image.
OPENINGS = {"mouth_open": (13, 14), "left_eye_open": (159, 145), "right_eye_open": (386, 374)}
# Colours of the person, where no other's may stand out: a cap that ends at the brows, a collar beneath the chin.
COMPLEXION = tuple(f"{part}_{colour}" for part in ("forehead", "skin", "neck") for colour in ("red", "green", "blue"))


def surroundings(images: Tensor) -> dict[str, Tensor]:
    """Mean colour, `[B]` for each of red, green and blue in [-1, 1], above and beside the head in FFHQ-aligned images
    `[B, 3, S, S]`.
    """
    size = images.shape[-1]
    above, beside = images[..., : size // 10, :], images[..., size // 10 : size // 2, :]
    parts = (above, beside[..., : size // 12], beside[..., -(size // 12) :])
    colours = torch.cat([part.flatten(2) for part in parts], -1).mean(-1)
    return dict(zip(("red", "green", "blue"), colours.unbind(1), strict=True))


def complexion(images: Tensor) -> dict[str, Tensor]:
    """Mean colours of forehead, nose and cheeks, and what is beneath the chin, `[B]` for each of COMPLEXION in [-1, 1],
    in aligned images `[B, 3, S, S]`.
    """
    size = images.shape[-1]
    middle = images[..., size // 3 : size * 2 // 3]
    parts = (middle[..., top * size // 32 : bottom * size // 32, :] for top, bottom in ((5, 9), (16, 20), (27, 30)))
    return dict(zip(COMPLEXION, torch.cat([part.mean((-2, -1)) for part in parts], 1).unbind(1), strict=True))


def openings(found: np.ndarray) -> dict[str, np.ndarray]:
    """OPENINGS, `[B]` each, of landmarks `[B, 478, 3]`, in distances between the outer corners of the eyes: those in
    space, which do not get shorter as a head turns aside.
    """
    left, right = found[:, EYE_CORNERS].swapaxes(0, 1)
    width = np.linalg.norm(right - left, axis=1)
    return {name: np.linalg.norm(found[:, a] - found[:, b], axis=1) / width for name, (a, b) in OPENINGS.items()}


def shapes(found: np.ndarray) -> np.ndarray:
    """Landmarks `[B, 478, 3]` as seen from between the eyes, upright, in distances between these: `[B, 478, 2]`."""
    points = found[..., 0] + 1j * found[..., 1]
    left, right = (points[:, eye].mean(1, keepdims=True) for eye in (alignment.LEFT_EYE, alignment.RIGHT_EYE))
    with np.errstate(invalid="ignore"):
        seen_from = (points - (left + right) / 2) / (right - left)
    return np.stack([seen_from.real, seen_from.imag], -1)


@torch.inference_mode()
def meshed(images: Tensor, mesh: landmarks.Mesh) -> dict[str, np.ndarray]:
    """POSE, PLACE and OPENINGS of the heads in FFHQ-aligned RGB images `[B, 3, S, S]` in [-1, 1], `[B]` each: angles in
    degrees, the middle of the square that FFHQ's alignment would cut in sides of the picture, and its log side; NaN
    where the face mesh finds no face.
    """
    found = mesh.in_crops(gpu.to_crops(images))
    square = alignment.ffhq_pose(found)[:, :3] / [landmarks.REGION, landmarks.REGION, 1]
    values = np.concatenate([pose.angles(pose.rotation(found)), square], 1)
    return dict(zip(POSE + PLACE, values.T, strict=True)) | openings(found)


class Judges(NamedTuple):
    """What says whose face is in FFHQ-aligned RGB images `[B, 3, S, S]` in [-1, 1], and what else is."""

    identity: nn.Module
    affect: nn.Module
    mesh: landmarks.Mesh

    @torch.inference_mode()
    def read(self, images: Tensor) -> dict[str, np.ndarray]:
        """All readings by name, `[B]` each: what the judge of affect, age and sex sees, the colour around the head and
        that of the face, POSE, PLACE and OPENINGS.
        """
        named = self.affect.labels(images) | surroundings(images) | complexion(images)
        return {name: value.double().cpu().numpy() for name, value in named.items()} | meshed(images, self.mesh)

    @torch.inference_mode()
    def shapes(self, images: Tensor) -> np.ndarray:
        """Shapes of the faces, `[B, 478, 2]`; see `shapes`."""
        return shapes(self.mesh.in_crops(gpu.to_crops(images)))


def picture(latents: Tensor, placed: np.ndarray | None, generator: nn.Module) -> Tensor:
    """Images `[B, 3, S, S]` in [-1, 1] of flattened latents `[B, D]`, at their placements `[B, 3, 3]` if there are
    any.
    """
    device = latents.device
    transform = None if placed is None else placement.transforms(torch.from_numpy(placed).to(device))
    latents = latents.unflatten(1, (generator.num_ws, -1))
    return generator.synthesis(latents, gpu.precision(device), transform=transform).clamp(-1, 1)


@torch.inference_mode()
def drawn(rows: np.ndarray, placed: np.ndarray | None, generator: nn.Module, batch: int) -> Iterator[Tensor]:
    """Images `[b, 3, S, S]` of flattened latents `[N, D]`, as `picture` has them, a batch at a time."""
    device = generator.mapping.w_avg.device
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        yield picture(torch.from_numpy(rows[part]).to(device), None if placed is None else placed[part], generator)


@torch.inference_mode()
def seen(pictures: Iterable[Tensor], judges: Judges) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Readings by name, `[N]` each, and unit identity embeddings `[N, E]` of batches of images `[b, 3, S, S]`."""
    found, embeddings = [], []
    for images in pictures:
        found.append(judges.read(images))
        embeddings.append(judges.identity.embed(images).float().cpu().numpy())
    return joined(found), np.concatenate(embeddings)


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The readings of several batches of pictures as those of one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Readings:
    """What judges read off pictures, as linear functions of the flattened latents that draw them."""

    names: tuple[str, ...]
    gradients: np.ndarray  # [k, D] float32, of the standardised readings
    shifts: np.ndarray  # [k, D] float32, how latents differ where a reading does: their covariance times the gradients
    scales: np.ndarray  # [k] float32, the readings' standard deviations
    noise: np.ndarray  # [k] float32, the share of a reading's variance that the others' latents do not tell

    def only(self, names: tuple[str, ...]) -> "Readings":
        """Those of some names, as far as they were read."""
        rows = [self.names.index(name) for name in names if name in self.names]
        parts = (part[rows] for part in (self.gradients, self.shifts, self.scales, self.noise))
        return Readings(tuple(self.names[row] for row in rows), *parts)

    def clear(self, moves: np.ndarray) -> np.ndarray:
        """Moves `[..., D]` of latents without what would change the readings.

        It is undone by the moves that commonly go with such changes, the shifts, so that latents stay what the
        generator has seen; for one reading and latents of unit covariance this is the conditional manipulation of
        InterFaceGAN (Shen et al. 2020, arXiv:2005.09635).
        """
        amounts = (moves @ self.gradients.T) @ np.linalg.pinv(self.shifts @ self.gradients.T, rcond=1e-4)
        return (moves - amounts @ self.shifts).astype(np.float32)

    def standardised(self, off: dict[str, np.ndarray], most: float) -> np.ndarray:
        """Differences of readings by name, `[N]` each, over their scales: `[N, k]`, of at most `most`."""
        return np.clip(np.stack([off[name] for name in self.names], 1) / self.scales, -most, most)

    def moves(self) -> np.ndarray:
        """What to move latents by for standardised changes of the readings: `[k, D]`.

        The likeliest latent that has them, by the spread of the latents and the readings' noise (the update of a Kalman
        filter).
        """
        common = self.shifts @ self.gradients.T + np.diag(self.noise)
        return np.linalg.solve(common, self.shifts).astype(np.float32)


def fit_readings(latents: np.ndarray, values: dict[str, np.ndarray], ridge: float = 0.1) -> Readings:
    """Fit flattened latents `[M, D]` to readings `[M]` by name, by ridge regression.

    `ridge` is the penalty as a share of the latents' mean square length. Where a reading is NaN, none of that latent is
    used; readings of which there are fewer than half, or that do not vary, are left out.
    """
    names = tuple(name for name, v in values.items() if np.isfinite(v).mean() >= 0.5 and np.nanstd(v) > 1e-6)
    table = np.stack([values[name] for name in names], 1) if names else np.empty((len(latents), 0))
    known = np.isfinite(table).all(1)
    x, y = latents[known].astype(np.float64), table[known]
    scales = y.std(0)
    x, y = x - x.mean(0), (y - y.mean(0)) / scales
    # There are fewer latents than entries, so the dual form is the smaller one.
    gram = x @ x.T
    gram[np.diag_indices(len(gram))] += ridge * np.trace(gram) / max(1, len(gram))
    inverse = np.linalg.inv(gram)
    duals = inverse @ y
    gradients = x.T @ duals
    shifts = x.T @ (x @ gradients) / max(1, len(x))
    # Each latent's reading, told from all others alone (leave one out), leaves this.
    noise = (duals / np.diag(inverse)[:, None]).var(0)
    parts = (part.astype(np.float32) for part in (gradients.T, shifts.T, scales, noise))
    return Readings(names, *parts)
