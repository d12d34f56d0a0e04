"""What frames show of a drawn face while latents are walked, against what compose puts there in the end."""

import numpy as np
import pytest
import torch

from peekaboo import gpu
from peekaboo.faces import cover
from peekaboo.faces.matting import matted
from peekaboo.latent.frames import Frames, outlines
from peekaboo.stages import compose

HEIGHT, WIDTH, SIDE, X, Y = 120, 160, 80, 40, 20
NOWHERE = np.full((478, 3), np.nan)


@pytest.fixture
def clip():
    """A frame, its crop, cut out by a shift alone, and the box of the face in it."""
    smooth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] * [0.6, 0.3, 0.5] + [20, 60, 40]
    frame = (smooth + np.random.default_rng(1).normal(size=smooth.shape) * 4).round().astype(np.uint8)
    transform = np.array([[1, 0, -X], [0, 1, -Y]], np.float32)
    return frame, transform, frame[Y : Y + SIDE, X : X + SIDE], np.array([65, 40, 95, 80], np.float64)


def frames(clip):
    _, transform, crop, box = clip
    shapes = outlines(NOWHERE[None], box[None], np.array([False]), transform[None])
    return Frames(np.eye(3, dtype=np.float32)[None], shapes, np.array([False]), crop[None].__getitem__)


def test_frames_show_what_compose_puts_there(clip):
    source, transform, _, box = clip
    frame = source.copy()
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shown = gpu.to_crops(frames(clip).shown(images, np.array([0])))[0]
    compose.treat(frame, compose.Face(box, NOWHERE, transform, False, matted(gpu.to_crops(images)[0])), compose.CROP)
    np.testing.assert_array_equal(shown, frame[Y : Y + SIDE, X : X + SIDE])
    changed = (frame != source).any(-1)
    assert changed.mean() > 0.1 and not changed[: Y + 1].any()


def test_gradients_are_those_of_the_drawn_person_under_its_alpha(clip, monkeypatch):
    person = (255 * np.tri(SIDE)).astype(np.uint8)
    monkeypatch.setattr(cover, "matted", lambda crop: np.dstack([crop, person]))
    images = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    weights = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    (frames(clip).shown(images, np.array([0])) * weights).sum().backward()
    _, _, crop, _ = clip
    outline, head = frames(clip).outlines[0]
    alpha = cover.alpha_over(outline, (slice(0, SIDE), slice(0, SIDE)), cover.FEATHER)
    monkeypatch.setattr(cover, "matted", lambda crop: np.dstack([crop, np.full_like(person, 255)]))
    alpha = np.where(alpha < 1, cover.composed(crop, outline, head, crop)[1], 1) * np.tri(SIDE)
    np.testing.assert_allclose(images.grad[0], weights[0] * torch.from_numpy(alpha), rtol=1e-5)
    assert (alpha == 1).any() and (alpha == 0).any() and ((alpha > 0) & (alpha < 1)).any()


def test_the_infants_own_faces_come_in_batches():
    crops = np.random.default_rng(2).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    own = list(Frames(np.zeros((5, 3, 3)), [], np.ones(5, bool), crops.__getitem__).own(2, torch.device("cpu")))
    assert [len(part) for part in own] == [2, 2, 1]
    np.testing.assert_array_equal(gpu.to_crops(torch.cat(own)), crops)
