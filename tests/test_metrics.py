import numpy as np
import pytest
from golden import Fixture
from scipy.spatial.transform import Rotation

from peekaboo import metrics

NAN = np.nan


def test_rotation_angle_matches_the_reference_pairs():
    fixture = Fixture("rotation_metric")
    found = metrics.rotation_angle(fixture.input("rotation_a"), fixture.input("rotation_b"))
    for name in ("angle_degrees", "angle_degrees_arccos", "angle_degrees_atan2"):
        fixture.check(name, found)


@pytest.mark.parametrize("degrees", [0, 1e-7, 1e-3, 1, 45, 90, 179, 179.999, 179.9999999, 180])
def test_rotation_angle_is_accurate_everywhere(degrees):
    rng = np.random.default_rng(0)
    first = Rotation.random(20, random_state=0)
    axes = rng.normal(size=(20, 3))
    turn = Rotation.from_rotvec(np.radians(degrees) * axes / np.linalg.norm(axes, axis=1, keepdims=True))
    second = first * turn
    found = metrics.rotation_angle(first.as_matrix(), second.as_matrix())
    np.testing.assert_allclose(found, degrees, atol=1e-10)
    np.testing.assert_allclose(found, np.degrees((first.inv() * second).magnitude()), atol=1e-6)


def test_rotation_angle_of_a_missing_rotation_is_missing():
    rotations = np.stack([np.eye(3), np.full((3, 3), NAN)])
    np.testing.assert_array_equal(metrics.rotation_angle(rotations, np.eye(3)), [0, NAN])


def test_cosine_and_distance_by_hand():
    a, b = np.array([[3.0, 4.0], [1.0, 0.0], [NAN, 1.0]]), np.array([[4.0, 3.0], [0.0, 2.0], [1.0, 1.0]])
    np.testing.assert_allclose(metrics.cosine(a, b), [0.96, 0, NAN])
    np.testing.assert_allclose(metrics.distance(a, b), [2**0.5, 5**0.5, NAN])


def test_missing_frames_are_left_out_and_counted():
    assert metrics.rmse(np.array([0, 1, NAN, 5]), np.array([3, 5, 1, NAN])) == (12.5**0.5, 2, None)
    assert metrics.mean(np.array([1, NAN, 3])) == (2.0, 2, None)
    assert metrics.mean(np.array([NAN]), "nothing there") == (None, 0, "nothing there")
    assert metrics.mean(np.array([])).value is None


def test_share_and_expression_kept_by_hand():
    found = np.array([True, False, True, True])
    assert metrics.share(found, np.array([True, True, True, False]), "none").value == pytest.approx(2 / 3)
    assert metrics.share(found, np.zeros(4, bool), "none") == (None, 0, "none")
    original = np.array(["smile", "cry", "", "yawn"], object)
    anonymized = np.array(["smile", "smile", "smile", ""], object)
    assert metrics.expression_kept(original, anonymized) == (0.5, 2, None)


def test_landmark_error_is_relative_to_the_eyes_and_ignores_depth():
    original = np.random.default_rng(0).normal(size=(2, 478, 3)) * 100
    original[:, 33], original[:, 263] = (0, 0, 0), (30, 40, 7)
    moved = original + np.array([3, 4, 1000])
    moved[1] = NAN
    np.testing.assert_allclose(metrics.landmark_error(original, moved), [0.1, NAN])
    # Whatever the scale.
    np.testing.assert_allclose(metrics.landmark_error(7 * original, 7 * moved), [0.1, NAN])


def consistency(seconds, embeddings, tracks=None, confidence=None):
    n, embeddings = len(seconds), np.asarray(embeddings, float)
    tracks = np.zeros(n, int) if tracks is None else np.asarray(tracks)
    confidence = np.ones(n) if confidence is None else np.asarray(confidence, float)

    def cosines(first, second):
        return metrics.cosine(embeddings[first], embeddings[second])

    return metrics.temporal_consistency(cosines, np.asarray(seconds, float), tracks, confidence)


def directions(degrees):
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_consistency_pairs_frames_three_seconds_apart():
    # 10 frames per second, turning 1 degree per frame: partners are 30 frames, so 30 degrees, apart.
    value, count, _ = consistency(np.arange(50) / 10, directions(np.arange(50)))
    assert value == pytest.approx(np.cos(np.radians(30)))
    assert count == 20


def test_consistency_goes_by_time_stamps_not_frame_numbers():
    # Half the clip at 30, half at 10 frames per second; the embedding turns 10 degrees per second.
    seconds = np.concatenate([np.arange(0, 2, 1 / 30), np.arange(2, 6, 1 / 10)])
    value, count, _ = consistency(seconds, directions(10 * seconds))
    assert value == pytest.approx(np.cos(np.radians(30)), abs=0.005)
    assert count == (seconds <= seconds[-1] - 3).sum()


def test_consistency_weights_by_the_product_of_both_confidences():
    # Pairs at 0-3, 1-4, 2-5 s with cosines 1, 0 and -1.
    embeddings = directions([0, 0, 0, 0, 90, 180])
    value, count, _ = consistency(range(6), embeddings, confidence=[0.5, 1, 1, 1, 0.5, 0.25])
    assert value == pytest.approx((0.5 * 1 + 0.5 * 0 - 0.25) / 1.25)
    assert count == 3
    value, count, _ = consistency(range(6), embeddings, confidence=[1, 0, 1, 1, 1, 0])
    assert (value, count) == (pytest.approx(1), 1)


def test_consistency_never_pairs_two_tracks():
    seconds = [0, 0, 3, 3]
    value, count, _ = consistency(seconds, directions([0, 90, 0, 90]), tracks=[0, 1, 0, 1])
    assert (value, count) == (pytest.approx(1), 2)


def test_consistency_skips_gaps_and_says_why_it_is_missing():
    value, count, reason = consistency([0, 1, 2, 2.8], directions([0, 0, 0, 0]))
    assert (value, count) == (None, 0)
    assert reason == "no track has two frames 3 s apart"
    # A partner 3.5 s later is none.
    assert consistency([0, 1, 3.5], directions([0, 0, 0])).value is None
    assert consistency([0], directions([0])).value is None
    *_, reason = consistency([0, 3], directions([0, 0]), confidence=[1, 0])
    assert reason == "in no pair of frames 3 s apart was a face found in both"
