import numpy as np
import pytest
import torch
from golden import Fixture
from torch.nn import functional as F

from peekaboo.faces import alignment
from peekaboo.latent import placement, walk
from peekaboo.latent.frames import Frames
from peekaboo.nets.stylegan3 import Generator

SIZE = 64


def moved(angle, right, down):
    """A placement: turned clockwise by `angle` degrees, shifted by shares of the side."""
    turn = np.radians(angle)
    rows = [[np.cos(turn), -np.sin(turn), right], [np.sin(turn), np.cos(turn), down], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float32)[None]


def test_placements_lead_from_a_face_s_own_crop_to_the_smoothed_one():
    rng = np.random.default_rng(0)
    landmarks = rng.normal(100, 30, (5, 478, 3)).astype(np.float32)
    pose = alignment.ffhq_pose(landmarks)
    smoothed = pose + np.array([3.0, -2.0, 0.0, 0.1]) * rng.normal(size=(5, 4))
    cut = alignment.to_transform(smoothed, SIZE)
    found = placement.placements(landmarks, cut, SIZE)
    own = alignment.to_transform(pose, SIZE)
    points = landmarks[:, :9, :2].astype(np.float64)

    def in_crop(transforms):
        return (points @ transforms[:, :, :2].swapaxes(1, 2) + transforms[:, None, :, 2] - (SIZE - 1) / 2) / SIZE

    expected = in_crop(cut)
    np.testing.assert_allclose(
        in_crop(own) @ found[:, :2, :2].swapaxes(1, 2) + found[:, None, :2, 2], expected, atol=1e-4
    )


def test_a_crop_is_brought_back_to_its_alignment():
    place = moved(0, 8 / SIZE, -4 / SIZE)
    crops = torch.zeros(1, 3, SIZE, SIZE)
    crops[..., 20, 40] = 1
    back = placement.aligned(crops, place)
    assert back[0, 0].argmax().item() == 24 * SIZE + 32 and back.max() == pytest.approx(1, abs=1e-3)
    crops = F.interpolate(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), SIZE, mode="bicubic")
    turned = placement.aligned(crops, moved(20, 0.03, -0.02))
    inner = slice(20, 44)
    again = placement.aligned(turned, torch.linalg.inv(moved(20, 0.03, -0.02)))
    assert (again - crops)[..., inner, inner].abs().max() < 0.02


def test_faces_are_brought_to_where_they_are_wanted():
    rng = np.random.default_rng(1)
    found = rng.normal([0.5, 0.55, -0.3, 2], [0.1, 0.1, 0.1, 3], (9, 4))
    turn = moved(12, 0, 0)[0, :2, :2].numpy().astype(np.float64)
    middle = 1.25 * (found[:, :2] - 0.5) @ turn.T + [0.04, -0.1] + 0.5
    wanted = np.column_stack([middle, found[:, 2:] + [np.log(1.25), 12]])
    expected = np.vstack([np.column_stack([1.25 * turn, [0.04, -0.1]]), [0, 0, 1]])
    np.testing.assert_allclose(placement.between(found, wanted), expected, atol=1e-6)
    # Neither a frame without a face nor one whose mouth opens wide changes what the others need.
    found[2], wanted[5] = np.nan, [0.9, 0.9, 0.4, 40]
    np.testing.assert_allclose(placement.between(found, wanted), expected, atol=1e-6)
    np.testing.assert_array_equal(placement.between(found[2:3], wanted[2:3]), np.eye(3))


def test_doubted_faces_settle_where_faces_usually_are_as_large_and_as_turned():
    rng = np.random.default_rng(3)
    sure = np.array([[0.5, 0.48, 0.02, 3.0], [0.4, 0.5, 0.01, 9.0], [0.6, 0.3, 0.3, -3.0]])
    usual = np.array([0.5, 0.48, 0.02])
    placed = torch.cat([moved(angle, 0.02, -0.03) for angle in (0, 5, -10, 20)]).numpy()
    frames = Frames(placed, [], np.array([True, False, False, False]), None)
    found = np.array([0.5, 0.5, 0, 0]) + rng.uniform(-1, 1, (3, 4)) * [0.1, 0.1, 0.5, 20]
    found[2] = np.nan
    after = walk.settled(frames, np.array([1, 2, 3]), found, sure).placements
    np.testing.assert_array_equal(after[[0, 3]], placed[[0, 3]])
    for n, (across, down, size, _) in zip((1, 2), found[:2], strict=True):
        further = after[n] @ np.linalg.inv(placed[n])
        # Nothing turns; the middle of the square comes to the usual one, and its side to the usual side.
        np.testing.assert_allclose(further[:2, :2], np.exp(usual[2] - size) * np.eye(2), atol=1e-6)
        np.testing.assert_allclose(further @ [across - 0.5, down - 0.5, 1], [*(usual[:2] - 0.5), 1], atol=1e-6)


@pytest.mark.parametrize("place", [moved(0, 0.125, -0.0625), moved(25, 0, 0), moved(-15, 0.05, 0.1)])
def test_the_generator_draws_a_picture_at_its_placement(place):
    fixture = Fixture("stylegan3_r_64")
    generator = Generator(**fixture.constructor).eval()
    generator.load_state_dict(fixture.state_dict(), strict=False)
    with torch.inference_mode():
        ws = generator.mapping(torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(0)))
        still = generator.synthesis(ws)
        drawn = generator.synthesis(ws, transform=placement.transforms(place))
        expected = placement.aligned(still, torch.linalg.inv(place))
    inner = slice(16, 48)
    error, change = ((drawn - other)[..., inner, inner].square().mean().sqrt() for other in (expected, still))
    assert error < 0.15 * change
