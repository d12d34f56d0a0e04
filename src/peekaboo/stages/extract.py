"""Extract: time stamps, face tracks without holes, landmarks, smoothed FFHQ transforms and the aligned crops."""

import argparse
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from peekaboo import media, stagefile
from peekaboo.faces import alignment
from peekaboo.faces.detection import Detection, Detector, Mesh, box_of, package_versions
from peekaboo.faces.tracking import Sighting, Tracks, around, track

LANDMARKS = 478
# Small faces take longer to look for: in each of so many frames it is done once, and once in so many seconds.
SWEEP, SWEEP_SECONDS = 5, 1.0


def detect(path: str, info: media.ClipInfo, confidence: float, found: stagefile.Rows) -> list[list[Sighting]]:
    """Detect the faces of every frame; their landmarks `[478, 3]` go to `found`."""
    detector = Detector(confidence)

    def sighting(face: Detection) -> Sighting:
        row = None if face.landmarks is None else int(found.append(face.landmarks[None])[0])
        return Sighting(face.box, face.score, face.sure, row)

    due = sweeps([float(time) for time in info.times])
    return [[sighting(face) for face in detector(frame, due[n])] for n, frame in numbered_frames(path, info, "detect")]


def sweeps(times: Sequence[float]) -> list[bool]:
    """In which of the frames at `times`, in seconds, small faces are looked for too."""
    due, last = [], None
    for n, time in enumerate(times):
        due.append(last is None or n - last == SWEEP or time - times[last] >= SWEEP_SECONDS)
        last = n if due[-1] else last
    return due


def numbered_frames(path: str, info: media.ClipInfo, what: str) -> Iterator[tuple[int, np.ndarray]]:
    """Number and picture of every frame, with a progress bar when it takes long."""
    bar = tqdm(media.frames(path), what, info.n_frames, unit="frame", mininterval=5, delay=5, disable=None)
    return enumerate(bar)


def measure_landmarks(
    path: str, info: media.ClipInfo, tracks: Tracks, found: stagefile.Rows, landmarks: h5py.Dataset
) -> np.ndarray:
    """Write the measured landmarks into `landmarks` `[N, T, 478, 3]` and return their FFHQ poses [N, T, 4], else NaN.

    `found` has those of the detections. Where a track is but the detectors gave none, the mesh is run again on the box
    and roll that the track predicts, which often copes with a hand or a turned head. A face that jumps away from its
    neighbours in time counts as not measured. Where the mesh alone saw one, the predicted box in `tracks` grows to
    hold it too: it may as well have seen one in the hand.
    """
    poses = np.full((*tracks.present.shape, 4), np.nan)

    def put(n: int, t: int, points: np.ndarray) -> None:
        landmarks[n, t] = points
        poses[n, t] = alignment.ffhq_pose(points)

    for t, faces in enumerate(tracks.faces):
        for n, face in faces.items():
            if face.landmarks is not None:
                put(n, t, found[[face.landmarks]][0])
    unseen = tracks.present & np.isnan(poses[..., 0])
    if unseen.any():
        mesh, rolls = Mesh(), predicted_rolls(poses)
        for n, frame in numbered_frames(path, info, "search"):
            for t in np.flatnonzero(unseen[n]):
                points = mesh(frame, tracks.boxes[n, t], rolls[n, t])
                if points is not None:
                    put(n, t, points)
    for t in range(poses.shape[1]):
        for n in np.flatnonzero(alignment.outliers(poses[:, t])):
            landmarks[n, t] = poses[n, t] = np.nan
        for n in np.flatnonzero(unseen[:, t] & np.isfinite(poses[:, t, 0])):
            tracks.boxes[n, t] = around(tracks.boxes[n, t], box_of(landmarks[n, t]))
    return poses


def predicted_rolls(poses: np.ndarray) -> np.ndarray:
    """Roll [N, T] in radians, interpolated between the frames where poses [N, T, 4] are known, held beyond, else 0."""
    rolls = np.zeros(poses.shape[:2])
    for t in range(poses.shape[1]):
        frames = np.flatnonzero(np.isfinite(poses[:, t, 3]))
        if len(frames):
            rolls[:, t] = np.interp(np.arange(len(poses)), frames, np.unwrap(poses[frames, t, 3]))
    return rolls


def interpolate(poses: np.ndarray, tracks: Tracks, times: np.ndarray, bridge: float, landmarks: h5py.Dataset) -> None:
    """Fill landmarks and poses of tracks in place between measured frames at most `bridge` seconds apart.

    The boxes of those frames grow to hold the landmarks too.
    """
    for t in range(poses.shape[1]):
        frames = np.flatnonzero(np.isfinite(poses[:, t, 0]))
        for a, b in pairwise(frames):
            if b - a == 1 or times[b] - times[a] > bridge:
                continue
            ends = landmarks[a, t], landmarks[b, t]
            for n in a + 1 + np.flatnonzero(tracks.present[a + 1 : b, t]):
                share = np.float32((times[n] - times[a]) / (times[b] - times[a]))
                landmarks[n, t] = points = (1 - share) * ends[0] + share * ends[1]
                poses[n, t] = alignment.ffhq_pose(points)
                tracks.boxes[n, t] = around(tracks.boxes[n, t], box_of(points))


def cut_crops(path: str, info: media.ClipInfo, transforms: np.ndarray, crops: h5py.Dataset) -> None:
    """Write the crop of every face with a transform [N, T, 2, 3] (else NaN) into `crops` `[N, T, S, S, 3]`."""
    aligned = np.isfinite(transforms).all((2, 3))
    if aligned.any():
        for n, frame in numbered_frames(path, info, "crop"):
            for t in np.flatnonzero(aligned[n]):
                crops[n, t] = alignment.crop(frame, transforms[n, t], crops.shape[2])


