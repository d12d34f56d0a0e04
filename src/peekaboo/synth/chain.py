"""What the whole chain does to rendered clips of known truth: a benchmark of every method."""

import argparse
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from peekaboo import metrics, stagefile
from peekaboo.judges.identity import Dlib
from peekaboo.stages import report
from peekaboo.synth import head as heads
from peekaboo.synth import peers
from peekaboo.synth.benchmark import Faces, markdown
from peekaboo.synth.clips import BENCHMARK


class Measure(NamedTuple):
    """A row of the benchmark's table."""

    title: str
    higher: bool  # whether more of it is better
    target: float | None = None
    decimals: int = 2


MEASURES = {
    "different_published": Measure("frames with a different person, published threshold", True, 0.95),
    "different_rendered": Measure("frames with a different person, threshold of rendered infants", True, 0.95),
    "different_filmed": Measure("frames with a different person, threshold of infants filmed alike", True, 0.95),
    "infant_published": Measure("the same of the infant alone, published threshold", True),
    "infant_rendered": Measure("the same of the infant alone, threshold of rendered infants", True),
    "verdict_published": Measure("frames that the verdict passes, published threshold", True),
    "verdict_rendered": Measure("frames that the verdict would pass, threshold of rendered infants", True),
    "identity_distance": Measure("identity distance", True),
    "nearest_distance": Measure("identity distance, the nearest to frame and mean", True),
    "identity_cos": Measure("identity cosine", False, decimals=3),
    "identity_tc": Measure("identity consistency over 3 s", True, 0.9, 3),
    "valence_rmse": Measure("valence RMSE", False, 0.15),
    "arousal_rmse": Measure("arousal RMSE", False, 0.15),
    "valence_truth_rmse": Measure("valence RMSE against the truth", False),
    "arousal_truth_rmse": Measure("arousal RMSE against the truth", False),
    "pose_rmat": Measure("head rotation error, degrees", False, 5.0, 1),
    "pose_truth": Measure("head rotation error against the truth, degrees", False, decimals=1),
    "landmark_nme": Measure("landmark error, eye distances", False, decimals=3),
    "expression_kept": Measure("expression kept", True),
    "coverage": Measure("coverage", True, 1.0),
    "detection_rate": Measure("detection rate", True),
    "fps": Measure("frames per second, all stages", True),
}
OURS = "pti_traversal"
# The other method that also changes the identity: pti draws the infant's own.
RIVAL = "traversal"
CONTESTED = ("different_published", "valence_rmse", "arousal_rmse", "pose_rmat", "identity_tc")
# What is told of single clips, and how it is headed there.
SINGLY = {
    "different_published": "published",
    "different_rendered": "rendered",
    "different_filmed": "filmed alike",
    "verdict_published": "verdict",
    "identity_distance": "distance",
    "valence_rmse": "valence",
    "arousal_rmse": "arousal",
    "pose_rmat": "rotation",
    "identity_tc": "consistency",
    "expression_kept": "expression",
}
# Table I of the paper in words. Of every measure here less is more kept, or more hidden.
CLAIMS = (
    ("pti", "keeps more", ("valence_rmse", "arousal_rmse", "pose_rmat")),
    ("pti", "hides less", ("identity_cos",)),
    ("traversal", "hides more", ("identity_cos",)),
    ("traversal", "keeps less", ("valence_rmse", "arousal_rmse")),
)
# A difference is noise up to so many standard errors.
NOISE = 2.0
# What the judges say of the original, against the truth: the part of the error that no method made.
ORIGINAL = "original"
# What the identity judge says of truly other infants, who do the same as the clip's.
PEER = "another infant"
FILMED = "filmed"  # the threshold of infants filmed alike
COMMAND = "snakemake benchmark_synthetic --config head=ict_facekit.npz"


class Spread(NamedTuple):
    """A mean over clips, its standard error (None from one clip) and how many clips were measured."""

    mean: float | None
    error: float | None
    clips: int


