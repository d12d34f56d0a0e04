import json
from fractions import Fraction
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from peekaboo import media, metrics, models, stagefile
from peekaboo.faces import alignment, detection
from peekaboo.judges.judge import Face
from peekaboo.judges.landmarks import Mesh
from peekaboo.nets.irse import ArcFace
from peekaboo.nets.residual import FaceAttributes, FaceEmbedder
from peekaboo.stages import compose, measure

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
MODELS = CLIPS.parent / "models"
SAMPLE = Path(__file__).parents[1] / "resources" / "demo" / "infant.mp4"
METRICS = {
    "identity_cos",
    "identity_tc",
    "arousal_rmse",
    "valence_rmse",
    "pose_rmat",
    "detection_rate",
    "landmark_nme",
    "expression_kept",
    "coverage",
}
# Uneven time stamps, in milliseconds.
PTS = np.array([0, 40, 100, 1000, 3000, 3040], np.int64)
WIDTH, HEIGHT, TRACKS = 96, 80, 2


def write_clip(path: Path, pictures: list[np.ndarray], pts: np.ndarray = PTS) -> Path:
    height, width = pictures[0].shape[:2]
    durations = np.append(np.diff(pts), 40)
    rate = Fraction(1000 * len(pts), int(durations.sum()))
    info = media.ClipInfo(width, height, Fraction(1, 1000), pts, durations, rate, False)
    with media.writer(path, info) as write:
        for picture in pictures:
            write(picture)
    return path


def write_stages(folder: Path, pts: np.ndarray, size: tuple[int, int], boxes, landmarks, transforms, covered) -> None:
    """What extract and compose would have left; absent faces are NaN boxes."""
    with stagefile.write(folder / "extract.h5") as file:
        file.attrs["source"] = stagefile.checksum(folder / "original.mp4")
        file.attrs.update(clip="a-clip", width=size[0], height=size[1], resolution=64, time_base=[1, 1000])
        file["pts"], file["boxes"], file["landmarks"], file["transforms"] = pts, boxes, landmarks, transforms
        file["present"] = np.isfinite(boxes).all(-1)
        file["rejected_frames"], file["rejected_boxes"] = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    with stagefile.write(folder / "compose.h5") as file:
        file["covered"] = covered
        file["treatment"] = np.where(np.isfinite(covered), compose.CROP, compose.NONE).astype(np.uint8)
        file.attrs["compose"] = "face"


