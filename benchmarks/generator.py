"""Which way to compute the generator on a CPU: forward and backward time per picture, as ratios to the fastest.

Run `python benchmarks/generator.py [--resolution 128]`; it prints a table and what `peekaboo.gpu.precision` should say.
"""

import argparse
import dataclasses
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
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    gpu.keep_freed_memory()
    torch.manual_seed(0)
    sizes = {"channel_base": 2048, "channel_max": 128, "num_layers": 10}
    generator = stylegan3.Generator(96, 512, args.resolution, **sizes)
    # Where a CPU emulates bfloat16, that takes minutes and is no question.
    dtypes = (torch.float32, torch.bfloat16) if gpu.halves(torch.device("cpu")) else (torch.float32,)
    found = {}
    compiled = stylegan3.filtered_leaky_relu
    layers = [layer for layer in generator.synthesis.children() if hasattr(layer, "up_filter")]
    ways = {
        "compiled loop over bands": compiled,
        "matrix products": lambda x, filters, **kwargs: compiled(x, dataclasses.replace(filters, bands=None), **kwargs),
        # A layer hands its own filters over, by which it is found again.
        "zero-insert, pad, convolve": lambda x, filters, **_: by_convolution(
            next(layer for layer in layers if layer.filters(x) is filters), x
        ),
    }
    try:
        for name, way in ways.items():
            stylegan3.filtered_leaky_relu = way
            for dtype in dtypes:
                found[name, dtype] = seconds(generator, dtype, args.batch, args.repeats)
    finally:
        stylegan3.filtered_leaky_relu = compiled
    best = min(found, key=found.get)
    print(f"{args.resolution} px, batch {args.batch}, {torch.get_num_threads()} threads, forward and backward")
    for (way, dtype), value in sorted(found.items(), key=lambda item: item[1]):
        print(f"{value / found[best]:6.2f} x  {way}, {str(dtype).removeprefix('torch.')}")
    print(f"fastest: {best[0]}, {best[1]}; the project trains in {gpu.precision(torch.device('cpu'))} on a CPU")


if __name__ == "__main__":
    main()
