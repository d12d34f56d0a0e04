import json
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from peekaboo import media, stagefile
from peekaboo.faces.alignment import crop
from peekaboo.faces.cover import cover_outline
from peekaboo.faces.detection import SURE
from peekaboo.stages import extract, withhold

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "resources" / "demo" / "infant.mp4"
CLIPS = ROOT.parent / "shared" / "clips"
adults = pytest.mark.skipif(not CLIPS.exists(), reason="the clips of adults in ../shared are not there")
CORNERS_68 = [36, 39, 42, 45, 48, 54]


def run(clip, folder, **options):
    options = {"resolution": 64, **options}
    more = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    output, report = folder / "extract.h5", folder / "extract.json"
    extract.main(["--clip", str(clip), "--id", "P01", "--output", str(output), "--report", str(report), *more])
    with h5py.File(output) as file:
        return {name: file[name][:] for name in file}, dict(file.attrs), json.loads(report.read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What extract makes of the sample clip, and the detections it used."""
    recorded = []

    class Recorder(extract.Detector):
        def __call__(self, *args):
            recorded.append(super().__call__(*args))
            return recorded[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "Detector", Recorder)
        return *run(DEMO, tmp_path_factory.mktemp("demo")), recorded


def replay(monkeypatch, detections):
    """Have extract see these detections, a list for each frame."""
    monkeypatch.setattr(extract, "Detector", lambda confidence: lambda *_, rest=iter(detections): next(rest))


@pytest.fixture(scope="module")
def truth():
    return np.load(DEMO.with_name("infant_truth.npz"))


def uncovered(arrays, n, points):
    """Share of the true points [K, 2] outside what compose covers in frame n."""
    landmarks, box = arrays["landmarks"][n, 0], arrays["boxes"][n, 0]
    certain = bool(arrays["meshed"][n, 0]) and arrays["confidence"][n, 0] >= SURE
    outline = cover_outline(landmarks, box, certain).astype(np.float32)
    slack = 0.04 * np.ptp(outline, axis=0).max()
    return np.mean([cv2.pointPolygonTest(outline, (float(x), float(y)), True) < -slack for x, y in points])


def test_the_sample_clip_has_one_track_in_every_frame(demo, truth):
    arrays, attributes, report, _ = demo
    info, count = media.probe(DEMO), len(truth["times"])
    assert arrays["pts"].tolist() == info.pts.tolist() and arrays["durations"].tolist() == info.durations.tolist()
    assert {k: attributes[k] for k in ("clip", "width", "height", "resolution", "has_audio")} == {
        "clip": "P01",
        "width": 256,
        "height": 256,
        "resolution": 64,
        "has_audio": info.has_audio,
    }
    assert attributes["time_base"].tolist() == [info.time_base.numerator, info.time_base.denominator]
    shapes = {"boxes": (4,), "landmarks": (478, 3), "transforms": (2, 3), "crops": (64, 64, 3)}
    for name in ("boxes", "landmarks", "transforms", "crops", "present", "detected", "confidence", "meshed", "aligned"):
        assert arrays[name].shape == (count, 1, *shapes.get(name, ())), name
    assert arrays["present"].all() and arrays["aligned"].all()
    in_sight = truth["visibility"] > 0.9
    assert arrays["detected"][in_sight].all() and arrays["meshed"][in_sight].mean() > 0.97
    assert report["status"] == "ok" and report["reason"] is None and report["frames"] == count
    assert report["tracks"][0]["present"] == count and report["tracks"][0]["area_share"] == 1


def test_the_true_face_is_covered_in_every_frame_occluded_or_not(demo, truth):
    arrays = demo[0]
    assert not any(uncovered(arrays, n, truth["landmarks68"][n][17:]) for n in range(len(arrays["pts"])))


@pytest.mark.parametrize("hidden", [range(40, 50), range(0, 10), range(86, 96), range(64, 74)])
@pytest.mark.parametrize("searched", [False, True])
def test_a_face_hidden_from_the_detectors_for_ten_frames_is_covered(
    demo, truth, tmp_path, monkeypatch, hidden, searched
):
    replay(monkeypatch, [[] if n in hidden else faces for n, faces in enumerate(demo[3])])
    if not searched:
        monkeypatch.setattr(extract, "Mesh", lambda: lambda *_: None)
    arrays, _, _ = run(DEMO, tmp_path)
    assert arrays["present"].all() and not arrays["detected"][list(hidden)].any()
    if searched:
        assert arrays["meshed"][list(hidden)].all()
    inner = slice(17, 68)
    assert not any(uncovered(arrays, n, truth["landmarks68"][n][inner]) for n in hidden)


def test_what_the_mesh_takes_for_a_face_elsewhere_does_not_move_the_cover(demo, truth, tmp_path, monkeypatch):
    hidden = range(86, 96)
    replay(monkeypatch, [[] if n in hidden else faces for n, faces in enumerate(demo[3])])

    def aside(frame, box, roll):
        """A face in a corner of the box, half as large, as the mesh may see one in a hand."""
        points = demo[0]["landmarks"][85, 0]
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        return np.column_stack(
            [box[:2] + 0.55 * (points[:, :2] - low) / (high - low) * (box[2:] - box[:2]), points[:, 2]]
        )

    monkeypatch.setattr(extract, "Mesh", lambda: aside)
    arrays, _, _ = run(DEMO, tmp_path)
    assert arrays["present"].all() and arrays["meshed"][list(hidden)].any()
    assert not any(uncovered(arrays, n, truth["landmarks68"][n][17:]) for n in hidden)


@pytest.mark.parametrize(
    ("times", "due"),
    [
        (np.arange(12) / 25, [0, 5, 10]),
        (np.arange(6) * 0.4, [0, 3]),
        (np.array([0, 2, 2.04, 2.08, 2.12, 2.16, 2.2, 4]), [0, 1, 6, 7]),
    ],
)
def test_small_faces_are_looked_for_in_every_fifth_frame_and_every_second(times, due):
    assert np.flatnonzero(extract.sweeps(times)).tolist() == due


def test_crops_show_the_eyes_and_mouth_at_the_places_of_ffhq(demo, truth):
    arrays = demo[0]
    # From the FFHQ form itself: eyes lie above and the mouth below the middle of an upright square.
    for n in (0, 25, 50, 95):
        transform = arrays["transforms"][n, 0].astype(np.float64)
        points = truth["landmarks68"][n] @ transform[:, :2].T + transform[:, 2]
        eyes, mouth = points[36:48].mean(0), points[[48, 54]].mean(0)
        left, right = points[36:42].mean(0), points[42:48].mean(0)
        assert abs((eyes + mouth)[0] / 2 - 31.5) < 3 and abs((right - left)[1]) < 3
        side = max(4.0 * np.linalg.norm(right - left), 3.6 * np.linalg.norm(mouth - eyes))
        assert side == pytest.approx(64, rel=0.12)
        assert (eyes + 0.1 * (mouth - eyes))[1] == pytest.approx(31.5, abs=3)


def test_crops_are_cut_by_the_transforms_that_are_stored(demo):
    arrays = demo[0]
    for n, frame in enumerate(media.frames(DEMO)):
        if n % 10 == 0:
            np.testing.assert_array_equal(arrays["crops"][n, 0], crop(frame, arrays["transforms"][n, 0], 64))


def test_landmarks_are_interpolated_in_short_gaps_only(demo, tmp_path, monkeypatch):
    replay(monkeypatch, [[] if 10 <= n < 40 else faces for n, faces in enumerate(demo[3])])
    monkeypatch.setattr(extract, "Mesh", lambda: lambda *_: None)
    arrays, _, _ = run(DEMO, tmp_path, bridge_seconds=2.0)
    middle = arrays["landmarks"][[9, 20, 40], 0].astype(np.float64)
    share = (arrays["pts"][20] - arrays["pts"][9]) / (arrays["pts"][40] - arrays["pts"][9])
    np.testing.assert_allclose(middle[1], (1 - share) * middle[0] + share * middle[2], atol=1e-3)
    assert arrays["aligned"][10:40].all() and not arrays["meshed"][10:40].any()
    arrays, _, _ = run(DEMO, tmp_path, bridge_seconds=0.5)
    # The ends overlap, so the face is covered all the same; but what it looked like is not known.
    assert arrays["present"].all() and not arrays["aligned"][10:40].any()
    assert np.isnan(arrays["landmarks"][10:40]).all() and np.isnan(arrays["transforms"][10:40]).all()


def test_the_same_clip_gives_the_same_bytes(tmp_path):
    clip = shortened(tmp_path / "short.mp4", 12)
    for name in ("a", "b"):
        run(clip, tmp_path / name)
    assert (tmp_path / "a" / "extract.h5").read_bytes() == (tmp_path / "b" / "extract.h5").read_bytes()


def shortened(path, count, change=lambda frame: frame):
    info = media.probe(DEMO)
    info = media.ClipInfo(
        info.width, info.height, info.time_base, info.pts[:count], info.durations[:count], info.rate, False
    )
    with media.writer(path, info) as write:
        for _, frame in zip(range(count), media.frames(DEMO), strict=False):
            write(change(frame))
    return path


def test_nothing_but_the_id_names_the_clip(tmp_path, capfd):
    folder = tmp_path / "surname"
    folder.mkdir()
    run(shortened(folder / "forename.mp4", 6), tmp_path)
    (folder / "forename.avi").write_bytes(b"no video at all" * 100)
    run(folder / "forename.avi", tmp_path)
    printed = "".join(capfd.readouterr())
    for text in (printed, (tmp_path / "extract.json").read_text()):
        assert "forename" not in text and "surname" not in text
    assert b"forename" not in (tmp_path / "extract.h5").read_bytes()


def test_a_file_that_is_no_video_is_withheld_with_a_reason(tmp_path):
    (tmp_path / "clip.mp4").write_text("not a video")
    arrays, attributes, report = run(tmp_path / "clip.mp4", tmp_path)
    assert report["status"] == "withheld" and "video" in report["reason"] and report["frames"] == 0
    assert attributes["clip"] == "P01" and arrays["pts"].shape == (0,)
    assert arrays["crops"].shape == (0, 0, 64, 64, 3) and arrays["present"].shape == (0, 0)


def test_a_clip_without_a_face_is_withheld_and_its_old_result_goes(tmp_path):
    clip = shortened(tmp_path / "grey.mp4", 6, lambda frame: np.full_like(frame, 128))
    arrays, attributes, report = run(clip, tmp_path)
    assert report["status"] == "withheld" and "no face" in report["reason"] and report["frames"] == 6
    assert arrays["boxes"].shape == (6, 0, 4) and arrays["landmarks"].shape == (6, 0, 478, 3)
    assert attributes["width"] == 256
    for method in ("pti", "blur"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "anonymized.mp4").write_bytes(b"old")
        (tmp_path / method / "summary.json").write_text('{"verdict": "pass"}')
    withheld = tmp_path / "withheld.json"
    main = [
        "--extract",
        str(tmp_path / "extract.json"),
        "--output",
        str(withheld),
        "--report",
        str(tmp_path / "r.json"),
    ]
    withhold.main(main)
    assert stagefile.read_json(withheld) == {"clip": "P01", "reason": report["reason"]}
    assert not list(tmp_path.glob("*/*"))
    # Once the clip can be used, the reason is gone, and withholding it would be a mistake.
    _, _, report = run(shortened(tmp_path / "seen.mp4", 6), tmp_path)
    assert report["status"] == "ok" and not withheld.exists()
    with pytest.raises(ValueError, match="expected 'withheld'"):
        withhold.main(main)


@pytest.mark.slow
@adults
@pytest.mark.parametrize(
    ("name", "tracks"),
    [
        ("adult_hand_occlusion.mp4", 1),
        ("adult_smile.mp4", 1),
        ("adult_yaw.mp4", 1),
        ("face_then_none.mov", 1),
        ("two_faces.mp4", 2),
        ("no_face.mp4", 0),
    ],
)
def test_adults_are_tracked_throughout(tmp_path, name, tracks):
    arrays, _, report = run(CLIPS / name, tmp_path)
    assert len(report["tracks"]) == tracks and report["frames"] == media.probe(CLIPS / name).n_frames
    assert report["status"] == ("ok" if tracks else "withheld")
    # The face of that clip is gone after frame 71.
    until = 72 if name == "face_then_none.mov" else None
    assert arrays["detected"][:until].all()
    assert not arrays["present"][90:].any() or until is None


@pytest.mark.slow
@adults
def test_a_truncated_clip_is_withheld(tmp_path):
    whole = shutil.copy(CLIPS / "adult_smile.mp4", tmp_path / "clip.mp4")
    with open(whole, "r+b") as file:
        file.truncate(120_000)
    _, _, report = run(whole, tmp_path)
    assert report["status"] == "withheld" and str(tmp_path) not in report["reason"]
