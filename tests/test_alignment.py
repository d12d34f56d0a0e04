import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from peekaboo.faces.alignment import LEFT_EYE, MOUTH, RIGHT_EYE, crop, ffhq_pose, outliers, smooth, to_transform


def face(rng, centre=(200, 150), size=60):
    """Landmarks [478, 3] of no face in particular, but with eyes above the mouth."""
    points = rng.normal(0, 0.02, (478, 3))
    points[LEFT_EYE, :2] += [-0.5, -0.4]
    points[RIGHT_EYE, :2] += [0.5, -0.4]
    points[MOUTH, :2] += [[-0.35, 0.6], [0.35, 0.6]]
    return points * size + [*centre, 0]


def similarity(scale, degrees, shift):
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return linear, np.array(shift, float)


def ffhq_quad(points):
    """The corners left top, left bottom, right bottom, right top of the FFHQ scripts, with complex numbers."""
    z = points[:, 0] + 1j * points[:, 1]
    left, right, mouth = z[LEFT_EYE].mean(), z[RIGHT_EYE].mean(), z[MOUTH].mean()
    eye, down = right - left, mouth - (left + right) / 2
    x = eye + (down / 1j)
    x *= max(2.0 * abs(eye), 1.8 * abs(down)) / abs(x)
    y, c = 1j * x, (left + right) / 2 + 0.1 * down
    return np.array([[v.real, v.imag] for v in (c - x - y, c - x + y, c + x + y, c + x - y)])


def smooth_picture(rng, height=300, width=400):
    noise = rng.normal(size=(height, width, 3))
    picture = gaussian_filter(noise, (12, 12, 0))
    picture = (picture - picture.min()) / np.ptp(picture)
    return np.rint(picture * 255).astype(np.uint8)


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("tilt", [0, 35, -170])
def test_square_has_the_corners_of_the_ffhq_scripts(size, tilt):
    points = face(np.random.default_rng(0))
    linear, shift = similarity(1.3, tilt, (20, -10))
    points[:, :2] = points[:, :2] @ linear.T + shift
    transform = to_transform(ffhq_pose(points), size)
    corners = ffhq_quad(points) @ transform[:, :2].T + transform[:, 2]
    edge = size - 0.5
    expected = [[-0.5, -0.5], [-0.5, edge], [edge, edge], [edge, -0.5]]
    np.testing.assert_allclose(corners, expected, atol=1e-3 * size)


def test_a_short_face_is_framed_by_its_eyes_and_a_long_one_by_its_mouth():
    points = face(np.random.default_rng(0), size=100)
    eyes = np.linalg.norm(points[LEFT_EYE, :2].mean(0) - points[RIGHT_EYE, :2].mean(0))
    assert np.exp(ffhq_pose(points)[2]) == pytest.approx(4 * eyes)
    points[MOUTH, 1] += 60
    down = np.linalg.norm(points[MOUTH, :2].mean(0) - points[LEFT_EYE + RIGHT_EYE, :2].mean(0))
    assert np.exp(ffhq_pose(points)[2]) == pytest.approx(3.6 * down)


def test_the_transform_undoes_a_known_similarity():
    points = face(np.random.default_rng(1))
    linear, shift = similarity(0.7, 25, (40, 30))
    moved = points.copy()
    moved[:, :2] = points[:, :2] @ linear.T + shift
    before, after = (to_transform(ffhq_pose(p), 128).astype(np.float64) for p in (points, moved))
    np.testing.assert_allclose(after[:, :2] @ linear, before[:, :2], atol=1e-5)
    np.testing.assert_allclose(after[:, :2] @ shift + after[:, 2], before[:, 2], atol=1e-3)


def test_crop_equals_the_quad_transform_of_the_ffhq_scripts():
    rng = np.random.default_rng(2)
    picture, points = smooth_picture(rng), face(rng, size=30)
    linear, shift = similarity(1, 20, (60, -40))
    points[:, :2] = points[:, :2] @ linear.T + shift
    # In Pillow the centre of the first pixel is at 0.5.
    corners = (ffhq_quad(points) + 0.5).flatten()
    expected = Image.fromarray(picture).transform(
        (128, 128), Image.Transform.QUAD, tuple(corners), Image.Resampling.BILINEAR
    )
    found = crop(picture, to_transform(ffhq_pose(points), 128), 128)
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2


