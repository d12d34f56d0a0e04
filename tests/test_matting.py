"""The matte of crops, against heads whose silhouettes are known."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from peekaboo.faces import matting
from peekaboo.faces.matting import matted
from peekaboo.synth import head as heads
from peekaboo.synth import render

MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_facekit.npz"


def test_a_matte_is_where_another_room_changes_nothing():
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    model, agreed, mistaken = heads.load(MODEL), [], []
    for parameters in heads.sample(np.random.default_rng(0), 12):
        elsewhere = parameters.copy()
        elsewhere[heads.PARAMETERS["background"]] *= -1
        crop, other = (render.aligned(model, p, 128)[0] for p in (parameters, elsewhere))
        found = matted(crop)
        np.testing.assert_array_equal(found[..., :3], crop)
        person, room = found[..., 3] >= 128, (crop != other).any(-1)
        agreed.append((person != room).mean())
        mistaken.append(person[room].mean())
    assert np.mean(agreed) > 0.95 and min(agreed) > 0.9
    # As segmented, 0.058 of the room would count as a person.
    assert np.mean(mistaken) < 0.025


def test_what_is_half_taken_for_a_person_or_stands_apart_is_none(monkeypatch):
    """A head on shoulders with a hole in the neck, a veil beside it, and a bright patch of the room."""
    y, x = np.mgrid[:128, :128]
    head, shoulders = np.hypot(x - 64, y - 64) < 30, (y > 85) & (np.abs(x - 64) < 40)
    hole, patch = np.hypot(x - 64, y - 98) < 7, np.hypot(x - 14, y - 30) < 10
    seen = np.where((head | shoulders) & ~hole | patch, 0.95, np.where(x > 64, 0.6, 0.0)).astype(np.float32)
    network = SimpleNamespace(process=lambda crop: SimpleNamespace(segmentation_mask=seen))
    monkeypatch.setattr(matting, "_segmentation", lambda: network)
    found = matted(np.zeros((128, 128, 3), np.uint8))[..., 3]
    own = ((head | shoulders) * 255).astype(np.uint8)
    assert (found[cv2.erode(own, np.ones((13, 13))) > 0] == 255).all()
    assert (found[cv2.dilate(own, np.ones((3, 3))) == 0] < 64).all() and found[patch].max() == 0


def test_a_head_has_no_notch_where_the_segmentation_is_not_sure_of_a_brow(monkeypatch):
    """A head on shoulders, wider than it, the left of whose crown is in doubt."""
    y, x = np.mgrid[:128, :128]
    head, shoulders = np.hypot(x - 64, y - 60) < 34, (y > 80) & (np.abs(x - 64) < 60)
    seen = np.where(head | shoulders, np.where(head & (np.hypot(x - 40, y - 40) < 9), 0.5, 0.95), 0).astype(np.float32)
    network = SimpleNamespace(process=lambda crop: SimpleNamespace(segmentation_mask=seen))
    monkeypatch.setattr(matting, "_segmentation", lambda: network)
    found = matted(np.zeros((128, 128, 3), np.uint8))[..., 3]
    assert (found[np.hypot(x - 64, y - 60) < 26] == 255).all()
    assert found[(np.abs(x - 64) > 40) & (y < 75)].max() == 0  # the shoulders have no part in it


@pytest.mark.parametrize("side", [32, 128])
def test_a_crop_in_which_no_person_is_seen_is_kept_whole(side):
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert (matted(noise)[..., 3] == 255).all()
