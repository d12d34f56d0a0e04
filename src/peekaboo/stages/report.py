"""report: one table over all clips, and one page that shows every clip beside its anonymised versions, offline."""

import argparse
import base64
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from peekaboo import media, stagefile
from peekaboo.faces import tracking
from peekaboo.judges import crops
from peekaboo.judges.identity import OPERATING_POINTS
from peekaboo.verdict import FAIL, NO_EVIDENCE, PASS

TEMPLATES = Path(__file__).parents[3] / "workflow" / "report"
TABLE_I = ("identity_cos", "identity_tc", "arousal_rmse", "valence_rmse", "pose_rmat")
BESIDE = ("coverage", "detection_rate", "landmark_nme", "expression_kept", "identity_cos_optimised")
# Shown where a judge of it was asked for.
EXTRA = ("action_units_mae",)
# Stages that a method needs besides extract, compose and measure: those of the clip and those of its own.
GENERATOR_STAGES = {
    "pti_traversal": ("invert", "tune", "score", "traverse", "decode"),
    "pti": ("invert", "tune", "decode"),
    "traversal": ("invert", "tune", "score", "traverse", "decode"),
}
OWN_STAGES = ("decode", "compose", "measure")
STAGES = ("extract", "invert", "tune", "score", "traverse", *OWN_STAGES)
SEVERITY = (PASS, NO_EVIDENCE, FAIL)
MISSING = "NA"
# What is cut out of a clip: boxes, or None for the whole frame, by frame and track.
Cuts = dict[tuple[int, int | str], np.ndarray | None]

# Frames shown for each method and each question, and how many seconds they are apart at least.
SHOWN_FRAMES, SHOWN_SECONDS = 4, 0.3
THUMBNAIL, POSTER_WIDTH = 176, 480
# A face is shown with this many times its box's longer side around it.
THUMBNAIL_MARGIN = 1.7
# Longer series are drawn by the lowest and the highest value of each of this many slices.
SLICES = 300
CHARTS = (
    ("Identity distance", "", "nearest", ""),
    ("Valence", "from −1 to 1", "valence_anonymized", "valence_original"),
    ("Arousal", "from −1 to 1", "arousal_anonymized", "arousal_original"),
    ("Yaw", "degrees", "yaw_anonymized", "yaw_original"),
    ("Coverage", "share of the face", "covered", ""),
)
# Of several faces in a frame these charts show the lowest value, the others the subject's.
LOWEST = ("nearest", "covered")


def worst(verdicts: list[tuple[str, str, str]]) -> tuple[str, str]:
    """The worst verdict of clips (id, verdict, reason), with its reason: fail, else no evidence, else pass."""
    if not verdicts:
        return NO_EVIDENCE, "every clip was withheld"
    verdict = max((verdict for _, verdict, _ in verdicts), key=SEVERITY.index)
    clip, _, reason = next(entry for entry in verdicts if entry[1] == verdict)
    if len(verdicts) == 1:
        return verdict, reason
    count = sum(found == verdict for _, found, _ in verdicts)
    share = f"{'all' if count == len(verdicts) else f'{count} of'} {len(verdicts)} clips"
    return verdict, f"{share}; {clip}: {reason}"


def pool(name: str, summaries: list[dict[str, Any]]) -> float | None:
    """Pool one metric of several clips' summaries over their frames; None when it was measured in none.

    Means and shares are weighted by the number of frames (or pairs) behind them; root mean squares are pooled as such.
    """
    known = [(each["metrics"][name], each["counts"][name]) for each in summaries if each["counts"].get(name)]
    if not known:
        return None
    numbers, counts = np.array(known, np.float64).T
    if name.endswith("_rmse"):
        return math.sqrt(np.average(numbers**2, weights=counts))
    return float(np.average(numbers, weights=counts))


def stages_of(method: str) -> tuple[str, ...]:
    """Stages that make and measure a method's clip, in their order."""
    used = {"extract", "compose", "measure", *GENERATOR_STAGES.get(method, ())}
    return tuple(stage for stage in STAGES if stage in used)


def speed(reports: list[dict[str, Any]]) -> float | None:
    """Frames per second over several stage reports; None without any."""
    seconds = sum(report["seconds"] for report in reports)
    return sum(report["frames"] for report in reports) / seconds if seconds else None


