"""Which way to compute the generator on a CPU: forward and backward time per picture, as ratios to the fastest.

Run `python benchmarks/generator.py [--resolution 64]`; it prints a table and what `peekaboo.gpu.precision` should say.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from peekaboo import gpu
from peekaboo.nets import stylegan3

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_stylegan3 import straightforward


def by_convolution(layer, x):
    """Filtered leaky ReLU of one layer by its definition: zero-insert, pad, convolve."""
    up, down = layer.up_filter.to(x.dtype), layer.down_filter.to(x.dtype)
    return straightforward(x, up, down, layer.up, layer.down, layer.padding, 2**0.5, 0.2, layer.conv_clamp)


def seconds(generator, dtype, batch, repeats):
    """Median seconds per picture of a forward and a backward pass."""
    ws = torch.randn(batch, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        generator.synthesis(ws, dtype).square().mean().backward()
        times.append((time.perf_counter() - start) / batch)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    gpu.keep_freed_memory()
    torch.manual_seed(0)
    sizes = {"channel_base": 32 * args.resolution, "channel_max": 128, "num_layers": 8}
    generator = stylegan3.Generator(96, 128, args.resolution, **sizes)
    banded = stylegan3.filtered_leaky_relu
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        found["banded matrix products", dtype] = seconds(generator, dtype, args.batch, args.repeats)
    layers = {id(layer): layer for layer in generator.synthesis.children() if hasattr(layer, "up_filter")}
    try:
        # A layer hands its own matrices over, by which it is found again.
        stylegan3.filtered_leaky_relu = lambda x, matrices, **_: by_convolution(
            next(v for v in layers.values() if v.matrices(x) is matrices), x
        )
        for dtype in (torch.float32, torch.bfloat16):
            found["zero-insert, pad, convolve", dtype] = seconds(generator, dtype, args.batch, args.repeats)
    finally:
        stylegan3.filtered_leaky_relu = banded
    best = min(found, key=found.get)
    print(f"{args.resolution} px, batch {args.batch}, {torch.get_num_threads()} threads, forward and backward")
    for (way, dtype), value in sorted(found.items(), key=lambda item: item[1]):
        print(f"{value / found[best]:6.2f} x  {way}, {str(dtype).removeprefix('torch.')}")
    print(f"fastest: {best[0]}, {best[1]}; the project trains in {gpu.precision(torch.device('cpu'))} on a CPU")


if __name__ == "__main__":
    main()
