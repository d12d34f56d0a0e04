"""measure: what the anonymised clip kept and what it changed, per frame (TSV) and per clip (JSON with the verdict)."""

import argparse
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import zip_longest
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from peekaboo import gpu, media, metrics, stagefile, verdict
from peekaboo.faces import cover, tracking
from peekaboo.judges import affect, demographics, pose
from peekaboo.judges.identity import Embedded, Recogniser
from peekaboo.judges.judge import Face, Judge
from peekaboo.judges.landmarks import Mesh
from peekaboo.stages.compose import MASK

BATCH = 16
# Batches whose tables are put together at a time: a table of few rows takes much more memory than its numbers.
BATCHES = 64
EMBEDDINGS = ("embedding_original", "embedding_anonymized")
# What judges can measure, each a module of peekaboo.judges, in the order of the tables' columns.
MEASURED = ("identity", "affect", "demographics", "pose", "action_units")
OPTIMISES = "optimises and measures"


def judge_of(text: str, device: torch.device) -> tuple[str, Judge]:
    """What the judge that `identity.Dlib` or `pose.Deca=FILE` names measures, and the judge.

    Raises ValueError naming the judge that there is not, and what a judge raises for a file that is not its own.
    """
    name, _, path = text.partition("=")
    what, _, kind = name.partition(".")
    if what not in MEASURED:
        raise ValueError(f"--judges: expected {' or '.join(f'{known}.CLASS' for known in MEASURED)}, found {name!r}")
    found = getattr(import_module(f"peekaboo.judges.{what}"), kind, None)
    # What judges share has no name, and the network that steers the edit another role.
    if not hasattr(found, "name") or getattr(found, "role", "") != "measures":
        raise ValueError(
            f"--judges: expected a judge in peekaboo.judges.{what}, found {kind!r}; see resources/models.yaml"
        )
    needs_file = next(iter(inspect.signature(found).parameters.values())).default is inspect.Parameter.empty
    if needs_file != bool(path):
        raise ValueError(f"--judges: expected {name}{'=FILE' if needs_file else ' without a file'}, found {text!r}")
    return what, found(path or None, device)


def judges_of(texts: list[str], steering: set[str], device: torch.device) -> dict[str, Judge]:
    """The judges that `judge_of` reads, by what they measure, with their roles: those whose weights are among the
    SHA-256 `steering` helped to make the edit as well.

    Raises ValueError where two measure the same, or the identity is to be judged by what steered the edit.
    """
    judges: dict[str, Judge] = {}
    for text in texts:
        what, judge = judge_of(text, device)
        if what in judges:
            raise ValueError(f"--judges: expected one judge of {what}, found {judges[what].name} and {judge.name}")
        if steering.intersection(judge.sha256.split(",")):
            judge.role = OPTIMISES
        judges[what] = judge
    if "identity" in judges and judges["identity"].role == OPTIMISES:
        raise ValueError(
            f"--judges: {judges['identity'].name} steers the edit, which looks good to it by construction; judge the "
            "identity by a network that took no part, or by none"
        )
    return {what: judges[what] for what in MEASURED if what in judges}


class Embeddings:
    """What is kept of a clip's embeddings: by track the mean of the original faces', and `rows` of the anonymised."""

    def __init__(self, rows: stagefile.Rows) -> None:
        self.rows = rows
        self.sums: dict[int, np.ndarray] = {}
        self.counts: Counter[int] = Counter()

    def take(self, table: pd.DataFrame) -> pd.DataFrame:
        """A batch's table with the number of the anonymised face's row, `embedding`, in place of both embeddings.

        The original's counts where the mesh saw a face.
        """
        seen = (table["detected_original"] == 1) & table[EMBEDDINGS[0]].notna()
        for track, rows in table[seen].groupby("track"):
            before = [self.sums[track]] if track in self.sums else []
            # Row by row, as numpy sums a whole array up, so that the size of a batch doesn't matter.
            self.sums[track] = np.add.reduce([*before, *rows[EMBEDDINGS[0]]])
            self.counts[track] += len(rows)
        numbers, judged = np.full(len(table), np.nan), table[EMBEDDINGS[1]].notna()
        if judged.any():
            numbers[judged] = self.rows.append(np.stack(table.loc[judged, EMBEDDINGS[1]]))
        return table.drop(columns=list(EMBEDDINGS)).assign(embedding=numbers)

    def mean(self, track: int) -> np.ndarray | None:
        """The mean [D] of a track's original faces; None where none was seen."""
        return self.sums[track] / self.counts[track] if track in self.sums else None


