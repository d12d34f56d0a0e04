"""Traverse: move every latent away from its track's identity, along a direction kept clear of what the frames are still
to show, then look at what is drawn and turn back the heads that have turned all the same.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from peekaboo import gpu, models, stagefile
from peekaboo.judges.landmarks import Mesh
from peekaboo.latent import placement
from peekaboo.latent.readings import POSE, Readings, fit_readings, joined, read
from peekaboo.latent.scorers import RETAINED, Scorer, amplified, direction, reach
from peekaboo.stages.score import clip_samples, random_latents

Reader = Callable[[Tensor], dict[str, np.ndarray]]

# How far latents by which readings are fitted lie around the walked ones, of how far random ones lie around theirs.
SPREAD = 0.25
NEAR = 250  # of such latents
# Standard deviations of a reading: as far as a linear function may be believed, and where no difference counts more.
NEXT, FAR = 1.0, 3.0
SHARES = (1, 0.5, 0.25)  # of a step that are tried, until one brings the pictures nearer


def read_scorers(group: h5py.Group) -> tuple[dict[str, Scorer], Readings]:
    """One track's scorers by attribute and its readings, from score's stage file."""
    scorers = {
        name: Scorer(group[name]["weight"][:], float(group[name].attrs["bias"]), float(group[name].attrs["accuracy"]))
        for name in ("identity", *RETAINED)
    }
    found = group["readings"]
    parts = (found[part][:] for part in ("gradients", "shifts", "scales", "noise"))
    return scorers, Readings(tuple(found.attrs["names"]), *parts)


def walk(
    rows: np.ndarray, scorers: dict[str, Scorer], clear: Readings, settings: argparse.Namespace
) -> tuple[np.ndarray, float, float]:
    """Walk with one track's flattened latents `[N, D]`; returns where to, and the mean identity score before and
    after.
    """
    identity = scorers["identity"]
    along = direction(identity, [scorers[name] for name in RETAINED], settings.top_k, clear)
    distance = reach(identity.logits(rows), identity, along, settings.alpha, settings.steps)
    louder = amplified(rows, rows.mean(0), settings.gain, clear.only(POSE))
    moved = louder + np.float32(distance) * along
    return moved, float(identity(rows).mean()), float(identity(moved).mean())


def drawn(rows: np.ndarray, placed: np.ndarray | None, generator: nn.Module, batch: int) -> Iterator[Tensor]:
    """Images `[b, 3, S, S]` of flattened latents `[N, D]`, a batch at a time; at their placements `[N, 3, 3]`, if there
    are any.
    """
    device = generator.mapping.w_avg.device
    for start in range(0, len(rows), batch):
        latents = torch.from_numpy(rows[start : start + batch]).to(device).unflatten(1, (generator.num_ws, -1))
        transform = None
        if placed is not None:
            transform = placement.transforms(torch.from_numpy(placed[start : start + batch]).to(device))
        yield generator.synthesis(latents, gpu.precision(device), transform=transform).clamp(-1, 1)


def seen(pictures: Iterable[Tensor], identity: nn.Module, reader: Reader) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Readings by name, `[N]` each, and unit identity embeddings `[N, E]` of batches of images `[b, 3, S, S]`."""
    found, embeddings = [], []
    for images in pictures:
        found.append(reader(images))
        embeddings.append(identity.embed(images).float().cpu().numpy())
    return joined(found), np.concatenate(embeddings)


def cost(off: np.ndarray) -> float:
    """Mean square of standardised errors `[N, k]`; what could not be read counts as far off."""
    return float((np.nan_to_num(off, nan=FAR) ** 2).mean())


