from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from peekaboo.synth import head as heads
from peekaboo.synth import render
from peekaboo.synth.head import ACTIONS, EXPRESSIONS, PARAMETERS

MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_facekit.npz"


@pytest.fixture(scope="module")
def head():
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    return heads.load(MODEL)


def samples(seed, n, **fixed):
    parameters = heads.sample(np.random.default_rng(seed), n)
    for name, value in fixed.items():
        parameters[:, PARAMETERS[name]] = value
    return parameters


def acting(name, value=3.0):
    """Return a vector with one action only."""
    parameters = np.zeros(heads.N_PARAMETERS, np.float32)
    parameters[PARAMETERS["expression"]] = [0 if action in heads.SIGNED else -3 for action in ACTIONS]
    if name != "neutral":
        parameters[PARAMETERS["expression"].start + ACTIONS.index(name)] = value
    return parameters


def test_slices_cover_the_vector_once():
    covered = np.concatenate([np.arange(heads.N_PARAMETERS)[where] for where in PARAMETERS.values()])
    assert covered.tolist() == list(range(heads.N_PARAMETERS))
    assert np.concatenate([heads.IDENTITY, heads.STATE]).tolist() == covered.tolist()


def test_rotation_is_yaw_then_pitch_then_roll():
    parameters = samples(0, 20)
    degrees = parameters[:, PARAMETERS["rotation"]] * [18, 10, 7]
    expected = Rotation.from_euler("YXZ", degrees, degrees=True).as_matrix()
    assert np.allclose([heads.rotation(row) for row in parameters], expected, atol=1e-9)


def test_vertices_turn_by_the_rotation_truth(head):
    for parameters in samples(1, 8):
        still = parameters.copy()
        still[PARAMETERS["rotation"]] = 0
        stiff = head.stiffness > 0.999
        turned, straight = render.pose(head, parameters)[stiff], render.pose(head, still)[stiff]
        found, residual = Rotation.align_vectors(turned, straight)
        error = (found * Rotation.from_matrix(heads.rotation(parameters)).inv()).magnitude()
        assert np.degrees(error) < 0.1
        assert residual / np.sqrt(stiff.sum()) < 0.02


def test_rotation_follows_from_the_landmark_truth(head):
    width, height = 320, 256
    flip = np.diag([1.0, -1.0, -1.0])
    # The chin gives way to the neck a little.
    firm = head.stiffness[head.landmarks] > 0.999
    for parameters in samples(2, 5, framing=0):
        focal = heads.camera_distance(parameters) * height / render.FIELD
        camera = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        still = parameters.copy()
        still[PARAMETERS["rotation"]] = 0
        solid = render.pose(head, still)[head.landmarks[firm]] @ flip
        _, truth = render.frame(head, parameters, width, height)
        # The picture is shifted, not the camera.
        marks = truth.landmarks[firm] - [0, 4 * height / render.FIELD]
        _, turn, _ = cv2.solvePnP(solid, marks.astype(np.float64), camera, None)
        found = flip @ cv2.Rodrigues(turn)[0] @ flip
        assert np.degrees(Rotation.from_matrix(found @ truth.rotation.T).magnitude()) < 0.2


def ffhq_crop(marks, size):
    """Return the affine map of the crop that the official FFHQ script cuts, corner by corner."""
    left, right = marks[36:42].mean(0), marks[42:48].mean(0)
    eye, eye_to_eye = (left + right) * 0.5, right - left
    eye_to_mouth = (marks[48] + marks[54]) * 0.5 - eye
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eye + eye_to_mouth * 0.1
    corners = np.float32([c - x - y, c - x + y, c + x + y])
    return cv2.getAffineTransform(corners, np.float32([[-0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]]))


def test_a_thinned_head_moves_as_the_whole(head):
    thin = heads.thinned(head, 80)
    parameters = heads.sample(np.random.default_rng(3), 1)[0]
    whole, part = render.pose(head, parameters), render.pose(thin, parameters)
    assert len(part) == 80
    np.testing.assert_allclose(part[:68], whole[head.landmarks], atol=1e-3)
    assert np.linalg.norm(part[:, None] - whole[None], axis=2).min(1).max() < 1e-3
    with pytest.raises(ValueError, match="68"):
        heads.thinned(head, 60)


def test_a_description_places_the_landmarks_where_the_picture_has_them(head):
    thin = heads.thinned(head, 70)
    for parameters in heads.sample(np.random.default_rng(4), 3):
        found = render.description(thin, parameters)
        truth = render.aligned(head, parameters, 64)[1]
        # Shares of the side count from the first pixel's corner less half a pixel.
        places = (found[: 2 * 70].reshape(70, 2)[:68] + 0.5) * 64 - 0.5
        np.testing.assert_allclose(places, truth.landmarks, atol=0.02)
        np.testing.assert_array_equal(found[-heads.N_PARAMETERS :], parameters)


