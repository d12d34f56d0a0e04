"""The matte of crops, against heads whose silhouettes are known."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from peekaboo.faces import matting
from peekaboo.faces.matting import matted, trimmed
from peekaboo.judges.landmarks import REGION, Mesh
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


def oval(nose: float) -> np.ndarray:
    """Landmarks that fill an oval, 40 pixels wide and 60 high, around (64, 64), the nose tip so far to the right."""
    angle, radius = np.random.default_rng(0).uniform([0, 0], [2 * np.pi, 1], (478, 2)).T
    points = np.stack([64 + 20 * radius * np.cos(angle), 64 + 30 * radius * np.sin(angle), 0 * angle], 1)
    around = 2 * np.pi * np.arange(100) / 100
    points[100:200, :2] = np.stack([64 + 20 * np.cos(around), 64 + 30 * np.sin(around)], 1)
    points[matting.NOSE, 0], points[matting.LIPS, 1] = 64 + nose, 80
    return points


@pytest.mark.parametrize(("nose", "left", "right"), [(0, 7, 7), (10, 23.6, 0.9), (-10, 0.9, 23.6), (20, 44, 0)])
def test_a_head_ends_with_its_face_beneath_the_mouth_and_beside_it_as_heads_do(nose, left, right):
    crop = np.full((128, 128, 4), 255, np.uint8)
    found = trimmed(crop, oval(nose))
    assert (found[..., :3] == 255).all()
    y, x = np.mgrid[:128, :128]
    kept = found[..., 3] >= 128
    for row in (5, 64, 76):
        columns = np.flatnonzero(kept[row])
        assert columns.min() == pytest.approx(max(0, 44 - left), abs=4)
        assert columns.max() == pytest.approx(84 + right, abs=4)
    beneath = y > 84
    face = ((x - 64) / 20) ** 2 + ((y - 64) / 30) ** 2 <= 1
    assert kept[beneath & face].all() and not kept[beneath & (np.hypot((x - 64) / 25, (y - 64) / 35) > 1)].any()


def test_where_no_face_is_found_nothing_is_trimmed():
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    assert trimmed(crop, np.full((478, 3), np.nan)) is crop


def test_of_rendered_heads_hardly_more_than_neck_and_clothes_is_trimmed():
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    model, mesh, above, beneath = heads.load(MODEL), Mesh(), [], []
    for parameters in heads.sample(np.random.default_rng(0), 12):
        crop = matted(render.aligned(model, parameters, 128)[0])
        landmarks = mesh.in_crops(crop[None, ..., :3])[0] * (128 / REGION)
        left = trimmed(crop, landmarks)[..., 3].astype(int)
        if np.isfinite(landmarks).all():
            chin, lips = round(landmarks[:, 1].max()), round(landmarks[matting.LIPS, 1].mean())
            above.append(left[:lips].sum() / crop[:lips, ..., 3].sum(dtype=int))
            beneath.append(left[chin + 6 :].sum() / max(1, crop[chin + 6 :, ..., 3].sum(dtype=int)))
    assert len(above) >= 10
    assert np.mean(above) > 0.97 and max(beneath) < 0.05
