"""Reads the parity fixtures: weights and inputs drawn from names, outputs as the official networks computed them."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "shared" / "golden"


def draw(text: str, shape: list[int]) -> np.ndarray:
    """Standard normal float32 numbers whose seed is the crc32 of `text`."""
    seed = zlib.crc32(text.encode()) & 0xFFFFFFFF
    return np.asarray(np.random.RandomState(seed).standard_normal(tuple(shape)), np.float32)


class Fixture:
    """One fixture: `manifest`, `arrays`, and ways to fill a network and to compare an output."""

    def __init__(self, name: str) -> None:
        if not FOLDER.is_dir():
            pytest.skip(f"no parity fixtures: {FOLDER} is absent")
        self.manifest = json.loads((FOLDER / f"{name}.json").read_text())
        self.arrays = np.load(FOLDER / f"{name}.npz")

    def state_dict(self, network: int = 0) -> dict[str, torch.Tensor]:
        """The recipe's weights by their official names; entries that are constant by construction are left out."""
        state = {}
        for entry in self.manifest["networks"][network]["state_dict"]:
            if "fill" in entry:
                fill, x = entry["fill"], draw(self.manifest["salt"] + entry["key"], entry["shape"])
                x = np.abs(x) if fill.get("abs") else x
                value = np.asarray(np.asarray(fill["loc"], np.float32) + np.float32(fill["scale"]) * x, np.float32)
                crc = zlib.crc32(np.ascontiguousarray(value).tobytes()) & 0xFFFFFFFF
                assert f"{crc:08x}" == entry["crc32"], f"recipe of {entry['key']} is not followed"
            elif f"keep.{entry['key']}" in self.arrays:
                value = self.arrays[f"keep.{entry['key']}"]
            else:
                continue
            state[entry["key"]] = torch.from_numpy(np.array(value))
        return state

    @property
    def constructor(self) -> dict[str, Any]:
        """Arguments that build the official network."""
        return self.manifest["networks"][0]["constructor"]

    def fill(self, network: type[nn.Module], **constructor: Any) -> nn.Module:
        """Build `network` with the recipe's weights, frozen; asserts that it has every official key with its shape, in
        order, and no other.
        """
        entries = self.manifest["networks"][0]
        with torch.device("meta"):
            module = network(**constructor)
        found = [(key, list(value.shape)) for key, value in module.state_dict().items()]
        assert found == [(entry["key"], entry["shape"]) for entry in entries["state_dict"]]
        counters = {key: torch.tensor(0) for key, _ in found if key.endswith("num_batches_tracked")}
        module.load_state_dict(self.state_dict() | counters, assign=True)
        return module.eval().requires_grad_(False)

    def input(self, name: str) -> np.ndarray:
        """An input by name, stored or drawn."""
        if f"in.{name}" in self.arrays:
            return self.arrays[f"in.{name}"]
        spec = next(i for i in self.manifest["inputs"] if i["name"] == name)
        shape, blocks = spec["shape"], spec["blocks"]
        x = np.zeros(shape, np.float32) if blocks else draw(spec["seed_string"], shape)
        for b in blocks or []:
            d = draw(f"{spec['seed_string']}#{b}", [*shape[:-2], shape[-2] // b, shape[-1] // b])
            x = x + np.repeat(np.repeat(d, b, axis=-2), b, axis=-1)
        x = x / np.float32(math.sqrt(len(blocks))) if blocks else x
        x = np.float32(spec["loc"]) + np.float32(spec["scale"]) * x
        return np.clip(x, *map(np.float32, spec["clip"])) if spec["clip"] else x

    def check(self, name: str, found: torch.Tensor | np.ndarray, array: str | None = None) -> None:
        """Assert that `found` is the stored output within the fixture's own tolerance."""
        spec = self.manifest["outputs"][name]
        expected = self.arrays[array or f"out.{name}"]
        found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
        assert found.shape == expected.shape, f"{name}: shape {found.shape}, expected {expected.shape}"
        error = np.abs(found.astype(np.float64) - expected).max() / spec["scale_for_tolerance"]
        assert error <= spec["tolerance"], f"{name}: error {error:.2e}, tolerance {spec['tolerance']:.0e}"