@torch.inference_mode()
def hold(
    rows: np.ndarray,
    placed: np.ndarray,
    faces: Iterable[Tensor],
    generator: nn.Module,
    identity: nn.Module,
    reader: Reader,
    settings: argparse.Namespace,
    seed: int,
) -> tuple[np.ndarray, list[float]]:
    """Turn heads back that the walk to latents `rows` `[N, D]` at placements `placed` `[N, 3, 3]` has turned from those
    of the frames' own `faces`, batches `[b, 3, S, S]`; returns the latents and the errors before the first round and
    after each that was kept.

    Scorers and readings are linear and were fitted around the infant; where the walk leads, pictures answer otherwise.
    So readings are fitted anew there, by random latents around the walked ones and these, and every frame is moved by
    what it lacks of its pose; in rounds, as long as the errors shrink. All else is to stay as the walk left it, and the
    cosine to the infant's mean embedding below that, so that the way back is not taken.
    """
    if not settings.rounds:
        return rows, []
    wanted, embeddings = seen(faces, identity, reader)
    mean = embeddings.mean(0) / np.linalg.norm(embeddings.mean(0))

    def looked(latents: np.ndarray, where: np.ndarray | None) -> dict[str, np.ndarray]:
        found, embeddings = seen(drawn(latents, where, generator, settings.batch), identity, reader)
        return found | {"identity": embeddings @ mean}

    def faces_in(found: dict[str, np.ndarray]) -> int:
        return np.isfinite(found["yaw"]).sum()

    def lacking(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        off = {name: wanted[name] - found[name] for name in found}
        return off | {"identity": np.minimum(wanted["identity"] - found["identity"], 0)}

    sample = np.unique(np.linspace(0, len(rows) - 1, min(NEAR, len(rows))).round().astype(int))
    random = random_latents(generator, NEAR, seed).flatten(1).cpu().numpy()
    around = np.random.default_rng(seed).choice(sample, len(random))
    latents = [rows[around] + np.float32(SPREAD) * (random - random.mean(0))]
    values, found = [looked(latents[0], None)], looked(rows, placed)
    wanted = found | {name: wanted[name] for name in POSE}
    scale, costs = None, []
    for _ in range(settings.rounds):
        latents.append(rows[sample])
        values.append({name: value[sample] for name, value in found.items()})
        fitted = fit_readings(np.concatenate(latents), joined(values))
        scale = scale or fitted
        costs = costs or [cost(scale.standardised(lacking(found), FAR))]
        step = np.nan_to_num(fitted.standardised(lacking(found), NEXT)).astype(np.float32) @ fitted.moves()
        # Readings are less linear than they look: where a whole step leads astray, a part of it may not.
        for share in SHARES:
            moved = rows + np.float32(share) * step
            after = looked(moved, placed)
            left = cost(scale.standardised(lacking(after), FAR))
            if left < costs[-1] and faces_in(after) >= faces_in(found):
                break
        else:
            break
        rows, found = moved, after
        costs.append(left)
    return rows, costs


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", required=True, help="extract's stage file")
    parser.add_argument("--latents", required=True, help="invert's stage file")
    parser.add_argument("--tuned", required=True, help="tune's stage file")
    parser.add_argument("--scorers", required=True, help="score's stage file")
    parser.add_argument("--generator", required=True, help="generator weights, safetensors")
    parser.add_argument("--identity", required=True, help="weights of the identity judge that steers the edit")
    parser.add_argument("--affect", required=True, help="weights of the judge of affect, age and sex")
    parser.add_argument("--alpha", type=float, default=-50.0, help="step size; negative walks away from the identity")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=0, help="largest components kept of each retained attribute")
    parser.add_argument(
        "--gain", type=float, default=2.0, help="of what sets a frame apart within its track, pose aside"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of taking back what the walk changed, at most")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("traverse")
    device = gpu.device(args.device)
    generator, identity, affect = (models.load(path, device) for path in (args.generator, args.identity, args.affect))
    reader, scores, held = partial(read, affect=affect, mesh=Mesh()), {}, {}
    with (
        stagefile.read(args.faces) as faces,
        stagefile.read(args.latents) as source,
        stagefile.read(args.tuned) as tuned,
        stagefile.read(args.scorers) as scorers,
        stagefile.write(args.output) as out,
    ):
        shape = source["latents"].shape
        edited = stagefile.frame_dataset(out, "latents", shape, "f4", np.nan)
        source.copy("placements", out)
        for name, group in scorers.items():
            track = int(name.removeprefix("track_"))
            own = models.tuned(generator, tuned[name])
            pairs = clip_samples(source["latents"], track, len(edited))
            rows = stagefile.gather(source["latents"], pairs).reshape(len(pairs), -1)
            placed = stagefile.gather(source["placements"], pairs)
            moved, before, after = walk(rows, *read_scorers(group), args)
            scores[name] = {"before": round(before, 4), "after": round(after, 4)}
            own_faces = (
                gpu.to_images(stagefile.gather(faces["crops"], part), device)
                for part in stagefile.batches(pairs, args.batch)
            )
            moved, costs = hold(moved, placed, own_faces, own, identity, reader, args, args.seed + track)
            held[name] = [round(value, 4) for value in costs]
            stagefile.scatter(edited, pairs, moved.reshape(-1, *shape[2:]))
    checksums = {name: models.checksum(getattr(args, name)) for name in ("generator", "identity", "affect")}
    report.write(
        args.report, shape[0], gpu.describe(device), models=checksums, identity_score=scores, readings_error=held
    )


if __name__ == "__main__":
    main()
