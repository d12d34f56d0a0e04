"""The judges' networks from their files: safetensors by torch, ONNX by onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from peekaboo import models


def network(path: str | Path, device: torch.device, *kinds: type[nn.Module]) -> nn.Module:
    """Load a network that is one of `kinds`, frozen and in eval mode. Raises ValueError naming the file otherwise."""
    found = models.load(path, device)
    if not isinstance(found, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"{Path(path).name}: expected weights of {expected}, found {type(found).__name__}; "
            "give the judge its own file"
        )
    return found


def session(path: str | Path, device: torch.device, side: int) -> Any:
    """Open an ONNX network that reads pictures [B, 3, side, side]; on a CUDA device where onnxruntime can, else on the
    CPU. Raises ValueError naming the file where it is no such network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    able = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] * (device.type == "cuda" and "CUDAExecutionProvider" in able)
    try:
        opened = onnxruntime.InferenceSession(str(path), options, [*wanted, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise ValueError(f"{Path(path).name}: expected an ONNX network, found {str(error)[:200]}") from error
    shapes = [entry.shape for entry in opened.get_inputs()]
    if len(shapes) != 1 or shapes[0][1:] != [3, side, side]:
        raise ValueError(
            f"{Path(path).name}: expected one input of 3 x {side} x {side}, found {shapes}; name its judge"
        )
    return opened


def run(opened: Any, images: np.ndarray) -> np.ndarray:
    """First output [B, ...] for images [B, 3, S, S] float32; one by one where the file was written for a batch of 1."""
    entry = opened.get_inputs()[0]
    batches = [images] if entry.shape[0] != 1 else np.split(images, len(images))
    return np.concatenate([opened.run(None, {entry.name: batch})[0] for batch in batches])


def chw(pictures: list[np.ndarray], middle: float, spread: float) -> np.ndarray:
    """Pictures [S, S, 3] uint8 as float32 [B, 3, S, S], the value v as (v - middle) / spread."""
    return ((np.stack(pictures).transpose(0, 3, 1, 2) - np.float32(middle)) / np.float32(spread)).astype(np.float32)
