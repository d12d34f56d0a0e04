"""Heads cut out of their crops, and their necks, against shapes and renders that are known."""

from pathlib import Path

import numpy as np
import pytest

from peekaboo.faces import cover, cutout
from peekaboo.faces.cutout import crowned, necked, trimmed
from peekaboo.faces.matting import matted
from peekaboo.judges.landmarks import REGION, Mesh
from peekaboo.synth import head as heads
from peekaboo.synth import render

MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_facekit.npz"


def oval(nose: float) -> np.ndarray:
    """Landmarks that fill an oval, 40 pixels wide and 60 high, around (64, 64), the nose tip so far to the right."""
    angle, radius = np.random.default_rng(0).uniform([0, 0], [2 * np.pi, 1], (478, 2)).T
    points = np.stack([64 + 20 * radius * np.cos(angle), 64 + 30 * radius * np.sin(angle), 0 * angle], 1)
    around = 2 * np.pi * np.arange(100) / 100
    points[100:200, :2] = np.stack([64 + 20 * np.cos(around), 64 + 30 * np.sin(around)], 1)
    points[cover.NOSE, 0], points[cutout.LIPS, 1] = 64 + nose, 80
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


@pytest.mark.parametrize("turn", [-8, 0, 8])
def test_a_neck_in_the_cheeks_colour_stands_behind_the_head_whichever_way_it_is_turned(turn):
    y, x = np.mgrid[:128, :128]
    head = ((x - 64) / 20) ** 2 + ((y - 64) / 30) ** 2 <= 1
    crop = np.where(head[..., None], np.uint8([200, 150, 100, 255]), np.uint8([0, 255, 0, 0]))
    landmarks = oval(0)
    landmarks[cover.CHEEKS, :2] = [[54 + turn, 64], [74 + turn, 64]]
    found = necked(crop, landmarks).astype(int)
    np.testing.assert_array_equal(found[:72], crop[:72])
    np.testing.assert_array_equal(found[head], crop[head])
    # The oval is 40 pixels wide.
    columns = np.flatnonzero(found[110, :, 3] >= 128)
    assert (columns.min(), columns.max()) == pytest.approx((64 + turn - 12.4, 63 + turn + 12.4), abs=1)
    np.testing.assert_array_equal(found[100:, 64 + turn], np.tile([160, 126, 89, 255], (28, 1)))
    # Where the head's edge is half there, the neck fills the rest.
    crop[100:, 64 + turn] = 200, 150, 100, 51
    mixed = necked(crop, landmarks)[110, 64 + turn]
    np.testing.assert_array_equal(mixed, [168, 131, 91, 255])


def test_a_crown_in_the_foreheads_colour_stands_above_a_head_that_has_none():
    y, x = np.mgrid[:128, :128]
    # A head that ends with its face.
    head = (((x - 64) / 20) ** 2 + ((y - 64) / 30) ** 2 <= 1) & (y > 50)
    crop = np.where(head[..., None], np.uint8([200, 150, 100, 255]), np.uint8([0, 255, 0, 0]))
    landmarks = oval(0)
    for number, row in ((cutout.GLABELLA, 58), (cutout.EYES, 62), (cover.CHIN, 94), (cover.TOP, 50)):
        landmarks[number, :2] = 64, row
    found = crowned(crop, landmarks).astype(int)
    np.testing.assert_array_equal(found[66:], crop[66:])
    np.testing.assert_array_equal(found[head], crop[head])
    # Eyes to chin are 32 pixels, and from row 50 to the brows the head is 36 to 39 wide.
    rows, columns = np.flatnonzero(found[:, 64, 3] >= 128), np.flatnonzero(found[40, :, 3] >= 128)
    assert rows.min() == pytest.approx(62 - 1.3 * 32, abs=1.5)
    half = 19.5 * np.sqrt(1 - (18 / 37.6) ** 2)
    assert (columns.min(), columns.max()) == pytest.approx((64 - half, 64 + half), abs=1.5)
    np.testing.assert_array_equal(found[30:45, 64], np.tile([200, 150, 100, 255], (15, 1)))


@pytest.mark.parametrize("change", [necked, crowned])
def test_nothing_stands_behind_a_face_beyond_the_crop(change):
    crop = np.full((64, 64, 4), 255, np.uint8)
    assert change(crop, oval(0) + np.array([200, 0, 0])) is crop


@pytest.fixture(scope="module")
def rendered() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rendered heads with their mattes, uint8 [128, 128, 4], in which a face is found, and its landmarks."""
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    model, mesh = heads.load(MODEL), Mesh()
    crops = [matted(render.aligned(model, p, 128)[0]) for p in heads.sample(np.random.default_rng(3), 40)]
    landmarks = [mesh.in_crops(crop[None, ..., :3])[0] * (128 / REGION) for crop in crops]
    found = [pair for pair in zip(crops, landmarks, strict=True) if np.isfinite(pair[1]).all()]
    assert len(found) >= 30
    return found


def test_of_rendered_heads_hardly_more_than_neck_and_clothes_is_trimmed(rendered):
    above, beneath = [], []
    for crop, landmarks in rendered:
        left = trimmed(crop, landmarks)[..., 3].astype(int)
        chin, lips = round(landmarks[:, 1].max()), round(landmarks[cutout.LIPS, 1].mean())
        above.append(left[:lips].sum() / crop[:lips, ..., 3].sum(dtype=int))
        beneath.append(left[chin + 6 :].sum() / max(1, crop[chin + 6 :, ..., 3].sum(dtype=int)))
    assert np.mean(above) > 0.97 and max(beneath) < 0.05


def test_rendered_heads_have_necks_of_that_width_and_colour(rendered):
    apart, widths = [], []
    for crop, landmarks in rendered:
        chin, middle = round(landmarks[:, 1].max()), round(landmarks[cover.CHEEKS, 0].mean())
        bare = crop * np.uint8(np.arange(128) < chin)[:, None, None]
        beneath = np.s_[chin + 3 : chin + 6, middle - 3 : middle + 4, :3]
        apart.append(np.median(necked(bare, landmarks)[beneath].astype(int) - crop[beneath], axis=(0, 1)))
        widths.append((crop[chin + 3 :, :, 3] >= 128).sum(1).min() / np.ptp(landmarks[:, 0]))
    assert np.abs(np.nanmedian(apart, axis=0)).max() < 8
    # Shoulders reach up to the chin of half of them, and are wider.
    assert np.quantile(widths, 0.25) == pytest.approx(cutout.NECK, abs=0.08)


def test_rendered_heads_are_crowned_where_their_own_crown_is(rendered):
    agreed = []
    for crop, landmarks in rendered:
        head = trimmed(crop, landmarks)[: round(landmarks[cutout.GLABELLA, 1]), :, 3] >= 128
        # Of the head nothing is left but the forehead.
        bare = crop * np.uint8(np.arange(128) >= round(landmarks[cover.TOP, 1]))[:, None, None]
        found = crowned(trimmed(bare, landmarks), landmarks)[: len(head), :, 3] >= 128
        agreed.append((head & found).sum() / (head | found).sum())
    assert np.mean(agreed) > 0.78
