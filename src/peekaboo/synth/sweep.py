"""The sweep by which the walk's settings are chosen, on rendered clips that are not in the benchmark."""

import argparse
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor, nn
from tqdm import tqdm

from peekaboo import gpu, media, metrics, models, stagefile
from peekaboo.faces import cover
from peekaboo.judges.affect import Affect
from peekaboo.judges.demographics import Demographics
from peekaboo.judges.identity import Dlib, Embedded
from peekaboo.judges.judge import Face, Judge
from peekaboo.judges.landmarks import Mesh
from peekaboo.latent.frames import Frames, outlines
from peekaboo.latent.readings import Judges, Readings, drawn
from peekaboo.latent.scorers import Scorer
from peekaboo.latent.walk import until, walk
from peekaboo.stages import compose, score, traverse
from peekaboo.synth import chain, peers

# Tried beside the setting in use, one at a time; how far the scorers' way leads is told by alpha and steps alike.
TOP_KS = (0, 100)
STEPS = (50, 150, 450)
COSINES = (0.1, -0.2, -0.4, -0.6, -0.8)
EVERY = 4  # frames of a clip, one of so many is judged
SHARE = 0.95  # of the frames that must show a different person
COSTS = {"valence_rmse": "valence RMSE", "arousal_rmse": "arousal RMSE", "age_rmse": "age RMSE"} | {
    "landmark_nme": "landmark error"
}


class Setting(NamedTuple):
    """Where a walk goes: the components kept of each attribute, the steps along the scorers' way, the cosine at which
    it ends.
    """

    top_k: int
    steps: int
    cosine: float


class Sample(NamedTuple):
    """Every EVERY-th frame of a clip, as far as the face mesh found the infant there, n of them."""

    track: int
    frames: list[np.ndarray]  # uint8 RGB [H, W, 3]
    boxes: np.ndarray  # [n, 4], in frame pixels
    landmarks: np.ndarray  # [n, 478, 3]
    certain: np.ndarray  # [n], whether the landmarks are
    transforms: np.ndarray  # [n, 2, 3], frame to crop pixels
    crops: np.ndarray  # uint8 RGB [n, S, S, 3]
    resolution: int
    latents: np.ndarray  # float32 [n, num_ws, w_dim]
    placements: np.ndarray  # float32 [n, 3, 3]


def sample(folder: Path) -> Sample:
    """Read a clip's sample from its result folder."""
    with stagefile.read(folder / "extract.h5") as faces, stagefile.read(folder / "invert.h5") as inverted:
        usable = faces["aligned"][:] & faces["meshed"][:]
        # One infant is in the clip: another track is a detector's error.
        track = int(usable.sum(0).argmax())
        numbers = np.arange(0, len(usable), EVERY)
        numbers = numbers[usable[numbers, track]]
        if not len(numbers):
            raise ValueError(
                f"{folder.name}: expected the infant's face in every {EVERY}th frame, found none; look there"
            )
        pairs = np.stack([numbers, np.full_like(numbers, track)], 1)
        boxes, landmarks = (stagefile.gather(faces[name], pairs) for name in ("boxes", "landmarks"))
        cut = (stagefile.gather(faces[name], pairs) for name in ("transforms", "crops"))
        certain = cover.certain(faces)[tuple(pairs.T)]
        wanted = set(numbers.tolist())
        frames = [frame for n, frame in enumerate(media.frames(folder / "source")) if n in wanted]
        resolution = int(faces.attrs["resolution"])
        drawn_from = (stagefile.gather(inverted[name], pairs) for name in ("latents", "placements"))
        return Sample(track, frames, boxes, landmarks, certain, *cut, resolution, *drawn_from)


