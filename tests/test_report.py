import html.parser
import json
import math
import re
import shutil
from fractions import Fraction

import cv2
import numpy as np
import pandas as pd
import pytest

from peekaboo import media, stagefile
from peekaboo.stages import report

METHODS = ["pti_traversal", "blur"]
FRAMES = 12
NAMES = (*report.TABLE_I, *report.BESIDE)
DLIB = {
    "name": "dlib face recognition",
    "trained_on": "photographs",
    "real_faces": True,
    "role": "measures",
    "columns": ["identity_cos", "identity_distance"],
}
RENDERED = {
    "name": "embedded identity",
    "trained_on": "rendered <faces>",
    "real_faces": False,
    "role": "optimises",
    "columns": ["identity_cos_optimised"],
}


def clip_info(frames=FRAMES):
    pts = np.arange(frames, dtype=np.int64)
    return media.ClipInfo(96, 64, Fraction(1, 10), pts, np.ones_like(pts), Fraction(10), False)


def write_clip(path, shade, frames=FRAMES):
    with media.writer(path, clip_info(frames)) as write:
        for n in range(frames):
            frame = np.full((64, 96, 3), 40, np.uint8)
            frame[16:48, 20 + n : 52 + n] = shade
            write(frame)


def metrics_table(frames, nearest, covered, rng):
    table = pd.DataFrame({"frame": np.arange(frames), "time": np.arange(frames) / 10, "track": 0})
    table["covered"] = covered
    table["detected_original"] = (np.arange(frames) % 5 != 3).astype(int)
    table["detected_anonymized"] = 1
    table["identity_distance"] = nearest
    table["identity_distance_mean"] = nearest + 0.1
    table["identity_cos_optimised"] = rng.random(frames)
    for clip in ("original", "anonymized"):
        for name in ("valence", "arousal", "yaw"):
            table[f"{name}_{clip}"] = rng.random(frames)
        table[f"expression_{clip}"] = "happy"
    return table


def write_results(folder, clip, verdicts, numbers, counts, frames=FRAMES, covered=None, nearest=None):
    """Write what the stages leave for one clip and return the path of its source."""
    rng = np.random.default_rng(0)
    home = folder / "results" / clip
    home.mkdir(parents=True)
    source = folder / f"secret_{clip}_name.avi.mp4"
    write_clip(source, 200, frames)
    for stage in ("extract", "invert", "tune", "score", "traverse"):
        more = {"status": "ok", "reason": None} if stage == "extract" else {}
        stagefile.write_json(home / f"{stage}.json", {"stage": stage, "frames": frames, "seconds": 4.0, **more})
    with stagefile.write(home / "extract.h5") as file:
        boxes = np.array([[[20 + n, 16, 52 + n, 48]] for n in range(frames)], np.float32)
        file.attrs.update(width=96, height=64)
        file["boxes"], file["present"] = boxes, np.ones((frames, 1), bool)
        file["rejected_frames"], file["rejected_boxes"] = np.array([2]), np.array([[70, 4, 86, 20]], np.float32)
    for method in METHODS:
        (home / method).mkdir()
        for stage in ("decode", "compose", "measure"):
            if stage != "decode" or method != "blur":
                content = {"stage": stage, "frames": frames, "seconds": 2.0, "lossless": False}
                stagefile.write_json(home / method / f"{stage}.json", content)
        write_clip(home / method / "anonymized.mp4", 120, frames)
        with stagefile.write(home / method / "compose.h5") as file:
            file.attrs["compose"] = "face"
        distances = np.linspace(0.9, 0.5, frames) if nearest is None else nearest
        table = metrics_table(frames, distances, np.ones(frames) if covered is None else covered, rng)
        table.to_csv(home / method / "metrics.tsv", sep="\t", index=False, na_rep="NA")
        verdict, reason = verdicts[method]
        stagefile.write_json(
            home / method / "summary.json",
            {
                "clip": clip,
                "method": method,
                "verdict": verdict,
                "reason": reason,
                "evidence": "Trained on faces & <synthetic> ones.",
                "frames": frames,
                "face_frames": frames,
                "metrics": {name: numbers.get(name, 0.5) for name in NAMES},
                "counts": {name: counts.get(name, frames) for name in NAMES},
                "missing": {name: "too short" for name in NAMES if counts.get(name) == 0},
                "identity_judge": DLIB["name"],
                "judges": [DLIB, RENDERED],
            },
        )
    return source


