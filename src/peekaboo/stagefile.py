"""The files between stages: written whole or not at all, readable by their owner only, the same bytes on every run."""

import glob
import hashlib
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

# Rows that are read from disk at a time.
RUN = 1024


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`, on any error remove it.

    The file gets mode 0600 and is synced to disk before the rename, so that a reader sees the whole file or none,
    whatever moment the process is killed at. Raises RuntimeError where another process has begun to write `path` in the
    meantime: a job that outlives a killed run doesn't stand in the way of the next.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: video muxers choose the container by it.
    ending = f".partial{path.suffix}"
    for earlier in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(ending)}"):
        earlier.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(ending, f".{path.stem}.", path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        try:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        except FileNotFoundError:
            raise RuntimeError(
                f"{path.name}: another process has begun to write it too, and has the last word; let one run end "
                "before you start the next"
            ) from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write(path: str | Path) -> Iterator[h5py.File]:
    """Open a new HDF5 stage file for writing; it appears under `path` only when the block ends without an error."""
    with replacing(path) as partial, h5py.File(partial, "w", track_order=True) as file:
        yield file


def read(path: str | Path) -> h5py.File:
    """Open an HDF5 stage file for reading. Raises OSError naming the file when it is missing or not HDF5."""
    return h5py.File(path, "r")


def frame_dataset(file: h5py.Group, name: str, shape: tuple[int, ...], dtype: str, fill: Any = 0) -> h5py.Dataset:
    """Create a dataset `[frame, track, ...]`, a chunk per frame and track so that absent faces take no room."""
    chunks = (1, 1, *shape[2:]) if len(shape) > 2 else None
    compression = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if chunks else {}
    return file.create_dataset(
        name, shape=shape, dtype=dtype, chunks=chunks, fillvalue=fill, track_times=False, **compression
    )


def gather(dataset: h5py.Dataset, pairs: np.ndarray) -> np.ndarray:
    """Read the rows of `dataset` `[frame, track, ...]` at `pairs` `[B, 2]` of frame and track, as `[B, ...]`."""
    return np.stack([dataset[frame, track] for frame, track in pairs])


def scatter(dataset: h5py.Dataset, pairs: np.ndarray, rows: np.ndarray) -> None:
    """Write `rows` `[B, ...]` into `dataset` `[frame, track, ...]` at `pairs` `[B, 2]` of frame and track."""
    for (frame, track), row in zip(pairs, rows, strict=True):
        dataset[frame, track] = row


def batches(pairs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut `pairs` `[M, 2]`, or numbers `[M]`, into runs of at most `size`, with a progress bar when it takes long."""
    starts = range(0, len(pairs), size)
    for start in tqdm(starts, unit_scale=size, unit="face", mininterval=5, delay=5, disable=None):
        yield pairs[start : start + size]


def present_latents(latents: h5py.Dataset, track: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read one track's latents `[N, T, num_ws, w_dim]` in runs of at most `size` frames, without those that are NaN.

    Yields pairs `[b, 2]` of frame and track, and their latents `[b, num_ws, w_dim]`.
    """
    every = np.stack([np.arange(len(latents)), np.full(len(latents), track)], 1)
    for pairs in batches(every, size):
        rows = gather(latents, pairs)
        found = np.isfinite(rows[:, 0, 0])
        if found.any():
            yield pairs[found], rows[found]


class Rows:
    """Float32 arrays of one shape that become too many for memory: kept in a file, read back by their numbers."""

    def __init__(self, file: RawIOBase) -> None:
        self.file = file
        self.shape: tuple[int, ...] = ()
        self.count = 0

    def append(self, rows: np.ndarray) -> np.ndarray:
        """Add `rows` `[B, ...]`; returns their numbers `[B]`."""
        self.shape = rows.shape[1:]
        content = memoryview(np.ascontiguousarray(rows, np.float32)).cast("B")
        while content:
            content = content[self.file.write(content) :]
        self.count += len(rows)
        return np.arange(self.count - len(rows), self.count)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Read the rows `[B, ...]` of these `numbers` `[B]`."""
        size = 4 * int(np.prod(self.shape))
        content = b"".join(os.pread(self.file.fileno(), size, size * int(number)) for number in numbers)
        return np.frombuffer(content, np.float32).reshape(len(numbers), *self.shape)

    def compare(self, function: Callable[..., np.ndarray], *numbers: np.ndarray) -> np.ndarray:
        """`function` of the rows at one or more arrays of numbers `[M]`, taken a run at a time: float64 `[M]`."""
        starts = range(0, len(numbers[0]), RUN)
        runs = (function(*(self[part[start : start + RUN]] for part in numbers)) for start in starts)
        return np.concatenate([np.zeros(0), *runs])


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_source(clip: str | Path, faces: h5py.File) -> None:
    """Raise ValueError unless a clip is still the file that extract's stage file was made of: what was found in another
    recording lies elsewhere in this one.
    """
    found, seen = checksum(clip), faces.attrs["source"]
    if found != seen:
        name = faces.attrs["clip"]
        raise ValueError(f"{name}: expected the clip that extract saw, SHA-256 {seen}, found {found}; extract anew")


@contextmanager
def scratch(path: str | Path) -> Iterator[Rows]:
    """Yield empty `Rows` on the disk of the file `path`; nothing is left of them, whatever moment the process ends at.

    Their file has no name and, like the stage files, is its owner's alone: it may show faces.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # Not where temporary files usually go, which may be memory.
    with tempfile.TemporaryFile(dir=Path(path).parent, buffering=0) as file:
        yield Rows(file)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON with sorted keys, whole or not at all. Raises ValueError on NaN or infinity."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from `path`."""
    return json.loads(Path(path).read_text())


class StageReport:
    """What a stage did, for its log and the JSON beside its output: start it first, `write` it last."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.start = time.monotonic()

    def write(self, path: str | Path, frames: int, device: str = "cpu", **more: Any) -> None:
        """Write frames, seconds, frames per second, peak memory (MiB), device and `more`; print the plain ones."""
        seconds = time.monotonic() - self.start
        content = {
            "stage": self.stage,
            "frames": frames,
            "seconds": round(seconds, 3),
            "fps": round(frames / seconds, 3),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "device": device,
            **more,
        }
        write_json(path, content)
        plain = {key: value for key, value in content.items() if not isinstance(value, dict | list)}
        print(*(f"{key}={value}" for key, value in plain.items()), flush=True)
