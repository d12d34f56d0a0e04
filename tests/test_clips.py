import dataclasses
import runpy
from collections import Counter
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from peekaboo import media
from peekaboo.faces.detection import Detector
from peekaboo.synth import clips, render, train
from peekaboo.synth import head as heads
from peekaboo.synth.clips import BENCHMARK, CLIPS, SAMPLE, SWEEP, Clip
from peekaboo.synth.head import EXPRESSIONS, PARAMETERS

HOME = Path(__file__).parents[1]
MODEL = HOME.parent / "shared" / "data" / "ict_facekit.npz"
DEMO = HOME / "resources" / "demo"
# Face-mesh numbers of the eye and mouth corners, and their numbers in the 68-point markup.
MESH_CORNERS, CORNERS_68 = [33, 133, 362, 263, 61, 291], [36, 39, 42, 45, 48, 54]


@pytest.fixture(scope="module")
def head():
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    return heads.load(MODEL)


def short(**kwargs):
    """A small clip of everything that a clip can have."""
    clip = Clip("short", 5, 128, 96, Fraction(8), 2.0, True, ("hand",), "playroom", 0.5)
    return dataclasses.replace(clip, **kwargs)


def affect(parameters):
    return np.array([heads.affect(row)[:2] for row in parameters]).T


def yaw(parameters):
    return np.array([Rotation.from_matrix(heads.rotation(row)).as_euler("YXZ", degrees=True)[0] for row in parameters])


def test_the_benchmark_is_as_large_and_as_varied_as_it_should_be():
    assert len(BENCHMARK) == 20 and len(SWEEP) == 3
    assert sum(len(clips.frame_times(clip)) for clip in BENCHMARK) <= 2600
    for clip in BENCHMARK:
        assert {clip.width % 2, clip.height % 2} == {0}
        assert min(clip.width, clip.height) >= 224 and max(clip.width, clip.height) <= 400
        assert 9 <= clip.seconds <= 10
    assert sum(clip.width != clip.height for clip in BENCHMARK) >= 8
    assert {24, 25, 30} < {clip.rate for clip in BENCHMARK}
    assert sum(8 <= clip.rate <= 15 for clip in BENCHMARK) == 17
    assert sum(bool(clip.occluders) for clip in BENCHMARK) == 7
    assert sum(clip.bystander for clip in BENCHMARK) == 5
    assert Counter(clip.background for clip in BENCHMARK).keys() == {"own", "plain", "playroom"}
    assert not any(clip.bystander for clip in SWEEP)


def test_the_workflow_knows_the_clips_by_the_same_ids_and_the_longest():
    rules = runpy.run_path(str(HOME / "rules" / "common.smk"))
    assert rules["BENCHMARK_IDS"] == tuple(clip.id for clip in BENCHMARK)
    assert rules["SWEEP_IDS"] == tuple(clip.id for clip in SWEEP)
    assert rules["RENDERED_FRAMES"] == max(round(clip.seconds * clip.rate) for clip in (*BENCHMARK, *SWEEP))


def test_no_two_clips_have_the_same_infant_and_none_was_trained_on():
    everyone = [clips.script(clip)[0] for clip in CLIPS.values()]
    everyone += [clips.bystander(clip)[0] for clip in BENCHMARK if clip.bystander]
    seen = np.array(everyone)[:, heads.IDENTITY]
    settings = yaml.safe_load((HOME / "resources" / "embedded" / "training.yaml").read_text())
    trained = train.training_parameters(settings["renders"], settings["seed"])[:, heads.IDENTITY]
    among = np.corrcoef(seen) - np.eye(len(seen))
    assert among.max() < 0.6
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (seen, trained)]
    assert (unit[0] @ unit[1].T).max() < 0.7


def test_the_infants_are_infants_and_toddlers_and_the_bystanders_adults():
    ages = [heads.adulthood(clips.script(clip)[0]) for clip in BENCHMARK]
    assert min(ages) > 0.019 and max(ages) < 0.351
    assert np.ptp(ages) > 0.2
    assert min(heads.adulthood(clips.bystander(clip)[0]) for clip in BENCHMARK if clip.bystander) > 0.9


def test_play_is_happy_the_reunion_begins_with_crying_and_ends_better():
    for clip in BENCHMARK:
        valence, arousal = affect(clips.script(clip))
        share = clips.frame_times(clip) / clip.seconds
        assert valence[share < 0.3].max() > 0.5
        assert valence[share < 0.3].mean() > 0.1
        assert valence[(share > 0.4) & (share < 0.62)].mean() < 0.05
        assert valence[share > 0.62].min() < -0.7
        assert valence[share > 0.95].mean() > valence[share > 0.62].min() + 0.3
        assert arousal.max() > 0.6


