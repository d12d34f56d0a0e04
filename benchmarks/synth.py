"""How fast the renderer is on one core: pictures a second of frames and of aligned crops, and where the time goes.

Run `python benchmarks/synth.py --head FILE`; it prints a table, with the ratio to the 30 frames a second asked for.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

from peekaboo.synth import capture, render
from peekaboo.synth import head as heads

ASKED = 30
COUNT = 60


def measured(draw, count):
    """Seconds of the processor that `draw(i)` takes on average, the first two calls left out."""
    for i in range(2):
        draw(i)
    start = time.process_time()
    for i in range(count):
        draw(i)
    return (time.process_time() - start) / count


def profiled(draw, count):
    """The same by the functions of `peekaboo.synth.render`, each without those that it calls."""
    spent, inner = Counter(), []

    def timed(name, function):
        def run(*args, **kwargs):
            inner.append(0.0)
            start = time.process_time()
            result = function(*args, **kwargs)
            whole = time.process_time() - start
            spent[name] += whole - inner.pop()
            if inner:
                inner[-1] += whole
            return result

        return run

    own = {
        name: value
        for name, value in vars(render).items()
        if callable(value) and getattr(value, "__module__", "") == render.__name__ and not isinstance(value, type)
    }
    try:
        for name, function in own.items():
            setattr(render, name, timed(name, function))
        for i in range(count):
            draw(i)
    finally:
        for name, function in own.items():
            setattr(render, name, function)
    return {name: seconds / count for name, seconds in spent.most_common()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", type=Path, required=True, help="the face model's arrays, ict_facekit.npz")
    args = parser.parse_args()
    head = heads.load(args.head)
    parameters = heads.sample(np.random.default_rng(0), COUNT)
    room = capture.playroom(256, 256, np.random.default_rng(0))
    # By name at the time of the call, so that what `profiled` puts there is found.
    ways = {
        "frame, 256 px": lambda i: render.frame(head, parameters[i], 256, 256),
        "frame before a playroom, 256 px": lambda i: render.frame(head, parameters[i], 256, 256, background=room),
        "aligned crop, 128 px": lambda i: render.aligned(head, parameters[i], 128),
    }
    print("pictures a second  of 30 asked")
    for name, draw in ways.items():
        rate = 1 / measured(draw, COUNT)
        print(f"{rate:17.0f}  {rate / ASKED:9.1f} x  {name}")
    crops = [render.aligned(head, row, 128) for row in parameters]
    rng = np.random.default_rng(0)
    seconds = measured(lambda i: capture.captured(crops[i][0], crops[i][1].landmarks, rng), COUNT)
    print(f"{1000 * seconds:.1f} ms to make a recorded crop of a drawn one, 128 px")
    for name in ("frame, 256 px", "aligned crop, 128 px"):
        spent = profiled(ways[name], COUNT)
        whole = sum(spent.values())
        print(f"\nwhere the time of a {name} goes")
        for function, seconds in spent.items():
            if seconds > 0.01 * whole:
                print(f"{seconds / whole:6.0%}  {1000 * seconds:5.1f} ms  {function}")


if __name__ == "__main__":
    main()
