"""Trains the embedded networks on rendered infants, one a call, resumable, with its curve beside its checkpoint.

The parameters that a head was rendered from are the generator's z, so that it learns by regression from pairs.
"""

import argparse
import copy
import functools
import itertools
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.stats import rankdata
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from tqdm import tqdm

from peekaboo import gpu, models, stagefile
from peekaboo.latent import restyle
from peekaboo.nets.residual import (
    INNER,
    FaceAttributes,
    FaceEmbedder,
    Head,
    PerceptualFeatures,
    RestyleEncoder,
    inner_face,
    resized,
)
from peekaboo.nets.stylegan3 import Generator
from peekaboo.optimiser import Optimiser
from peekaboo.synth import capture, head, render

# Learning rate of the mapping and style layers, as a multiple of the others': at 1, regression stalls in blurs.
STYLING_RATE = 8
# Of an identity, what recognisers hardly go by: a face is told by its features, whatever its colours and marks.
COLOURING = ("skin", "marks", "iris")
TRUTHS = ("valence", "arousal", "expression", "age", "sex")


def features(left_out: Iterable[str]) -> np.ndarray:
    """Indices of the parameters that make an identity, without the groups of head.PARAMETERS that are left out."""
    return np.setdiff1d(head.IDENTITY, np.concatenate([np.r_[head.PARAMETERS[name]] for name in left_out]))


def recolour(rng: np.random.Generator, parameters: np.ndarray) -> None:
    """Draw the colours and marks of parameters `[N, P]` anew, in place."""
    drawn = head.sample(rng, len(parameters))
    for name in COLOURING:
        parameters[:, head.PARAMETERS[name]] = drawn[:, head.PARAMETERS[name]]


_head: head.HeadModel  # one a process, set by `_load_head`, as is the one of fewer vertices
_thin: head.HeadModel


def _load_head(path: str, vertices: int) -> None:
    global _head, _thin
    _head = head.load(path)
    _thin = head.thinned(_head, vertices)


def _describe(parameters: np.ndarray) -> np.ndarray:
    return np.stack([render.description(_thin, p) for p in parameters])


