"""Measures the embedded networks on rendered identities that none of them was trained on, and writes what their cards
say.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from scipy.stats import spearmanr
from torch import Tensor, nn

from peekaboo import gpu, metrics, models, stagefile
from peekaboo.judges import crops, pose, weights
from peekaboo.judges.identity import CHIP_POINTS, Dlib, chip
from peekaboo.judges.landmarks import REGION, Mesh
from peekaboo.latent import restyle
from peekaboo.synth import capture, head, render, train

IDENTITIES, STATES = 40, 5  # held out
SAMPLES, TRUNCATION = 500, 0.7
PASSES = 3
RECORDED = 50  # of the renders as recorded, so many are inverted: drawing is the dear part
ONES, AMONG = 40, 200  # identities of which several samples are drawn, samples whose pairs are compared
WALK = 64  # frames
EDITED, STEPS = 40, (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
ALIKE = ("age", "sex", "skin")  # parameters that infants share who differ in nothing but the features of the face
INFANTS = 200  # such infants that are compared
BATCH = 16
MEASURED = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)


def row(
    network: str,
    measure: str,
    value: float | None,
    unit: str = "",
    least: float | None = None,
    most: float | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One line of the table; `least` or `most` is the target, `met` None where there is no target or no value."""
    value = None if value is None or not np.isfinite(value) else float(value)
    met = None
    if value is not None and (least is not None or most is not None):
        met = (least is None or value >= least) and (most is None or value <= most)
    found = {"network": network, "measure": measure, "value": value, "unit": unit, "least": least, "most": most}
    return found | {"met": met, "note": note}


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def table(rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Markdown table of rows as `row` makes them; columns are of network, measure, value, target and met."""

    def cells(line: dict[str, Any]) -> dict[str, str]:
        unit = f" {line['unit']}" if line["unit"] else ""
        value = line["note"] if line["value"] is None else f"{line['value']:#.3g}".rstrip(".") + unit
        words = {"least": "at least", "most": "at most"}
        bounds = [f"{word} {line[key]:g}{unit}" for key, word in words.items() if line[key] is not None]
        note = f" ({line['note']})" if line["note"] and line["value"] is not None else ""
        met = {True: "yes", False: "no", None: "not measured" if line["value"] is None else ""}[line["met"]]
        return {
            "network": line["network"],
            "measure": line["measure"] + note,
            "value": value,
            "target": "".join(bounds),
            "met": met,
        }

    return markdown(columns, [[cells(line)[column] for column in columns] for line in rows]) + "\n"


def card_table(results: dict[str, Any], network: str) -> str:
    """What a network's card says of its size, recipe and measured quality, in Markdown, from `benchmark/embedded.json`.

    Raises KeyError where the results hold no such network.
    """
    facts, renders = results["networks"][network], results["renders"]

    def settings(values: dict[str, Any]) -> str:
        return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())

    recipe = {name: value for name, value in facts["recipe"].items() if name != "network"}
    lines = [
        ("size", f"{facts['bytes'] / 1e6:.2f} MB, {facts['parameters']} parameters"),
        ("SHA-256", f"`{facts['sha256']}`"),
        ("constructor", settings(facts["constructor"])),
        ("recipe", f"seed {results['seed']}, {settings(recipe)}"),
        ("training set", settings(renders)),
    ]
    rows = [line for line in results["measures"] if line["network"] == network]
    return f"{markdown(('', ''), lines)}\n\n{table(rows, ('measure', 'value', 'target', 'met'))}"


def rewrite_card(path: Path, text: str) -> None:
    """Replace what lies between the card's two marker comments by `text`. Raises ValueError where they are missing."""
    card = path.read_text(encoding="utf-8")
    if len(MEASURED.findall(card)) != 1:
        raise ValueError(
            f"{path.name}: expected one part between <!-- measured --> and <!-- /measured -->, found "
            f"{len(MEASURED.findall(card))}; put both comments, each on its own line, where the table belongs"
        )
    with stagefile.replacing(path) as partial:
        partial.write_text(MEASURED.sub(lambda found: found[1] + text + found[2], card), encoding="utf-8")
    path.chmod(0o644)


def equal_error(distances: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """The distance at which as many same pairs are told apart as different ones are taken for one, and that rate."""
    order = np.argsort(distances, kind="stable")
    right = same[order]
    rejected, accepted = 1 - np.cumsum(right) / right.sum(), np.cumsum(~right) / (~right).sum()
    at = int(np.argmin(np.abs(rejected - accepted)))
    return float(distances[order][at]), float((rejected[at] + accepted[at]) / 2)


def pairs(embeddings: np.ndarray, identity: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines, Euclidean distances and sameness of all pairs of the rows [N, D] that hold no NaN."""
    known = np.isfinite(embeddings).all(1)
    first, second = np.triu_indices(known.sum(), 1)
    rows, who = embeddings[known], identity[known]
    return (
        metrics.cosine(rows[first], rows[second]),
        metrics.distance(rows[first], rows[second]),
        who[first] == who[second],
    )


def flicker(walk: np.ndarray) -> float:
    """Mean absolute second difference over time of pictures [T, ...], as a multiple of that of the first difference."""
    walk = walk.astype(np.float32)
    return float(np.abs(np.diff(walk, 2, axis=0)).mean() / np.abs(np.diff(walk, axis=0)).mean())


def sticking(walk: np.ndarray) -> float:
    """Share of the energy of fine detail in a walk [T, S, S, 3] that keeps its place in the picture all along, 0..1.

    Fine is what a Gaussian blur of S / 32 pixels takes away. Averaged over time, detail that moves with the head
    cancels and detail that sticks remains (compare figure 1 of the StyleGAN3 paper).
    """
    walk = walk.astype(np.float32)
    sigma = walk.shape[1] / 32
    detail = walk - np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in walk])
    return float(np.square(detail.mean(0)).mean() / np.square(detail).mean())


def prominence(pictures: np.ndarray, rate: int) -> np.ndarray:
    """How far the power spectrum of pictures [N, S, S, 3] stands out at multiples of `rate` cycles per side.

    Mean power, under a Hann window, of the 3 x 3 places around each (u, v), both multiples up to S / 2 and not both 0,
    over the median of the 9 x 9 around it [K].
    """
    size = pictures.shape[1]
    grey = pictures.astype(np.float64).mean(-1)
    window = np.hanning(size + 1)[:-1]
    grey = (grey - grey.mean((1, 2), keepdims=True)) * window[:, None] * window
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(0)
    places = [(u, v) for u in range(0, size // 2 + 1, rate) for v in range(0, size // 2 + 1, rate) if u or v]

    def around(u: int, v: int, reach: int) -> np.ndarray:
        near = np.arange(-reach, reach + 1)
        return power[np.ix_((u + near) % size, (v + near) % size)]

    return np.array([around(u, v, 1).mean() / np.median(around(u, v, 4)) for u, v in places])


def grid(pictures: np.ndarray, rendered: np.ndarray, rate: int) -> float:
    """The largest `prominence` of pictures [N, S, S, 3] over that of rendered ones, in dB."""
    return float(10 * np.log10((prominence(pictures, rate) / prominence(rendered, rate)).max()))


def sheet(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Lay pictures [N, S, S, 3] out in rows of `columns`, N a multiple of it."""
    count, size = pictures.shape[:2]
    rows = pictures.reshape(count // columns, columns, size, size, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(count // columns * size, columns * size, 3)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures, of the mean error over all of them."""
    return train.psnr(*(gpu.to_images(pictures, torch.device("cpu")) for pictures in (first, second)))


@torch.inference_mode()
def decoded(generator: nn.Module, latents: Tensor) -> np.ndarray:
    """Draw latents `[N, num_ws, w_dim]`: uint8 RGB [N, S, S, 3]."""
    return np.concatenate([gpu.to_crops(generator.synthesis(part)) for part in latents.split(BATCH)])


@torch.inference_mode()
def judged(network: nn.Module, pictures: np.ndarray) -> Any:
    """What a network says of uint8 RGB pictures [N, S, S, 3], as arrays of N rows."""
    batches = np.array_split(pictures, max(1, len(pictures) // BATCH))
    found = [network(gpu.to_images(batch, torch.device("cpu"))) for batch in batches]
    if isinstance(found[0], dict):
        return {name: torch.cat([values[name] for values in found]).numpy() for name in found[0]}
    return torch.cat(found).numpy()


class Faces:
    """The independent judges: MediaPipe's face mesh, dlib and, where its file is given, MobileFaceNet."""

    def __init__(self, mobilefacenet: str | None) -> None:
        self.mesh, self.dlib = Mesh(), Dlib()
        side = crops.ARCFACE_SIDE
        self.mobilefacenet = weights.session(mobilefacenet, torch.device("cpu"), side) if mobilefacenet else None

    def landmarks(self, pictures: np.ndarray) -> np.ndarray:
        """Face mesh [N, 478, 3] of aligned crops in pixels of the crop enlarged to 256; NaN where no face is found."""
        return self.mesh([enlarged(picture) for picture in pictures])["landmarks"]

    def distant(self, pictures: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Embed by dlib: [N, 128]; NaN where there are no landmarks."""
        found = np.full((len(pictures), 128), np.nan, np.float32)
        known = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
        chips = [chip(enlarged(pictures[i]), landmarks[i, list(CHIP_POINTS), :2]) for i in known]
        for i in range(0, len(chips), BATCH):
            found[known[i : i + BATCH]] = self.dlib(chips[i : i + BATCH])["embedding"]
        return found

    def mobile(self, pictures: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """MobileFaceNet's embeddings [N, 128]; NaN where there are no landmarks."""
        found = np.full((len(pictures), 128), np.nan, np.float32)
        for i in np.flatnonzero(np.isfinite(landmarks).all((1, 2))):
            face = crops.arcface(enlarged(pictures[i]), landmarks[i])
            found[i] = weights.run(self.mobilefacenet, weights.chw([face], 127.5, 127.5))[0]
        return found


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Resize a picture [S, S, 3] uint8 to the size that the face mesh reads."""
    return cv2.resize(picture, (REGION, REGION), interpolation=cv2.INTER_CUBIC)


def crop_rotation(model: head.HeadModel, parameters: np.ndarray, truth: render.Truth) -> np.ndarray:
    """The head's rotation [3, 3] as the aligned crop shows it: the truth's, turned as the crop was in its plane."""
    points = render.pose(model, parameters)[model.landmarks].astype(np.float64)
    distance = head.camera_distance(parameters)
    seen = points[:, :2] * [1, -1] * (distance / (distance - points[:, 2:]))
    turn = crops.similarity(seen, truth.landmarks.astype(np.float64))[:, :2]
    cosine, sine = turn[:, 0] / np.hypot(*turn[:, 0])
    # Rows of pictures run down, the camera's y runs up.
    return np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]) @ truth.rotation


def _draw(model: head.HeadModel, parameters: np.ndarray, size: int) -> tuple[np.ndarray, list[render.Truth]]:
    drawn = [render.aligned(model, p, size) for p in parameters]
    return np.stack([picture for picture, _ in drawn]), [truth for _, truth in drawn]


class HeldOut:
    """Rendered pictures of identities that no network was trained on, as they are and as a camera sees them."""

    def __init__(self, model: head.HeadModel, rng: np.random.Generator, size: int) -> None:
        self.model, self.size, self.parameters = model, size, train.sample_renders(rng, IDENTITIES, STATES)
        self.identity = np.repeat(np.arange(IDENTITIES), STATES)
        clean, self.truths = _draw(model, self.parameters, size)
        captured = [capture.captured(p, t.landmarks, rng) for p, t in zip(clean, self.truths, strict=True)]
        self.pictures = {"clean": clean, "captured": np.stack(captured)}


def measure_generator(
    generator: nn.Module, held: HeldOut, faces: Faces, rng: np.random.Generator, sheets: Path
) -> list[dict[str, Any]]:
    """Samples, latent walk and spectra of the generator; writes two contact sheets."""

    def mapped(parameters: np.ndarray, truncation: float = 1.0) -> Tensor:
        return generator.mapping(torch.from_numpy(parameters), truncation)

    samples = decoded(generator, mapped(head.sample(rng, SAMPLES), TRUNCATION))
    landmarks = faces.landmarks(samples)
    write_sheet(sheets / "samples.png", samples[:64], 8)
    regressed = decoded(generator, mapped(held.parameters))
    rendered = held.pictures["clean"]
    angle = np.linspace(0, np.pi / 2, WALK, dtype=np.float32)[:, None]
    ends = head.sample(rng, 2)
    path = np.cos(angle) * ends[0] + np.sin(angle) * ends[1]
    walk, (drawn, _) = decoded(generator, mapped(path)), _draw(held.model, path, generator.img_resolution)
    write_sheet(sheets / "walk.png", np.concatenate([walk[::4], drawn[::4]]), WALK // 4)
    rate = int(generator.synthesis.input.sampling_rate)
    colours = [pictures.astype(np.float64).mean((1, 2)) for pictures in (regressed, rendered)]
    found = 100 * np.isfinite(landmarks).all((1, 2)).mean()
    peaks = grid(regressed, rendered, rate)
    # What an encoder that finds the very latents of a render would err by.
    seen = faces.landmarks(regressed)
    turned = metrics.mean(metrics.rotation_angle(pose.rotation(faces.landmarks(rendered)), pose.rotation(seen)))
    rows = [
        row("generator", f"face found in {SAMPLES} samples, truncation {TRUNCATION}", found, "%", least=97),
        row("generator", "PSNR to the render of the same parameters", psnr(regressed, rendered), "dB"),
        row("generator", "flicker of a latent walk over the renderer's", flicker(walk) / flicker(drawn), most=1.2),
        row("generator", "sticking of a latent walk over the renderer's", sticking(walk) / sticking(drawn), most=1.5),
        row("generator", "grid peaks of the spectrum over the renderer's", peaks, "dB", most=3),
        row("generator", "mean colour off the render's", np.abs(colours[0] - colours[1]).mean(), "of 255"),
        row("generator", "rotation off the render of the same parameters", turned.value, "degrees"),
    ]
    name = "identity diversity: mean cosine of samples over that of one identity's frames (MobileFaceNet)"
    if faces.mobilefacenet is None:
        return [*rows, row("generator", name, None, most=0.6, note="needs --config mobilefacenet=FILE")]
    one = decoded(generator, mapped(train.sample_renders(rng, ONES, STATES), TRUNCATION))
    within, _, same = pairs(faces.mobile(one, faces.landmarks(one)), np.repeat(np.arange(ONES), STATES))
    between, _, _ = pairs(faces.mobile(samples[:AMONG], landmarks[:AMONG]), np.arange(AMONG))
    ratio = between.mean() / within[same].mean()
    note = f"{between.mean():.2f} / {within[same].mean():.2f}"
    cosines, _, same = pairs(faces.mobile(regressed, seen), held.identity)
    return [
        *rows,
        row("generator", name, ratio, most=0.6, note=note),
        row("generator", "identity diversity without truncation", cosines[~same].mean() / cosines[same].mean()),
    ]


@torch.inference_mode()
def inversions(encoder: nn.Module, generator: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Invert pictures [N, S, S, 3]: what the latents draw after every pass, uint8 [PASSES, N, S, S, 3]."""
    average = generator.mapping.w_avg.expand(generator.num_ws, -1)
    parts = []
    for images in gpu.to_images(pictures, torch.device("cpu")).split(BATCH):
        _, drawn = restyle.iterate(images, encoder, generator.synthesis, average, PASSES)
        parts.append(np.stack([gpu.to_crops(drawn[:, i]) for i in range(PASSES)]))
    return np.concatenate(parts, axis=1)


def measure_encoder(
    encoder: nn.Module, generator: nn.Module, held: HeldOut, faces: Faces, sheets: Path
) -> list[dict[str, Any]]:
    """Inversions of held-out renders after every pass; writes a contact sheet."""
    truth = np.stack([crop_rotation(held.model, *one) for one in zip(held.parameters, held.truths, strict=True)])
    rows = []
    for kind, pictures in held.pictures.items():
        pictures = pictures if kind == "clean" else pictures[:RECORDED]
        drawn = inversions(encoder, generator, pictures)
        seen = faces.landmarks(pictures)
        if kind == "clean":
            shown = np.concatenate([pictures[None], drawn])[:, :: len(pictures) // 12][:, :12]
            write_sheet(sheets / "inversions.png", shown.reshape(-1, *pictures.shape[1:]), 12)
            error = metrics.mean(metrics.rotation_angle(pose.rotation(seen), truth))
            rows.append(row("encoder", "rotation read off the render against the truth", error.value, "degrees"))
        # What a camera adds is looked at after the last pass alone.
        for i in range(PASSES) if kind == "clean" else [PASSES - 1]:
            last, found = i == PASSES - 1, faces.landmarks(drawn[i])
            most, least = (5, 20) if last else (None, None)
            turned = metrics.mean(metrics.rotation_angle(pose.rotation(seen), pose.rotation(found)))
            moved = _percent(metrics.mean(metrics.landmark_error(seen, found)))
            label = f"{kind} renders, pass {i + 1}"
            note = f"{turned.count} of {len(pictures)} with a face in both"
            rows += [
                row("encoder", f"rotation error, {label}", turned.value, "degrees", most=most, note=note),
                row("encoder", f"landmark error, {label}", moved, "% of eye distance", most=most),
                row("encoder", f"PSNR, {label}", psnr(drawn[i], pictures), "dB", least=least),
            ]
            if last:
                off = metrics.mean(metrics.rotation_angle(pose.rotation(found), truth[: len(found)]))
                rows.append(row("encoder", f"rotation against the truth, {label}", off.value, "degrees"))
    return rows


def _percent(value: metrics.Value) -> float | None:
    return None if value.value is None else 100 * value.value


def measure_tuning(extract: str, decode: str, faces: Faces) -> list[dict[str, Any]]:
    """How closely a clip's tuned generator draws its crops, from the stage files of extract and of pti's decode."""
    with stagefile.read(extract) as source, stagefile.read(decode) as drawn:
        shown = source["aligned"][:] & drawn["decoded"][:]
        wanted, found = source["crops"][:][shown], drawn["crops"][:][shown]
    if not len(wanted):
        raise ValueError(f"{decode}: expected crops of at least one face, found none; look at the clip's reports")
    moved = _percent(metrics.mean(metrics.landmark_error(faces.landmarks(wanted), faces.landmarks(found))))
    note = f"{len(wanted)} faces"
    return [
        row("generator", "PSNR after tuning to a clip", psnr(found, wanted), "dB", least=28, note=note),
        row("generator", "landmark error after tuning to a clip", moved, "% of eye distance", most=2.5),
    ]


def agreement_alike(network: nn.Module, held: HeldOut, faces: Faces, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Whether the network and independent judges see the same infants as far apart, where nothing but the features of
    the face tells them apart: what a walk that keeps all else goes by.
    """
    parameters = np.zeros((INFANTS, head.N_PARAMETERS), np.float32)
    features = train.features(ALIKE)
    parameters[:, features] = head.sample(rng, INFANTS)[:, features]
    pictures, _ = _draw(held.model, parameters, held.size)
    landmarks = faces.landmarks(pictures)
    known = np.isfinite(landmarks).all((1, 2))
    pictures, landmarks, one = pictures[known], landmarks[known], np.arange(known.sum())
    cosines, _, _ = pairs(judged(network, pictures), one)
    _, distances, _ = pairs(faces.distant(pictures, landmarks), one)
    name = f"Spearman correlation over pairs of {INFANTS} infants alike with "
    rows = [row("identity", name + "dlib's distance", spearmanr(-cosines, distances).statistic)]
    if faces.mobilefacenet is not None:
        others, _, _ = pairs(faces.mobile(pictures, landmarks), one)
        rows.append(row("identity", name + "MobileFaceNet's cosine", spearmanr(cosines, others).statistic))
    return rows


def measure_identity(
    network: nn.Module, generator: nn.Module, held: HeldOut, faces: Faces, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Verification, agreement with independent judges over edits, and those judges' operating points on renders."""
    rows, points = [], {}
    for kind, pictures in held.pictures.items():
        cosines, _, same = pairs(judged(network, pictures), held.identity)
        rows.append(row("identity", f"verification AUC, {kind} renders", train.auc(cosines, same), least=0.99))
        landmarks = faces.landmarks(pictures)
        _, distances, same = pairs(faces.distant(pictures, landmarks), held.identity)
        rendered, rate = equal_error(distances, same)
        mistaken = float((distances[~same] < Dlib.operating_point).mean())
        found = {"dlib": {"published": Dlib.operating_point, "rendered": rendered, "equal_error_rate": rate}}
        found["dlib"] |= {"auc": train.auc(-distances, same), "different_below_published": mistaken}
        if faces.mobilefacenet is not None:
            cosines, _, same = pairs(faces.mobile(pictures, landmarks), held.identity)
            negative, rate = equal_error(-cosines, same)
            if kind == "clean":
                ratio = cosines[~same].mean() / cosines[same].mean()
                rows.append(row("generator", "identity diversity of the renders themselves", ratio))
            area = train.auc(cosines, same)
            found["mobilefacenet_cosine"] = {"rendered": -negative, "equal_error_rate": rate, "auc": area}
        points[kind] = found
    start = torch.from_numpy(train.sample_renders(rng, EDITED, 1))
    other = start.clone()
    other[:, head.IDENTITY] = torch.from_numpy(head.sample(rng, EDITED)[:, head.IDENTITY])
    latents, direction = generator.mapping(start), generator.mapping(other) - generator.mapping(start)
    before = decoded(generator, latents)
    after = np.concatenate([decoded(generator, latents + step * direction) for step in STEPS])
    seen, moved = faces.landmarks(before), faces.landmarks(after)

    def edits(embed: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(embed(before, seen), (len(STEPS), 1)), embed(after, moved)

    cosines = metrics.cosine(*edits(lambda pictures, _: judged(network, pictures)))
    name = "Spearman correlation over decoded edits with "
    agreement = spearmanr(cosines, -metrics.distance(*edits(faces.distant)), nan_policy="omit").statistic
    rows.append(row("identity", name + "dlib's distance", agreement, least=0.7))
    if faces.mobilefacenet is not None:
        agreement = spearmanr(cosines, metrics.cosine(*edits(faces.mobile)), nan_policy="omit").statistic
        rows.append(row("identity", name + "MobileFaceNet's cosine", agreement, least=0.7))
    recoloured = held.parameters.copy()
    train.recolour(rng, recoloured)
    cosines, _, same = pairs(judged(network, _draw(held.model, recoloured, held.size)[0]), held.identity)
    rows.append(row("identity", "verification AUC, clean renders of other colours and marks", train.auc(cosines, same)))
    rows += agreement_alike(network, held, faces, rng)
    return rows, points["captured"] | {"clean": points["clean"]}


def measure_affect(network: nn.Module, held: HeldOut) -> list[dict[str, Any]]:
    """Valence, arousal, expression, age and sex against the truth."""
    truth = {name: np.array([getattr(one, name) for one in held.truths]) for name in train.TRUTHS}
    rows = []
    for kind, pictures in held.pictures.items():
        found = judged(network, pictures)
        for name, most in (("valence", 0.15), ("arousal", 0.15), ("age", 0.1)):
            error = metrics.rmse(truth[name], found[name]).value
            rows.append(row("affect", f"{name}, root mean square error, {kind} renders", error, most=most))
        right = {"expression": found["expression"].argmax(1) == truth["expression"]}
        right["sex"] = (found["sex"] > 0) == (truth["sex"] > 0)
        for name, least in (("expression", 85), ("sex", 90)):
            rows.append(row("affect", f"{name} right, {kind} renders", 100 * right[name].mean(), "%", least=least))
    return rows


def measure_perceptual(network: nn.Module, held: HeldOut) -> list[dict[str, Any]]:
    """Share of the variance of each group of render parameters that the network reads off the pictures."""
    # A description ends with the parameters, each of variance 1.
    read = judged(network, held.pictures["clean"])[:, -held.parameters.shape[1] :]
    errors = np.square(read - held.parameters).mean(0)
    groups = head.PARAMETERS.items()
    return [row("perceptual", f"{name}: variance explained", 100 * (1 - errors[p].mean()), "%") for name, p in groups]


def write_sheet(path: Path, pictures: np.ndarray, columns: int) -> None:
    """Write RGB pictures [N, S, S, 3] as one PNG, in rows of `columns`."""
    with stagefile.replacing(path) as partial:
        cv2.imwrite(str(partial), sheet(pictures, columns)[..., ::-1])


def measure(
    recipe: dict[str, Any], head_path: str, folder: Path, clip: tuple[str, str], mobilefacenet: str | None, sheets: Path
) -> dict[str, Any]:
    """Measure the networks in `folder`; `clip` names the stage files of extract and of pti's decode.

    Raises ValueError where the networks were trained for another renderer.
    """
    paths = {name: folder / f"{name}.safetensors" for name in train.NETWORKS}
    networks = {name: models.load(path) for name, path in paths.items()}
    generator = networks["generator"]
    if generator.z_dim != head.N_PARAMETERS:
        raise ValueError(
            f"{paths['generator'].name}: expected z of {head.N_PARAMETERS} entries, the renderer's parameters, found "
            f"{generator.z_dim}; train it again with snakemake train_embedded"
        )
    # A stream apart from that which the training set is drawn from.
    rng = np.random.default_rng([recipe["seed"], 1])
    held = HeldOut(head.load(head_path), rng, generator.img_resolution)
    faces = Faces(mobilefacenet)
    rows = measure_generator(generator, held, faces, rng, sheets) + measure_tuning(*clip, faces)
    rows += measure_encoder(networks["encoder"], generator, held, faces, sheets)
    identity, points = measure_identity(networks["identity"], generator, held, faces, rng)
    rows += identity + measure_affect(networks["affect"], held) + measure_perceptual(networks["perceptual"], held)
    facts = {
        name: {
            "bytes": path.stat().st_size,
            "parameters": sum(p.numel() for p in networks[name].parameters()),
            "sha256": stagefile.checksum(path),
            "constructor": models.constructor(path),
            "recipe": recipe[name],
        }
        for name, path in paths.items()
    }
    return {
        "seed": recipe["seed"],
        "renders": recipe["renders"],
        "networks": facts,
        "measures": rows,
        "operating_points": points,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, write results, table and contact sheets, and bring the networks' cards up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the recipe, YAML")
    parser.add_argument("--head", required=True, help="the head model")
    parser.add_argument("--networks", required=True, type=Path, help="folder of the weights and their cards")
    parser.add_argument("--extract", required=True, help="extract's stage file of a clip")
    parser.add_argument("--decode", required=True, help="decode's stage file of the same clip, method pti")
    parser.add_argument("--mobilefacenet", help="MobileFaceNet, ONNX; without it its measures are left out")
    parser.add_argument("--output", required=True, help="results, JSON")
    parser.add_argument("--table", required=True, help="results, Markdown")
    parser.add_argument("--sheets", required=True, type=Path, help="folder for contact sheets")
    args = parser.parse_args(argv)
    gpu.keep_freed_memory()
    recipe = yaml.safe_load(Path(args.settings).read_text(encoding="utf-8"))
    clip = (args.extract, args.decode)
    results = measure(recipe, args.head, args.networks, clip, args.mobilefacenet, args.sheets)
    stagefile.write_json(args.output, results)
    with stagefile.replacing(args.table) as partial:
        columns = ("network", "measure", "value", "target", "met")
        partial.write_text(table(results["measures"], columns), encoding="utf-8")
    for network in results["networks"]:
        rewrite_card(args.networks / f"{network}.md", card_table(results, network))


if __name__ == "__main__":
    main()