def fitted(
    folder: Path, track: int, generator: nn.Module, judges: Judges, settings: argparse.Namespace
) -> tuple[dict[str, Scorer], Readings]:
    """Fit a track's scorers as the score stage does, and its readings."""
    with stagefile.read(folder / "invert.h5") as file:
        pairs = score.clip_samples(file["latents"], track, settings.clip_samples)
        pivots = stagefile.gather(file["latents"], pairs)
    seed = settings.seed + track
    told, labels, readings = score.labelled(pivots, generator, judges, settings, seed)
    return score.fitted(told, labels, settings.weight_decay, seed), readings


def routes(current: Setting) -> list[tuple[int, int]]:
    """Values of top_k and steps to try: those in use, and those of the tables above in the place of one of them."""
    return sorted(
        {(top_k, current.steps) for top_k in TOP_KS} | {(current.top_k, steps) for steps in STEPS} | {current[:2]}
    )


def judged(frames: list[np.ndarray], clip: Sample, judges: list[Judge]) -> list[dict[str, np.ndarray]]:
    """What each judge reads off the infant in `frames`, which are the sample's or made of them."""
    places = zip(clip.boxes, clip.landmarks, clip.transforms, strict=True)
    faces = [Face(*place, resolution=clip.resolution) for place in places]
    return [judge([judge.prepare(frame, face) for frame, face in zip(frames, faces, strict=True)]) for judge in judges]


def composed(clip: Sample, pictures: Iterable[Tensor], mesh: Mesh) -> list[np.ndarray]:
    """The sample's frames with new faces in them, batches of images `[b, 3, S, S]`, as the compose stage puts them
    there.
    """
    frames = [frame.copy() for frame in clip.frames]
    crops = [compose.drawn_head(crop, mesh) for images in pictures for crop in gpu.to_crops(images)]
    faces = map(compose.Face, clip.boxes, clip.landmarks, clip.transforms, clip.certain, crops)
    for frame, face in zip(frames, faces, strict=True):
        compose.treat(frame, face, compose.CROP)
    return frames


def measured(
    originals: list[dict[str, np.ndarray]],
    anonymized: list[dict[str, np.ndarray]],
    judges: list[Judge],
    limits: dict[str, float | None],
) -> dict[str, float | None]:
    """What a walk changed, from what the judges read off the original frames and the anonymised ones."""
    columns: dict[str, np.ndarray] = {}
    for judge, before, after in zip(judges, originals, anonymized, strict=True):
        columns |= judge.compare(before, after)
        if isinstance(judge, Dlib):
            pair = after["embedding"], before["embedding"]
            same_frame, nearest = metrics.distance(*pair), peers.nearest(*pair, pair[1].mean(0))
    changes = {
        f"{name}_rmse": metrics.rmse(columns[f"{name}_original"], columns[f"{name}_anonymized"]).value
        for name in ("valence", "arousal", "age")
    }
    return {
        "frames": len(nearest),
        **chain.persons(same_frame, nearest, limits),
        "identity_cos_optimised": metrics.mean(columns["identity_cos_optimised"]).value,
        **changes,
        "landmark_nme": metrics.mean(columns["landmark_nme"]).value,
        "pose_rmat": metrics.mean(columns["pose_rmat"]).value,
        "detection_rate": metrics.mean(columns["detected_anonymized"]).value,
    }


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """One row a setting from one a clip and setting: means, and of the RMSE columns root mean squares."""
    numbers = table.drop(columns="clip").copy()
    squared = [name for name in numbers if name.endswith("_rmse")]
    numbers[squared] **= 2
    means = numbers.groupby(list(Setting._fields), as_index=False, dropna=False).mean()
    means[squared] **= 0.5
    return means