@pytest.fixture
def folder(tmp_path):
    """Two clips of noise with two tracked places, the second absent at first and never with landmarks or crop."""
    rng, n = np.random.default_rng(0), len(PTS)
    for name in ("original", "anonymized"):
        coarse = rng.integers(0, 256, (n, HEIGHT // 8, WIDTH // 8, 3), np.uint8)
        write_clip(tmp_path / f"{name}.mp4", list(coarse.repeat(8, 1).repeat(8, 2)))
    boxes = np.full((n, TRACKS, 4), np.nan, np.float32)
    boxes[:, 0], boxes[3:, 1] = (20, 10, 60, 60), (50, 30, 90, 70)
    landmarks = np.full((n, TRACKS, 478, 3), np.nan, np.float32)
    landmarks[:, 0] = rng.uniform(20, 60, (478, 3))
    transforms = np.full((n, TRACKS, 2, 3), np.nan, np.float32)
    transforms[1:, 0] = [[1, 0, -8], [0, 1, -4]]
    covered = np.where(np.isfinite(boxes[..., 0]), 1, np.nan).astype(np.float32)
    write_stages(tmp_path, PTS, (WIDTH, HEIGHT), boxes, landmarks, transforms, covered)
    torch.manual_seed(0)
    for name, network in (("identity", FaceEmbedder), ("affect", FaceAttributes)):
        own = {"dimensions": 16} if network is FaceEmbedder else {}
        constructor = {"widths": [8, 16], "size": 64, "inner": 64} | own
        models.save(tmp_path / f"{name}.safetensors", network(**constructor), constructor)
    return tmp_path


def run(folder: Path, *judges: str, original: Path | None = None, anonymized: Path | None = None):
    """Measure with judges beside the embedded ones of affect, age and sex."""
    affect = folder / "affect.safetensors"
    if original:
        with h5py.File(folder / "extract.h5", "r+") as file:
            file.attrs["source"] = stagefile.checksum(original)
    judges = [f"affect.Affect={affect}", f"demographics.Demographics={affect}", *judges]
    arguments = {
        "--original": original or folder / "original.mp4",
        "--anonymized": anonymized or folder / "anonymized.mp4",
        "--faces": folder / "extract.h5",
        "--coverage": folder / "compose.h5",
        "--method": "mask",
        "--identity": folder / "identity.safetensors",
        "--affect": folder / "affect.safetensors",
        "--device": "cpu",
        "--metrics": folder / "metrics.tsv",
        "--summary": folder / "summary.json",
        "--report": folder / "measure.json",
    }
    measure.main([str(word) for pair in arguments.items() for word in pair] + ["--judges", *judges])
    return pd.read_csv(folder / "metrics.tsv", sep="\t"), json.loads((folder / "summary.json").read_text())


def test_rows_are_the_tracked_faces_of_every_frame(folder):
    table, summary = run(folder)
    assert table["frame"].tolist() == [0, 1, 2, 3, 3, 4, 4, 5, 5]
    assert table["track"].tolist() == [0, 0, 0, 0, 1, 0, 1, 0, 1]
    np.testing.assert_allclose(table["time"], PTS[table["frame"]] / 1000)
    assert (table["detected_original"] == 0).all()
    # Affect needs a crop, which track 1 never has and track 0 lacks in the first frame.
    has_crop = (table["track"] == 0) & (table["frame"] > 0)
    for column in ("identity_cos_optimised", "valence_original", "age_anonymized", "expression_original"):
        assert (table[column].notna() == has_crop).all(), column
    difference = (table["valence_original"] - table["valence_anonymized"])[has_crop]
    assert summary["metrics"]["valence_rmse"] == pytest.approx(np.sqrt((difference**2).mean()), abs=1e-6)
    assert summary["counts"]["valence_rmse"] == 5
    assert summary["frames"] == 6
    assert summary["face_frames"] == 9
    assert (summary["clip"], summary["method"]) == ("a-clip", "mask")


def test_numbers_that_could_not_be_measured_have_a_reason(folder):
    _, summary = run(folder)
    assert set(summary["metrics"]) >= METRICS
    missing = {name for name, value in summary["metrics"].items() if value is None}
    assert missing == {"identity_tc", "pose_rmat", "detection_rate", "landmark_nme"}
    assert set(summary["missing"]) == missing
    assert summary["missing"]["detection_rate"] == "no face was found in the original"
    assert all(summary["counts"][name] == 0 for name in missing)


def test_synthetic_judges_alone_are_no_evidence(folder):
    table, summary = run(folder)
    assert summary["verdict"] == "no evidence"
    assert summary["identity_judge"] == "embedded identity"
    pd.testing.assert_series_equal(table["identity_cos"], table["identity_cos_optimised"], check_names=False)
    assert table["identity_distance"].isna().all()
    roles = {judge["name"]: (judge["role"], judge["real_faces"]) for judge in summary["judges"]}
    assert roles["embedded identity"] == ("optimises", False)
    assert all(len(judge["sha256"]) == 64 for judge in summary["judges"])


def test_where_no_original_face_is_seen_there_is_nothing_to_compare_with(folder):
    table, summary = run(folder, "identity.Dlib")
    assert (table["detected_original"] == 0).all()
    assert table[["identity_cos", "identity_distance", "identity_distance_mean"]].isna().all(axis=None)
    assert summary["verdict"] == "no evidence"
    assert "could judge none of 9 face-frames" in summary["reason"]


@pytest.fixture
def seen(folder):
    """The sample clip's first frames as both clips, its face as track 0; frame 2 is grey, as if a hand hid the face."""
    frames = list(islice(media.frames(SAMPLE), len(PTS)))
    corners = np.load(SAMPLE.with_name("infant_truth.npz"))["landmarks68"][: len(PTS)]
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)[:, None].astype(np.float32)
    find = detection.Mesh()
    landmarks = np.stack([find(frame, box[0], 0.0) for frame, box in zip(frames, boxes, strict=True)])[:, None]
    poses = np.stack([alignment.ffhq_pose(points[0]) for points in landmarks])
    transforms = alignment.to_transform(poses, 64)[:, None].astype(np.float32)
    frames[2] = np.full_like(frames[2], 128)
    for name in ("original", "anonymized"):
        write_clip(folder / f"{name}.mp4", frames)
    size = frames[0].shape[1::-1]
    write_stages(folder, PTS, size, boxes, landmarks, transforms, np.ones((len(PTS), 1), np.float32))
    return folder


def test_an_independent_judge_gives_a_verdict(seen):
    table, summary = run(seen, "identity.Dlib")
    assert summary["identity_judge"] == "dlib face recognition"
    # An unchanged face is the original; where the original is hidden only its mean over the track is asked.
    assert summary["verdict"] == "fail"
    hidden = np.arange(len(PTS)) == 2
    assert ((table["detected_original"] == 0) == hidden).all()
    assert (table["identity_distance"].isna() == hidden).all()
    assert table["identity_distance_mean"].notna().all()
    np.testing.assert_allclose(table["identity_distance"][~hidden], 0, atol=1e-4)
    assert (table["identity_distance_mean"][~hidden] < 0.3).all()
    assert summary["counts"]["identity_cos"] == 5
    assert summary["metrics"]["identity_cos"] == pytest.approx(1)
    roles = {judge["name"]: (judge["role"], judge["real_faces"]) for judge in summary["judges"]}
    assert roles["dlib face recognition"] == ("measures", True)


def test_an_uncovered_face_fails(folder):
    with h5py.File(folder / "compose.h5", "r+") as file:
        file["covered"][4, 1] = 0.5
    _, summary = run(folder)
    assert summary["verdict"] == "fail"
    assert "in 1 of 9" in summary["reason"]
    assert summary["metrics"]["coverage"] == pytest.approx(8 / 9)
    by_track = {track["track"]: track["metrics"]["coverage"] for track in summary["tracks"]}
    assert by_track == {0: 1, 1: pytest.approx(2 / 3)}


def test_the_same_input_gives_the_same_bytes(folder):
    files = [folder / "metrics.tsv", folder / "summary.json"]
    run(folder)
    first = [file.read_bytes() for file in files]
    run(folder)
    assert [file.read_bytes() for file in files] == first


@pytest.mark.parametrize("frames", [5, 7])
def test_clips_of_different_lengths_are_refused(folder, frames):
    pts = np.arange(frames, dtype=np.int64) * 40
    other = write_clip(folder / "other.mp4", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * frames, pts)
    with pytest.raises(media.ClipError, match=r"frame \d of the (original|anonymised) clip.*expected 6 frames"):
        run(folder, anonymized=other)
    with pytest.raises(media.ClipError, match="expected 6"):
        run(folder, original=other, anonymized=other)
    assert not (folder / "summary.json").exists()


def test_the_mean_original_leaves_out_frames_without_a_face(tmp_path):
    table = pd.DataFrame(
        {
            "track": [0, 1, 0, 0, 1],
            "detected_original": [1, 0, 1, 0, 0],
            "embedding_original": [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [100.0, 0.0], np.nan],
            "embedding_anonymized": [[1.0, 1.0], [1.0, 1.0], np.nan, [4.0, 4.0], np.nan],
        }
    )
    with stagefile.scratch(tmp_path / "metrics.tsv") as rows:
        embeddings = measure.Embeddings(rows)
        # In batches, as they come.
        table = pd.concat([embeddings.take(table[:2]), embeddings.take(table[2:])])
        # Track 0: mean (1, 0); track 1 never shows a face.
        np.testing.assert_allclose(
            measure.template_distance(table, embeddings, lambda seen: seen.mean(0)), [1, np.nan, np.nan, 5, np.nan]
        )


def test_the_size_of_a_batch_does_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    originals, anonymized = rng.normal(size=(2, 5000, 128)).astype(np.float32)
    columns = {"embedding_original": list(originals), "embedding_anonymized": list(anonymized)}
    table = pd.DataFrame({"track": 0, "detected_original": 1, **columns})
    with stagefile.scratch(tmp_path / "metrics.tsv") as rows:
        embeddings = measure.Embeddings(rows)
        taken = pd.concat([embeddings.take(table[n : n + 16]) for n in range(0, len(table), 16)])
        np.testing.assert_array_equal(embeddings.mean(0), originals.mean(0))
        found = measure.template_distance(taken, embeddings, lambda seen: seen.mean(0))
        np.testing.assert_array_equal(found, metrics.distance(anonymized, originals.mean(0)))


def test_a_table_put_together_in_steps_is_the_same(folder, monkeypatch):
    files = [folder / "metrics.tsv", folder / "summary.json"]
    monkeypatch.setattr(measure, "BATCH", 1)
    run(folder)
    whole = [file.read_bytes() for file in files]
    monkeypatch.setattr(measure, "BATCHES", 2)
    run(folder)
    assert [file.read_bytes() for file in files] == whole


@pytest.fixture
def real(folder):
    """Eight frames of a real face, with landmarks."""
    path = CLIPS / "adult_smile.mp4"
    if not path.is_file():
        pytest.skip(f"no test clips: {CLIPS} is absent")
    pictures = [picture for k, picture in enumerate(media.frames(path)) if k % 9 == 0]
    pts, (height, width) = np.arange(len(pictures), dtype=np.int64) * 500, pictures[0].shape[:2]
    write_clip(folder / "original.mp4", pictures, pts)
    box = np.array([0.34, 0.27, 0.58, 0.81], np.float32) * [width, height, width, height]
    nothing = np.full((478, 3), np.nan), np.full((2, 3), np.nan)
    judge = Mesh()
    landmarks = judge([judge.prepare(picture, Face(box, *nothing, 64)) for picture in pictures])["landmarks"]
    side = 2 * (box[2:] - box[:2]).max() / 256
    landmarks[..., :2] = (landmarks[..., :2] - 127.5) * side + (box[:2] + box[2:]) / 2
    crop = np.array([[0.25, 0, -40], [0, 0.25, -20]], np.float32)
    each = len(pictures)
    write_stages(
        folder,
        pts,
        (width, height),
        np.tile(box.astype(np.float32), (each, 1, 1)),
        landmarks[:, None],
        np.tile(crop, (each, 1, 1, 1)),
        np.ones((each, 1), np.float32),
    )
    return folder, pictures, pts, box.astype(int)


def test_an_unchanged_face_is_taken_for_the_original(real):
    folder, *_ = real
    table, summary = run(folder, "identity.Dlib", anonymized=folder / "original.mp4")
    assert summary["verdict"] == "fail"
    assert "in 8 of 8 judged" in summary["reason"]
    expected = {"identity_cos": 1, "arousal_rmse": 0, "valence_rmse": 0, "pose_rmat": 0, "landmark_nme": 0}
    for name, value in (expected | {"detection_rate": 1, "expression_kept": 1, "coverage": 1}).items():
        assert summary["metrics"][name] == pytest.approx(value, abs=1e-5), name
    # The clip lasts 3.5 s at two frames per second: two pairs, of one person.
    assert summary["metrics"]["identity_tc"] > 0.95
    assert summary["counts"]["identity_tc"] == 2
    assert (table["identity_distance"] < 1e-4).all()


def test_a_masked_face_is_judged_where_it_was_tracked(real):
    folder, pictures, pts, (x0, y0, x1, y1) = real
    masked = [picture.copy() for picture in pictures]
    for picture in masked:
        picture[y0 - 30 : y1 + 30, x0 - 30 : x1 + 30] = 0
    _, summary = run(folder, "identity.Dlib", anonymized=write_clip(folder / "masked.mp4", masked, pts))
    assert summary["verdict"] == "pass"
    assert summary["counts"]["identity_cos"] == len(pictures)
    assert summary["metrics"]["detection_rate"] == 0
    assert summary["metrics"]["pose_rmat"] is None
    assert summary["missing"]["identity_tc"] == "in no pair of frames 3 s apart was a face found in both"


def test_another_recording_than_extract_saw_is_refused(folder):
    write_clip(folder / "original.mp4", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * len(PTS))
    with pytest.raises(ValueError, match=r"a-clip: expected the clip that extract saw, .* extract anew"):
        run(folder)


@pytest.mark.parametrize(("treatment", "verdict"), [(compose.CROP, "no evidence"), (compose.MASK, "pass")])
def test_a_new_face_that_no_frame_of_could_be_judged_is_no_evidence(real, treatment, verdict):
    folder, pictures, pts, (x0, y0, x1, y1) = real
    masked = [picture.copy() for picture in pictures]
    for picture in masked:
        picture[y0 - 30 : y1 + 30, x0 - 30 : x1 + 30] = 0
    # Beside the face is one that the judge's mesh never sees.
    with stagefile.read(folder / "extract.h5") as file:
        boxes, landmarks, transforms = (file[name][:] for name in ("boxes", "landmarks", "transforms"))
        size = int(file.attrs["width"]), int(file.attrs["height"])
    boxes = np.concatenate([boxes, np.full_like(boxes, 0) + np.float32([2, 2, 40, 40])], 1)
    landmarks, transforms = (np.concatenate([a, np.full_like(a, np.nan)], 1) for a in (landmarks, transforms))
    write_stages(folder, pts, size, boxes, landmarks, transforms, np.ones((len(pts), 2), np.float32))
    with h5py.File(folder / "compose.h5", "r+") as file:
        file["treatment"][:, 1] = treatment
    _, summary = run(folder, "identity.Dlib", anonymized=write_clip(folder / "masked.mp4", masked, pts))
    assert summary["verdict"] == verdict
    assert ("no frame of track 1" in summary["reason"]) == (verdict == "no evidence")


# Judges by published networks.


def published(name: str) -> Path:
    if not MODELS.is_dir():
        pytest.skip(f"no published networks: {MODELS} is absent")
    return MODELS / name


def fsanet() -> str:
    return "pose.FsaNet=" + ",".join(str(published(f"fsanet-{kind}-iter-688590.onnx")) for kind in ("1x1", "var"))


def test_a_judge_of_pose_stands_in_for_the_mesh(seen):
    meshed, before = run(seen)
    table, summary = run(seen, fsanet())
    assert sorted(table.columns) == sorted(meshed.columns)
    columns = {judge["name"]: set(judge["columns"]) for judge in summary["judges"]}
    assert {"yaw_original", "roll_anonymized", "pose_rmat"} <= columns["FSA-Net head pose"]
    assert not columns["FSA-Net head pose"] & columns["mediapipe face mesh"]
    # One picture, once; where the mesh finds no face nothing was turned.
    hidden = table["detected_original"] == 0
    assert hidden.sum() == 1
    assert (table["pose_rmat"].isna() == hidden).all()
    assert (table["yaw_original"].isna() == hidden).all()
    assert summary["metrics"]["pose_rmat"] == pytest.approx(0, abs=1e-4)
    assert summary["counts"]["pose_rmat"] == before["counts"]["pose_rmat"]
    # Both see the same head, each with errors of its own.
    difference = (table["yaw_original"] - meshed["yaw_original"])[~hidden].abs()
    assert 0 < difference.max() < 25


def test_action_units_are_summed_up_where_they_were_judged(seen):
    _, before = run(seen)
    assert "action_units_mae" not in before["metrics"]
    table, summary = run(seen, f"action_units.Blendshapes={published('face_landmarker_v2_with_blendshapes.task')}")
    assert summary["metrics"]["action_units_mae"] == pytest.approx(0, abs=1e-6)
    assert summary["counts"]["action_units_mae"] == table["action_units_mae"].notna().sum() >= 3
    judged = table["smile_original"].notna()
    np.testing.assert_allclose(table["smile_original"][judged], table["smile_anonymized"][judged])


def test_another_judge_of_identity_has_its_own_operating_point(seen):
    _, summary = run(seen, f"identity.Insightface={published('MobileFaceNet.onnx')}")
    assert summary["identity_judge"] == "insightface buffalo_l"
    assert summary["verdict"] == "fail"
    assert "same person below 1.2" in summary["reason"]


def test_judges_that_steer_say_so(folder):
    _, summary = run(folder)
    roles = {judge["name"]: judge["role"] for judge in summary["judges"]}
    assert roles == {
        "mediapipe face mesh": "optimises and measures",
        "embedded identity": "optimises",
        "embedded affect": "optimises and measures",
        "embedded age and sex": "optimises and measures",
    }
    # The same network from another file measures alone.
    constructor = {"widths": [8, 16], "size": 64, "inner": 64}
    torch.manual_seed(1)
    models.save(folder / "other.safetensors", FaceAttributes(**constructor), constructor)
    device = torch.device("cpu")
    steering = {stagefile.checksum(folder / "affect.safetensors")}
    found = measure.judges_of([f"affect.Affect={folder / 'other.safetensors'}"], steering, device)
    assert found["affect"].role == "measures"


def test_no_identity_judge_may_have_steered(tmp_path):
    weights = tmp_path / "identity.safetensors"
    constructor = {"drop_ratio": 0.5}
    models.save(weights, ArcFace(**constructor), constructor)
    device = torch.device("cpu")
    with pytest.raises(ValueError, match="ArcFace IR-SE50 steers the edit"):
        measure.judges_of([f"identity.ArcFace={weights}"], {stagefile.checksum(weights)}, device)


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        (["gaze.Any"], r"expected identity.CLASS or .*, found 'gaze.Any'"),
        (["identity.Nobody"], r"expected a judge in peekaboo.judges.identity, found 'Nobody'"),
        (["identity.chip"], r"expected a judge in peekaboo.judges.identity, found 'chip'"),
        (["identity.FivePoints"], r"expected a judge in peekaboo.judges.identity, found 'FivePoints'"),
        (["identity.Embedded=a.safetensors"], r"expected a judge in peekaboo.judges.identity, found 'Embedded'"),
        (["affect.EmoNet"], r"expected affect.EmoNet=FILE, found 'affect.EmoNet'"),
        (["identity.Dlib=a.dat"], r"expected identity.Dlib without a file, found 'identity.Dlib=a.dat'"),
        (["identity.Dlib", "identity.Dlib"], "expected one judge of identity"),
    ],
)
def test_judges_that_there_are_not_are_named(judges, message):
    with pytest.raises(ValueError, match=message):
        measure.judges_of(judges, set(), torch.device("cpu"))


def test_the_table_has_its_columns_without_judges(folder):
    full, _ = run(folder)
    arguments = ["--original", folder / "original.mp4", "--anonymized", folder / "anonymized.mp4", "--method", "mask"]
    arguments += ["--faces", folder / "extract.h5", "--coverage", folder / "compose.h5", "--device", "cpu"]
    arguments += ["--identity", folder / "identity.safetensors", "--affect", folder / "affect.safetensors"]
    arguments += [
        "--metrics",
        folder / "bare.tsv",
        "--summary",
        folder / "bare.json",
        "--report",
        folder / "report.json",
    ]
    measure.main([str(word) for word in arguments])
    bare = pd.read_csv(folder / "bare.tsv", sep="\t")
    assert sorted(bare.columns) == sorted(full.columns)
    assert bare["valence_original"].isna().all()
    summary = json.loads((folder / "bare.json").read_text())
    assert summary["metrics"]["valence_rmse"] is None
    assert summary["missing"]["expression_kept"] == "no frame was judged in both clips"