def withhold(folder, clip, reason):
    home = folder / "results" / clip
    stagefile.write_json(
        home / "extract.json", {"status": "withheld", "reason": reason, "frames": 0, "seconds": 1.0, "stage": "extract"}
    )
    stagefile.write_json(home / "withheld.json", {"clip": clip, "reason": reason})


def run(folder, clips):
    page = folder / "results" / "report" / "index.html"
    sources = [f"{clip}={path}" for clip, path in clips.items()]
    table, done = folder / "results" / "table.tsv", page.with_name("report.json")
    where = ["--table", str(table), "--page", str(page), "--report", str(done)]
    report.main(["--results", str(folder / "results"), "--clips", *sources, "--methods", *METHODS, *where])
    return page.read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    passing = {"pti_traversal": ("pass", "none of 12"), "blur": ("pass", "none of 12")}
    failing = {"pti_traversal": ("fail", "taken in 3 <of> 6"), "blur": ("no evidence", "none judged")}
    uncovered = np.array([1, 1, 0.25, 1, 1, np.nan])
    clips = {
        "first": write_results(
            folder,
            "first",
            passing,
            {"identity_cos": 0.2, "arousal_rmse": 0.3, "identity_tc": None, "coverage": 1.0},
            {"identity_cos": 12, "arousal_rmse": 12, "identity_tc": 0},
        ),
        "second": write_results(
            folder,
            "second",
            failing,
            {"identity_cos": 0.8, "arousal_rmse": 0.6, "identity_tc": 0.7, "coverage": 4 / 6},
            {"identity_cos": 4, "arousal_rmse": 6, "identity_tc": 5},
            frames=6,
            covered=uncovered,
        ),
        "third": folder / "secret_third_name.mkv",
    }
    withhold(folder, "third", "no face found in <any> frame")
    return folder, clips, run(folder, clips)