def recommended(settings: pd.DataFrame, share: str) -> tuple[pd.Series, bool]:
    """The row of `pooled` to use, and whether it shows a different person in SHARE of the frames (column `share`).

    Of each top_k and steps the shortest walk that does, and of those the one that changes valence and arousal
    least; where none does, the one that comes nearest, by the share and then by the distance.
    """
    walks = settings[settings["parts"] > 0].sort_values(["parts", "cosine"], ascending=[True, False])
    reaching = walks[walks[share] >= SHARE].drop_duplicates(["top_k", "steps"])
    if len(reaching):
        return reaching.loc[np.hypot(reaching["valence_rmse"], reaching["arousal_rmse"]).idxmin()], True
    return walks.sort_values([share, "identity_distance"]).iloc[-1], False


def plot(path: str | Path, settings: pd.DataFrame, current: Setting, limits: dict[str, float | None]) -> None:
    """Draw cost over identity distance: a column a cost, a line a top_k and number of steps, a point a walk."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    walks, start = settings[settings["parts"] > 0], settings[settings["parts"] == 0]
    lines = {route: line.sort_values("cosine", ascending=False) for route, line in walks.groupby(["top_k", "steps"])}
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(lines)))
    figure, axes = pyplot.subplots(1, len(COSTS), figsize=(3 * len(COSTS), 4.4))
    for axis, (cost, title) in zip(axes, COSTS.items(), strict=True):
        axis.set_title(title, fontsize=10)
        for (route, line), colour in zip(lines.items(), colours, strict=True):
            shown = pd.concat([start, line])
            axis.plot(shown["identity_distance"], shown[cost], "o-", color=colour, markersize=3.5, linewidth=1.2)
            if route == current[:2]:
                used = line[line["cosine"] == current.cosine]
                axis.plot(used["identity_distance"], used[cost], "*", color="tab:red", markersize=13, zorder=3)
        for limit, style in zip(limits.values(), ("--", ":"), strict=True):
            if limit is not None:
                axis.axvline(limit, color="grey", linestyle=style, linewidth=1)
        if cost in chain.MEASURES and chain.MEASURES[cost].target is not None:
            axis.axhline(chain.MEASURES[cost].target, color="tab:green", linewidth=0.8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("identity distance (dlib)")
        axis.locator_params(axis="x", nbins=5)
    keys = [
        Line2D([], [], color=colour, marker="o", markersize=3.5, label=f"top_k {top_k}, {steps} steps")
        for (top_k, steps), colour in zip(lines, colours, strict=True)
    ]
    keys.append(Line2D([], [], color="tab:red", marker="*", markersize=11, linestyle="", label="setting in use"))
    for (name, limit), style in zip(limits.items(), ("--", ":"), strict=True):
        if limit is not None:
            label = f"different person, {name}: {limit:.2f}"
            keys.append(Line2D([], [], color="grey", linestyle=style, linewidth=1, label=label))
    keys.append(Line2D([], [], color="tab:green", linewidth=0.8, label="target"))
    ends = ", ".join(f"{cosine:g}" for cosine in sorted(walks["cosine"].unique(), reverse=True))
    figure.suptitle(f"Walks away from the identity\nuntil the identity network's cosine is {ends}", fontsize=11)
    figure.legend(handles=keys, loc="lower center", ncol=4, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    with stagefile.replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)


def sweep(args: argparse.Namespace) -> None:
    """Walk, decode and judge a few frames of each clip at every setting; write table and plot, print the choice."""
    if not args.parts:
        raise ValueError(
            "traverse.parts: expected 1 or more, found 0: a walk that never looks is not ended by a cosine"
        )
    device = gpu.device(args.device)
    generator, identity, affect = (models.load(path, device) for path in (args.generator, args.identity, args.affect))
    mesh = Mesh()
    judges = [mesh, Dlib(), Embedded(args.identity, device), Affect(args.affect, device)]
    judges.append(Demographics(args.affect, device))
    steering = Judges(identity, affect, mesh)
    limits = chain.thresholds(args.embedded)
    current = Setting(args.top_k, args.steps, args.cosine)
    cosines = sorted({*COSINES, current.cosine}, reverse=True)
    rows = []
    for name in args.clips:
        folder = args.results / name
        clip = sample(folder)
        with stagefile.read(folder / "tune.h5") as tuned:
            own = models.tuned(generator, tuned[f"track_{clip.track:03d}"])
        scorers, readings = fitted(folder, clip.track, own, steering, args)
        originals = judged(clip.frames, clip, judges)
        flat = clip.latents.reshape(len(clip.latents), -1)
        covered = outlines(clip.landmarks, clip.boxes, clip.certain, clip.transforms)
        frames = Frames(clip.placements, covered, clip.certain, clip.crops.__getitem__)

        # All walks begin where the latents are, whatever the settings.
        stops = [(Setting(math.nan, math.nan, math.nan), 0, flat, clip.placements)]
        for top_k, steps in tqdm(routes(current), name, unit="walk", disable=None):
            settings = argparse.Namespace(**vars(args) | {"top_k": top_k, "steps": steps})
            first = traverse.way(flat, scorers, readings, settings)
            walked = walk(flat, first, frames, own, steering, args.batch, args.seed + clip.track)
            # By the lowest cosine it ends last; the others are on its way.
            places = list(until(islice(walked, args.parts), cosines[-1]))
            for cosine in cosines:
                passed = list(until(places, cosine))
                stops.append((Setting(top_k, steps, cosine), len(passed), passed[-1].latents, passed[-1].placements))
        for setting, parts, *where in stops:
            anonymized = judged(composed(clip, drawn(*where, own, args.batch), mesh), clip, judges)
            found = measured(originals, anonymized, judges, limits)
            rows.append({"clip": name, **setting._asdict(), "parts": parts, **found})
    table = pd.DataFrame(rows).astype({"top_k": "Int64", "steps": "Int64"})
    chain.write_table(args.table, table)
    plot(args.plot, pooled(table), current, limits)
    kind = "published" if limits["rendered"] is None else "rendered"
    chosen, reached = recommended(pooled(table), f"different_{kind}")
    print(choice(chosen, reached, kind, limits[kind]))


def choice(chosen: pd.Series, reached: bool, kind: str, limit: float) -> str:
    """Say in a line which setting to use and what it does."""
    what = f"top_k {chosen['top_k']:g}, steps {chosen['steps']:g}, cosine {chosen['cosine']:g}"
    share = chosen[f"different_{kind}"]
    return (
        f"Recommended: {what}. After {chosen['parts']:.1f} parts it shows a different person ({kind} threshold "
        f"{limit:g}) in {100 * share:.0f} % of frames, {'which reaches' if reached else 'the nearest to'} "
        f"{100 * SHARE:.0f} %; distance {chosen['identity_distance']:.3f}, valence RMSE {chosen['valence_rmse']:.3f}, "
        f"arousal RMSE {chosen['arousal_rmse']:.3f}, age RMSE {chosen['age_rmse']:.3f}."
    )


def main(argv: list[str] | None = None) -> None:
    """Run the sweep; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="the folder with the clips' result folders")
    parser.add_argument("--clips", nargs="+", required=True, help="ids")
    parser.add_argument("--embedded", help="benchmark of the embedded networks, JSON, for dlib's threshold on infants")
    for network in ("generator", "identity", "affect"):
        parser.add_argument(f"--{network}", required=True, help="weights, safetensors")
    score_options = {"samples": int, "clip-samples": int, "batch": int, "threshold": float, "weight-decay": float}
    for name, kind in score_options.items():
        parser.add_argument(f"--{name}", type=kind, required=True, help="as in the score stage")
    for name, kind in (("alpha", float), ("steps", int), ("top-k", int), ("parts", int), ("cosine", float)):
        parser.add_argument(f"--{name}", type=kind, required=True, help="as in the traverse stage")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--table", required=True, help="TSV to write")
    parser.add_argument("--plot", required=True, help="PNG to write")
    sweep(parser.parse_args(argv))


if __name__ == "__main__":
    main()