def extract(file: h5py.File, found: stagefile.Rows, path: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Fill the stage file from a clip and describe its tracks; `found` is where landmarks wait until they are linked.

    Raises media.ClipError for a clip that can't be used.
    """
    info = media.probe(path)
    write_times(file, info)
    times = np.array([float(time) for time in info.times])
    detections = detect(path, info, args.confidence, found)
    tracks = track(detections, times, args.bridge_seconds, args.hold_seconds, (info.width, info.height))
    shape = tracks.present.shape
    if not shape[1]:
        raise media.ClipError("no face found in any frame, so there is nothing to anonymise")
    landmarks = stagefile.frame_dataset(file, "landmarks", (*shape, LANDMARKS, 3), "f4", np.nan)
    poses = measure_landmarks(path, info, tracks, found, landmarks)
    meshed = np.isfinite(poses[..., 0])
    interpolate(poses, tracks, times, args.bridge_seconds, landmarks)
    transforms = np.empty((*shape, 2, 3), np.float32)
    for t in range(shape[1]):
        transforms[:, t] = alignment.to_transform(alignment.smooth(poses[:, t], meshed[:, t]), args.resolution)
    crops = stagefile.frame_dataset(file, "crops", (*shape, args.resolution, args.resolution, 3), "u1")
    cut_crops(path, info, transforms, crops)
    confidence = np.zeros(shape, np.float32)
    for t, faces in enumerate(tracks.faces):
        confidence[list(faces), t] = [face.score for face in faces.values()]
    file["boxes"], file["present"], file["detected"] = tracks.boxes, tracks.present, tracks.detected
    file["confidence"], file["meshed"], file["transforms"] = confidence, meshed, transforms
    file["aligned"] = np.isfinite(poses[..., 0])
    file["rejected_frames"] = np.array([n for n, _ in tracks.rejected], np.int64)
    file["rejected_boxes"] = np.array([face.box for _, face in tracks.rejected], np.float32).reshape(-1, 4)
    return describe(tracks, meshed, file["aligned"][:])


def write_times(file: h5py.File, info: media.ClipInfo) -> None:
    """Write what is known of a clip without looking at its pictures."""
    file.attrs["width"], file.attrs["height"], file.attrs["has_audio"] = info.width, info.height, info.has_audio
    file.attrs["time_base"] = [info.time_base.numerator, info.time_base.denominator]
    file["pts"], file["durations"] = info.pts, info.durations


def write_empty(file: h5py.File, resolution: int) -> None:
    """Complete the stage file of a withheld clip: its frames, if they could be counted, and no track."""
    if "pts" not in file:
        nothing = np.zeros(0, np.int64)
        write_times(file, media.ClipInfo(0, 0, Fraction(1), nothing, nothing, Fraction(1), False))
    for name in set(file) - {"pts", "durations"}:
        del file[name]
    shape = (len(file["pts"]), 0)
    for name in ("present", "detected", "meshed", "aligned"):
        file[name] = np.zeros(shape, bool)
    for name, rest in (("boxes", (4,)), ("confidence", ()), ("landmarks", (LANDMARKS, 3)), ("transforms", (2, 3))):
        file[name] = np.zeros((*shape, *rest), np.float32)
    file["crops"] = np.zeros((*shape, resolution, resolution, 3), np.uint8)
    file["rejected_frames"], file["rejected_boxes"] = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)


def describe(tracks: Tracks, meshed: np.ndarray, aligned: np.ndarray) -> list[dict[str, Any]]:
    """Per track the frames in which it is present, detected, not detected, meshed, aligned, and its share of area."""
    areas = np.nansum(np.prod(tracks.boxes[..., 2:] - tracks.boxes[..., :2], axis=2), axis=0)
    return [
        {
            "present": int(tracks.present[:, t].sum()),
            "detected": int(tracks.detected[:, t].sum()),
            "bridged": int((tracks.present & ~tracks.detected)[:, t].sum()),
            "meshed": int(meshed[:, t].sum()),
            "aligned": int(aligned[:, t].sum()),
            "area_share": round(float(areas[t] / areas.sum()), 4),
        }
        for t in range(len(areas))
    ]


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", required=True, help="the video file")
    parser.add_argument("--id", required=True, help="the clip's pseudonym, the only name that is written anywhere")
    parser.add_argument("--resolution", type=int, required=True, help="side of the crops: the generator's")
    parser.add_argument("--confidence", type=float, default=0.5, help="detections below this score are ignored, 0 to 1")
    parser.add_argument(
        "--bridge-seconds", type=float, default=2.0, help="longest gap over which a moving face is bridged"
    )
    parser.add_argument("--hold-seconds", type=float, default=0.5, help="how long a face is covered before and after")
    parser.add_argument("--output", required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("extract")
    reason = None
    with stagefile.write(args.output) as file, stagefile.scratch(args.output) as found:
        file.attrs["clip"], file.attrs["resolution"] = args.id, args.resolution
        file.attrs["source"] = stagefile.checksum(args.clip)
        try:
            tracks = extract(file, found, args.clip, args)
        except media.ClipError as error:
            reason, tracks = str(error), []
            write_empty(file, args.resolution)
        frames = len(file["pts"])
    if not reason:
        # A reason from an earlier run no longer holds.
        Path(args.output).with_name("withheld.json").unlink(missing_ok=True)
    report.write(
        args.report,
        frames,
        clip=args.id,
        status="withheld" if reason else "ok",
        reason=reason,
        tracks=tracks,
        detectors=package_versions(),
    )


if __name__ == "__main__":
    main()