def spread(values: Sequence[float]) -> Spread:
    """Mean of the values that are not NaN, and its standard error: standard deviation over the root of their number."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return Spread(None, None, 0)
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None
    return Spread(float(known.mean()), error, len(known))


def different(distances: np.ndarray, threshold: float | None) -> float:
    """Share of the known distances [F] from which `threshold` says two persons; NaN without either."""
    known = distances[np.isfinite(distances)]
    return float((known >= threshold).mean()) if len(known) and threshold is not None else math.nan


def persons(same_frame: np.ndarray, nearest: np.ndarray, limits: dict[str, float | None]) -> dict[str, float]:
    """What an identity judge's distances [F] to the original come to: to its face in the same frame, and the lower of
    that and the one to its mean over the clip.

    Each of `limits` is held against the distances of which it was found: those that tell a pair of pictures apart
    against the same frame's, that of infants filmed alike against the lower ones. The verdict, which fails closed,
    holds the others against the lower ones, too.
    """
    return {
        "identity_distance": metrics.mean(same_frame).value,
        "nearest_distance": metrics.mean(nearest).value,
        **{f"different_{name}": different(nearest if name == FILMED else same_frame, limits[name]) for name in limits},
        **{f"verdict_{name}": different(nearest, limits[name]) for name in limits if name != FILMED},
    }


def distances(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows of a per-frame table the distances that `persons` takes."""
    same_frame = rows["identity_distance"]
    return same_frame.to_numpy(), np.fmin(same_frame, rows["identity_distance_mean"]).to_numpy()


def alone(found: dict[str, float]) -> dict[str, float]:
    """Of `persons` of the infant alone what is told beside that of all faces."""
    return {f"infant_{name}": found[f"different_{name}"] for name in ("published", "rendered")}


def standing(difference: Spread, higher: bool) -> str:
    """Say if a paired difference means better, worse or noise where more (`higher`) or less is better."""
    if difference.error is None:
        return "not known"
    if abs(difference.mean) <= NOISE * difference.error:
        return "within noise"
    return "better" if (difference.mean > 0) == higher else "worse"


def paired(table: pd.DataFrame, measure: str, method: str, other: str) -> Spread:
    """Difference of a measure, method less other, over the clips in which both are known; `table` as `per_clip`'s."""
    values = table.pivot(index="clip", columns="method", values=measure)
    return spread((values[method] - values[other]).to_numpy())


def infant_rows(table: pd.DataFrame, boxes: np.ndarray, landmarks: np.ndarray) -> pd.DataFrame:
    """Rows of a per-frame table that are about the infant: in each frame the face nearest to the truth's.

    `boxes` [N, T, 4] are the tracked faces', `landmarks` [N, 68, 2] the true ones in frame pixels. A frame in which no
    box holds their middle has no row.
    """
    middles = landmarks.mean(1)[table["frame"]]
    own = boxes[table["frame"], table["track"]].astype(np.float64)
    offsets = np.abs((own[:, :2] + own[:, 2:]) / 2 - middles)
    inside = (offsets <= (own[:, 2:] - own[:, :2]) / 2).all(1)
    nearest = table.assign(offset=offsets.max(1))[inside].sort_values(["frame", "offset"]).drop_duplicates("frame")
    return nearest.drop(columns="offset")


