"""What sharing a card's worker is worth to short clips: time of jobs that follow each other, alone and shared.

Run `python benchmarks/worker.py [--jobs 8] [--frames 12]` on a quiet machine; each job inverts so many made-up faces
with the embedded networks, on a card where there is one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from peekaboo import stagefile

EMBEDDED = Path(__file__).parents[1] / "resources" / "embedded"


def seconds(folder: Path, jobs: int, keep: float) -> float:
    """Time by the clock of jobs one after the other, which keep the card for so many seconds."""
    found = {"PEEKABOO_KEEP": str(keep), "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    weights = [f"--{name}={EMBEDDED / name}.safetensors" for name in ("generator", "encoder")]
    start = time.perf_counter()
    for _ in range(jobs):
        files = [
            f"--faces={folder / 'extract.h5'}",
            f"--output={folder / 'invert.h5'}",
            f"--report={folder / 'r.json'}",
        ]
        command = [sys.executable, "-m", "peekaboo.lease", "auto", "peekaboo.stages.invert", *files, *weights]
        subprocess.run(command, env=os.environ | found, check=True, capture_output=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--frames", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stagefile.write(folder / "extract.h5") as file:
            file["crops"] = np.random.default_rng(0).integers(0, 256, (args.frames, 1, 256, 256, 3), np.uint8)
            file["aligned"] = np.ones((args.frames, 1), bool)
        alone, shared = (seconds(folder, args.jobs, keep) for keep in (0, 5))
    print(f"{args.jobs} jobs of {args.frames} frames: {alone / shared:.1f} x faster with a worker between them")


if __name__ == "__main__":
    main()