def measure(
    original: str,
    anonymized: str,
    faces: h5py.File,
    coverage: h5py.File,
    judges: list[Judge],
    identity: Judge,
    embeddings: Embeddings,
) -> pd.DataFrame:
    """Judge every tracked face of two clips, read side by side, in batches.

    Returns the per-frame table: a row per frame and track, in that order, NaN where a judge could not be applied.
    Besides the judges' columns, `covered` and `masked`, whether by grey alone, it holds `embedding`, the anonymised
    face's number in `embeddings`, which takes what the judge `identity` makes of both faces. Frames are streamed; a row
    takes about 300 bytes of memory. Raises media.ClipError when the clips differ in frames or size, or no face was
    tracked.
    """
    present, (numerator, denominator) = faces["present"][:], faces.attrs["time_base"]
    times = faces["pts"][:] * int(numerator) / int(denominator)
    if not present.any():
        raise media.ClipError("expected a tracked face, found none: this clip is to be withheld, not measured")
    size = (int(faces.attrs["height"]), int(faces.attrs["width"]))
    tables, rows, inputs = [], [], []
    crops_alone = coverage.attrs["compose"] == "crop"
    side = cover.square(size[1], size[0])
    pairs = paired(original, anonymized, len(times), size, (side, side) if crops_alone else size)
    for n, frames in enumerate(tqdm(pairs, "measure", len(times), unit="frame", mininterval=5)):
        if crops_alone:
            # Back at its place in the source, the crop is judged like any composed frame.
            factor = side / int(faces.attrs["resolution"])
            frames = (frames[0], placed(frames[1], faces["transforms"][n, 0], factor, size))
        for track in map(int, np.flatnonzero(present[n])):
            place = (faces[name][n, track] for name in ("boxes", "landmarks", "transforms"))
            face = Face(*place, resolution=int(faces.attrs["resolution"]))
            covered, masked = float(coverage["covered"][n, track]), bool(coverage["treatment"][n, track] == MASK)
            rows.append({"frame": n, "time": times[n], "track": track, "covered": covered, "masked": masked})
            inputs.append([[judge.prepare(frame, face) for frame in frames] for judge in judges])
        if len(rows) >= BATCH or (rows and n == len(times) - 1):
            tables.append(embeddings.take(pd.DataFrame(rows).join(judge_faces(inputs, judges, identity))))
            rows, inputs = [], []
        if len(tables) == BATCHES:
            tables = [pd.concat(tables, ignore_index=True)]
    return pd.concat(tables, ignore_index=True)


def placed(view: np.ndarray, transform: np.ndarray, factor: float, size: tuple[int, int]) -> np.ndarray:
    """Put a crop enlarged by `factor` back at its place in a grey frame [*size, 3]; all grey without a transform."""
    if not np.isfinite(transform).all():
        return np.full((*size, 3), cover.GREY, np.uint8)
    back = cv2.invertAffineTransform(cover.rescaled(transform, factor))
    return cv2.warpAffine(view, back, size[::-1], borderMode=cv2.BORDER_CONSTANT, borderValue=(cover.GREY,) * 3)


