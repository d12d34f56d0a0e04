"""Weights: the registry that declares them, and loading that executes nothing."""

import copy
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from peekaboo.nets import anycost, deca, emonet, irse, lpips, mobilefacenet, residual, stylegan3

NETWORKS: dict[str, type[nn.Module]] = {
    "stylegan3.Generator": stylegan3.Generator,
    "residual.RestyleEncoder": residual.RestyleEncoder,
    "residual.FaceEmbedder": residual.FaceEmbedder,
    "residual.FaceAttributes": residual.FaceAttributes,
    "residual.PerceptualFeatures": residual.PerceptualFeatures,
    "irse.ArcFace": irse.ArcFace,
    "irse.PspEncoder": irse.PspEncoder,
    "irse.E4eEncoder": irse.E4eEncoder,
    "mobilefacenet.MobileFaceNet": mobilefacenet.MobileFaceNet,
    "emonet.EmoNet": emonet.EmoNet,
    "deca.CoarseEncoder": deca.CoarseEncoder,
    "anycost.AttributePredictor": anycost.AttributePredictor,
    "lpips.Lpips": lpips.Lpips,
}

# The tensor, beside an encoder's weights, that ReStyle's refinement starts from.
AVERAGE = "latent_avg"


def save(path: str | Path, module: nn.Module, constructor: dict[str, Any]) -> None:
    """Write the weights of `module` as safetensors, parameters as float16, with what builds it again in the
    metadata.
    """
    name = next(name for name, network in NETWORKS.items() if type(module) is network)
    # Buffers stay whole: halved filters and Fourier features would change every picture.
    parameters = dict(module.named_parameters())
    state = {
        key: (value.half() if key in parameters else value).contiguous().cpu()
        for key, value in module.state_dict().items()
    }
    save_file(state, path, {"network": name, "constructor": json.dumps(constructor, sort_keys=True)})


def constructor(path: str | Path) -> dict[str, Any]:
    """Read the constructor arguments of the network in a safetensors file, without its weights."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["constructor"])


def load(path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Build the network that a safetensors file names, with its weights in float32, frozen and in eval mode on
    `device`. A file that has been loaded before gives the same network: change a copy, not the network.

    An encoder whose file has the latent that its refinement starts from bears it as the buffer `latent_avg` `[w_dim]`.

    Raises ValueError where the file names no network that the project knows, or that latent has another shape.
    """
    state = os.stat(path)
    return _load(os.path.abspath(path), (state.st_mtime_ns, state.st_size), torch.device(device))


@functools.lru_cache(maxsize=8)
def _load(path: str, state: tuple[int, int], device: torch.device) -> nn.Module:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    name = metadata.get("network")
    if name not in NETWORKS:
        raise ValueError(f"{Path(path).name}: expected one of the networks {', '.join(NETWORKS)}, found {name!r}")
    module = NETWORKS[name](**json.loads(metadata["constructor"]))
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    if AVERAGE in state:
        try:
            with_average(module, state.pop(AVERAGE))
        except ValueError as error:
            raise ValueError(f"{Path(path).name}: {error}") from error
    module.load_state_dict(state)
    return module.eval().requires_grad_(False).to(device)


def with_average(module: nn.Module, average: Any) -> None:
    """Give an encoder the latent `[w_dim]` that its refinement starts from, as a buffer outside its state_dict.

    Raises ValueError where the module is no encoder of ReStyle or the latent has another shape.
    """
    if not isinstance(module, irse.PspEncoder):
        raise ValueError(f"{AVERAGE}: expected it beside an encoder's weights, found it beside {type(module).__name__}")
    if not isinstance(average, torch.Tensor) or average.shape != (module.w_dim,):
        found = list(average.shape) if isinstance(average, torch.Tensor) else type(average).__name__
        raise ValueError(f"{AVERAGE}: expected a latent [{module.w_dim}], found {found}")
    module.register_buffer(AVERAGE, average.float(), persistent=False)


def tuned(generator: nn.Module, parameters: Mapping[str, np.ndarray]) -> nn.Module:
    """Copy `generator` with the synthesis parameters that tuning changes replaced by those of one track."""
    generator = copy.deepcopy(generator)
    own = dict(generator.synthesis.named_parameters())
    with torch.no_grad():
        for name, values in parameters.items():
            own[name].copy_(torch.from_numpy(np.asarray(values)))
    return generator