def against_truth(rows: pd.DataFrame, side: str, truth: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Errors of what the judges read off one side, original or anonymized, against the truth of each row's frame."""
    angles = rows[[f"{angle}_{side}" for angle in ("yaw", "pitch", "roll")]].to_numpy(np.float64)
    seen = np.isfinite(angles).all(1)
    # The inverse of judges.pose.angles.
    turned = Rotation.from_euler("YXZ", -angles[seen], degrees=True).as_matrix() if seen.any() else np.empty((0, 3, 3))
    frames = rows["frame"].to_numpy()
    errors = metrics.rotation_angle(turned, truth["rotation"][frames[seen]])
    return {
        **{
            f"{name}_truth_rmse": metrics.rmse(truth[name][frames], rows[f"{name}_{side}"].to_numpy()).value
            for name in ("valence", "arousal")
        },
        "pose_truth": metrics.mean(errors).value,
    }


def per_clip(
    results: Path, truths: Path, clips: list[str], methods: list[str], thresholds: dict[str, float | None]
) -> tuple[pd.DataFrame, dict[str, str], list[dict[str, Any]]]:
    """Read what the stages found in every clip.

    Returns a row per clip and method, and one for the ORIGINAL, with MEASURES as columns; the withheld clips with their
    reasons; and all stage reports. The identity's share counts every face of a frame.
    """
    measured, withheld = report.load(results, clips, methods)
    rows, reports = [], []
    for clip, found in measured.items():
        with np.load(truths / f"{clip}.npz") as file:
            truth = {name: file[name] for name in ("landmarks68", "rotation", "valence", "arousal")}
        with stagefile.read(results / clip / "extract.h5") as faces:
            boxes = faces["boxes"][:]
        if len(boxes) != len(truth["rotation"]):
            raise ValueError(
                f"{clip}: extract found {len(boxes)} frames, {truths / clip}.npz has {len(truth['rotation'])}; "
                "render the clip again"
            )
        for method in methods:
            summary, stages = found["summaries"][method], list(found["stages"][method].values())
            table = pd.read_csv(results / clip / method / "metrics.tsv", sep="\t")
            infant = infant_rows(table, boxes, truth["landmarks68"])
            if method == methods[0]:
                rows.append({"clip": clip, "method": ORIGINAL} | against_truth(infant, "original", truth))
            row = {"clip": clip, "method": method, "frames": found["frames"], "face_frames": len(table)}
            everybody, infants = (persons(*distances(judged), thresholds) for judged in (table, infant))
            row |= everybody | alone(infants)
            row["fps"] = found["frames"] / sum(stage["seconds"] for stage in stages)
            rows.append(row | summary["metrics"] | against_truth(infant, "anonymized", truth))
            reports += stages
    columns = ["clip", "method", "frames", "face_frames", *MEASURES]
    table = pd.DataFrame(rows, columns=columns).astype({"frames": "Int64", "face_frames": "Int64"})
    return table, withheld, reports


def peer_rows(found: dict[str, peers.Distances], limits: dict[str, float | None]) -> pd.DataFrame:
    """A row per clip, as `per_clip`'s, of infants who are others than the clip's and do the same."""
    rows = []
    for clip, apart in found.items():
        infants = persons(apart.same_frame, apart.peers, limits)
        cosine = metrics.mean(apart.cosines).value
        rows.append({"clip": clip, "method": PEER, **infants, **alone(infants), "identity_cos": cosine})
    return pd.DataFrame(rows)


def summarize(table: pd.DataFrame) -> dict[str, Any]:
    """Turn a row per clip and method into what the page shows.

    `methods`: by method and measure the Spread and, where there is a target, whether the mean meets it. `rivalry`: how
    OURS stands to RIVAL. `claims`: what the paper's Table I says of the ablations, and whether it is so here. `clips`:
    by clip SINGLY of OURS, and as PEER the distance of that; None where nothing was measured.
    """
    methods = {}
    for method, rows in table.groupby("method", sort=False):
        methods[method] = {}
        for name, measure in MEASURES.items():
            found = spread(rows[name].astype(float))
            methods[method][name] = found._asdict()
            if measure.target is not None and found.mean is not None:
                met = found.mean >= measure.target if measure.higher else found.mean <= measure.target
                methods[method][name]["met"] = met
    differences = {name: paired(table, name, OURS, RIVAL) for name in CONTESTED}
    rivalry = {
        name: found._asdict() | {"standing": standing(found, MEASURES[name].higher)}
        for name, found in differences.items()
    }
    claims = []
    for method, claim, names in CLAIMS:
        for name in names:
            found = paired(table, name, method, OURS)
            reading = standing(found, higher=claim.endswith("less"))
            holds = {"better": "holds", "worse": "does not hold"}.get(reading, reading)
            claims.append({"method": method, "claim": claim, "measure": name, "holds": holds} | found._asdict())
    others = table[table["method"] == PEER].set_index("clip")["identity_distance"]
    clips = {
        row["clip"]: {name: spread([row[name]]).mean for name in SINGLY}
        | {PEER: spread([others.get(row["clip"], math.nan)]).mean}
        for _, row in table[table["method"] == OURS].iterrows()
    }
    return {"methods": methods, "rivalry": rivalry, "claims": claims, "clips": clips}


def machine(devices: Sequence[str]) -> dict[str, str | int]:
    """The processor, its cores and the card that the stages, by their reports' `devices`, ran on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    cards = sorted(set(devices) - {"cpu"})
    return {"processor": processor, "cores": os.cpu_count() or 1, "card": ", ".join(cards) or "none"}


def cell(entry: dict[str, Any], decimals: int) -> str:
    """Mean ± standard error; a dash where nothing was measured."""
    if entry["mean"] is None:
        return "–"
    error = "" if entry["error"] is None else f" ± {entry['error']:.{decimals}f}"
    return f"{entry['mean']:.{decimals}f}{error}"


def single(value: float | None, decimals: int) -> str:
    """One clip's value; a dash where nothing was measured."""
    return cell({"mean": value, "error": None}, decimals)


def page(results: dict[str, Any]) -> str:
    """The benchmark as Markdown, from what `benchmark` writes as JSON."""
    methods, limits, here = results["methods"], results["thresholds"], results["machine"]
    rows = []
    for name, measure in MEASURES.items():
        entries = [entries[name] for entries in methods.values()]
        target, met = "", ""
        if measure.target is not None:
            target = f"{'≥' if measure.higher else '≤'} {measure.target:g}"
            met = {True: "met", False: "not met", None: "n/a"}[methods[OURS][name].get("met")]
        missing = name.endswith("_rendered") and limits["rendered"] is None
        cells = ["n/a" if missing else cell(entry, measure.decimals) for entry in entries]
        rows.append([measure.title, target, met, *cells])
    contest = [
        [MEASURES[name].title, cell(entry, MEASURES[name].decimals + 1), entry["standing"]]
        for name, entry in results["rivalry"].items()
    ]
    claims = [
        [
            f"{entry['method']} {entry['claim']}",
            MEASURES[entry["measure"]].title,
            cell(entry, MEASURES[entry["measure"]].decimals + 1),
            entry["holds"],
        ]
        for entry in results["claims"]
    ]
    singles = [
        [f"`{clip}`", *(single(found[name], MEASURES[name].decimals) for name in SINGLY), single(found[PEER], 2)]
        for clip, found in results["clips"].items()
    ]
    rendered = "not calibrated" if limits["rendered"] is None else f"{limits['rendered']:.3f}"
    mistaken = 100 * results["mistaken"]
    clips = f"{len(results['clips'])} of its {len(BENCHMARK)} clips"
    withheld = "".join(f" Withheld: {clip} ({reason})." for clip, reason in results["withheld"].items())
    return f"""# The chain on rendered infants

Made by `{COMMAND}` on {here["processor"]}, cores: {here["cores"]}, card: {here["card"]}.

{clips}, {results["frames"]} frames, of identities that no network was trained on.{withheld}
Means over clips ± their standard error. The targets, met or not, are those of `{OURS}`.

{markdown(["measure", "target", "", *methods], rows)}

Identity is judged by dlib, which took no part in the edit. It says two persons from a distance of

- {limits["published"]:g} on (published, for adults), held against the original in the same frame;
- {rendered} on (equal error rate on random pairs of renders of all ages), held against the same;
- {limits[FILMED]:.3f} on (equal error rate, {mistaken:.0f} %, on all benchmark clips' infants and others
  that are as old, of their sex and complexion, and do the same in the same light), held against that or the original's
  mean over the clip, whichever is nearer.

A clip's verdict holds the published threshold against the nearer one and so is stricter: a mean is nearer than most
pictures. One frame that it does not pass fails the clip. The column `{PEER}` is what dlib says of those others in
the same frames, who are other persons in all of them. All faces that are tracked count, those of adults and of toys as
well; two rows are of the infants alone. Errors without "truth" compare the judge's reading of the anonymised face with
that of the original; the column `{ORIGINAL}` is what the judges miss on the original itself.

## `{OURS}` and `{RIVAL}`

These two change the identity; `pti` draws the infant's own face. Differences are paired by clip, {OURS} less
{RIVAL}; up to {NOISE:g} standard errors are noise.

{markdown(["measure", "difference", OURS + " is"], contest)}

## The ablations

By the paper's Table I, PTI alone keeps more and hides less than both together, and traversal alone hides more and
keeps less. Differences are paired by clip, the ablation less {OURS}.

{markdown(["claim", "measure", "difference", "here"], claims)}

## Clip by clip

`{OURS}`: the share of frames with a different person by the published threshold, by that of rendered infants, by that
of infants filmed alike and by the verdict, the identity distance, what changed, and the distance of `{PEER}`.

{markdown(["clip", *SINGLY.values(), PEER], singles)}
"""


def thresholds(embedded: str | None) -> dict[str, float | None]:
    """Distances of dlib from which two faces are two persons: published, and on rendered infants if that is known.

    `embedded` is the JSON of the embedded networks' benchmark.
    """
    known = stagefile.read_json(embedded)["operating_points"]["dlib"] if embedded else {}
    return {"published": Dlib.operating_point, "rendered": known.get("rendered")}


def benchmark(args: argparse.Namespace) -> None:
    """Write the table, the JSON and the page from the results of all clips and methods."""
    head, faces = heads.load(args.head), Faces(None)
    found = {
        clip.id: peers.compare(head, clip, lambda pictures: faces.distant(pictures, faces.landmarks(pictures)))
        for clip in tqdm(BENCHMARK, "other infants", unit="clip", disable=None)
    }
    filmed, mistaken = peers.threshold(found.values())
    limits = thresholds(args.embedded) | {FILMED: filmed}
    table, withheld, reports = per_clip(args.results, args.truths, args.clips, args.methods, limits)
    measured = {clip: found[clip] for clip in table["clip"].unique()}
    table = pd.concat([peer_rows(measured, limits), table], ignore_index=True)
    results = summarize(table) | {
        "command": COMMAND,
        "machine": machine([report["device"] for report in reports]),
        "thresholds": limits,
        "mistaken": mistaken,
        "models": {name: value for report in reports for name, value in report.get("models", {}).items()},
        "withheld": withheld,
        "frames": int(table.loc[table["method"] == OURS, "frames"].sum()),
    }
    write_table(args.table, table)
    stagefile.write_json(args.summary, results)
    with stagefile.replacing(args.page) as partial:
        partial.write_text(page(results), encoding="utf-8")


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as TSV with four decimals, NA where nothing was measured."""
    with stagefile.replacing(path) as partial:
        table.to_csv(partial, sep="\t", index=False, float_format="%.4f", na_rep="NA", lineterminator="\n")


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the folder with the clips' result folders")
    parser.add_argument("--truths", type=Path, required=True, help="the folder with the clips' ground truth, ID.npz")
    parser.add_argument("--head", type=Path, required=True, help="the face model's arrays, ict_facekit.npz")
    parser.add_argument("--clips", nargs="+", required=True, help="ids")
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--embedded", help="benchmark of the embedded networks, JSON, for dlib's threshold on infants")
    parser.add_argument("--table", required=True, help="TSV to write")
    parser.add_argument("--summary", required=True, help="JSON to write")
    parser.add_argument("--page", required=True, help="Markdown to write")
    benchmark(parser.parse_args(argv))


if __name__ == "__main__":
    main()