def _render(job: tuple[np.ndarray, int], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render parameters `[n, P]` with a seed; returns RGB images as drawn and as a camera might record them, both
    `[n, S, S, 3]` uint8, and truths `[n, 5]` in the order of TRUTHS.
    """
    parameters, seed = job
    rng = np.random.default_rng(seed)
    drawn = [render.aligned(_head, p, size) for p in parameters]
    images = np.stack([image for image, _ in drawn])
    recorded = np.stack([capture.captured(image, truth.landmarks, rng) for image, truth in drawn])
    return images, recorded, np.array([[getattr(truth, name) for name in TRUTHS] for _, truth in drawn], np.float32)


def sample_renders(rng: np.random.Generator, identities: int, images: int) -> np.ndarray:
    """Draw parameters `[identities * images, P]`: `images` pictures in a row share the identity part, the rest
    varies.
    """
    parameters = head.sample(rng, identities * images)
    shared = head.sample(rng, identities)[:, head.IDENTITY]
    parameters[:, head.IDENTITY] = np.repeat(shared, images, axis=0)
    return parameters


def training_parameters(settings: dict[str, Any], seed: int) -> np.ndarray:
    """Parameters `[N, P]` of the training set: identities of a single picture first, then the pictures of each other in
    a row, in every one of which its colours and marks are others.
    """
    rng = np.random.default_rng(seed)
    several = sample_renders(rng, settings["identities"], settings["images"])
    singles = head.sample(rng, settings["singles"])
    recolour(rng, several)
    return np.concatenate([singles, several])


def make_renders(settings: dict[str, Any], seed: int, head_path: str, output: str) -> None:
    """Render the training set to HDF5: images, the same as recorded, parameters, description, one dataset per truth,
    identity number; identities of a single picture first, held-out ones last.
    """
    parameters = training_parameters(settings, seed)
    chunks = np.array_split(parameters, max(1, len(parameters) // 200))
    seeds = np.random.SeedSequence(seed).generate_state(len(chunks))
    workers = (os.cpu_count(), _load_head, (head_path, settings["vertices"]))
    with multiprocessing.get_context("spawn").Pool(*workers) as pool, stagefile.write(output) as file:
        file["parameters"] = parameters
        file["description"] = np.concatenate(list(pool.imap(_describe, chunks)))
        shape = (len(parameters), settings["size"], settings["size"], 3)
        pictures = [file.create_dataset(name, shape, "u1") for name in ("images", "recorded")]
        truths, at = np.empty((len(parameters), len(TRUTHS)), np.float32), 0
        jobs = pool.imap(functools.partial(_render, size=settings["size"]), zip(chunks, seeds, strict=True))
        for *drawn, truth in tqdm(jobs, total=len(chunks), desc="renders"):
            here = slice(at, at + len(truth))
            for dataset, images in zip(pictures, drawn, strict=True):
                dataset[here] = images
            truths[here] = truth
            at += len(truth)
        shared = np.repeat(np.arange(settings["identities"]), settings["images"])
        file["identity"] = np.concatenate([settings["identities"] + np.arange(settings["singles"]), shared])
        file.attrs["singles"] = settings["singles"]
        file.attrs["held_out"] = settings["held_out"] * settings["images"]
        for name, column in zip(TRUTHS, truths.T, strict=True):
            file[name] = column


def share(batch: Tensor) -> Tensor:
    """Return this process's part of a batch `[B]` that the processes of a training divide among them."""
    return batch[distributed.get_rank() :: distributed.get_world_size()] if distributed.is_initialized() else batch


def leads() -> bool:
    """Whether this process writes the files of its training."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient the mean over the processes of a training."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


class Renders:
    """The rendered training set; its first `singles` renders are the only ones of their identities, `held_out` ones at
    its end belong to identities never trained on.

    Pictures stay in the file, whose pages all trainings on a machine share.
    """

    def __init__(self, path: str | Path, device: torch.device) -> None:
        self.device = device
        with stagefile.read(path) as file:
            self.images, self.recorded = (
                np.memmap(path, np.uint8, "r", file[name].id.get_offset(), file[name].shape)
                for name in ("images", "recorded")
            )
            self.parameters = torch.from_numpy(file["parameters"][:]).to(device)
            self.identity = torch.from_numpy(file["identity"][:]).to(device)
            self.truths = {name: torch.from_numpy(file[name][:]).to(device) for name in TRUTHS}
            self.singles, self.held_out = int(file.attrs["singles"]), int(file.attrs["held_out"])
            self.trained = len(self.images) - self.held_out
            described = torch.from_numpy(file["description"][:])
            spread, mean = torch.std_mean(described[: self.trained], 0)
            # Rare extremes, a tongue put out, say, would outweigh the rest.
            self.description = ((described - mean) / spread.clamp(min=1e-3)).clamp(-5, 5).to(device)

    def batch(self, step: int, size: int, first: int = 0) -> Tensor:
        """Indices of training renders from `first` on, this process's share of `size`, drawn by the step number so that
        a resumed run sees the same ones.
        """
        return share(torch.randint(first, self.trained, [size], generator=torch.Generator().manual_seed(step)))

    def held(self, count: int | None = None) -> Tensor:
        """Indices of the first `count` held-out renders, or of all."""
        return torch.arange(self.trained, self.trained + (count or self.held_out))

    def picture(self, indices: Tensor) -> Tensor:
        """Images `[B, 3, S, S]` in [-1, 1] as drawn."""
        return _to_picture(self.images[indices.numpy()]).to(self.device)

    def record(self, indices: Tensor) -> Tensor:
        """Images `[B, 3, S, S]` in [-1, 1] as a camera recorded them."""
        return _to_picture(self.recorded[indices.numpy()]).to(self.device)

    def photograph(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Images `[B, 3, S, S]` in [-1, 1], half of them as recorded, all blurred, tinted and noisy to some degree."""
        as_recorded = torch.rand(len(indices), 1, 1, 1, generator=generator) < 0.5
        images = np.where(as_recorded.numpy(), self.recorded[indices.numpy()], self.images[indices.numpy()])
        return degraded(_to_picture(images), generator).to(self.device)


def _to_picture(images: np.ndarray) -> Tensor:
    # Channels last and bfloat16 make the small residual networks four times faster to train on a CPU.
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(
        memory_format=torch.channels_last
    )


def halved(device: torch.device) -> torch.autocast:
    """Compute convolutions and products of the small networks in bfloat16 where the device has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=gpu.halves(device))


def degraded(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, tint and add noise to images `[B, 3, S, S]` in [-1, 1], a different amount each, as cameras and
    generators do.
    """
    batch, size = len(images), images.shape[-1]
    amount = torch.rand(4, batch, 1, 1, 1, generator=generator)
    blurred = F.interpolate(F.avg_pool2d(images, 2), size=(size, size), mode="bilinear", align_corners=False)
    images = images.lerp(blurred, amount[0])
    gain = 1 + 0.2 * torch.randn(batch, 3, 1, 1, generator=generator) * amount[1]
    shift = 0.1 * torch.randn(batch, 1, 1, 1, generator=generator) * amount[2]
    noise = 0.08 * torch.randn(images.shape, generator=generator) * amount[3]
    return (images * gain + shift + noise).clamp(-1, 1)


def recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Wash out the colours of images `[B, 3, S, S]` in [-1, 1] and bend each channel's brightness, all differently."""
    amount = torch.rand(len(images), 1, 1, 1, generator=generator)
    bend = (0.5 * torch.randn(len(images), 3, 1, 1, generator=generator)).exp()
    images = images.lerp(images.mean(1, keepdim=True).expand_as(images), amount)
    return 2 * ((images + 1) / 2).clamp(1e-3, 1) ** bend - 1


def moved(images: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror the images `[B, 3, S, S]` that `mirrored` (bool `[B]`) names; turn, scale and shift all a little, as the
    landmarks that align a crop err.
    """
    turn, scale = 0.06 * torch.randn(2, len(images), generator=generator)
    shift = 0.03 * torch.randn(len(images), 2, generator=generator)
    cosine, sine = scale.exp() * turn.cos(), scale.exp() * turn.sin()
    side = torch.where(mirrored, -1.0, 1.0)
    matrix = torch.stack([cosine * side, -sine, shift[:, 0], sine * side, cosine, shift[:, 1]], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return images.contiguous(memory_format=torch.channels_last)


class Run:
    """A training run of one or more modules: an optimiser with warm-up and cosine decay, a checkpoint to resume from, a
    curve. The optimiser is Adam, or with `optimiser: muon` in the settings Muon.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], modules: dict[str, nn.Module], trained: list[str]
    ) -> None:
        self.checkpoint, self.curve = folder / "checkpoint.pt", folder / "curve.jsonl"
        self.steps, self.modules = settings["steps"], modules
        named = [(key, p) for name in trained for key, p in modules[name].named_parameters() if p.requires_grad]
        # Layers that turn latents into styles are stored at ten times the scale at which they act.
        styling = [p for key, p in named if key.startswith("mapping.") or ".affine." in key]
        others = [p for key, p in named if not key.startswith("mapping.") and ".affine." not in key]
        rate = settings["learning_rate"]
        rated = ((others, rate), (styling, rate * STYLING_RATE))
        self.optimiser = Optimiser(rated, muon=settings.get("optimiser") == "muon")
        self.first = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, "cpu", weights_only=True)
            self.first = state["step"]
            self.optimiser.load_state_dict(state["optimisers"])
            for name, module in modules.items():
                module.load_state_dict(state[name])

    def __iter__(self) -> Iterator[int]:
        """Yield step numbers; save a checkpoint every 500 of them and after the last."""
        steps = range(self.first, self.steps)
        for step in tqdm(steps, initial=self.first, total=self.steps, mininterval=10, disable=not leads()):
            warm = min(1, (step + 1) / 100)
            self.optimiser.scale(warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / self.steps)) / 2))
            yield step
            if (step + 1) % 500 == 0 or step + 1 == self.steps:
                self.save(step + 1)

    def save(self, step: int) -> None:
        """Write the checkpoint, whole or not at all."""
        if not leads():
            return
        state = {name: module.state_dict() for name, module in self.modules.items()}
        with stagefile.replacing(self.checkpoint) as partial:
            torch.save(state | {"step": step, "optimisers": self.optimiser.state_dict()}, partial)

    def descend(self, loss: Tensor) -> None:
        """Take one optimiser step down the gradient of `loss`."""
        self.optimiser.zero_grad()
        loss.backward()
        average_gradients(self.optimiser.parameters)
        self.optimiser.step()

    def log(self, step: int, **values: float) -> None:
        """Append one line to the curve."""
        if not leads():
            return
        rounded = {k: round(float(v.detach() if isinstance(v, Tensor) else v), 5) for k, v in values.items()}
        with self.curve.open("a") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], of the mean error over the batch."""
    return -10 * math.log10((first - second).square().mean().item() / 4)


def train_perceptual(renders: Renders, settings: dict[str, Any], folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Regress what a render shows: features that know pose, expression, shape, light and colour apart."""
    constructor = settings["network"] | {"outputs": renders.description.shape[1]}
    net = PerceptualFeatures(**constructor).to(renders.device)
    run = Run(folder, settings, {"net": net}, ["net"])
    for step in run:
        indices = renders.batch(step, settings["batch"])
        images = renders.photograph(indices, torch.Generator().manual_seed(step))
        with halved(renders.device):
            found = net(images)
        loss = F.mse_loss(found.float(), renders.description[indices])
        run.descend(loss)
        if step % 100 == 0:
            run.log(step, loss=loss)
    net.eval()
    held = renders.held()
    with torch.no_grad():
        errors = (net(renders.picture(held)) - renders.description[held]).square().mean(0)
    shown, parameters = errors.split([len(errors) - head.N_PARAMETERS, head.N_PARAMETERS])
    explained = {name: 1 - parameters[part].mean() for name, part in head.PARAMETERS.items()}
    run.log(run.steps, explained=1 - shown.mean(), **{f"explained_{name}": v for name, v in explained.items()})
    return net, constructor