def paired(
    original: str, anonymized: str, n_frames: int, size: tuple[int, int], anonymized_size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the frames [H, W, 3] of two clips side by side, `n_frames` of them, of the sizes (height, width).

    An anonymised clip may be a pixel wider or higher, which is cut off: H.264 needs even sides. Raises media.ClipError
    on any other difference.
    """
    height, width = anonymized_size
    expected = (size,), (anonymized_size, (height + height % 2, width + width % 2))
    count = 0
    for count, pair in enumerate(zip_longest(media.frames(original), media.frames(anonymized)), 1):
        for clip, frame, sizes in zip(("original", "anonymised"), pair, expected, strict=True):
            if frame is None or count > n_frames or frame.shape[:2] not in sizes:
                found = "no frame" if frame is None else f"{frame.shape[1]}x{frame.shape[0]} pixels"
                raise media.ClipError(
                    f"frame {count - 1} of the {clip} clip: found {found}, expected {n_frames} frames of "
                    f"{sizes[0][1]}x{sizes[0][0]} pixels as extract saw them; run the stages of this clip again"
                )
        yield pair[0], pair[1][:height, :width]
    if count < n_frames:
        raise media.ClipError(f"both clips have {count} frames, expected {n_frames} as extract saw them; extract anew")


def judge_faces(inputs: list[list[list[Any]]], judges: list[Judge], identity: Judge) -> pd.DataFrame:
    """Apply every judge to a batch: inputs [face][judge][original, anonymised], None where there is none."""
    table = pd.DataFrame(index=range(len(inputs)))
    for k, judge in enumerate(judges):
        usable = [row for row, face in enumerate(inputs) if all(side is not None for side in face[k])]
        columns = [*judge.columns, *(EMBEDDINGS if judge is identity else ())]
        found = pd.DataFrame(index=usable, columns=columns, dtype=float)
        if usable:
            values = [judge([inputs[row][k][side] for row in usable]) for side in (0, 1)]
            compared = judge.compare(*values)
            if judge is identity:
                compared |= {name: list(side["embedding"]) for name, side in zip(EMBEDDINGS, values, strict=True)}
            found = pd.DataFrame(compared, index=usable)[columns]
        table = table.join(found)
    return table


def template_distance(
    table: pd.DataFrame, embeddings: Embeddings, template: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Distance [rows] from each anonymised face to the mean original of its track, over frames where a face was seen.

    The mean of a track, which the identity judge's `template` takes, stands for what somebody who knows the child
    compares with; NaN where a row or its track has none.
    """
    distances = np.full(len(table), np.nan)
    for track, rows in table[table["embedding"].notna()].groupby("track"):
        mean = embeddings.mean(track)
        if mean is not None:
            distance = partial(metrics.distance, b=template(mean[None]))
            distances[rows.index] = embeddings.rows.compare(distance, rows["embedding"].to_numpy(int))
    return distances


def completed(table: pd.DataFrame, embeddings: Embeddings, identity: Recogniser | None, posed: bool) -> pd.DataFrame:
    """The table with every column that the report reads, and without what was read off faces that are not there.

    `posed`: a judge of its own read the pose, which sees one in anything; it counts where the mesh finds a face.
    """
    table = table.assign(identity_distance_mean=np.nan)
    if identity:
        table["identity_distance_mean"] = template_distance(table, embeddings, identity.template)
        # A hand before the face has no identity to be compared with: there the track's mean original stands alone.
        hidden = table["detected_original"] != 1
        table.loc[hidden, ["identity_cos", "identity_distance"]] = np.nan
    else:
        # Every table has the same columns; the summary says which network stands behind identity_cos.
        table = table.assign(identity_cos=table["identity_cos_optimised"], identity_distance=np.nan)
    for clip in ("original", "anonymized"):
        if posed:
            read = [name for name in pose.COLUMNS if clip in name or name == "pose_rmat"]
            table.loc[table[f"detected_{clip}"] != 1, read] = np.nan
    missing = [name for name in affect.COLUMNS + demographics.COLUMNS if name not in table]
    return table.assign(**dict.fromkeys(missing, np.nan))


def summarize(table: pd.DataFrame, embeddings: Embeddings) -> dict[str, metrics.Value]:
    """The clip's numbers over all face-frames of a table, by the names of the results table."""
    judged = table[table["embedding"].notna()]
    numbers = judged["embedding"].to_numpy(int)
    unseen = "in no frame was a face found in both clips"
    units = {name: metrics.mean(table[name].to_numpy(), unseen) for name in ("action_units_mae",) if name in table}
    return {
        "identity_cos": metrics.mean(table["identity_cos"].to_numpy()),
        "identity_cos_optimised": metrics.mean(table["identity_cos_optimised"].to_numpy()),
        "identity_tc": metrics.temporal_consistency(
            lambda first, second: embeddings.rows.compare(metrics.cosine, numbers[first], numbers[second]),
            *(judged[name].to_numpy() for name in ("time", "track", "confidence_anonymized")),
        ),
        "arousal_rmse": metrics.rmse(table["arousal_original"].to_numpy(), table["arousal_anonymized"].to_numpy()),
        "valence_rmse": metrics.rmse(table["valence_original"].to_numpy(), table["valence_anonymized"].to_numpy()),
        "pose_rmat": metrics.mean(table["pose_rmat"].to_numpy(), unseen),
        "detection_rate": metrics.share(
            table["detected_anonymized"].to_numpy() == 1,
            table["detected_original"].to_numpy() == 1,
            "no face was found in the original",
        ),
        "landmark_nme": metrics.mean(table["landmark_nme"].to_numpy(), unseen),
        "expression_kept": metrics.expression_kept(
            *(table[f"expression_{clip}"].astype(object).fillna("").to_numpy() for clip in ("original", "anonymized"))
        ),
        "coverage": metrics.mean(table["covered"].to_numpy() >= 1),
        **units,
    }


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", required=True, help="the source clip")
    parser.add_argument("--anonymized", required=True, help="the clip that compose made of it")
    parser.add_argument("--faces", required=True, help="extract's stage file")
    parser.add_argument("--coverage", required=True, help="compose's stage file")
    parser.add_argument("--method", required=True, help="name of the method, for the summary")
    parser.add_argument("--identity", required=True, help="weights of the identity network that steers the edit")
    parser.add_argument("--affect", required=True, help="weights of the affect network that steers the edit")
    parser.add_argument(
        "--judges",
        nargs="*",
        default=[],
        metavar="WHAT.CLASS[=FILE]",
        help="judges of peekaboo.judges, one of a kind, two files with a comma between them; without a judge of "
        "identity there is no evidence for a verdict",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--metrics", required=True, help="per-frame table to write, TSV")
    parser.add_argument("--summary", required=True, help="summary of the clip to write, JSON")
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("measure")
    device = gpu.device(args.device)
    embedded = Embedded(args.identity, device)
    chosen = judges_of(args.judges, {embedded.sha256, stagefile.checksum(args.affect)}, device)
    identity, mesh = chosen.get("identity"), Mesh()
    if "pose" in chosen:
        mesh.columns = tuple(name for name in mesh.columns if name not in pose.COLUMNS)
    # The network that steers comes after the one that judges the same.
    judges = [mesh, *([identity] if identity else []), embedded]
    judges += [judge for judge in chosen.values() if judge is not identity]
    with (
        stagefile.read(args.faces) as faces,
        stagefile.read(args.coverage) as coverage,
        stagefile.scratch(args.metrics) as rows,
    ):
        stagefile.check_source(args.original, faces)
        embeddings, clips = Embeddings(rows), (args.original, args.anonymized)
        table = measure(*clips, faces, coverage, judges, identity or embedded, embeddings)
        clip, n_frames = str(faces.attrs["clip"]), len(faces["pts"])
        open_places = len(tracking.open_places(faces))
        table = completed(table, embeddings, identity, "pose" in chosen)
        numbers = summarize(table, embeddings)
        tracks = [
            {"track": int(track), "face_frames": len(part), **described(summarize(part, embeddings))}
            for track, part in table.groupby("track")
        ]
    decision = verdict.decide(
        table, *((identity.name, identity.operating_point) if identity else (None, None)), open_places
    )
    checksums = {judge.name: judge.sha256 for judge in judges}
    summary = {
        "clip": clip,
        "method": args.method,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "evidence": verdict.evidence(judges),
        "frames": n_frames,
        "face_frames": len(table),
        "scope": "numbers are over all face-frames: every frame of every tracked face",
        **described(numbers),
        "tracks": tracks,
        "identity_judge": (identity or embedded).name,
        "judges": [
            {
                "name": judge.name,
                "trained_on": judge.trained_on,
                "real_faces": judge.real_faces,
                "role": judge.role,
                "sha256": judge.sha256,
                "columns": list(judge.columns),
            }
            for judge in judges
        ],
    }
    with stagefile.replacing(args.metrics) as path:
        columns = table.drop(columns=["embedding", "masked"])
        columns.to_csv(path, sep="\t", index=False, float_format="%.6f", na_rep="NA", lineterminator="\n")
    stagefile.write_json(args.summary, summary)
    report.write(
        args.report,
        n_frames,
        gpu.describe(device),
        face_frames=len(table),
        verdict=decision.verdict,
        models=checksums,
    )


def described(numbers: dict[str, metrics.Value]) -> dict[str, dict[str, Any]]:
    """A summary's `metrics`, the `counts` of frames (or pairs) behind them and the reasons of the `missing` ones."""
    return {
        "metrics": {name: number.value for name, number in numbers.items()},
        "counts": {name: number.count for name, number in numbers.items()},
        "missing": {name: number.reason for name, number in numbers.items() if number.reason},
    }


if __name__ == "__main__":
    main()
