"""Compose: put the anonymised crops back into the clip, and cover every tracked face that has none."""

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import h5py
import numpy as np
from tqdm import tqdm

from peekaboo import media, stagefile
from peekaboo.faces import alignment, cover, cutout, matting
from peekaboo.judges.landmarks import REGION, Mesh

TREATMENTS = ("none", "crop", "blur", "pixelate", "mask")
NONE, CROP, BLUR, PIXELATE, MASK = range(len(TREATMENTS))
# The methods that need no generator.
COVERS = {"blur": BLUR, "pixelate": PIXELATE, "mask": MASK}
# The alpha from which a pixel counts as replaced.
OPAQUE = 0.999


@dataclass(frozen=True)
class Face:
    """One tracked face in one frame, in frame pixels: box [4], landmarks [478, 3] or NaN, whether they are certain in
    this very frame, and its crop with the matte [S, S, 4], if it has one, with the transform [2, 3] to place it.
    """

    box: np.ndarray
    landmarks: np.ndarray
    transform: np.ndarray
    certain: bool
    crop: np.ndarray | None


def treat(frame: np.ndarray, face: Face, treatment: int, drawn: np.ndarray | None = None) -> float:
    """Cover one face of `frame` (uint8 RGB [H, W, 3]) in place and return its coverage.

    Coverage is the share of the face, as far as it is in the frame, whose alpha is at least OPAQUE; 1 where the whole
    face is outside the frame. With CROP what its head leaves of the face shows what is around, and where faces that
    were treated before are `drawn` (bool [H, W], brought up to date), those.
    """
    outline = cover.cover_outline(face.landmarks, face.box, face.certain)
    extent = cover.size(outline)
    feather = 0 if treatment == MASK else cover.FEATHER
    where = cover.cover_window(outline, feather, *frame.shape[:2])
    if frame[where].size == 0:
        return 1.0
    shown = np.zeros(frame[where].shape[:2], np.float32)
    if treatment == CROP:
        head = cover.head_outline(face.landmarks, face.box, face.certain)
        region = cover.region(outline, head, *frame.shape[:2])
        alpha, shown = cover.paste(frame, region, face.crop, face.transform, drawn)
    else:
        alpha = cover.alpha_over(outline, where, feather)
        if treatment == BLUR:
            cover.blend(frame, where, cover.blurred(frame[where], extent), alpha)
        elif treatment == PIXELATE:
            cover.blend(frame, where, cover.pixelated(frame[where], extent), alpha)
        else:
            cover.blend(frame, where, cover.GREY, alpha)
    if drawn is not None:
        drawn[where] = np.where(alpha > 0, shown >= OPAQUE, drawn[where])
    outline = cover.face_outline(face.landmarks, face.box)
    whole = cover.window(outline, 0, *frame.shape[:2])
    reached = np.zeros(frame.shape[:2], bool)
    reached[where] = alpha >= OPAQUE
    inside = cover.inside(outline, whole)
    return float(reached[whole][inside].mean()) if inside.any() else 1.0


