"""What a walk is to leave alone: read off pictures, fitted to latents, and brought back where it was lost."""

import argparse

import numpy as np
import torch

from peekaboo.judges.landmarks import Mesh
from peekaboo.latent.readings import POSE, fit_readings, surroundings, turned
from peekaboo.latent.scorers import amplified
from peekaboo.stages import traverse


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


def test_what_sets_frames_apart_is_amplified_but_for_the_pose():
    latents, values = faces(np.random.default_rng(4))
    pose = fit_readings(latents, {"yaw": values["yaw"]}, ridge=1e-4)
    mean = latents.mean(0)
    louder = amplified(latents, mean, 1.5, pose)
    gradient = pose.gradients[0]
    np.testing.assert_allclose(louder @ gradient, latents @ gradient, atol=1e-3)
    np.testing.assert_allclose(louder.mean(0), mean, atol=1e-3)
    age = fit_readings(latents, {"age": values["age"]}, ridge=1e-4).gradients[0]
    np.testing.assert_allclose(np.std(louder @ age) / np.std(latents @ age), 1.5, atol=0.02)
    np.testing.assert_array_equal(amplified(latents, mean, 1.0, pose), latents)


def test_surroundings_are_above_and_beside_the_head():
    images = torch.rand(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    colours = torch.tensor([[-0.5, 0.25, 1.0], [0.0, 0.5, -1.0]])
    around = torch.ones(60, 60, dtype=torch.bool)
    around[6:30, 5:55] = around[30:] = False
    images[:, :, around] = colours[..., None]
    found = surroundings(images)
    np.testing.assert_allclose(torch.stack([found[name] for name in ("red", "green", "blue")], 1), colours, atol=1e-6)


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
    found = turned(images, Mesh())
    assert tuple(found) == POSE
    assert all(np.isnan(value).all() for value in found.values())


class World:
    """A generator, a reader and an identity network in one: pictures are a row of numbers, bent functions of 20 entries
    of the latents; the first two are the pose, the others the identity.
    """

    num_ws, z_dim, w_dim = 2, 10, 10

    def __init__(self, bend=0.3):
        rng = np.random.default_rng(7)
        self.mixing = torch.from_numpy(rng.normal(size=(20, 15)).astype(np.float32) / 4)
        self.bend = bend
        self.mapping = self
        self.w_avg = torch.zeros(10)

    def __call__(self, z, truncation_psi):
        return truncation_psi * z[:, None].expand(-1, 2, -1)

    def synthesis(self, latents, dtype, transform=None):
        straight = latents.flatten(1) @ self.mixing
        images = (straight + self.bend * straight.roll(1, 1) ** 2) / 8
        return images[:, None, None]

    def read(self, images):
        return {name: 8 * images[:, 0, 0, i].double().numpy() for i, name in enumerate(POSE)}

    def embed(self, images):
        return torch.nn.functional.normalize(images[:, 0, 0, 2:], dim=1)


SETTINGS = argparse.Namespace(rounds=3, batch=16)


def test_what_the_walk_changed_is_taken_back_and_the_identity_is_not():
    world, rng = World(), np.random.default_rng(8)
    frames = rng.normal(size=(40, 20)).astype(np.float32)
    walked = frames + 1.5 * rng.normal(size=20).astype(np.float32) + 0.5 * rng.normal(size=(40, 20)).astype(np.float32)
    placed = np.tile(np.eye(3, dtype=np.float32), (40, 1, 1))

    def pictures(latents):
        return list(traverse.drawn(latents, placed, world, 16))

    def off(latents):
        readings = (traverse.seen(pictures(each), world, world.read)[0] for each in (frames, latents))
        wanted, found = readings
        return [np.sqrt(np.mean((wanted[name] - found[name]) ** 2)) for name in POSE]

    held, costs = traverse.hold(walked, placed, pictures(frames), world, world, world.read, SETTINGS, 0)
    assert 2 <= len(costs) <= 4 and costs == sorted(costs, reverse=True)
    before, after = off(walked), off(held)
    assert costs[-1] < 0.3 * costs[0]
    assert max(after) < 0.3 * min(before)
    # No way back to the infant.
    embeddings = [traverse.seen(pictures(each), world, world.read)[1] for each in (frames, walked, held)]
    mean = embeddings[0].mean(0) / np.linalg.norm(embeddings[0].mean(0))
    assert ((embeddings[2] - embeddings[1]) @ mean).mean() < 0.05
    again, _ = traverse.hold(walked, placed, pictures(frames), world, world, world.read, SETTINGS, 0)
    np.testing.assert_array_equal(again, held)


def test_a_round_that_brings_nothing_is_not_kept():
    world, rng = World(), np.random.default_rng(9)
    walked = rng.normal(size=(30, 20)).astype(np.float32)
    placed = np.tile(np.eye(3, dtype=np.float32), (30, 1, 1))
    faces = list(traverse.drawn(walked, placed, world, 16))
    held, costs = traverse.hold(walked, placed, faces, world, world, world.read, SETTINGS, 0)
    assert costs == [0]
    np.testing.assert_array_equal(held, walked)
    none = argparse.Namespace(rounds=0, batch=16)
    held, costs = traverse.hold(walked, placed, [], world, world, world.read, none, 0)
    assert held is walked and costs == []


def test_a_step_that_loses_a_face_is_not_taken():
    world, rng = World(), np.random.default_rng(10)
    frames = rng.normal(size=(40, 20)).astype(np.float32)
    walked = frames + 1.5 * rng.normal(size=20).astype(np.float32)
    placed = np.tile(np.eye(3, dtype=np.float32), (40, 1, 1))
    faces = list(traverse.drawn(frames, placed, world, 16))
    asked = []

    def read(images):
        asked.append(images)
        found = world.read(images)
        # The frames' own faces are seen, latents around the walked ones and these too; whatever is moved is not.
        if len(asked) > 3 + 16 + 3:
            found["yaw"][:] = np.nan
        return found

    held, costs = traverse.hold(walked, placed, faces, world, world, read, SETTINGS, 0)
    assert len(costs) == 1
    np.testing.assert_array_equal(held, walked)
    # Once for a whole step, once for half and once for a quarter.
    assert len(asked) == 3 + 16 + 3 + 3 * 3
