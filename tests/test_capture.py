from pathlib import Path

import numpy as np
import pytest

from peekaboo.synth import capture

# A rendered infant's landmarks in a frame of 256 px, looking at the camera.
LANDMARKS = np.load(Path(__file__).parents[1] / "resources" / "demo" / "infant_truth.npz")["landmarks68"][0]
EYES, MOUTH = LANDMARKS[36:48], LANDMARKS[48:68]


def grey(value=128, size=256):
    return np.full((size, size, 3), value, np.uint8)


def at(array, points):
    x, y = np.rint(points).astype(int).T
    return array[y, x]


def test_a_pacifier_hides_the_mouth_and_no_eye():
    for seed in range(5):
        _, opacity = capture.occluded(grey(), LANDMARKS, "pacifier", np.random.default_rng(seed))
        assert at(opacity, MOUTH).mean() > 0.8
        assert at(opacity, EYES).max() == 0


@pytest.mark.parametrize("kind", capture.OCCLUDERS)
def test_what_is_opaque_hides_all_and_what_is_far_stays(kind):
    parts = capture.occluder(kind, np.random.default_rng(2), np.array([200, 150, 120]))
    matrix = capture.placement(kind, LANDMARKS, (0.0, 0.0), 0.3, 1.0)
    (dark, opacity), (light, same) = (capture.cover(grey(value), parts, matrix) for value in (60, 200))
    assert np.array_equal(opacity, same)
    assert 0.005 < opacity.mean() < 0.6
    assert np.array_equal(dark[opacity == 1], light[opacity == 1])
    assert np.ptp(dark[opacity == 1].astype(int), axis=0).max() > 30
    # A shadow reaches a little beyond the rim, and darkens only.
    outside = opacity == 0
    assert (light[outside] <= 200).all() and (light[outside] == 200).mean() > 0.5


@pytest.mark.parametrize("kind", capture.OCCLUDERS)
def test_things_look_the_same_at_any_size(kind):
    small, large = (
        capture.occluded(grey(size=256 * factor), (LANDMARKS + 0.5) * factor - 0.5, kind, np.random.default_rng(3))[1]
        for factor in (1, 3)
    )
    shrunk = large.reshape(256, 3, 256, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 0.01


def test_things_turn_and_move_with_the_face():
    cosine, sine = np.cos(0.5), np.sin(0.5)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    turned = (LANDMARKS - 128) @ turn.T + 128
    first, second = (capture.placement("hand", marks, (0.5, -0.2), 0.1, 1.2) for marks in (LANDMARKS, turned))
    assert np.allclose(turn @ first[:, :2], second[:, :2], atol=1e-4)
    assert np.allclose(turn @ (first[:, 2] - 128) + 128, second[:, 2], atol=1e-3)


def test_visibility_is_the_share_of_the_hull_that_shows():
    angles = np.arange(68) * 2 * np.pi / 68
    circle = 100 + 60 * np.stack([np.cos(angles), np.sin(angles)], 1)
    opacity = np.zeros((200, 200), np.float32)
    assert capture.visibility(circle, opacity) == 1
    opacity[:, :100] = 1
    assert capture.visibility(circle, opacity) == pytest.approx(0.5, abs=0.01)
    # A circle cut off at half its radius: the segment of 120 degrees.
    opacity[:, :100] = 0
    opacity[:, 130:] = 0.5
    segment = (np.pi / 3 - np.sqrt(3) / 4) / np.pi
    assert capture.visibility(circle, opacity) == pytest.approx(1 - segment / 2, abs=0.01)
    assert capture.visibility(circle + 500, opacity) == 0


def test_motion_blur_draws_a_point_out_to_a_line():
    image = np.zeros((101, 101, 3), np.uint8)
    image[50, 50] = 255
    for length, angle in ((12.0, 0.0), (17.0, 0.6), (9.0, 2.0)):
        found = capture.smeared(image, length, angle)[..., 0].astype(float)
        y, x = np.mgrid[-50:51, -50:51]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        weight = found / found.sum()
        assert found.sum() == pytest.approx(255, rel=0.15)
        assert np.sqrt(12 * (weight * along**2).sum()) == pytest.approx(length, rel=0.15)
        assert np.sqrt((weight * across**2).sum()) < 0.7


@pytest.mark.parametrize("level", [2.0, 8.0])
def test_noise_has_its_level_at_middle_grey_and_grows_with_the_light(level):
    rng = np.random.default_rng(0)
    spread = {value: capture.noisy(grey(value), level, rng).astype(float).std() for value in (40, 128, 210)}
    assert spread[128] == pytest.approx(level, rel=0.05)
    assert spread[40] < spread[128] < spread[210]
    assert capture.noisy(grey(), level, rng).astype(float).mean() == pytest.approx(128, abs=0.2)


def test_stronger_compression_and_fewer_pixels_lose_more():
    room = capture.playroom(160, 128, np.random.default_rng(0))
    loss = [np.abs(capture.compressed(room, quality).astype(float) - room).mean() for quality in (90, 50, 15)]
    assert loss == sorted(loss) and loss[0] < 2
    loss = [np.abs(capture.coarse(room, share).astype(float) - room).mean() for share in (0.9, 0.5, 0.2)]
    assert loss == sorted(loss)
    assert np.array_equal(capture.coarse(grey(), 0.4), grey())


def test_rooms_follow_from_the_seed_and_playrooms_are_cluttered():
    for background in (capture.plain, capture.playroom):
        first, again, other = (background(200, 120, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert first.shape == (120, 200, 3) and first.dtype == np.uint8
        assert np.array_equal(first, again) and not np.array_equal(first, other)

    def clutter(background):
        rooms = [background(200, 120, np.random.default_rng(seed)).astype(float) for seed in range(8)]
        return np.mean([np.abs(np.diff(room, axis=1)).mean() for room in rooms])

    assert clutter(capture.playroom) > 3 * clutter(capture.plain)


@pytest.mark.parametrize("size", [64, 128, 200])
def test_recorded_crops_have_the_size_of_the_drawn_ones_and_follow_from_the_seed(size):
    image = capture.playroom(size, size, np.random.default_rng(0))
    kept, marks = image.copy(), LANDMARKS * size / 256
    for seed in range(20):
        first, again = (capture.captured(image, marks, np.random.default_rng(seed)) for _ in range(2))
        assert first.shape == image.shape and first.dtype == np.uint8
        assert np.array_equal(first, again) and not np.shares_memory(first, image)
    assert np.array_equal(image, kept)


def test_three_in_ten_recorded_crops_have_something_before_the_face(monkeypatch):
    image, rng = capture.playroom(64, 64, np.random.default_rng(0)), np.random.default_rng(1)
    kinds, occluded = [], capture.occluded

    def counting(image, landmarks, kind, rng):
        kinds.append(kind)
        return occluded(image, landmarks, kind, rng)

    monkeypatch.setattr(capture, "occluded", counting)
    same = [np.array_equal(capture.captured(image, LANDMARKS / 4, rng), image) for _ in range(600)]
    assert len(kinds) / 600 == pytest.approx(0.3, abs=0.06)
    assert set(kinds) == set(capture.OCCLUDERS)
    assert 0.1 < np.mean(same) < 0.2
