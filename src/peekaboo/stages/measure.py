"""measure: what the anonymised clip kept and what it changed, per frame (TSV) and per clip (JSON with the verdict)."""

import argparse
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from peekaboo import gpu, media, metrics, stagefile, verdict
from peekaboo.judges.affect import Affect
from peekaboo.judges.demographics import Demographics
from peekaboo.judges.identity import Dlib, Embedded
from peekaboo.judges.landmarks import Face, Judge, Mesh

BATCH = 16


def measure(
    original: str, anonymized: str, faces: h5py.File, coverage: h5py.File, judges: list[Judge], identity: Judge
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Judge every tracked face of two clips, read side by side, in batches.

    Returns the per-frame table with a row per frame and track, in that order, and the embeddings [rows, D] that the judge
    `identity` gives the original and the anonymised faces (NaN: not judged). Frames are streamed; what stays in memory is
    about 1.5 kB per row. Raises media.ClipError when the clips differ in frames or size.
    """
    n_frames, present = len(faces["pts"]), faces["present"][:]
    times = seconds(faces)
    for path, role in ((original, "original"), (anonymized, "anonymised")):
        found = media.probe(path)
        expected = (n_frames, int(faces.attrs["width"]), int(faces.attrs["height"]))
        if (found.n_frames, found.width, found.height) != expected:
            raise media.ClipError(
                f"the {role} clip has {found.n_frames} frames of {found.width}x{found.height}, expected {expected[0]} of "
                f"{expected[1]}x{expected[2]} as the extract stage saw: run the stages for this clip again"
            )
    tables, embeddings, batch, rows = [], [], [], []

    def judge_batch() -> None:
        columns, embedded = judge_faces(batch, judges, identity)
        tables.append(pd.DataFrame(rows).join(pd.DataFrame(columns)))
        embeddings.append(embedded)
        batch.clear()
        rows.clear()

    pairs = zip(media.frames(original), media.frames(anonymized), strict=True)
    for n, frames in enumerate(tqdm(pairs, "measure", n_frames, unit="frame", mininterval=5)):
        for track in np.flatnonzero(present[n]):
            face = Face(
                faces["boxes"][n, track],
                faces["landmarks"][n, track],
                faces["transforms"][n, track],
                int(faces.attrs["resolution"]),
            )
            batch.append([[judge.prepare(frame, face) for frame in frames] for judge in judges])
            covered = float(coverage["covered"][n, track])
            rows.append({"frame": n, "time": times[n], "track": int(track), "covered": covered})
            if len(batch) == BATCH:
                judge_batch()
    if batch or not tables:
        judge_batch()
    table = pd.concat(tables, ignore_index=True)
    both = np.concatenate(embeddings, axis=1)
    return table, both[0], both[1]
