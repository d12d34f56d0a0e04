"""Which device this process computes on, and how it uses memory there."""

import ctypes

import numpy as np
import torch


def device(name: str) -> torch.device:
    """Turn `auto`, `cuda` or `cpu` into a device; `auto` takes the card when there is one.

    Raises RuntimeError when `cuda` is asked for and no card is there: a GPU stage never falls back in silence.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device: cuda was asked for, but torch finds no CUDA card; set device: auto or cpu")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return torch.device("cuda")
    keep_freed_memory()
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """Name the device for reports: the card's own name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def halves(device: torch.device) -> bool:
    """Whether a device computes products and convolutions in bfloat16 at all fast: a card does, a CPU only where oneDNN
    has instructions for it. Elsewhere each product is emulated, which takes a hundred times as long as in float32.
    """
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def precision(device: torch.device) -> torch.dtype:
    """Type that generator layers train in: bfloat16 on a CPU that has it, twice as fast there
    (benchmarks/generator.py), else float32.
    """
    return torch.bfloat16 if device.type == "cpu" and halves(device) else torch.float32


def to_images(crops: np.ndarray, device: torch.device) -> torch.Tensor:
    """Turn RGB crops `[B, S, S, 3]` uint8 into images `[B, 3, S, S]` float32 in [-1, 1]."""
    return torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_crops(images: torch.Tensor) -> np.ndarray:
    """Turn images `[B, 3, S, S]` in about [-1, 1] into RGB crops `[B, S, S, 3]` uint8, clamped and rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def keep_freed_memory() -> None:
    """Let glibc keep freed buffers instead of handing each back to the kernel, which makes CPU tensors up to 20 times
    slower.

    Every large tensor is otherwise mapped and its pages faulted in anew (benchmarks/allocation.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 256 << 20)