def drawn_head(crop: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Cut the head out of a drawn crop, uint8 RGB [S, S, 3], on a neck of its own and with a crown: [S, S, 4].

    A walk looks at persons as `matted` has them: a mesh of what is drawn would slow each look down, and what it changes
    here, neck, clothes and room, hardly changes what judges see.
    """
    landmarks, person = mesh.in_crops(crop[None])[0] * (len(crop) / REGION), matting.matted(crop)
    if not np.isfinite(landmarks).all():
        return person
    head = cutout.trimmed(person, landmarks)
    return cutout.crowned(cutout.necked(head, landmarks), landmarks)


def compose(
    clip: Iterator[np.ndarray], faces: h5py.File, decoded: h5py.File | None, method: str, bystanders: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for every frame of `clip` the anonymised frame, the coverage [T] and the treatment [T] of its faces.

    `decoded` is decode's stage file for a method with a generator, None for blur, pixelate and mask. A face without a
    usable crop is masked. `bystanders` "blur" blurs the tracks after the first. Smaller faces, taken to be farther
    away, are covered first; beside the drawn heads of nearer ones theirs are still seen. Raises ValueError for a
    present face that has no box.
    """
    present, boxes = (faces[name][:] for name in ("present", "boxes"))
    certain = cover.certain(faces)
    usable = faces["aligned"][:] & np.isfinite(faces["transforms"][:]).all(axis=(2, 3))
    usable &= decoded["decoded"][:] if decoded else False
    mesh = Mesh() if decoded else None
    wanted = np.full(present.shape[1], COVERS.get(method, CROP), np.uint8)
    if bystanders == "blur":
        wanted[1:] = BLUR
    area = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    for n, source in enumerate(clip):
        frame, drawn = source.copy(), np.zeros(source.shape[:2], bool)
        covered, treatment = np.full(len(wanted), np.nan, np.float32), np.full(len(wanted), NONE, np.uint8)
        tracks = np.flatnonzero(present[n])
        for track in map(int, tracks[np.argsort(area[n, tracks], kind="stable")]):
            if not np.isfinite(boxes[n, track]).all():
                raise ValueError(f"frame {n}, track {track}: the face is present but has no box; run extract again")
            treatment[track] = MASK if wanted[track] == CROP and not usable[n, track] else wanted[track]
            crop = drawn_head(decoded["crops"][n, track], mesh) if treatment[track] == CROP else None
            place = (faces[name][n, track] for name in ("landmarks", "transforms"))
            face = Face(boxes[n, track], *place, certain=bool(certain[n, track]), crop=crop)
            covered[track] = treat(frame, face, treatment[track], drawn)
        yield frame, covered, treatment


def subject_view(
    composed: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], faces: h5py.File, decoded: h5py.File | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Turn what `compose` yields into the subject's anonymised crop alone, [side, side, 3] as `square` says.

    The generator's crop itself, so that no pixel of the source is left; without a generator the composed frame,
    cropped. A frame in which the subject has no such crop is grey.
    """
    aligned = faces["aligned"][:, 0]
    for n, (frame, covered, treatment) in enumerate(composed):
        side = cover.square(frame.shape[1], frame.shape[0])
        tracks = treatment != NONE
        if treatment[0] == CROP:
            crop = decoded["crops"][n, 0]
            view = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if side < len(crop) else cv2.INTER_CUBIC)
            covered[tracks], treatment[1:][tracks[1:]] = 1, MASK  # of the others nothing is seen
        elif tracks[0] and aligned[n] and decoded is None:
            scaled = cover.rescaled(faces["transforms"][n, 0], side / int(faces.attrs["resolution"]))
            view = alignment.crop(frame, scaled, side)
        else:
            view = np.full((side, side, 3), cover.GREY, np.uint8)
            covered[tracks], treatment[tracks] = 1, MASK
        yield view, covered, treatment


def check(clip: str, faces: h5py.File, decoded: h5py.File | None) -> None:
    """Raise ValueError unless the clip, extract's and decode's files belong together and there is a face to cover."""
    stagefile.check_source(clip, faces)
    shape = faces["present"].shape
    if not all(shape):
        raise ValueError(
            f"extract found {shape[0]} frames and {shape[1]} tracked faces: the clip is withheld, not composed"
        )
    side = int(faces.attrs["resolution"])
    if decoded and decoded["crops"].shape != (*shape, side, side, 3):
        raise ValueError(
            f"decode's crops are {decoded['crops'].shape}, extract's {(*shape, side, side, 3)}; run decode again"
        )


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", required=True)
    parser.add_argument("--faces", required=True, help="extract's stage file")
    parser.add_argument("--method", required=True, help=f"{', '.join(COVERS)}, or a method that has --crops")
    parser.add_argument("--crops", help="decode's stage file")
    parser.add_argument(
        "--bystanders", default="same", choices=("same", "blur"), help="every tracked face but the first"
    )
    parser.add_argument(
        "--compose", default="face", choices=("face", "crop"), help="whole frames, or the subject's crop"
    )
    parser.add_argument("--lossless", action="store_true", help="RGB as composed, to compare; browsers don't play it")
    parser.add_argument("--audio", type=Path, help="take the sound of this file; none without it")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--coverage", required=True, help="per-frame coverage and treatment, HDF5")
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    if (args.method in COVERS) == bool(args.crops):
        parser.error(f"--method {args.method} {'takes no' if args.crops else 'needs'} --crops")
    report = stagefile.StageReport("compose")
    # Of an earlier run: neither clip nor verdict must be taken for this one's, which may fail or not be measured.
    for path in (args.output, args.output.with_name("summary.json")):
        path.unlink(missing_ok=True)
    with (
        stagefile.read(args.faces) as faces,
        stagefile.read(args.crops) if args.crops else nullcontext() as decoded,
        stagefile.replacing(args.output) as partial,
    ):
        check(args.clip, faces, decoded)
        info = media.probe(args.clip)
        covered = np.full(faces["present"].shape, np.nan, np.float32)
        treatment = np.zeros(faces["present"].shape, np.uint8)
        composed = compose(media.frames(args.clip), faces, decoded, args.method, args.bystanders)
        if args.compose == "crop":
            composed = subject_view(composed, faces, decoded)
            side = cover.square(info.width, info.height)
            info = replace(info, width=side, height=side, pixel_aspect=Fraction(1))
        with media.writer(partial, info, args.lossless, args.audio) as write:
            bar = tqdm(composed, "compose", info.n_frames, unit="frame", mininterval=5, disable=None)
            for n, (frame, *evidence) in enumerate(bar):
                write(frame)
                covered[n], treatment[n] = evidence
        with stagefile.write(args.coverage) as file:
            file["covered"] = covered
            file["treatment"] = treatment
            file.attrs["compose"] = args.compose
        # The clip gets its name last, when all that tells about it is there.
        present = treatment != NONE
        report.write(
            args.report,
            info.n_frames,
            method=args.method,
            faces=int(present.sum()),
            treatments={name: int((treatment == code).sum()) for code, name in enumerate(TREATMENTS) if code},
            lowest_coverage=float(covered[present].min()),
            audio=bool(args.audio),
            lossless=args.lossless,
            segmentation=matting.package_version() if args.crops else {},
        )


if __name__ == "__main__":
    main()
