"""Resident memory of extract, compose and measure over the length of a clip.

Run `python benchmarks/memory.py --folder FOLDER [--frames 250 1000 7200]`; it makes clips of so many frames by looping
the sample clip, runs each stage on each as a process of its own, prints a table of their peaks and draws it. What is in
FOLDER already is not run again. The longest clip lasts 30 minutes, at four frames a second: it is frames that count,
not minutes. Measured with one face, 128 pixels a side: 276, 121 and 513 MiB at 7200 frames, and from 1000 frames on
2.2 kB a frame in extract, 0.6 in compose and none in measure. So 30 minutes at thirty frames a second, 54,000 frames,
take 374, 146 and 513 MiB, whereof 84 are extract's bookkeeping, which is run in that length for real; 2 GiB would be
reached after seven hours. A second face grows as fast again; larger frames add a few frames' worth at any length. Dlib,
measure's slowest judge, is left out. It adds its weights, 70 MiB: the embeddings of the network that steers stand in,
and go the same way.
"""

import argparse
import multiprocessing
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from peekaboo import media, stagefile
from peekaboo.faces import alignment, detection, tracking
from peekaboo.stages import extract

HOME = Path(__file__).parents[1]
STAGES = ("extract", "compose", "measure")
SIDE, RATE, RESOLUTION = 128, 4, 128
LIMIT_MIB, LONG = 2048, 30 * 60 * 30


def loop(path, count):
    """Write a clip of `count` frames, the sample clip over and over, with time stamps that go on."""
    sample = media.frames(HOME / "resources" / "demo" / "infant.mp4")
    pictures = [cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for picture in sample]
    ticks = 1000 // RATE
    pts, durations = np.arange(count) * ticks, np.full(count, ticks)
    info = media.ClipInfo(SIDE, SIDE, Fraction(1, 1000), pts, durations, Fraction(RATE), has_audio=False)
    with stagefile.replacing(path) as partial, media.writer(partial, info) as write:
        for picture in islice(cycle(pictures), count):
            write(picture)


def command(stage, folder):
    """The words after `python -m peekaboo.stages.STAGE` for the clip in `folder`."""
    clip, faces, composed = folder / "clip.mp4", folder / "extract.h5", folder / "anonymized.mp4"
    identity, affect = (HOME / "resources" / "embedded" / f"{name}.safetensors" for name in ("identity", "affect"))
    shared = {"faces": faces, "method": "pixelate", "coverage": folder / "compose.h5"}
    options = {
        "extract": {"clip": clip, "id": "clip", "resolution": RESOLUTION, "output": faces},
        "compose": {"clip": clip, "output": composed} | shared,
        "measure": {"original": clip, "anonymized": composed, "identity": identity, "affect": affect, "device": "cpu"}
        | {"metrics": folder / "metrics.tsv", "summary": folder / "summary.json"}
        | shared,
    }[stage]
    judges = ["--judges", f"affect.Affect={affect}", f"demographics.Demographics={affect}"]
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return words + judges * (stage == "measure")


def peak(stage, folder):
    """Peak resident memory in MiB of a stage on the clip in `folder`, and its frames per second."""
    report = folder / f"{stage}.json"
    if not report.is_file():
        words = [sys.executable, "-m", f"peekaboo.stages.{stage}", *command(stage, folder), "--report", str(report)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = stagefile.read_json(report)
    return found["peak_mib"], found["fps"]


def bookkeeping(count, folder):
    """MiB by which memory grows while extract keeps, links, stores and smooths a face in each of `count` frames.

    That is all of extract but looking at pictures, by its own functions; the face is that of one detection.
    """
    frame = next(media.frames(HOME / "resources" / "demo" / "infant.mp4"))
    face = detection.Detector(0.5)(frame, sweep=True)[0]
    times = np.arange(count) / 30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with stagefile.write(folder / "bookkeeping.h5") as file, stagefile.scratch(folder / "bookkeeping.h5") as found:
        seen = []
        for n in range(count):
            moved = np.float32([3 * np.sin(n / 20), 0, 0])
            row = int(found.append(face.landmarks[None] + moved)[0])
            seen.append([tracking.Sighting(face.box + moved[[0, 1, 0, 1]], face.score, face.sure, row)])
        tracks = tracking.track(seen, times, 2.0, 0.5, frame.shape[1::-1])
        landmarks = stagefile.frame_dataset(file, "landmarks", (*tracks.present.shape, 478, 3), "f4", np.nan)
        poses = extract.measure_landmarks("", None, tracks, found, landmarks)
        extract.interpolate(poses, tracks, times, 2.0, landmarks)
        alignment.to_transform(alignment.smooth(poses[:, 0], np.isfinite(poses[:, 0, 0])), RESOLUTION)
    (folder / "bookkeeping.h5").unlink()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def draw(path, counts, peaks):
    """Draw the peaks [stages, lengths] in MiB over the frame counts, with the limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4))
    for stage, values in zip(STAGES, peaks, strict=True):
        axis.plot(counts, values, marker="o", label=stage)
    axis.axhline(LIMIT_MIB, color="tab:red", linewidth=1, label="limit, 2 GiB")
    axis.set(xlabel="frames of the clip, one face", ylabel="peak resident memory, MiB", xlim=0, ylim=(0, 2200))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, ncol=2)
    figure.tight_layout()
    with stagefile.replacing(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the clips and stage files go")
    parser.add_argument("--frames", type=int, nargs="+", default=[250, 1000, 30 * 60 * RATE])
    parser.add_argument("--picture", type=Path, default=HOME / "docs" / "memory.png")
    args = parser.parse_args()
    counts = sorted(args.frames)
    found = []
    for count in counts:
        folder = args.folder / str(count)
        if not (folder / "clip.mp4").is_file():
            loop(folder / "clip.mp4", count)
        found.append([peak(stage, folder) for stage in STAGES])
    peaks, speeds = np.array(found).transpose(2, 1, 0)
    print("| frames | " + " | ".join(f"{stage}, MiB | frames/s" for stage in STAGES) + " |")
    print("| --- |" + " --- |" * 2 * len(STAGES))
    for n, count in enumerate(counts):
        cells = (f"{peaks[s, n]:.0f} | {speeds[s, n]:.1f}" for s in range(len(STAGES)))
        print(f"| {count} | " + " | ".join(cells) + " |")
    if len(counts) > 1:
        slopes = (peaks[:, -1] - peaks[:, -2]) / (counts[-1] - counts[-2])
        print("| bytes a frame | " + " | ".join(f"{slope * 2**20:.0f} |" for slope in slopes) + " |")
        print(
            f"| {LONG}, by the slope | "
            + " | ".join(f"{p:.0f} |" for p in peaks[:, -1] + slopes * (LONG - counts[-1]))
            + " |"
        )
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        grown = apart.submit(bookkeeping, LONG, args.folder).result()
    print(f"extract's bookkeeping of {LONG} frames, run for real: {grown:.0f} MiB")
    draw(args.picture, counts, peaks)


if __name__ == "__main__":
    main()
