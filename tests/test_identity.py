import cv2
import numpy as np
import pytest
import torch
from people import seen

from peekaboo import metrics, models
from peekaboo.judges import identity
from peekaboo.judges.judge import Face
from peekaboo.nets.residual import FaceEmbedder

NOWHERE = np.full((478, 3), np.nan), np.full((2, 3), np.nan)


@pytest.fixture(scope="module")
def dlib_judge():
    return identity.Dlib()


@pytest.fixture
def embedded(tmp_path):
    torch.manual_seed(0)
    constructor = {"widths": [8, 16], "dimensions": 16, "size": 64, "inner": 64}
    models.save(tmp_path / "identity.safetensors", FaceEmbedder(**constructor), constructor)
    return identity.Embedded(tmp_path / "identity.safetensors", torch.device("cpu"))


def picture(seed: int = 0) -> np.ndarray:
    """A smooth random RGB picture [240, 320, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("size", [30, 70, 150])
def test_chip_is_the_one_that_dlib_cuts(size):
    import dlib

    # Left eye (outer, inner), right eye (outer, inner), nose, tilted a little.
    points = np.array([[1, 0.1], [0.7, 0.05], [0, 0], [0.3, 0.02], [0.5, 0.6]]) * size + [90, 60]
    points = np.rint(points).astype(int)
    shape = dlib.full_object_detection(dlib.rectangle(0, 0, 9, 9), [dlib.point(int(x), int(y)) for x, y in points])
    expected = dlib.get_face_chip(picture(), shape, size=identity.CHIP, padding=identity.CHIP_PADDING)
    found = identity.chip(picture(), points.astype(np.float32))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_chip_follows_parts_of_a_pixel():
    points = np.array([[200, 80], [180, 80], [120, 80], [140, 80], [160, 120]], np.float32)
    before, between, after = (identity.chip(picture(), points + shift).astype(float) for shift in (0, 0.5, 1))
    assert np.abs(between - (before + after) / 2).mean() < 0.1 * np.abs(after - before).mean()


def test_faces_without_what_a_judge_needs_are_left_out(dlib_judge, embedded):
    nowhere = Face(np.zeros(4), *NOWHERE, 64)
    assert dlib_judge.prepare(picture(), nowhere) is None
    assert embedded.prepare(picture(), nowhere) is None


def test_embedded_reads_the_aligned_crop(embedded):
    transform = np.array([[1, 0, -100], [0, 1, -50]], np.float32)
    crop = embedded.prepare(picture(), Face(np.zeros(4), NOWHERE[0], transform, 64))
    np.testing.assert_array_equal(crop, picture()[50:114, 100:164])
    found = embedded([crop, crop[:, ::-1]])["embedding"]
    image = torch.from_numpy(crop).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(torch.from_numpy(found[:1]), embedded.network(image), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    same = embedded.compare({"embedding": found}, {"embedding": found})
    np.testing.assert_allclose(same["identity_cos_optimised"], 1, atol=1e-6)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(identity, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"face_recognition_models.*measure: identity"):
        identity.Dlib()


def test_dlib_tells_real_people_apart_at_its_operating_point(dlib_judge):
    groups = [*seen("two_faces.mp4", [0, 50, 100]), *seen("adult_smile.mp4", [0, 35, 70])]
    chips = [
        (f"{len(faces)}.{k}", dlib_judge.prepare(frame, face))
        for frame, faces in groups
        for k, face in enumerate(faces)
    ]
    names = np.array([name for name, chip in chips if chip is not None])
    assert (np.unique(names, return_counts=True)[1] >= 2).all()
    assert len(set(names)) == 3
    embeddings = dlib_judge([chip for _, chip in chips if chip is not None])["embedding"]
    distances = np.stack([metrics.distance(embeddings, one) for one in embeddings])
    same = names[:, None] == names
    assert distances[same].max() < dlib_judge.operating_point
    assert distances[~same].min() > dlib_judge.operating_point