def test_crop_of_whole_pixels_is_a_copy_and_repeats_the_border():
    picture = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    found = crop(picture, np.array([[1, 0, 3], [0, 1, -5]], np.float32), 32)
    np.testing.assert_array_equal(found[:, 3:], picture[5:37, :29])
    np.testing.assert_array_equal(found[:, :3], np.repeat(picture[5:37, :1], 3, axis=1))


def test_shrinking_averages_whole_blocks():
    picture = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blocks = picture.reshape(16, 4, 16, 4, 3).mean((1, 3))
    found = crop(picture, np.array([[0.25, 0, -0.375], [0, 0.25, -0.375]], np.float32), 16)
    assert np.abs(found - blocks).max() <= 1


@pytest.mark.parametrize("shrink", [2.7, 6.3, 13])
def test_shrinking_a_fine_pattern_gives_grey_not_moire(shrink):
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    linear, _ = similarity(1 / shrink, 7, (0, 0))
    offset = np.array([31.5, 31.5]) - linear @ [450, 450]
    found = crop(stripes, np.column_stack([linear, offset]).astype(np.float32), 64)
    assert found.std() < 255 / 2 / shrink
    assert found.mean() == pytest.approx(127.5, abs=1.5)


def test_smoothing_is_the_gaussian_filter_where_motion_is_symmetric():
    times = np.arange(81) - 40
    values = np.stack([np.cos(times / 9), np.sin(times / 5) * 0, np.cos(times / 7) / 10, np.cos(times / 8) / 10], 1)
    found = smooth(values, np.ones(81, bool))
    # At the turning point the local slope is zero.
    assert found[40, 0] == pytest.approx(gaussian_filter1d(values[:, 0], 1)[40], abs=1e-4)
    assert found[40, 2] == pytest.approx(gaussian_filter1d(values[:, 2], 3)[40], abs=1e-4)


def test_smoothing_keeps_steady_motion_exactly_also_at_the_ends_and_beside_gaps():
    n = np.arange(40.0)
    values = np.stack([10 + 7 * n, 300 - 4 * n, 4 + 0.01 * n, 3.0 + 0.05 * n], axis=1)
    values[15:22] = np.nan
    wrapped = values.copy()
    wrapped[:, 3] = np.angle(np.exp(1j * values[:, 3]))
    found = smooth(wrapped, np.ones(40, bool))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    known = ~np.isnan(values[:, 0])
    np.testing.assert_allclose(found[known, :3], values[known, :3], atol=1e-8)
    np.testing.assert_allclose(np.exp(1j * found[known, 3]), np.exp(1j * values[known, 3]), atol=1e-8)


def test_smoothing_takes_shake_out_and_trusts_measured_frames_more():
    rng = np.random.default_rng(5)
    shaken = np.array([200, 150, 5, 0.1]) + rng.normal(size=(200, 4)) * [2, 2, 0.03, 0.03]
    found = smooth(shaken, np.ones(200, bool))
    assert (found.std(0) < shaken.std(0) * [0.7, 0.7, 0.4, 0.4]).all()
    guessed = np.zeros((21, 4))
    guessed[10] = 1
    doubted, trusted = (smooth(guessed, np.arange(21) != n)[10] for n in (10, 0))
    assert (doubted < 0.25 * trusted).all()


def test_a_lone_pose_and_an_absent_track_pass_through():
    values = np.full((9, 4), np.nan)
    np.testing.assert_array_equal(smooth(values, np.zeros(9, bool)), values)
    values[4] = [1, 2, 3, 4]
    np.testing.assert_array_equal(smooth(values, np.ones(9, bool)), values)


def test_outliers_are_jumps_not_motion():
    n = np.arange(30.0)
    steady = np.stack([100 + 6 * n, 80 + 20 * np.sin(n / 4), 4.5 + 0.01 * n, np.pi - 0.2 + 0.02 * n], axis=1)
    steady[:, 3] = np.angle(np.exp(1j * steady[:, 3]))
    assert not outliers(steady).any()
    for column, jump in ((0, 25), (2, -0.2), (3, 0.5)):
        jumping = steady.copy()
        jumping[12, column] += jump
        assert np.flatnonzero(outliers(jumping)).tolist() == [12]
    steady[3] = np.nan
    assert not outliers(steady).any()
