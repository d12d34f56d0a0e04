"""The way on which an identity is lost: its slope, and where it is steepest."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from peekaboo.latent.descent import downhill, slopes, strangeness
from peekaboo.latent.frames import Frames
from peekaboo.latent.readings import fit_readings
from peekaboo.nets.residual import FaceEmbedder
from peekaboo.nets.stylegan3 import Generator

SIDE = 16


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    generator = Generator(z_dim=8, w_dim=8, img_resolution=SIDE, channel_base=128, channel_max=16, num_layers=4)
    embedder = FaceEmbedder(widths=[8, 16], dimensions=16, size=SIDE, inner=SIDE)
    return generator.eval().requires_grad_(False), embedder.eval().requires_grad_(False)


def test_the_slope_is_the_change_of_the_mean_cosine_with_a_common_move(networks, monkeypatch):
    generator, embedder = networks
    # Differences of pictures in bfloat16 are too coarse to compare with.
    monkeypatch.setattr("peekaboo.gpu.precision", lambda device: torch.float32)
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5, generator.num_ws * 8)).astype(np.float32)
    placed = np.tile(np.eye(3, dtype=np.float32), (5, 1, 1))
    placed[:, :2, 2] = rng.normal(size=(5, 2)) / 20
    mean = F.normalize(torch.from_numpy(rng.normal(size=16).astype(np.float32)), dim=0)

    def cosine(move):
        latents = torch.from_numpy(rows + move).unflatten(1, (generator.num_ws, -1))
        transform = torch.linalg.inv(torch.from_numpy(placed))
        return float((embedder(generator.synthesis(latents, transform=transform).clamp(-1, 1)) @ mean).mean())

    class Drawn(Frames):
        """Frames in which nothing but the drawn face shows."""

        def shown(self, images, numbers):
            return images

    numbers = np.array([3, 0, 4, 1, 2])
    bare = Drawn(placed, [], np.ones(5, bool), None)
    told = slopes(rows[numbers], numbers, bare, generator, lambda images: [embedder(images) @ mean])
    found = told.mean(0)[0]
    for _ in range(3):
        move = (rng.normal(size=found.shape) / 300).astype(np.float32)
        np.testing.assert_allclose(cosine(move) - cosine(-move), 2 * found @ move, rtol=0.05, atol=1e-5)


def test_downhill_falls_leaves_readings_alone_and_stays_where_latents_are():
    rng = np.random.default_rng(2)
    mixing = rng.normal(size=(12, 60)) * np.linspace(0.2, 2, 12)[:, None]
    random = (rng.normal(size=(500, 12)) @ mixing).astype(np.float32)
    random -= random.mean(0)
    # Fitted to latents that vary otherwise: even so the way never leads uphill.
    others = (rng.normal(size=(400, 12)) * np.linspace(3, 0.1, 12) @ mixing).astype(np.float32)
    readings = fit_readings(others, {"yaw": others @ rng.normal(size=60), "age": others @ rng.normal(size=60)})
    covariance = np.cov(random.T, bias=True)
    for _ in range(20):
        falls = rng.normal(size=60).astype(np.float32)
        way = downhill(falls, random, readings)
        np.testing.assert_allclose(np.linalg.norm(way), 1, rtol=1e-5)
        assert way @ falls < 0
        np.testing.assert_allclose(readings.gradients @ way, 0, atol=1e-3)
        # Among the ways that are clear of the readings none as likely is steeper: minimise slope at equal likelihood.
        root = np.linalg.svd(random, full_matrices=False)[2][:12].T  # where latents are
        inner = np.linalg.inv(root.T @ covariance @ root)
        free = np.linalg.svd(readings.gradients @ root)[2][2:].T
        best = root @ free @ np.linalg.solve(free.T @ inner @ free, -(free.T @ root.T @ falls))
        np.testing.assert_allclose(way, best / np.linalg.norm(best), atol=0.01)


def test_strangeness_is_the_distance_in_standard_deviations():
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(60, 200)) * np.geomspace(3, 0.1, 60)[:, None]
    random = (rng.normal(size=(4000, 60)) @ mixing).astype(np.float32)
    random -= random.mean(0)
    others = (rng.normal(size=(300, 60)) @ mixing).astype(np.float32)
    found = [strangeness(other[None], random) for other in others]
    np.testing.assert_allclose([np.mean(found), strangeness(2 * others[:1], random)], [1, 2 * found[0]], rtol=0.03)
    # It is that of the middle of latents; how they vary around it has no part in it.
    around = others[0] + 5 * np.concatenate([others[1:100], -others[1:100]])
    assert strangeness(around, random) == pytest.approx(found[0], rel=1e-3)
    # Of two latents as far away the one that random latents hardly vary towards is the stranger.
    common, rare = np.linalg.svd(random, full_matrices=False)[2][[0, 12]]
    assert strangeness(rare[None], random) > 1.5 * strangeness(common[None], random)