class Checker(html.parser.HTMLParser):
    """Checks that elements nest, and gathers ids, addresses and text."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses, self.tags, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "poster"):
                self.addresses.append(value)
            assert name != "style" and not name.startswith("on"), "the page's policy forbids them"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def parsed(made):
    checker = Checker()
    checker.feed(made[2])
    checker.close()
    assert checker.open == []
    return checker


def test_table_pools_over_face_frames(made):
    table = pd.read_csv(made[0] / "results" / "table.tsv", sep="\t").set_index("method")
    assert list(table.columns[:6]) == ["verdict", *report.TABLE_I]
    row = table.loc["pti_traversal"]
    assert row["verdict"] == "fail"
    assert row["identity_cos"] == pytest.approx((0.2 * 12 + 0.8 * 4) / 16, abs=1e-4)
    assert row["arousal_rmse"] == pytest.approx(math.sqrt((0.3**2 * 12 + 0.6**2 * 6) / 18), abs=1e-4)
    assert row["identity_tc"] == pytest.approx(0.7)
    assert row["coverage"] == pytest.approx(16 / 18, abs=1e-4)
    assert (row["clips"], row["withheld"], row["frames"]) == (2, 1, 18)
    assert table.loc["blur", "verdict"] == "no evidence"


def test_speed_counts_the_stages_a_method_uses(made):
    table = pd.read_csv(made[0] / "results" / "table.tsv", sep="\t").set_index("method")
    # 18 frames; the shared stages took 4 s for each of two clips, decode, compose and measure 2 s.
    assert table.loc["pti_traversal", "fps_tune"] == pytest.approx(18 / 8)
    assert table.loc["pti_traversal", "fps_decode"] == pytest.approx(18 / 4)
    assert table.loc["pti_traversal", "fps"] == pytest.approx(18 / (2 * (5 * 4 + 3 * 2)), abs=1e-4)
    assert table.loc["blur", "fps"] == pytest.approx(18 / (2 * (4 + 2 * 2)), abs=1e-4)
    assert table.loc["blur"][["fps_invert", "fps_tune", "fps_decode"]].isna().all()


def test_worst_verdict():
    fail, none, good = ("a", "fail", "x"), ("b", "no evidence", "y"), ("c", "pass", "z")
    assert report.worst([good, none, fail])[0] == "fail"
    assert report.worst([good, none]) == ("no evidence", "1 of 2 clips; b: y")
    assert report.worst([good, good]) == ("pass", "all 2 clips; c: z")
    assert report.worst([fail]) == ("fail", "x")
    assert report.worst([])[0] == "no evidence"


def test_page_shows_every_clip_method_and_reason(made, parsed):
    folder, _, _ = made
    text = "".join(parsed.text)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {"clip-first", "clip-second"} <= set(parsed.ids)
    for part in ("no face found in <any> frame", "taken in 3 <of> 6", "faces & <synthetic> ones", "rendered <faces>"):
        assert part in text
    assert parsed.tags.count("video") == 2 * (1 + len(METHODS))
    for address in parsed.addresses:
        if not address.startswith("#"):
            assert (folder / "results" / "report" / address).is_file(), address
    for clip in ("first", "second"):
        assert f"originals/{clip}.mp4" in parsed.addresses
        assert {f"../{clip}/{method}/anonymized.mp4" for method in METHODS} <= set(parsed.addresses)


def test_page_names_no_address_and_no_source(made):
    page = made[2]
    assert not re.search(r"https?:|//\w", page.replace("// ", ""))
    assert "secret_" not in page and str(made[0]) not in page
    assert "default-src 'none'" in page


def test_lists_uncovered_frames_and_counts_unknown_ones_as_uncovered(made, parsed):
    assert "2 of 6 face-frames are not fully covered" in "".join(parsed.text)
    assert "all 12 face-frames fully covered" in "".join(parsed.text)
    table = pd.read_csv(made[0] / "results" / "second" / "blur" / "metrics.tsv", sep="\t")
    groups = report.look_first(table.assign(nearest=table["identity_distance"]))
    assert [row["frame"] for row in groups[0]["frames"]] == [5, 2]
    assert groups[1]["frames"][0]["frame"] == 5


def test_shows_where_nothing_is_covered_and_a_face_may_be(made, parsed):
    folder, _, page = made
    assert "1 where a track begins or ends within the picture" in "".join(parsed.text) and "at 0.20 s" in page
    for name in ("original", "pti_traversal"):
        picture = cv2.imread(str(folder / "results" / "report" / "frames" / f"first.{name}.2-place-0.jpg"))
        assert picture.shape == (report.THUMBNAIL, report.THUMBNAIL, 3)


def test_of_many_open_places_some_are_shown_and_all_are_named():
    places = [(n, np.array([0, 0, 9, 9], np.float32)) for n in range(0, 50, 5)]
    group = report.open_places(places, [n / 10 for n in range(50)])
    assert [row["frame"] for row in group["frames"]] == [0, 15, 30, 45]
    assert "0.00, 0.50, 1.00" in group["note"] and "4.50 s" in group["note"]
    assert report.open_places([], [])["frames"] == []


def test_originals_keep_every_frame_and_only_the_owner_reads_them(made):
    folder, clips, _ = made
    for clip in ("first", "second"):
        path = folder / "results" / "report" / "originals" / f"{clip}.mp4"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        copy, source = media.probe(path), media.probe(clips[clip])
        assert copy.times == source.times and copy.duration == source.duration
    for picture in (folder / "results" / "report" / "frames").iterdir():
        assert picture.stat().st_mode & 0o777 == 0o600


def test_second_run_gives_the_same_bytes_and_drops_clips_that_left(made):
    folder, clips, page = made
    results = folder / "results"

    def contents():
        paths = [results / "table.tsv", *(results / "report").rglob("*")]
        return {path: path.read_bytes() for path in paths if path.is_file() and path.name != "report.json"}

    before = contents()
    assert run(folder, clips) == page
    assert contents() == before
    fewer = run(folder, {"first": clips["first"]})
    assert "clip-second" not in fewer
    left = [path.name for path in (results / "report").rglob("*") if path.is_file()]
    assert not [name for name in left if name.startswith("second")]
    run(folder, clips)


def test_all_clips_withheld_is_a_page_and_a_table(tmp_path):
    withhold(tmp_path, "only", "zero frames")
    page = run(tmp_path, {"only": tmp_path / "absent.mp4"})
    assert "zero frames" in page and "<video" not in page
    table = pd.read_csv(tmp_path / "results" / "table.tsv", sep="\t")
    assert list(table["verdict"]) == ["no evidence"] * 2
    assert table["identity_cos"].isna().all() and list(table["withheld"]) == [1, 1]


def test_missing_stage_file_is_named(made, tmp_path):
    write_results(tmp_path, "gone", {method: ("pass", "fine") for method in METHODS}, {}, {})
    (tmp_path / "results" / "gone" / "blur" / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"gone/blur/summary\.json"):
        run(tmp_path, {"gone": "x"})


def test_curve_breaks_at_gaps_and_marks_lone_points():
    y = np.array([1.0, 2.0, np.nan, 3.0, np.nan, 4.0, 5.0])
    assert report.curve(np.arange(7.0), y) == "M0.0 1.0L1.0 2.0M3.0 3.0h0M5.0 4.0L6.0 5.0"


def test_long_series_keep_their_extremes_and_gaps():
    y = np.random.default_rng(0).normal(size=20_000)
    y[7000:7400] = np.nan
    y[11_111], y[3] = 50, -50
    kept = report.thin(y)
    assert len(kept) <= 3 * report.SLICES
    assert {3, 11_111} <= set(kept.tolist())
    assert np.isnan(y[kept]).any()


def test_shades_and_seconds_follow_variable_time_stamps():
    info = media.ClipInfo(8, 8, Fraction(1, 10), np.array([0, 1, 5, 9]), np.array([1, 4, 4, 1]), Fraction(4), False)
    table = metrics_table(4, np.full(4, 0.7), 1.0, np.random.default_rng(0)).drop(index=3)
    table["detected_original"] = [1, 1, 0]
    drawn = report.charts({"blur": table.assign(nearest=0.7)}, info, 0.6)
    assert drawn["shades"] == [("unseen", "500.0", "400.0"), ("absent", "900.0", "100.0")]
    assert (drawn["begin"], drawn["length"]) == (0.0, 1.0)
    assert [chart["limit"] is not None for chart in drawn["charts"]] == [True, False, False, False, False]
    assert drawn["charts"][0]["lines"][0][1].startswith("M50.0 ")


@pytest.mark.parametrize("low, high, count", [(0, 4.2, 8), (-1, 1, 3), (-30, 30, 3), (0, 600, 8), (0, 0.1, 8)])
def test_ticks_are_round_and_inside(low, high, count):
    found = report.ticks(low, high, count)
    assert 2 <= len(found) <= count + 1
    assert min(found) >= low and max(found) <= high + 1e-9
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_face_pictures_show_the_face_in_their_middle():
    frame = np.zeros((200, 300, 3), np.uint8)
    frame[50:90, 230:270] = 255
    picture = report.thumbnail(frame, np.array([230, 50, 270, 90], np.float32))
    bright = np.argwhere(picture[..., 0] > 127)
    assert picture.shape == (report.THUMBNAIL, report.THUMBNAIL, 3)
    assert np.allclose(bright.mean(0), report.THUMBNAIL / 2, atol=2)
    assert np.ptp(bright[:, 0]) == pytest.approx(report.THUMBNAIL / report.THUMBNAIL_MARGIN, abs=4)
    square = np.full((32, 32, 3), 7, np.uint8)
    assert (report.thumbnail(square, None) == np.full((report.THUMBNAIL, report.THUMBNAIL, 3), 7)).all()


def test_ids_with_reserved_signs_are_quoted(tmp_path):
    source = write_results(tmp_path, "a-1.b_2", {method: ("pass", "fine") for method in METHODS}, {}, {})
    page = run(tmp_path, {"a-1.b_2": source})
    assert 'src="../a-1.b_2/blur/anonymized.mp4"' in page
    times = re.search(r'data-times="([^"]*)"', page)[1]
    assert json.loads(times) == [round(n / 10, 4) for n in range(FRAMES)]


def test_action_units_are_shown_where_they_were_judged(made, tmp_path):
    folder, clips, before = made
    shutil.copytree(folder / "results", tmp_path / "results")
    table = pd.read_csv(folder / "results" / "table.tsv", sep="\t")
    assert "action_units_mae" not in table.columns
    assert "Action units" not in before
    for clip, value, count in (("first", 0.1, 12), ("second", 0.4, 6)):
        path = tmp_path / "results" / clip / "blur" / "summary.json"
        summary = json.loads(path.read_text())
        summary["metrics"]["action_units_mae"], summary["counts"]["action_units_mae"] = value, count
        path.write_text(json.dumps(summary))
    page = run(tmp_path, clips)
    table = pd.read_csv(tmp_path / "results" / "table.tsv", sep="\t").set_index("method")
    assert table.loc["blur", "action_units_mae"] == pytest.approx(0.2)
    assert np.isnan(table.loc["pti_traversal", "action_units_mae"])
    assert page.count("Action units") >= 2
