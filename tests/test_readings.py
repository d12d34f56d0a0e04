"""What a walk is to leave alone: read off pictures, fitted to latents."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from peekaboo import gpu, media
from peekaboo.faces import alignment
from peekaboo.judges.landmarks import Mesh
from peekaboo.latent.readings import (
    COMPLEXION,
    OPENINGS,
    PLACE,
    POSE,
    complexion,
    fit_readings,
    meshed,
    openings,
    shapes,
    surroundings,
)

DEMO = Path(__file__).parents[1] / "resources" / "demo" / "infant.mp4"


def faces(rng, count=400):
    """Latents of 60 entries that 12 hidden ones make, and two readings of these."""
    hidden = rng.normal(size=(count, 12))
    latents = (hidden @ np.random.default_rng(5).normal(size=(12, 60))).astype(np.float32)
    return latents, {"yaw": 3 * hidden[:, 0] + 9, "age": hidden[:, 1] - hidden[:, 2]}


def test_a_walk_that_is_clear_of_readings_leaves_them_as_they_are():
    rng = np.random.default_rng(2)
    latents, values = faces(rng)
    readings = fit_readings(latents, values, ridge=1e-4)
    assert readings.names == ("yaw", "age")
    fresh, told = faces(rng, 1000)
    # The gradients are those of the standardised readings.
    for gradient, name in zip(readings.gradients, readings.names, strict=True):
        assert np.corrcoef(fresh @ gradient, told[name])[0, 1] > 0.999
        np.testing.assert_allclose(np.std(fresh @ gradient), 1, atol=0.1)
    moves = fresh[:50] - fresh[50:100]
    cleared = readings.clear(moves)
    before, after = (np.abs(each @ readings.gradients.T).max() for each in (moves, cleared))
    assert after < 1e-4 * before
    # What is taken is made of the same 12 hidden entries: latents stay among those that the generator knows.
    basis = np.linalg.svd(latents, full_matrices=False)[2][:12]
    np.testing.assert_allclose(cleared @ basis.T @ basis, cleared, atol=1e-3)
    assert np.linalg.norm(cleared) > 0.7 * np.linalg.norm(moves)
    # Clear of one reading alone, the other changes as before.
    yaw = readings.only(("yaw", "roll"))
    assert yaw.names == ("yaw",)
    assert np.abs(yaw.clear(moves) @ readings.gradients[0]).max() < 1e-4 * before


def test_readings_that_are_missing_or_alike_are_left_out():
    latents, values = faces(np.random.default_rng(3))
    gaps = values["age"].copy()
    gaps[::3] = np.nan
    unseen = np.where(np.arange(len(gaps)) < 100, gaps, np.nan)
    found = fit_readings(latents, {"yaw": values["yaw"], "age": gaps, "pitch": unseen, "sex": np.ones(len(gaps))})
    assert found.names == ("yaw", "age")
    kept = np.isfinite(gaps)
    same = fit_readings(latents[kept], {"yaw": values["yaw"][kept], "age": gaps[kept]})
    np.testing.assert_allclose(found.gradients, same.gradients, rtol=1e-5)
    none = fit_readings(latents, {"pitch": unseen})
    assert none.names == () and none.gradients.shape == (0, 60)
    np.testing.assert_array_equal(none.clear(latents), latents)


def test_surroundings_are_above_and_beside_the_head():
    images = torch.rand(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    colours = torch.tensor([[-0.5, 0.25, 1.0], [0.0, 0.5, -1.0]])
    around = torch.ones(60, 60, dtype=torch.bool)
    around[6:30, 5:55] = around[30:] = False
    images[:, :, around] = colours[..., None]
    found = surroundings(images)
    np.testing.assert_allclose(torch.stack([found[name] for name in ("red", "green", "blue")], 1), colours, atol=1e-6)


def test_complexion_is_the_colour_of_forehead_face_and_neck():
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    colours = torch.linspace(-1, 1, 18).reshape(2, 3, 3)  # of each image's parts
    for part, rows in enumerate((slice(7, 13), slice(24, 30), slice(40, 45))):
        images[:, :, rows, 16:32] = colours[:, part, :, None, None]
    found = complexion(images)
    np.testing.assert_allclose(torch.stack([found[name] for name in COMPLEXION], 1), colours.flatten(1), atol=1e-6)


def test_how_far_a_mouth_and_eyes_are_open():
    rng = np.random.default_rng(1)
    landmarks = rng.normal(size=(3, 478, 3))
    landmarks[:, 33], landmarks[:, 263] = [-2, 0, 0], [2, 0, 0]
    landmarks[:, 13], landmarks[:, 14] = [0, 3, 0], [[0, 3, 0], [0, 5, 0], [0, 5, 0]]
    landmarks[:, 159], landmarks[:, 145] = [-1, 0, 0], [[-1, 1, 0], [-1, 0, 0], [-1, 0, 0]]
    landmarks[2] = np.nan
    # Neither a turned nor a nearer head opens them.
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    for heads in (landmarks, 3 * landmarks @ turn + [7, 8, 9]):
        found = openings(heads)
        np.testing.assert_allclose(found["mouth_open"], [0, 0.5, np.nan], atol=1e-9)
        np.testing.assert_allclose(found["left_eye_open"], [0.25, 0, np.nan], atol=1e-9)
    # As the face mesh sees them in the sample clip: at rest, blinking and crying.
    frames = list(islice(media.frames(DEMO), 49))
    found = meshed(gpu.to_images(np.stack([frames[n] for n in (5, 9, 48)]), torch.device("cpu")), Mesh())
    np.testing.assert_array_equal(found["mouth_open"] > 0.08, [False, False, True])
    for side in ("left", "right"):
        np.testing.assert_array_equal(found[f"{side}_eye_open"] > 0.08, [True, False, False])


def test_shapes_are_the_same_wherever_a_face_is_and_however_large_and_upright():
    rng = np.random.default_rng(3)
    found = rng.normal(size=(2, 478, 3))
    left, right = (found[:, eye, :2].mean(1) for eye in (alignment.LEFT_EYE, alignment.RIGHT_EYE))
    seen_from = shapes(found)
    np.testing.assert_allclose(seen_from[:, alignment.LEFT_EYE].mean(1), [[-0.5, 0]] * 2, atol=1e-9)
    np.testing.assert_allclose(seen_from[:, alignment.RIGHT_EYE].mean(1), [[0.5, 0]] * 2, atol=1e-9)
    nose = np.linalg.norm(found[:, 4, :2] - (left + right) / 2, axis=1) / np.linalg.norm(right - left, axis=1)
    np.testing.assert_allclose(np.linalg.norm(seen_from[:, 4], axis=1), nose)
    moved = found.copy()
    moved[..., :2] = 3 * found[..., :2] @ [[0.6, 0.8], [-0.8, 0.6]] + [5, -7]
    np.testing.assert_allclose(shapes(moved), seen_from, atol=1e-9)
    assert np.isnan(shapes(np.full((1, 478, 3), np.nan))).all()


def test_moves_are_the_update_of_a_kalman_filter():
    rng = np.random.default_rng(6)
    hidden, noise = rng.normal(size=(20000, 3)) * [3, 1, 0.5], 0.4 * rng.normal(size=20000)
    latents = hidden.astype(np.float32)
    values = {"yaw": hidden[:, 0] + hidden[:, 1], "age": hidden[:, 1] + noise}
    readings = fit_readings(latents[:2000], {name: value[:2000] for name, value in values.items()}, ridge=1e-6)
    h = np.array([[1, 1, 0], [0, 1, 0]], float)
    covariance, error = np.diag([9, 1, 0.25]), np.diag([0, 0.16])
    expected = covariance @ h.T @ np.linalg.inv(h @ covariance @ h.T + error)
    np.testing.assert_allclose((readings.moves() / readings.scales[:, None]).T, expected, atol=0.06)
    np.testing.assert_allclose(readings.noise, [0, 0.16 / 1.16], atol=0.02)
    # Beyond a standard deviation a linear function is not believed.
    off = readings.standardised({"yaw": np.array([100.0, -100.0, 0.0]), "age": np.array([0, 0, np.nan])}, 1)
    np.testing.assert_array_equal(off, [[1, 0], [-1, 0], [0, np.nan]])


def test_no_pose_is_read_where_there_is_no_face():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = meshed(images, Mesh())
    assert tuple(found) == (*POSE, *PLACE, *OPENINGS)
    assert all(np.isnan(value).all() for value in found.values())


def test_where_a_face_is_and_how_large():
    frame = next(media.frames(DEMO))
    side = frame.shape[0]
    moved = []
    for zoom, right, down, clockwise in ((1, 0, 0, 0), (1, 0.05, -0.03, 0), (0.85, 0, 0, 0), (1, 0, 0, 5)):
        # OpenCV turns the other way.
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -clockwise, zoom)
        matrix[:, 2] += right * side, down * side
        moved.append(cv2.warpAffine(frame, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE))
    found = meshed(gpu.to_images(np.stack(moved), torch.device("cpu")), Mesh())
    np.testing.assert_allclose(found["across"][1] - found["across"][0], 0.05, atol=0.01)
    np.testing.assert_allclose(found["down"][1] - found["down"][0], -0.03, atol=0.01)
    np.testing.assert_allclose(found["size"] - found["size"][0], [0, 0, np.log(0.85), 0], atol=0.03)
    np.testing.assert_allclose(found["roll"][3] - found["roll"][0], 5, atol=1)