def arcface(cosines: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """ArcFace loss (Deng et al. 2019, equation 3) of cosines `[B, classes]`: the true class must win by `margin`
    radians.
    """
    angle = cosines.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    truth = F.one_hot(labels, cosines.shape[1]).bool()
    return F.cross_entropy(scale * torch.where(truth, (angle + margin).clamp(max=math.pi).cos(), cosines), labels)


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve of scores [N], high where `same` [N] is True (Mann-Whitney; ties count half)."""
    positive, negative = same.sum(), (~same).sum()
    return float((rankdata(scores)[same].sum() - positive * (positive + 1) / 2) / (positive * negative))


def verification_auc(embeddings: Tensor, identity: Tensor) -> float:
    """Area under the ROC curve of cosines between all pairs of embeddings `[N, D]`: same identity against different."""
    first, second = torch.triu_indices(len(embeddings), len(embeddings), 1)
    cosines, same = (embeddings @ embeddings.T)[first, second], identity[first] == identity[second]
    return auc(cosines.float().cpu().numpy(), same.cpu().numpy())


def within_class(outputs: Tensor, identity: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Mean `[D]` of outputs `[N, D]` and the symmetric map `[D, D]` after which pictures of one identity, of numbers
    `[N]`, vary alike in all directions, but for a share `ridge` of their mean variance that is added to all.

    Within-class covariance normalisation (Hatch, Kajarekar and Stolcke 2006): what changes while the identity does not
    counts less.
    """
    _, labels, counts = identity.unique(return_inverse=True, return_counts=True)
    means = outputs.new_zeros(len(counts), outputs.shape[1]).index_add_(0, labels, outputs) / counts[:, None]
    off = outputs - means[labels]
    covariance = off.T @ off / (len(outputs) - len(counts))
    covariance += ridge * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    values, vectors = torch.linalg.eigh(covariance)
    return outputs.mean(0), vectors / values.sqrt() @ vectors.T


@torch.no_grad()
def fold(net: FaceEmbedder, mean: Tensor, transform: Tensor) -> None:
    """Have a network, in evaluation mode, give `(outputs - mean) @ transform` in place of outputs `[N, D]`, in float64,
    before it brings them to unit length: its last linear layer does so then, and the batch norm after it nothing.
    """
    linear, norm = net.head.linear, net.norm
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = gain * (linear.bias.double() - norm.running_mean.double()) + norm.bias.double() - mean
    linear.weight.copy_(transform.T @ (gain[:, None] * linear.weight.double()))
    linear.bias.copy_(transform.T @ offset)
    norm.reset_running_stats()
    norm.running_var.sub_(norm.eps)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


def train_identity(
    renders: Renders, settings: dict[str, Any], folder: Path, perceptual: PerceptualFeatures
) -> tuple[nn.Module, dict[str, Any]]:
    """Tell rendered identities apart by the ArcFace loss, helped by regressing the parameters that make an identity.

    It starts from the perceptual features: from random weights, eight thousand classes of five pictures each leave the
    embedding collapsed. Colours and marks tell identities apart the easiest, and a walk away from one led to yellow and
    purple faces of its shape, or to blotches. So an identity's pictures differ in both, are shown in colours that are
    not theirs, and what is regressed is neither. At the end directions in which these pictures still differ are made to
    count less.
    """
    constructor = settings["network"]
    net = FaceEmbedder(**constructor).to(renders.device)
    net.trunk.load_state_dict(perceptual.trunk.state_dict())
    centres = nn.Linear(constructor["dimensions"], int(renders.identity[renders.trained]), bias=False)
    lasting = features(COLOURING)
    regression = nn.Linear(constructor["dimensions"], len(lasting))
    centres, regression = centres.to(renders.device), regression.to(renders.device)
    modules = {"net": net, "centres": centres, "regression": regression}
    run = Run(folder, settings, modules, list(modules))
    for step in run:
        # An identity of a single picture has no other to be alike.
        indices = renders.batch(step, settings["batch"], renders.singles)
        generator = torch.Generator().manual_seed(step)
        images = recoloured(renders.photograph(indices, generator), generator)
        images = moved(images, torch.zeros(len(indices), dtype=torch.bool), generator)
        with halved(renders.device):
            embeddings = net(images)
        cosines = embeddings.float() @ F.normalize(centres.weight).T
        # Unit embeddings are brought to the scale of the parameters, about 1 each.
        read = regression(embeddings.float() * settings["scale"])
        shape = F.mse_loss(read, renders.parameters[indices][:, lasting])
        # The ArcFace loss and its margin grow over the first fifth, in which the regression leads.
        share = min(1, step / (settings["steps"] / 5))
        loss = arcface(cosines, renders.identity[indices], settings["scale"], settings["margin"] * share)
        run.descend(share * loss + settings["regression_weight"] * shape)
        if step % 100 == 0:
            run.log(step, loss=loss, regression=shape)
    net.eval()
    indices = torch.arange(renders.singles, renders.trained)[: settings["normalised_by"]]
    with torch.no_grad():
        shown = (view(part) for view in (renders.picture, renders.record) for part in indices.split(64))
        outputs = torch.cat([net.norm(net.head(net.features(images))) for images in shown]).double()
    numbers = renders.identity[indices].repeat(2)
    fold(net, *within_class(outputs, numbers, settings["ridge"]))
    held = renders.held()
    with torch.no_grad():
        embeddings = net(renders.picture(held))
    run.log(run.steps, auc=verification_auc(embeddings, renders.identity[held]))
    return net, constructor


def train_affect(renders: Renders, settings: dict[str, Any], folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read valence, arousal, expression, age and sex off rendered faces, half of them mirrored; all else that the
    others show is read beside it, so that every picture teaches more than five numbers.
    """
    constructor = settings["network"]
    net = FaceAttributes(**constructor)
    side = constructor["inner"] >> len(constructor["widths"])
    readout = Head(constructor["widths"][-1], side, 64, renders.description.shape[1]).to(renders.device)
    net = net.to(renders.device)
    run = Run(folder, settings, {"net": net, "readout": readout}, ["net", "readout"])

    def losses(found: dict[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
        truth = {name: values[indices] for name, values in renders.truths.items()}
        errors = {name: F.mse_loss(found[name], truth[name]) for name in ("valence", "arousal", "age")}
        errors["sex"] = F.binary_cross_entropy_with_logits(found["sex"], truth["sex"])
        errors["expression"] = F.cross_entropy(found["expression"], truth["expression"].long())
        return errors

    for step in run:
        indices = renders.batch(step, settings["batch"])
        generator = torch.Generator().manual_seed(step)
        mirrored = torch.rand(len(indices), generator=generator) < 0.5
        images = moved(renders.photograph(indices, generator), mirrored, generator)
        with halved(renders.device):
            features = net.features(images)
            found, read = net.read(features), readout(features)
        errors = losses({name: value.float() for name, value in found.items()}, indices)
        loss = 4 * (errors["valence"] + errors["arousal"] + errors["age"]) + errors["sex"] + errors["expression"]
        # Where things are in a mirrored picture, the description does not say.
        shown = F.mse_loss(read[~mirrored].float(), renders.description[indices[~mirrored]])
        run.descend(loss + settings["description_weight"] * shown)
        if step % 100 == 0:
            run.log(step, description=shown, **errors)
    net.eval()
    held = renders.held()
    with torch.no_grad():
        found = net(renders.picture(held))
    errors = losses(found, held)
    run.log(
        run.steps,
        valence_rmse=errors["valence"].sqrt(),
        arousal_rmse=errors["arousal"].sqrt(),
        age_rmse=errors["age"].sqrt(),
        sex_accuracy=((found["sex"] > 0) == (renders.truths["sex"][held] > 0)).float().mean(),
        expression_accuracy=(found["expression"].argmax(1) == renders.truths["expression"][held]).float().mean(),
    )
    return net, constructor


def pyramid_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """L1 difference of images `[B, 3, S, S]` and of their horizontal and vertical steps, on three halvings."""
    loss = found.new_zeros([])
    for _ in range(3):
        loss = loss + F.l1_loss(found, wanted)
        loss = (
            loss + F.l1_loss(found.diff(dim=2), wanted.diff(dim=2)) + F.l1_loss(found.diff(dim=3), wanted.diff(dim=3))
        )
        found, wanted = F.avg_pool2d(found, 2), F.avg_pool2d(wanted, 2)
    return loss


class Discriminator(nn.Module):
    """Judges patches of images as rendered (high) or generated (low)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 32, 64, 128, 128]
        self.layers = nn.Sequential(
            *(
                layer
                for i, o in itertools.pairwise(widths)
                for layer in (nn.utils.parametrizations.spectral_norm(nn.Conv2d(i, o, 4, 2, 1)), nn.LeakyReLU(0.2))
            ),
            nn.Conv2d(widths[-1], 1, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, 3, S, S]` to scores `[B, 1, S / 16, S / 16]`."""
        return self.layers(images)


def draw_shallow(net: Generator, layers: int, to_rgb: nn.Module, ws: Tensor, dtype: torch.dtype) -> Tensor:
    """Draw images `[B, 3, R, R]` from latents `[B, num_ws, w_dim]` with the first layers alone.

    R is the sampling rate that they reach; `to_rgb` reads the picture off their features, whose margin serves the
    filters of later layers alone. With all layers this is the generator's own picture.
    """
    synthesis = net.synthesis
    if layers == len(synthesis.layer_names):
        return synthesis(ws, dtype)
    first, *rest = ws.unbind(1)
    x = synthesis.input(first).to(dtype)
    for name, w in zip(synthesis.layer_names[:layers], rest, strict=False):
        x = getattr(synthesis, name)(x, w)
    margin = synthesis.margin_size
    return to_rgb(x[..., margin:-margin, margin:-margin].float())


def learn_mapping(renders: Renders, settings: dict[str, Any], folder: Path, net: Generator) -> None:
    """Bring the mapping to where a linear layer reads from w what the picture of z shows.

    It costs no pictures, and what is left for them to teach is how to draw what w says.
    """
    readout = nn.Linear(net.w_dim, renders.description.shape[1]).to(renders.device)
    module = nn.ModuleDict({"mapping": net.mapping, "readout": readout})
    run = Run(folder, settings, {"net": module}, ["net"])
    for step in run:
        indices = renders.batch(step, settings["batch"])
        loss = F.mse_loss(readout(net.mapping(renders.parameters[indices])[:, 0]), renders.description[indices])
        run.descend(loss)
        if step % 100 == 0:
            run.log(step, loss=loss)
    held = renders.held()
    with torch.no_grad():
        found = readout(net.mapping(renders.parameters[held])[:, 0])
    run.log(run.steps, explained=1 - F.mse_loss(found, renders.description[held]))


def relearn_mapping(renders: Renders, settings: dict[str, Any], folder: Path, net: Generator) -> None:
    """Teach the mapping again what the picture of z shows, near where it is, so that what draws from w still can.

    Noise of a share of each entry's spread is added to what is read, so that nothing is said too quietly to be heard.
    """
    old, mapping = copy.deepcopy(net.mapping).requires_grad_(False), net.mapping.requires_grad_(True)
    with torch.no_grad():
        spread, mean = torch.std_mean(old(renders.parameters[:10000])[:, 0], 0)
    readout = nn.Linear(net.w_dim, renders.description.shape[1]).to(renders.device)
    run = Run(folder, settings, {"net": nn.ModuleDict({"latents": mapping, "readout": readout})}, ["net"])
    for step in run:
        generator = torch.Generator().manual_seed(step)
        z = renders.parameters[indices := renders.batch(step, settings["batch"])]
        w, before = mapping(z)[:, 0], old(z)[:, 0]
        seen = (w - mean) / spread
        noise = settings["noise"] * torch.randn(seen.shape, generator=generator).to(seen)
        loss = F.mse_loss(readout(seen + noise), renders.description[indices])
        moved = ((w - before) / spread).square().mean()
        run.descend(loss + settings["keep"] * moved)
        if step % 100 == 0:
            run.log(step, loss=loss, moved=moved)
    held = renders.held()
    with torch.no_grad():
        found = readout((mapping(renders.parameters[held])[:, 0] - mean) / spread)
    run.log(run.steps, explained=1 - F.mse_loss(found, renders.description[held]))


def train_generator(
    renders: Renders,
    settings: dict[str, Any],
    folder: Path,
    perceptual: nn.Module,
    affect: nn.Module,
    export: Callable[..., None],
) -> tuple[nn.Module, dict[str, Any]]:
    """Regress pictures from the parameters they were rendered from; a discriminator joins for sharpness.

    First the mapping learns what the parameters mean. Then the first layers learn head, pose and light at a low
    resolution, at a fraction of the cost, before the others join (as Karras et al. 2018 grow their generators). What
    the mapping forgets on the way it learns again before a phase that has settings for it.
    """
    constructor = settings["network"] | {"z_dim": renders.parameters.shape[1]}
    net, discriminator = Generator(**constructor).to(renders.device), Discriminator().to(renders.device)
    learn_mapping(renders, settings["mapping"], folder / "mapping", net)
    averaged = copy.deepcopy(net).eval().requires_grad_(False)
    depth, dtype = len(net.synthesis.layer_names), gpu.precision(renders.device)
    held = renders.held(200)

    def draw(network: Generator, layers: int, to_rgb: nn.Module, indices: Tensor) -> Tensor:
        return draw_shallow(network, layers, to_rgb, network.mapping(renders.parameters[indices]), dtype)

    for number, phase in enumerate(settings["phases"]):
        layers = phase.get("layers", depth)
        if "mapping" in phase:
            net.load_state_dict(averaged.state_dict())
            relearn_mapping(renders, phase["mapping"], folder / f"phase{number}" / "mapping", net)
            averaged.mapping.load_state_dict(net.mapping.state_dict())
        to_rgb = nn.Identity()
        if layers < depth:
            channels = len(getattr(net.synthesis, net.synthesis.layer_names[layers - 1]).weight)
            to_rgb = nn.Conv2d(channels, 3, 1).to(renders.device)
        # Latents that stay as they are keep what reads them, the encoder, of use.
        net.mapping.requires_grad_(not phase.get("keep_mapping", False))
        modules = {"net": net, "averaged": averaged, "discriminator": discriminator, "to_rgb": to_rgb}
        run = Run(folder / f"phase{number}", phase, modules, ["net", "to_rgb"])
        critic = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.99))
        for step in run:
            indices = renders.batch(step, phase["batch"])
            found = draw(net, layers, to_rgb, indices)
            side = found.shape[-1]
            wanted = resized(renders.picture(indices), side)
            faces = [inner_face(images, side, round(INNER * side)) for images in (found, wanted)]
            pixels = pyramid_loss(found, wanted) + settings["face_weight"] * pyramid_loss(*faces)
            with halved(renders.device):
                # Below its own resolution the network has seen no faces.
                features = perceptual.distance(found, wanted).mean() if side >= perceptual.size else 0
                expressions = affect.distance(found, wanted).mean() if phase.get("affect_weight") else 0
            loss = pixels + settings["perceptual_weight"] * features + phase.get("affect_weight", 0) * expressions
            if step >= phase.get("adversarial_from", 1) * phase["steps"]:
                critic.zero_grad(set_to_none=True)
                scores = discriminator(torch.cat([wanted, found.detach()]))
                real, fake = scores.chunk(2)
                (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
                average_gradients(discriminator.parameters())
                critic.step()
                loss = loss - settings["adversarial_weight"] * discriminator(found).mean()
            run.descend(loss)
            with torch.no_grad():
                beta = min(0.995, (step + 1) / (step + 10))
                for old, new in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
                    old.lerp_(new, 1 - beta) if old.is_floating_point() else old.copy_(new)
            if step % 50 == 0:
                run.log(step, loss=loss, pixels=pixels, perceptual=features, affect=expressions)
            if (step + 1) % 500 == 0 or step + 1 == run.steps:
                with torch.no_grad():
                    z = torch.randn(10000, net.z_dim, generator=torch.Generator().manual_seed(0)).to(renders.device)
                    averaged.mapping.w_avg.copy_(averaged.mapping(z)[:, 0].mean(0))
                    drawn = torch.cat([draw(averaged, layers, to_rgb, part) for part in held.split(50)])
                    run.log(step, psnr_held_out=psnr(drawn, resized(renders.picture(held), side)))
                export(averaged, constructor)
    return averaged, constructor


def described(latents: Tensor, description: Tensor) -> Tensor:
    """The linear map `[w_dim, outputs]` that reads descriptions `[N, outputs]` off standardised latents `[N, w_dim]`.

    By ridge regression: as if each latent were seen with noise of a tenth of its deviation.
    """
    ridge = len(latents) * 0.1**2 * torch.eye(latents.shape[1]).to(latents)
    return torch.linalg.solve(latents.T @ latents + ridge, latents.T @ description)


def train_encoder(
    renders: Renders,
    settings: dict[str, Any],
    folder: Path,
    generator: Generator,
    perceptual: nn.Module,
    affect: nn.Module,
) -> tuple[nn.Module, dict[str, Any]]:
    """Learn the residual updates of ReStyle: each pass sees the frame and what the passes before made of it.

    The latents of a render are known (the mapping of its parameters), so that every pass has them as its target, as
    they are and by what a linear layer reads off them; in the last part of a phase what they draw is compared with
    the render too, whatever the camera made of it.
    """
    constructor = settings["network"] | {"num_ws": generator.num_ws, "w_dim": generator.w_dim}
    net = RestyleEncoder(**constructor).to(renders.device)
    dtype = gpu.precision(renders.device)
    with torch.no_grad():
        average = generator.mapping.w_avg.expand(1, generator.num_ws, -1)
        average_image = generator.synthesis(average).clamp(-1, 1)
        latents = generator.mapping(renders.parameters[:10000])[:, 0]
        spread, mean = torch.std_mean(latents, 0)
        readout = described(latents.sub(mean) / spread, renders.description[:10000])

    def latent_loss(codes: Tensor, wanted: Tensor) -> Tensor:
        off = (codes - wanted) / spread
        return off.square().mean() + settings["description_weight"] * (off @ readout).square().mean()

    past = 0  # steps of earlier phases, so that each phase sees pictures of its own
    for number, phase in enumerate(settings["phases"]):
        net.train()
        run = Run(folder / f"phase{number}", phase, {"net": net}, ["net"])
        for step in run:
            indices = renders.batch(past + step, phase["batch"])
            images = renders.photograph(indices, torch.Generator().manual_seed(past + step))
            with torch.no_grad():
                wanted = generator.mapping(renders.parameters[indices])
            shown, codes, losses = average_image.expand_as(images), average, []
            # Drawing what a pass made is the dear part: early steps have one pass, later ones end after one, two or
            # three in turn; late in a phase the last pass of a step is drawn too, and its picture compared.
            last = step % settings["passes"] if step >= phase["repeat_from"] * phase["steps"] else 0
            compare = step >= phase["compare_from"] * phase["steps"]
            for i in range(last + 1):
                with halved(renders.device):
                    residual = net(torch.cat([images, shown], 1))
                codes = residual.float() + codes.detach()
                losses.append(latent_loss(codes, wanted))
                if i < last:
                    with torch.no_grad():
                        shown = generator.synthesis(codes, dtype).clamp(-1, 1)
                elif compare:
                    drawn = generator.synthesis(codes, dtype)
                    clean = renders.picture(indices)
                    with halved(renders.device):
                        unlike = {
                            "pixels": (drawn - clean).square(),
                            "perceptual": perceptual.distance(drawn, clean),
                            "affect": affect.distance(drawn, clean),
                        }
                    losses.append(sum(phase["compare"][name] * value.mean() for name, value in unlike.items()))
            run.descend(torch.stack(losses).sum())
            if step % 20 == 0:
                run.log(step, **{f"loss_{i}": value for i, value in enumerate(losses)})
        past += phase["steps"]
        net.eval()
        held = renders.held(200)
        with torch.no_grad():
            codes = restyle.invert(renders.picture(held), net, generator, settings["passes"])
            run.log(run.steps, psnr_held_out=psnr(generator.synthesis(codes), renders.picture(held)))
    return net, constructor


NETWORKS = ("perceptual", "identity", "affect", "generator", "encoder")
# What each stage reads and writes beside its output.
NEEDED = {"renders": ("head",)} | {name: ("renders", "checkpoints") for name in NETWORKS}
NEEDED["identity"] += ("perceptual",)
NEEDED["generator"] += ("perceptual", "affect")
NEEDED["encoder"] += ("perceptual", "affect", "generator")


def main(argv: list[str] | None = None) -> None:
    """Render the training set, or train one network on it and write its safetensors file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=NEEDED, help="the training set, or the network")
    parser.add_argument("--settings", required=True, help="the recipe, YAML")
    parser.add_argument("--head", help="the head model (stage renders)")
    parser.add_argument("--renders", help="the rendered training set (all other stages)")
    parser.add_argument(
        "--perceptual", help="weights that generator and encoder compare by, and that identity starts from"
    )
    parser.add_argument("--affect", help="weights that generator and encoder compare by beside them")
    parser.add_argument("--generator", help="weights that stage encoder inverts")
    parser.add_argument("--checkpoints", type=Path, help="folder for checkpoint and curve")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args(argv)
    missing = [f"--{name}" for name in NEEDED[arguments.stage] if getattr(arguments, name) is None]
    if missing:
        parser.error(f"{arguments.stage} needs {', '.join(missing)}")
    if distributed.is_torchelastic_launched():
        # Unlike nccl, gloo lets processes share a card.
        distributed.init_process_group("gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(distributed.get_rank() % torch.cuda.device_count())
    device = gpu.device("auto")
    recipe = yaml.safe_load(Path(arguments.settings).read_text())
    if arguments.stage == "renders":
        make_renders(recipe["renders"], recipe["seed"], arguments.head, arguments.output)
        return
    torch.manual_seed(recipe["seed"])

    def export(net: nn.Module, constructor: dict[str, Any]) -> None:
        if not leads():
            return
        with stagefile.replacing(arguments.output) as partial:
            models.save(partial, net, constructor)

    common = (Renders(arguments.renders, device), recipe[arguments.stage], arguments.checkpoints)
    if arguments.stage == "generator":
        used = (models.load(path, device) for path in (arguments.perceptual, arguments.affect))
        trained = train_generator(*common, *used, export)
    elif arguments.stage == "identity":
        trained = train_identity(*common, models.load(arguments.perceptual, device))
    elif arguments.stage == "encoder":
        used = (models.load(path, device) for path in (arguments.generator, arguments.perceptual, arguments.affect))
        trained = train_encoder(*common, *used)
    else:
        simple = {"perceptual": train_perceptual, "affect": train_affect}
        trained = simple[arguments.stage](*common)
    export(*trained)


if __name__ == "__main__":
    main()