def load(results: Path, clips: list[str], methods: list[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Read what the stages found.

    Returns for every clip its frame count and, by method, its summary and its stage reports; and the withheld clips
    with their reasons. Raises FileNotFoundError naming the file of a stage that has not run.
    """
    measured, withheld = {}, {}
    for clip in clips:
        folder = results / clip
        extract = stagefile.read_json(folder / "extract.json")
        if extract["status"] == "withheld":
            withheld[clip] = stagefile.read_json(folder / "withheld.json")["reason"]
            continue
        measured[clip] = {"frames": extract["frames"], "summaries": {}, "stages": {}}
        for method in methods:
            measured[clip]["summaries"][method] = stagefile.read_json(folder / method / "summary.json")
            measured[clip]["stages"][method] = {
                stage: stagefile.read_json((folder / method if stage in OWN_STAGES else folder) / f"{stage}.json")
                for stage in stages_of(method)
            }
    return measured, withheld


def tabulate(measured: dict[str, dict[str, Any]], withheld: dict[str, str], methods: list[str]) -> list[dict[str, Any]]:
    """One row per method: the worst verdict with its reason, the metrics pooled over clips, counts and speeds."""
    rows = []
    for method in methods:
        summaries = [(clip, found["summaries"][method]) for clip, found in measured.items()]
        verdict, reason = worst([(clip, summary["verdict"], summary["reason"]) for clip, summary in summaries])
        row = {"method": method, "verdict": verdict, "reason": reason}
        for name in (*TABLE_I, *BESIDE, *EXTRA):
            row[name] = pool(name, [summary for _, summary in summaries])
        row |= {"clips": len(measured), "withheld": len(withheld)}
        row["frames"] = sum(found["frames"] for found in measured.values())
        reports = [found["stages"][method] for found in measured.values()]
        seconds = sum(report["seconds"] for stages in reports for report in stages.values())
        row["fps"] = row["frames"] / seconds if seconds else None
        for stage in STAGES:
            row[f"fps_{stage}"] = speed([stages[stage] for stages in reports if stage in stages])
        rows.append(row)
    return rows


def write_table(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write the table as TSV with four decimals; NA where nothing was measured or a method has no such stage."""
    used = [f"fps_{stage}" for stage in STAGES if any(row[f"fps_{stage}"] is not None for row in rows)]
    extra = [name for name in EXTRA if any(row[name] is not None for row in rows)]
    columns = ["method", "verdict", *TABLE_I, *BESIDE, *extra, "clips", "withheld", "frames", "fps", *used]
    lines = ["\t".join(columns)]
    lines += ["\t".join(number(row[name], 4, MISSING) for name in columns) for row in rows]
    with stagefile.replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def number(value: Any, decimals: int, missing: str = "–") -> str:
    """Text of a value: floats with fixed decimals, anything else as it is."""
    if value is None:
        return missing
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def thin(values: np.ndarray) -> np.ndarray:
    """Indices [M] that keep the look of a series [N]: all, or the extremes and a gap of each of SLICES slices."""
    if len(values) <= 2 * SLICES:
        return np.arange(len(values))
    kept = []
    for part in np.array_split(np.arange(len(values)), SLICES):
        known = part[np.isfinite(values[part])]
        kept += [part[np.isnan(values[part])][:1]]
        if len(known):
            kept += [known[[values[known].argmin(), values[known].argmax()]]]
    return np.unique(np.concatenate(kept))


def curve(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path through points [N] in chart units (1000 x 100); NaN in y breaks the line, a lone point is a dot."""
    indices = thin(y)
    x, y = x[indices], y[indices]
    parts = []
    for i in np.flatnonzero(np.isfinite(y)):
        starts = i == 0 or np.isnan(y[i - 1])
        alone = starts and (i + 1 == len(y) or np.isnan(y[i + 1]))
        parts.append(f"{'M' if starts else 'L'}{x[i]:.1f} {y[i]:.1f}{'h0' if alone else ''}")
    return "".join(parts)


def spans(flags: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[tuple[float, float]]:
    """(start, width) of each run of True in flags [N], whose frames last from `starts` to `ends` [N]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(starts[a], ends[b - 1] - starts[a]) for a, b in edges.reshape(-1, 2)]


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within [low, high], about `count` of them."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 6) for k in range(first, last + 1)]


def charts(frames: dict[str, pd.DataFrame], info: media.ClipInfo, operating_point: float | None) -> dict[str, Any]:
    """Geometry of a clip's charts from the per-frame tables of its methods, in units of 1000 x 100 or percent.

    Valence, arousal and yaw are those of the subject, track 0.
    """
    starts = np.array([float(time) for time in info.times])
    ends = starts + info.durations * float(info.time_base)
    begin, length = starts[0], float(info.duration)

    def across(seconds: np.ndarray) -> np.ndarray:
        return (seconds - begin) / length * 1000

    def series(table: pd.DataFrame, column: str) -> np.ndarray:
        values = np.full(info.n_frames, np.nan)
        if column in LOWEST:
            lowest = table.groupby("frame")[column].min()
        else:
            lowest = table[table["track"] == 0].set_index("frame")[column]
        values[lowest.index.to_numpy(int)] = lowest.to_numpy(np.float64)
        return values

    middle = across((starts + ends) / 2)
    any_table = next(iter(frames.values()))
    subject = any_table[any_table["track"] == 0]
    tracked = np.isin(np.arange(info.n_frames), any_table["frame"])
    unseen = np.isin(np.arange(info.n_frames), subject["frame"][subject["detected_original"] == 0])
    shades = [
        (kind, f"{x:.1f}", f"{width:.1f}")
        for kind, flags in (("unseen", unseen), ("absent", ~tracked))
        for x, width in spans(flags, across(starts), across(ends))
    ]
    drawn = []
    for title, unit, column, original in CHARTS:
        lines = [(method, series(table, column)) for method, table in frames.items()]
        if original:
            lines.insert(0, ("original", series(any_table, original)))
        low, high = limits(column, [values for _, values in lines], operating_point)

        def down(values: np.ndarray | float, low: float = low, high: float = high) -> Any:
            return 94 - (values - low) / (high - low) * 88

        drawn.append(
            {
                "title": title,
                "unit": unit,
                "of": "lowest of all faces" if column in LOWEST else "subject",
                "ticks": [
                    (f"{value:g}".replace("-", "−"), f"{down(value):.1f}") for value in (low, (low + high) / 2, high)
                ],
                "lines": [(name, curve(middle, down(values))) for name, values in lines],
                "limit": (operating_point, f"{down(operating_point):.1f}")
                if column == "nearest" and operating_point
                else None,
            }
        )
    marks = [(f"{time:g}", f"{(time - begin) / length * 100:.2f}") for time in ticks(begin, begin + length, 8)]
    return {"charts": drawn, "shades": shades, "ticks": marks, "begin": begin, "length": length}


def limits(column: str, series: list[np.ndarray], operating_point: float | None) -> tuple[float, float]:
    """Range of a chart: the natural one of the metric, the same for all clips unless a value lies beyond it."""
    values = np.concatenate(series)
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    if column == "nearest":
        return 0.0, max(1.0, math.ceil(largest * 5) / 5, operating_point or 0.0)
    if column == "covered":
        return 0.0, 1.0
    bound = max(30.0, 15 * math.ceil(largest / 15)) if column.startswith("yaw") else max(1.0, largest)
    return -bound, bound


def look_first(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Frames to look at first: those that are covered least, unless all are covered; then those most like the original.

    Each group is {"title", "note", "frames"}; a frame is a row of `table` with the text of its value. Frames of a group
    lie apart in time, so that one bad second does not hide the next.
    """
    table = table.copy()
    table["covered"] = table["covered"].fillna(0.0)
    uncovered = table[table["covered"] < 1]
    share = f"{len(table)} face-frames"
    found = f"{len(uncovered)} of {share} are not fully covered" if len(uncovered) else f"all {share} fully covered"
    judged = table.dropna(subset=["nearest"])
    if len(judged):
        alike = apart(judged.sort_values(["nearest", "frame", "track"]), "nearest", "distance")
        note = f"{len(judged)} of {share} could be judged"
    else:
        embedded = table.dropna(subset=["identity_cos_optimised"])
        order = embedded.sort_values(["identity_cos_optimised", "frame", "track"], ascending=[False, True, True])
        alike = apart(order, "identity_cos_optimised", "cosine of the optimising network")
        note = "not judged by an independent network"
    ordered = uncovered.sort_values(["covered", "frame", "track"])
    return [
        {"title": "Lowest coverage", "note": found, "frames": apart(ordered, "covered", "covered")},
        {"title": "Most like the original", "note": note, "frames": alike},
    ]


def open_places(places: list[tuple[int, np.ndarray]], times: list[float]) -> dict[str, Any]:
    """The group of frames where nothing is covered and a face may be in sight, from what `tracking.open_places` says.

    Its rows have a box of their own; of more than SHOWN_FRAMES places those are shown that are spread over the clip.
    """
    group = {"title": "Is a face there?", "frames": []}
    if not places:
        note = "every track begins and ends with the clip or at the picture's edge, and nothing else looked like a face"
        return group | {"note": note}
    for i in np.unique(np.linspace(0, len(places) - 1, SHOWN_FRAMES).round().astype(int)):
        frame, box = places[i]
        row = {"frame": frame, "track": f"place-{i}", "time": times[frame], "value": "not covered", "box": box}
        group["frames"].append(row)
    seconds = ", ".join(f"{times[frame]:.2f}" for frame, _ in places)
    what = "where a track begins or ends within the picture or a doubtful sighting was taken for no face"
    return group | {"note": f"{len(places)} {what}: at {seconds} s"}


def apart(table: pd.DataFrame, column: str, label: str) -> list[dict[str, Any]]:
    """The first SHOWN_FRAMES rows of an ordered table that lie SHOWN_SECONDS apart within their track."""
    chosen: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        near = [other for other in chosen if other["track"] == row["track"]]
        if all(abs(other["time"] - row["time"]) >= SHOWN_SECONDS for other in near):
            chosen.append(row | {"value": f"{label} {row[column]:.3f}"})
        if len(chosen) == SHOWN_FRAMES:
            break
    return chosen


def thumbnail(frame: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Square uint8 RGB picture [THUMBNAIL, THUMBNAIL, 3] around the face box (xyxy), the frame's borders repeated.

    Without a box the whole frame, a square one, is the face.
    """
    if box is None:
        return cv2.resize(frame, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return crops.square(frame, box, THUMBNAIL_MARGIN * float((box[2:] - box[:2]).max()), THUMBNAIL)


def save_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3] as JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    with stagefile.replacing(path) as partial:
        partial.write_bytes(data.tobytes())


def save_pictures(pictures: Iterable[np.ndarray], prefix: Path, poster: int, cuts: Cuts) -> dict[Any, str]:
    """Save frame number `poster` whole and the faces cut out, from all frames uint8 RGB of a clip.

    Returns file names, which begin with `prefix`: by (frame, track), and the poster's under "poster".
    """
    names: dict[Any, str] = {}
    for n, picture in enumerate(pictures):
        found = {pair: thumbnail(picture, box) for pair, box in cuts.items() if pair[0] == n}
        if n == poster:
            size = POSTER_WIDTH, round(POSTER_WIDTH * picture.shape[0] / picture.shape[1])
            found["poster"] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for key, cut in found.items():
            name = key if key == "poster" else f"{key[0]}-{key[1]}"
            names[key] = f"{prefix.name}.{name}.jpg"
            save_jpeg(prefix.with_name(names[key]), cut)
    return names


def passing(pictures: Iterable[np.ndarray], write: Callable[[np.ndarray], None]) -> Iterator[np.ndarray]:
    """Yield the pictures on, each written first."""
    for picture in pictures:
        write(picture)
        yield picture


def read_metrics(path: Path) -> pd.DataFrame:
    """The per-frame table of measure, with `nearest`: the smaller of the distances that the verdict is based on."""
    table = pd.read_csv(path, sep="\t")
    return table.assign(nearest=table[["identity_distance", "identity_distance_mean"]].min(axis=1))


def illustrate(clip: str, path: str, results: Path, folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write a clip's pictures and its playable original into `folder`, and gather what its part of the page shows.

    Reads each version of the clip once. Raises media.ClipError when the clip can't be read any more.
    """
    info, summaries = media.probe(path), found["summaries"]
    times = [round(float(time), 4) for time in info.times]
    with stagefile.read(results / clip / "extract.h5") as faces:
        boxes, places = faces["boxes"][:], tracking.open_places(faces)
    tables = {method: read_metrics(results / clip / method / "metrics.tsv") for method in summaries}
    first, crops_alone = {}, {}
    for method, table in tables.items():
        first[method] = look_first(table)
        for row in (row for group in first[method] for row in group["frames"]):
            row["box"] = boxes[row["frame"], row["track"]]
        with stagefile.read(results / clip / method / "compose.h5") as coverage:
            crops_alone[method] = coverage.attrs["compose"] == "crop"
        if not crops_alone[method]:
            first[method].append(open_places(places, times))
    wanted = {
        method: {(row["frame"], row["track"]): row["box"] for group in groups for row in group["frames"]}
        for method, groups in first.items()
    }
    tracked = np.unique(next(iter(tables.values()))["frame"])
    poster = int(tracked[len(tracked) // 2])

    def cut_out(pictures: Iterable[np.ndarray], name: str, cuts: Cuts) -> dict[Any, str]:
        return save_pictures(pictures, folder / "frames" / f"{clip}.{name}", poster, cuts)

    with (
        stagefile.replacing(folder / "originals" / f"{clip}.mp4") as partial,
        media.writer(partial, info) as write,
    ):
        everywhere = {pair: box for cuts in wanted.values() for pair, box in cuts.items()}
        shown = {"original": cut_out(passing(media.frames(path), write), "original", everywhere)}
    for method, cuts in wanted.items():
        last = max([poster, *(frame for frame, _ in cuts)])
        anonymized = media.frames(results / clip / method / "anonymized.mp4")
        shown[method] = cut_out(
            islice(anonymized, last + 1), method, dict.fromkeys(cuts) if crops_alone[method] else cuts
        )
    for method, groups in first.items():
        for group in groups:
            for row in group["frames"]:
                pair = row["frame"], row["track"]
                row |= {"original": shown["original"][pair], "anonymized": shown[method][pair]}
    judge = next(iter(summaries.values()))["identity_judge"]
    return {
        "id": clip,
        "summaries": summaries,
        "lossless": any(stages["compose"]["lossless"] for stages in found["stages"].values()),
        "times": times,
        "seconds": float(info.duration),
        "size": (info.width, info.height),
        "posters": {name: names["poster"] for name, names in shown.items()},
        "first": first,
        "plots": charts(tables, info, OPERATING_POINTS.get(judge)),
        "pictures": {name for names in shown.values() for name in names.values()},
    }


def tidy(folder: Path, kept: set[str]) -> None:
    """Remove what is not in `kept` from `folder`: an earlier report's pictures of clips that are shown no more."""
    for file in folder.iterdir():
        if file.name not in kept:
            file.unlink()


def inline(name: str) -> tuple[Markup, str]:
    """Text of a style sheet or script of the template folder, and the hash by which the page's policy allows it."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), Markup(f"'sha256-{digest}'")


def render(
    rows: list[dict[str, Any]], clips: list[dict[str, Any]], withheld: dict[str, str], methods: list[str], base: str
) -> str:
    """The page as HTML; `base` is the relative address of the results folder. Everything from files is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "address": lambda text: quote(text, safe="/")}
    style, style_hash = inline("style.css")
    script, script_hash = inline("page.js")
    summaries = [summary for clip in clips for summary in clip["summaries"].values()]
    return environment.get_template("index.html.j2").render(
        rows=rows,
        clips=clips,
        withheld=withheld,
        methods=methods,
        base=base,
        stages=[stage for stage in STAGES if any(row[f"fps_{stage}"] is not None for row in rows)],
        table_i=TABLE_I,
        judges=list({judge["name"]: judge for summary in summaries for judge in summary["judges"]}.values()),
        identity_judges=sorted({summary["identity_judge"] for summary in summaries}),
        evidence=list(dict.fromkeys(summary["evidence"] for summary in summaries)),
        style=style,
        style_hash=style_hash,
        script=script,
        script_hash=script_hash,
    )


def pair(text: str) -> tuple[str, str]:
    """Split ID=PATH. Raises argparse.ArgumentTypeError."""
    clip, found, path = text.partition("=")
    if not (clip and found and path):
        raise argparse.ArgumentTypeError(f"expected ID=PATH, found {text!r}")
    return clip, path


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with a folder for each clip")
    parser.add_argument("--clips", type=pair, nargs="+", required=True, metavar="ID=PATH", help="all clips, in order")
    parser.add_argument("--methods", nargs="+", required=True, help="methods to show, in order")
    parser.add_argument("--table", type=Path, required=True, help="TSV with a row per method")
    parser.add_argument("--page", type=Path, required=True, help="HTML page; its pictures are written beside it")
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("report")
    paths, folder = dict(args.clips), args.page.parent
    measured, withheld = load(args.results, list(paths), args.methods)
    rows = tabulate(measured, withheld, args.methods)
    for name in ("frames", "originals"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    clips = [
        illustrate(clip, paths[clip], args.results, folder, found)
        for clip, found in tqdm(measured.items(), "report", unit="clip", mininterval=5)
    ]
    tidy(folder / "originals", {f"{clip}.mp4" for clip in measured})
    tidy(folder / "frames", set().union(*(clip["pictures"] for clip in clips)))
    page = render(rows, clips, withheld, args.methods, os.path.relpath(args.results, folder))
    with stagefile.replacing(args.page) as partial:
        partial.write_text(page, encoding="utf-8")
    write_table(args.table, rows)
    report.write(
        args.report, sum(found["frames"] for found in measured.values()), clips=len(clips), withheld=len(withheld)
    )


if __name__ == "__main__":
    main()
