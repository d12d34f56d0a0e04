from pathlib import Path

import av
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from peekaboo import metrics
from peekaboo.judges import pose
from peekaboo.judges.judge import Face
from peekaboo.judges.landmarks import Mesh

CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def projected(
    rotations: np.ndarray, scale: float = 20, shift: tuple[float, float, float] = (300, 200, 5)
) -> np.ndarray:
    """Mesh landmarks (x right, y down, z away, in pixels) of the canonical points, rotated; the others are 0."""
    landmarks = np.zeros((len(rotations), 478, 3))
    turned = np.einsum("bij,nj->bni", rotations, pose.BASIS[:, 2:])
    landmarks[:, pose.LANDMARKS] = turned * [scale, -scale, -scale] + shift
    return landmarks


def test_known_rotations_come_back():
    rotations = Rotation.from_euler(
        "YXZ", np.random.default_rng(0).uniform(-80, 80, (100, 3)), degrees=True
    ).as_matrix()
    found = pose.rotation(projected(rotations))
    np.testing.assert_allclose(np.linalg.det(found), 1)
    assert metrics.rotation_angle(found, rotations).max() < 1e-5


def test_small_landmark_noise_stays_a_small_angle():
    rng = np.random.default_rng(0)
    rotations = Rotation.from_euler("YXZ", rng.uniform(-40, 40, (100, 3)), degrees=True).as_matrix()
    landmarks = projected(rotations)
    # 1 pixel on a face of 300.
    noisy = landmarks + rng.normal(size=landmarks.shape)
    assert metrics.rotation_angle(pose.rotation(noisy), rotations).max() < 2


@pytest.mark.parametrize(
    ("axis", "turn", "sign"), [("Y", 0, -1), ("X", 1, -1), ("Z", 2, -1)], ids=["yaw", "pitch", "roll"]
)
def test_each_angle_is_read_off_alone(axis, turn, sign):
    found = pose.angles(Rotation.from_euler(axis, [[-30], [0], [50]], degrees=True).as_matrix())
    expected = np.zeros((3, 3))
    expected[:, turn] = sign * np.array([-30, 0, 50])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_signs_are_those_of_the_picture():
    def tip_after(yaw, pitch, roll, point):
        turn = Rotation.from_euler("YXZ", [-yaw, -pitch, -roll], degrees=True)
        np.testing.assert_allclose(pose.angles(turn.as_matrix()[None])[0], [yaw, pitch, roll], atol=1e-9)
        return turn.apply(point)

    nose, top = [0, 0, 1], [0, 1, 0]
    assert tip_after(20, 0, 0, nose)[0] < 0
    assert tip_after(0, 20, 0, nose)[1] > 0
    assert tip_after(0, 0, 20, top)[0] > 0


def test_missing_landmarks_give_missing_rotations():
    landmarks = projected(np.stack([np.eye(3)] * 2))
    landmarks[1] = np.nan
    found = pose.rotation(landmarks)
    np.testing.assert_allclose(found[0], np.eye(3), atol=1e-7)
    assert np.isnan(found[1]).all()
    assert np.isnan(pose.angles(found)[1]).all()


def test_a_head_that_turns_is_followed():
    path = CLIPS / "adult_yaw.mp4"
    if not path.is_file():
        pytest.skip(f"no test clips: {CLIPS} is absent")
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for k, f in enumerate(container.decode(video=0)) if k % 6 == 0]
    height, width = frames[0].shape[:2]
    box = np.array([0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height])
    judge = Mesh()
    nowhere = Face(box, np.full((478, 3), np.nan), np.full((2, 3), np.nan), 64)
    yaw = pose.angles(pose.rotation(judge([judge.prepare(f, nowhere) for f in frames])["landmarks"]))[:, 0]
    assert np.isfinite(yaw).all()
    assert -30 < yaw.min() < -18
    assert 10 < yaw.max() < 22
    # A head moves smoothly: no jump between samples a quarter of a second apart.
    assert np.abs(np.diff(yaw)).max() < 15
