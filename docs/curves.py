"""Make docs/curves.png after `snakemake train_embedded`: what each network had learned after how many pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HOME = Path(__file__).parents[1]
RECIPE = yaml.safe_load((HOME / "resources/embedded/training.yaml").read_text())
# Of each network: its loss, or what else its curve holds.
COLUMNS = {"perceptual": "loss", "identity": "loss", "affect": "valence", "encoder": "loss_0"}


def curve(folder: Path, column: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures seen and values [N] of one column of a training's curve, the last value of each step."""
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    found = {line["step"]: line[column] for line in lines if column in line}
    steps = sorted(found)
    return batch * np.array(steps), np.array([found[step] for step in steps])


def phases(network: str) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Of each phase of a network's training: its folder, its settings, pictures seen before it."""
    folder, settings, seen = HOME / "training" / network, RECIPE[network], 0
    if "phases" not in settings:
        yield folder, settings, 0
        return
    for number, phase in enumerate(settings["phases"]):
        yield folder / f"phase{number}", phase, seen
        seen += phase["steps"] * phase["batch"]


if __name__ == "__main__":
    figure, axes = plt.subplots(1, 5, figsize=(15, 3), layout="constrained")
    for folder, phase, seen in phases("generator"):
        pictures, psnr = curve(folder, "psnr_held_out", phase["batch"])
        name = f"first {phase['layers']} layers" if "layers" in phase else "all layers"
        name += ", Muon" if phase.get("optimiser") == "muon" else ""
        name += ", mapping" if "mapping" in phase else ""
        axes[0].plot((seen + pictures) / 1000, psnr, marker="o", markersize=3, label=name)
    axes[0].set(title="generator", ylabel="PSNR on held-out identities, dB")
    axes[0].legend(fontsize=7)
    for axis, (name, column) in zip(axes[1:], COLUMNS.items(), strict=True):
        for folder, phase, seen in phases(name):
            pictures, values = curve(folder, column, phase["batch"])
            # A step's own loss is noisy: every value with the four before it.
            smooth = np.convolve(values, np.full(5, 0.2), "valid") if len(values) > 5 else values
            axis.plot((seen + pictures[-len(smooth) :]) / 1000, smooth)
        axis.set(title=name, ylabel="mean squared error" if column == "valence" else "loss", yscale="log")
    for axis in axes:
        axis.set_xlabel("thousand pictures seen")
    figure.savefig(HOME / "docs/curves.png", dpi=80)