def test_aligned_picture_is_the_ffhq_crop_of_the_frame(head):
    size = 64
    for parameters in samples(3, 6, framing=0):
        whole, whole_truth = render.frame(head, parameters, 512, 512)
        image, truth = render.aligned(head, parameters, size)
        crop = ffhq_crop(whole_truth.landmarks.astype(np.float64), size)
        assert np.abs(cv2.transform(whole_truth.landmarks[None], crop)[0] - truth.landmarks).max() < 0.05
        cut = cv2.warpAffine(cv2.GaussianBlur(whole, (0, 0), 1.5), crop, (size, size), borderMode=cv2.BORDER_REPLICATE)
        inside = cv2.warpAffine(np.ones((512, 512), np.uint8), crop, (size, size)) > 0
        error = np.abs(cut.astype(float) - image)[inside].mean()
        assert error < 4


def test_framing_moves_and_scales_the_crop(head):
    parameters = samples(4, 1, framing=0)[0]
    still = render.aligned(head, parameters)[1].landmarks
    parameters[PARAMETERS["framing"]] = (1, -2, 3)
    moved = render.aligned(head, parameters)[1].landmarks
    centre, factor = 31.5, np.exp(0.09)
    assert np.allclose(moved, (still - centre) * factor + centre + 0.015 * 64 * np.array([1, -2]), atol=1e-3)


def test_same_vector_same_bytes_in_any_thread(head):
    parameters = samples(5, 16)
    serial = [render.aligned(head, row)[0] for row in parameters]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda row: render.aligned(head, row)[0], parameters))
    assert np.array_equal(serial, threaded)


def test_every_entry_acts_on_the_picture(head):
    parameters = samples(6, 4, rotation=0)
    # The colour of headwear shows where there is some.
    parameters[:2, PARAMETERS["headwear"].start] = 2
    silent = []
    for entry in range(heads.N_PARAMETERS):
        change = 0
        for row in parameters:
            low, high = row.copy(), row.copy()
            low[entry], high[entry] = -1.5, 1.5
            pictures = [render.aligned(head, vector)[0].astype(int) for vector in (low, high)]
            change = max(change, np.abs(pictures[0] - pictures[1]).max())
        if change < 6:
            silent.append(entry)
    assert silent == []


def test_affect_follows_its_formula():
    for parameters in samples(7, 200):
        weights = dict(zip(ACTIONS, heads.actions(parameters), strict=True))
        smile, cry, distress = weights["smile"], weights["cry"], weights["distress"]
        surprise, yawn, open_mouth = weights["surprise"], weights["yawn"], weights["open_mouth"]
        valence, arousal, _ = heads.affect(parameters)
        assert valence == pytest.approx(smile - cry - 0.7 * distress + 0.15 * surprise + 0.1 * open_mouth, abs=1e-5)
        expected = 0.55 * smile + cry + 0.4 * distress + 0.8 * surprise - 0.6 * yawn + 0.15 * open_mouth
        assert arousal == pytest.approx(expected, abs=1e-5)
        assert -1 <= valence <= 1
        assert -1 <= arousal <= 1


@pytest.mark.parametrize(
    ("name", "valence", "arousal"),
    [("neutral", 0, 0), ("smile", 1, 0.55), ("cry", -1, 1), ("distress", -0.7, 0.4), ("yawn", 0, -0.6)],
)
def test_clear_expressions(name, valence, arousal):
    found = heads.affect(acting(name))
    assert EXPRESSIONS[found[2]] == name
    assert found[:2] == pytest.approx((valence, arousal), abs=0.06)


def test_no_entry_of_the_state_colours_the_person():
    parameters = samples(10, 1)[0]
    person = heads.colours(parameters)[:5]
    for entry in heads.STATE:
        changed = parameters.copy()
        changed[entry] += 1.5
        assert np.array_equal(heads.colours(changed)[:5], person)


def test_action_units_of_clear_expressions():
    rest = heads.action_units(acting("neutral"))
    smile = heads.action_units(acting("smile"))
    cry = heads.action_units(acting("cry"))
    assert all(0 <= value <= 1 for units in (rest, smile, cry) for value in units.values())
    # The infant's wide eyes are the only unit at rest.
    assert max(value for unit, value in rest.items() if unit != "AU5") < 0.1
    assert min(smile["AU6"], smile["AU12"]) > 0.7 and max(smile["AU4"], smile["AU15"]) < 0.1
    assert min(cry["AU4"], cry["AU9"], cry["AU20"]) > 0.7
    blink = heads.action_units(acting("blink"))
    assert min(blink["AU43"], blink["AU45"]) > 0.9 and cry["AU45"] < 0.1
    assert heads.action_units(acting("tongue"))["AU19"] > 0.9


