from pathlib import Path

import cv2
import numpy as np
import pytest

from peekaboo import media
from peekaboo.faces import cover
from peekaboo.faces.detection import Detector, Mesh, box_of, overlap, roll_of
from peekaboo.synth import head as heads
from peekaboo.synth import render

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "resources" / "demo" / "infant.mp4"
CLIPS = ROOT.parent / "shared" / "clips"
adults = pytest.mark.skipif(not CLIPS.exists(), reason="the clips of adults in ../shared are not there")
# Face-mesh numbers of the eye and mouth corners, and their numbers in the 68-point markup.
MESH_CORNERS, CORNERS_68 = [33, 133, 362, 263, 61, 291], [36, 39, 42, 45, 48, 54]


@pytest.fixture(scope="module")
def detector():
    return Detector(0.5)


@pytest.fixture(scope="module")
def head():
    path = ROOT.parent / "shared" / "data" / "ict_facekit.npz"
    if not path.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {path}")
    return heads.load(path)


@pytest.fixture(scope="module")
def infant():
    return list(media.frames(DEMO))


@pytest.fixture(scope="module")
def truth():
    return np.load(DEMO.with_name("infant_truth.npz"))


def sample(name, count):
    frames = list(media.frames(CLIPS / name))
    return [frames[n] for n in np.linspace(0, len(frames) - 1, count).astype(int)]


def turned(picture, degrees, zoom=1.0):
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    return cv2.warpAffine(picture, matrix, (width, height)), matrix


def test_landmarks_lie_on_the_true_ones_of_the_rendered_infant(detector, infant, truth):
    for n in (0, 12, 25, 50, 95):
        (face,) = detector(infant[n], sweep=n % 5 == 0)
        true = truth["landmarks68"][n][CORNERS_68]
        apart = np.linalg.norm(true[0] - true[3])
        error = np.linalg.norm(face.landmarks[MESH_CORNERS, :2] - true, axis=1).mean() / apart
        assert face.sure and error < 0.06, f"frame {n}: {error}"
        np.testing.assert_array_equal(face.box, box_of(face.landmarks))


def test_the_infant_is_found_in_every_frame_in_which_the_face_is_in_sight(detector, infant, truth):
    seen = np.flatnonzero(truth["visibility"] > 0.9)[::4]
    for n in seen:
        faces = detector(infant[n], sweep=n % 5 == 0)
        assert len(faces) == 1 and faces[0].sure, f"frame {n}: {len(faces)} faces"
        inside = (truth["landmarks68"][n] > faces[0].box[:2]) & (truth["landmarks68"][n] < faces[0].box[2:])
        assert inside.all(1).mean() > 0.75


@pytest.mark.parametrize("degrees", [40, 90, 140, 180, -90])
def test_a_face_turned_in_the_picture_is_found_the_right_way_round(detector, infant, truth, degrees):
    picture, matrix = turned(infant[0], degrees, 0.7)
    (face,) = detector(picture, sweep=True)
    true = truth["landmarks68"][0][CORNERS_68] @ matrix[:, :2].T + matrix[:, 2]
    apart = np.linalg.norm(true[0] - true[3])
    assert np.linalg.norm(face.landmarks[MESH_CORNERS, :2] - true, axis=1).mean() < 0.1 * apart
    assert abs(np.angle(np.exp(1j * (roll_of(face.landmarks) + np.radians(degrees))))) < 0.15


def test_a_small_face_is_found_in_the_frames_with_fine_tiles(detector, infant):
    picture = np.full((360, 640, 3), 120, np.uint8)
    # The face is 24 pixels wide.
    picture[200:256, 400:456] = cv2.resize(infant[0], (56, 56), interpolation=cv2.INTER_AREA)
    assert any(overlap(face.box, np.array([416, 210, 440, 234])) > 0.4 for face in detector(picture, sweep=True))


def test_results_do_not_depend_on_the_frames_before(detector, infant):
    first, fresh = detector(infant[30], sweep=False), Detector(0.5)(infant[30], sweep=False)
    for n in (70, 83, 0):
        detector(infant[n], sweep=n % 5 == 0)
    for faces in (detector(infant[30], sweep=False), fresh):
        assert [face.score for face in faces] == [face.score for face in first]
        np.testing.assert_array_equal(faces[0].landmarks, first[0].landmarks)


def test_the_mesh_finds_no_face_where_there_is_none():
    mesh, rng = Mesh(), np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8), (0, 0), 4)
    for picture in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        assert mesh(picture, np.array([60, 60, 140, 140], np.float32), 0.0) is None


def test_a_blank_frame_of_any_size_has_no_face(detector):
    for height, width in ((36, 64), (200, 200), (480, 100), (1, 1)):
        assert detector(np.zeros((height, width, 3), np.uint8), sweep=True) == []


@adults
@pytest.mark.parametrize(
    ("name", "faces"),
    [("adult_hand_occlusion.mp4", 1), ("adult_smile.mp4", 1), ("adult_yaw.mp4", 1), ("two_faces.mp4", 2)],
)
def test_adults_are_found_in_every_frame(detector, name, faces):
    for frame in sample(name, 12):
        found = detector(frame, sweep=False)
        assert len(found) == faces
        assert all(face.sure and face.landmarks is not None for face in found)


@adults
def test_lettering_is_not_surely_a_face(detector):
    for frame in sample("no_face.mp4", 20):
        assert not any(face.sure for face in detector(frame, sweep=True))


# Bald crowns, chins and caps of these rendered heads look like faces upside down.
@pytest.mark.parametrize("number", [46, 72, 115, 274, 279])
def test_a_head_is_one_face_and_the_right_way_up(detector, head, number):
    parameters = heads.sample(np.random.default_rng(7), 300)
    parameters[:, heads.PARAMETERS["rotation"].start] *= 1.5
    picture, true = render.frame(head, parameters[number], 256, 256)
    (face,) = detector(picture, sweep=False)
    across = true.landmarks[42:48].mean(0) - true.landmarks[36:42].mean(0)
    assert abs(roll_of(face.landmarks) - np.arctan2(across[1], across[0])) < 0.2


@pytest.mark.parametrize("degrees", [-40, -30, -20, 20, 30, 40])
def test_the_cover_holds_a_head_turned_to_a_side(detector, head, degrees):
    parameters = heads.sample(np.random.default_rng(abs(degrees)), 8)
    parameters[:, heads.PARAMETERS["rotation"]] = [degrees / heads.ROTATION_DEGREES[0], 0, 0]
    for row in parameters:
        picture, true = render.frame(head, row, 256, 256)
        face, *_ = detector(picture, sweep=False)
        outline = cover.cover_outline(face.landmarks, face.box, True)
        whole = cover.GROW * cover.size(outline)
        away = [-cv2.pointPolygonTest(outline.astype(np.float32), point.tolist(), True) for point in true.landmarks]
        assert max(away[17:]) <= whole
        assert max(away[:17]) <= whole + cover.FEATHER * cover.size(outline)