def test_the_infant_looks_at_the_caregiver_and_away_from_the_still_face():
    away = {"play": [], "still face": []}
    for clip in BENCHMARK:
        parameters, share = clips.script(clip), clips.frame_times(clip) / clip.seconds
        aim = np.array([heads.gaze(row)[0] for row in parameters]) + yaw(parameters)
        away["play"].append(np.abs(aim[share < 0.3]).mean())
        away["still face"].append(np.abs(aim[(share > 0.4) & (share < 0.62)]).mean())
    assert np.mean(away["still face"]) > 2 * np.mean(away["play"])


def test_heads_mostly_face_the_camera_and_nothing_jumps():
    turned = [yaw(clips.script(clip)) for clip in BENCHMARK]
    assert np.mean(np.abs(np.concatenate(turned)) < 25) > 0.9
    assert 30 < max(np.abs(angles).max() for angles in turned) < 42
    for clip, angles in zip(BENCHMARK, turned, strict=True):
        assert np.abs(np.diff(angles)).max() * clip.rate < 250
        assert np.abs(np.diff(affect(clips.script(clip)))).max() * clip.rate < 12
        assert np.ptp(clips.script(clip)[:, heads.IDENTITY], 0).max() == 0


def test_gaze_moves_in_saccades():
    clip = dataclasses.replace(CLIPS["synth-10"], rate=Fraction(100))
    parameters = clips.script(clip)
    aim = np.array([heads.gaze(row)[0] for row in parameters]) + yaw(parameters)
    inside = np.abs([heads.gaze(row)[0] for row in parameters]) < 0.9 * heads.GAZE_DEGREES[0]
    speed = np.abs(np.diff(aim))[inside[1:] & inside[:-1]] * 100
    # Between saccades the eyes make up for the head's motion.
    assert np.median(speed) < 3
    assert speed.max() > 100


def test_another_seed_is_another_course():
    plans = [clips.plan(dataclasses.replace(SWEEP[0], seed=seed)) for seed in range(5)]
    assert len({tuple(spell.start for _, _, spell in plan.expressions) for plan in plans}) == 5


def test_a_longer_clip_has_more_in_it():
    smiles = [
        sum(
            action == "smile" for action, _, _ in clips.plan(dataclasses.replace(SWEEP[0], seconds=seconds)).expressions
        )
        for seconds in (3.0, 60.0)
    ]
    assert smiles[1] > 4 * smiles[0]


def test_the_sample_tells_its_story():
    parameters = clips.script(SAMPLE)
    story = [EXPRESSIONS[heads.affect(row)[2]] for row in parameters]
    changes = [name for i, name in enumerate(story) if i == 0 or story[i - 1] != name]
    assert changes == ["neutral", "smile", "neutral", "distress", "cry", "neutral"]
    assert 30 < yaw(parameters).max() < 38


def test_hidden_share_is_the_visibility_truth(head):
    parameters = clips.script(SAMPLE)
    hidden = 0
    for index, (image, truth, visibility) in enumerate(clips.draw(head, SAMPLE)):
        if 76 < index < 92:
            bare, _ = render.frame(head, parameters[index], SAMPLE.width, SAMPLE.height)
            hull = np.zeros(bare.shape[:2], np.uint8)
            cv2.fillConvexPoly(hull, cv2.convexHull(np.rint(truth.landmarks).astype(np.int32)), 1)
            changed = (np.abs(image.astype(int) - bare).max(2) > 4)[hull > 0].mean()
            # The hand's shadow changes the picture round it too.
            assert visibility - 0.2 < 1 - changed < visibility + 0.05
        else:
            assert visibility == 1
        hidden += visibility < 0.7
    assert 5 <= hidden <= 8


def test_things_come_before_the_face_and_go(head):
    for kind in ("pacifier", "hand", "toy", "bottle"):
        clip = short(bystander=False, occluders=(kind,), camera=0.0, seconds=6.0)
        visibility = np.array([visible for *_, visible in clips.draw(head, clip)])
        assert visibility[[0, -1]].tolist() == [1, 1]
        assert visibility.min() < 0.97


def test_the_bystander_is_at_a_side_and_the_infant_before_it(head):
    for seed in (5, 6):
        clip = short(seed=seed, occluders=(), camera=0.0)
        adult, infant = (
            np.array([render.frame(head, row, clip.width, clip.height)[1].landmarks[:, 0] for row in rows])
            for rows in (clips.bystander(clip), clips.script(clip))
        )
        if seed % 2 == 0:
            adult, infant = clip.width - 1 - adult, clip.width - 1 - infant
        assert infant.mean() < clip.width / 2 < adult.mean()
        assert infant[:, 30].max() < adult[:, 30].min()
        # Its own motion, and partly seen.
        assert np.ptp(adult.mean(1)) > 0.3
        assert adult.min() < clip.width
        (image, truth, _), *_ = clips.draw(head, clip)
        alone, _ = render.frame(head, clips.script(clip)[0], clip.width, clip.height)
        x, y = np.rint(truth.landmarks[[30, 33, 57]]).astype(int).T
        assert np.abs(image[y, x].astype(int) - alone[y, x]).max() <= 2