def test_headwear_is_rare_and_seldom_half_there():
    worn = np.array([heads.headwear(row) for row in samples(11, 4000)])
    assert (worn > 0.5).mean(0) == pytest.approx([0.15, 0.09], abs=0.02)
    assert ((worn > 0.1) & (worn < 0.9)).mean() < 0.07


def test_background_is_kept_where_no_head_is(head):
    background = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    parameters = samples(12, 1)[0]
    image, truth = render.frame(head, parameters, 160, 128, background=background)
    plain, _ = render.frame(head, parameters, 160, 128)
    hull = np.zeros((128, 160), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.rint(truth.landmarks).astype(np.int32)), 1)
    inner = cv2.erode(hull, np.ones((5, 5))) > 0
    # Two pictures over different backgrounds agree just where the head hides both.
    other, _ = render.frame(head, parameters, 160, 128, background=255 - background)
    hidden = (image == other).all(2)
    assert hidden[inner].all() and np.array_equal(image[inner], plain[inner])
    free = cv2.dilate(hidden.astype(np.uint8), np.ones((3, 3))) == 0
    assert free.mean() > 0.1
    assert np.array_equal(image[free], background[free])
    with pytest.raises(ValueError, match=r"expected a background uint8 \[128, 160, 3\]"):
        render.frame(head, parameters, 160, 128, background=background[:-1])


def test_tongue_comes_out_between_the_lips(head):
    shown = {}
    for name in ("open_mouth", "tongue"):
        points = render.pose(head, acting(name))
        tongue = np.unique(head.triangles[head.kinds == 3])
        # How far its tip is before the middle of the lower lip, cm.
        shown[name] = points[tongue, 2].max() - points[head.landmarks[57], 2]
    assert shown["tongue"] > shown["open_mouth"] + 1.5


def test_closed_lids_hide_the_eyes(head):
    bright = samples(13, 12, rotation=0, gaze=0, iris=0, headwear=-1)
    showing = []
    for row in bright:
        row[PARAMETERS["expression"]] = acting("blink")[PARAMETERS["expression"]]
        points = render.pose(head, row)
        place = np.ascontiguousarray(render._project(points, heads.camera_distance(row)))
        matrix = render.alignment(place[head.landmarks, :2].astype(np.float64), 128)
        place[:, :2] = place[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        drawn, _ = render._raster(place.astype(np.float32), head.triangles, 128, 128)
        showing.append((head.kinds[drawn[drawn >= 0]] == 4).sum())
    assert np.median(showing) <= 2
    assert max(showing) < 40


def test_samples_hold_every_expression_and_mostly_infants():
    parameters = samples(8, 2000)
    classes = np.bincount([heads.affect(row)[2] for row in parameters], minlength=len(EXPRESSIONS)) / len(parameters)
    assert classes.min() > 0.05
    ages = np.array([heads.adulthood(row) for row in parameters])
    assert np.median(ages) < 0.25
    assert ages.max() > 0.85


def test_gaze_moves_the_iris(head):
    places = []
    for left in (-2.0, 2.0):
        parameters = acting("neutral")
        parameters[PARAMETERS["iris"]] = 2
        parameters[PARAMETERS["gaze"]] = (left, 0)
        image, truth = render.aligned(head, parameters, 256)
        x, y, width, height = cv2.boundingRect(truth.landmarks[42:48])
        dark = 255.0 - image[y : y + height, x : x + width].mean(2)
        dark = np.maximum(dark - 130, 0)
        places.append((dark.sum(0) @ np.arange(width)) / dark.sum() / width)
        assert truth.gaze[0] == pytest.approx(24 * np.tanh(left / 2), abs=1e-4)
    # The head's left is the picture's right.
    assert places[1] - places[0] > 0.15


@pytest.mark.slow
def test_mediapipe_finds_the_faces(head):
    from mediapipe.python.solutions.face_mesh import FaceMesh

    found = 0
    with FaceMesh(static_image_mode=True, max_num_faces=1) as mesh:
        for parameters in samples(9, 100):
            image = cv2.resize(render.aligned(head, parameters)[0], (256, 256), interpolation=cv2.INTER_CUBIC)
            found += mesh.process(image).multi_face_landmarks is not None
    assert found >= 95