def test_the_same_clip_is_drawn_the_same(head):
    first, again = (list(clips.draw(head, short())) for _ in range(2))
    other = list(clips.draw(head, short(seed=6)))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_clip_is_written_with_its_truth(head, tmp_path, monkeypatch):
    clip = short(rate=Fraction(30000, 1001), camera=0.0, seconds=1.0)
    monkeypatch.setitem(CLIPS, clip.id, clip)
    video, arrays = tmp_path / "short.mp4", tmp_path / "short.npz"
    clips.main(["--head", str(MODEL), "--id", clip.id, "--output", str(video), "--truth", str(arrays)])
    info = media.probe(video)
    assert (info.width, info.height, info.n_frames, info.rate) == (128, 96, 30, clip.rate)
    truth = np.load(arrays)
    assert np.allclose(truth["times"], [float(time) for time in info.times], atol=1e-9)
    shapes = {"rotation": (3, 3), "landmarks68": (68, 2), "actions": (len(heads.ACTIONS),), "gaze": (2,)}
    shapes["expression_weights"] = truth["expression_names"].shape
    shapes["action_units"] = truth["action_unit_names"].shape
    for name in ("valence", "arousal", "expression", "visibility", *shapes):
        assert truth[name].shape == (30, *shapes.get(name, ())), name
    assert truth["identity"].shape == heads.IDENTITY.shape
    assert truth["age"] == pytest.approx(heads.adulthood(clips.script(clip)[0]))
    assert truth["sex"] == (clips.script(clip)[0, PARAMETERS["sex"]][0] > 0)

    weights = dict(zip(heads.ACTIONS, truth["actions"].T, strict=True))
    smile, cry, distress = weights["smile"], weights["cry"], weights["distress"]
    surprise, yawn, open_mouth = weights["surprise"], weights["yawn"], weights["open_mouth"]
    valence = smile - cry - 0.7 * distress + 0.15 * surprise + 0.1 * open_mouth
    arousal = 0.55 * smile + cry + 0.4 * distress + 0.8 * surprise - 0.6 * yawn + 0.15 * open_mouth
    assert np.allclose(truth["valence"], valence, atol=1e-5)
    assert np.allclose(truth["arousal"], arousal, atol=1e-5)
    assert smile.max() > 0.5
    shapes = dict(zip(truth["expression_names"], truth["expression_weights"].T, strict=True))
    units = dict(zip(truth["action_unit_names"], truth["action_units"].T, strict=True))
    for follower in (shapes["mouthSmile"], units["AU12"]):
        assert np.corrcoef(smile, follower)[0, 1] > 0.8
    assert truth["action_units"].min() >= 0 and truth["action_units"].max() <= 1

    for decoded, (image, _, _) in zip(media.frames(video), clips.draw(head, clip), strict=True):
        assert np.abs(decoded.astype(float) - image).mean() < 6


def test_truth_is_where_the_face_mesh_sees_the_infant(head):
    detector, errors = Detector(0.5), []
    for name in ("synth-02", "synth-05", "synth-12"):
        # The same infant in a few frames, spread over the clip.
        clip = dataclasses.replace(CLIPS[name], rate=Fraction(2, 5))
        for n, (image, truth, _) in enumerate(clips.draw(head, clip)):
            true = truth.landmarks[CORNERS_68]
            faces = [
                face.landmarks[MESH_CORNERS, :2]
                for face in detector(image, sweep=n % 5 == 0)
                if face.landmarks is not None
            ]
            error = min(np.linalg.norm(face - true, axis=1).mean() for face in faces)
            errors.append(error / np.linalg.norm(true[0] - true[3]))
    assert np.median(errors) < 0.06
    assert np.mean(np.array(errors) < 0.1) > 0.8


def test_bundled_clip_has_its_truth(head):
    video = DEMO / "infant.mp4"
    assert video.stat().st_size < 400_000
    info = media.probe(video)
    assert (info.width, info.height, info.n_frames, info.rate) == (256, 256, 96, 24)
    parameters = clips.script(SAMPLE)
    truth = np.load(DEMO / "infant_truth.npz")
    assert np.array_equal(truth["identity"], parameters[0, heads.IDENTITY])
    for index in (0, 40, 72):
        expected = render.frame(head, parameters[index], 256, 256)[1]
        assert np.allclose(truth["landmarks68"][index], expected.landmarks, atol=1e-2)
        assert np.allclose(truth["rotation"][index], expected.rotation, atol=1e-5)
