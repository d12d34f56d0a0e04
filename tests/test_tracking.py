import cv2
import numpy as np
import pytest

from peekaboo.faces.cover import cover_outline
from peekaboo.faces.tracking import Sighting, loose_ends, track

SIZE = (640, 360)
RATE = 25.0


def seen(box, sure=True, score=0.9):
    return Sighting(np.asarray(box, np.float32), score, sure)


def square(x, y, side=80):
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def holds(outer, inner):
    return bool((outer[:2] <= inner[:2] + 1e-3).all() and (outer[2:] >= inner[2:] - 1e-3).all())


def covers(box, truth):
    """Whether what compose covers in a frame without landmarks holds the whole oval of the true face."""
    outline = cover_outline(np.full((478, 3), np.nan), box, False).astype(np.float32)
    angles = np.linspace(0, 2 * np.pi, 60)
    oval = (truth[:2] + truth[2:]) / 2 + (truth[2:] - truth[:2]) / 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
    return all(cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in oval)


def swinging(count=100, period=2.0, reach=30):
    """A face that sways by its own width and bobs: boxes [N, 4]; it moves fastest at frame 50."""
    t = (np.arange(count) - 50) / RATE
    return np.stack([square(320 + reach * np.sin(2 * np.pi * s / period), 180 + 15 * np.sin(2 * np.pi * s)) for s in t])


@pytest.mark.parametrize("gap", [range(45, 55), range(60, 70), range(0, 10), range(90, 100)])
def test_a_face_missed_for_ten_frames_stays_within_its_region(gap):
    truth = swinging()
    detections = [[] if n in gap else [seen(box)] for n, box in enumerate(truth)]
    found = track(detections, np.arange(100) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    assert found.present.all() and found.present.shape == (100, 1)
    assert found.detected[:, 0].tolist() == [n not in gap for n in range(100)]
    for n in gap:
        assert covers(found.boxes[n, 0], truth[n]), f"frame {n}: {found.boxes[n, 0]} does not cover {truth[n]}"
    rest = [n for n in range(100) if n not in gap]
    np.testing.assert_allclose(found.boxes[rest, 0], truth[rest], atol=1e-3)


def test_a_face_in_steady_motion_is_wholly_covered_through_a_gap():
    truth = np.stack([square(100 + 6 * n, 150 + n) for n in range(60)])
    detections = [[] if 20 <= n < 35 else [seen(box)] for n, box in enumerate(truth)]
    found = track(detections, np.arange(60) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    assert all(holds(found.boxes[n, 0], truth[n]) for n in range(20, 35))


def test_held_only_as_long_as_asked_and_only_within_the_frame():
    detections = [[seen(square(320, 180))] if 40 <= n < 60 else [] for n in range(100)]
    found = track(detections, np.arange(100) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    assert np.flatnonzero(found.present[:, 0]).tolist() == list(range(28, 72))
    leaving = [[seen(square(500 + 12 * n, 180))] if n < 14 else [] for n in range(40)]
    found = track(leaving, np.arange(40) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    boxes = found.boxes[found.present[:, 0], 0]
    assert (boxes[:, 0] < 640).all() and (boxes[:, 2] > 0).all()


def test_time_counts_not_frames():
    times = np.cumsum(np.where(np.arange(60) % 2, 0.01, 0.07))
    detections = [[seen(square(320, 180))] if 20 <= n < 30 else [] for n in range(60)]
    found = track(detections, times, bridge=2.0, hold=0.3, size=SIZE)
    expected = (times >= times[20] - 0.3) & (times <= times[29] + 0.3)
    assert found.present[:, 0].tolist() == expected.tolist()


def test_long_gaps_are_bridged_where_the_face_stayed_and_not_where_it_moved_away():
    def run(x):
        detections = [
            [seen(square(100, 180))] if n < 20 else [seen(square(x, 180))] if n >= 150 else [] for n in range(170)
        ]
        return track(detections, np.arange(170) / RATE, bridge=2.0, hold=0.5, size=SIZE)

    stayed, moved = run(120), run(500)
    assert stayed.present.shape[1] == 1 and stayed.present.all()
    assert moved.present.shape[1] == 2 and not moved.present[60:100].any()


def test_two_faces_that_pass_each_other_keep_their_tracks_and_the_larger_comes_first():
    small = np.stack([square(100 + 4 * n, 150, 60) for n in range(100)])
    large = np.stack([square(500 - 4 * n, 200, 90) for n in range(100)])
    rng = np.random.default_rng(0)
    detections = []
    for n in range(100):
        pair = [seen(small[n] + rng.normal(0, 1, 4)), seen(large[n] + rng.normal(0, 1, 4))]
        detections.append(pair if n % 2 else pair[::-1])
    found = track(detections, np.arange(100) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    assert found.present.shape == (100, 2) and found.detected.all()
    np.testing.assert_allclose(found.boxes[:, 0], large, atol=6)
    np.testing.assert_allclose(found.boxes[:, 1], small, atol=6)


def test_a_doubtful_thing_before_the_face_does_not_lead_its_track_away():
    detections = []
    for n in range(100):
        faces = [] if 40 <= n < 50 else [seen(square(320, 180))]
        if 38 <= n < 60:
            # A hand crosses the face.
            faces.append(seen(square(320 + 25 * (n - 43), 190), sure=False, score=0.6))
        detections.append(faces)
    found = track(detections, np.arange(100) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    assert found.present.shape == (100, 1)
    assert all(holds(found.boxes[n, 0], square(320, 180)) for n in range(100))
    assert found.boxes[50:, 0, 2].max() == 360


def test_a_face_of_which_detections_become_doubtful_is_followed():
    truth = np.stack([square(100 + 5 * n, 180) for n in range(100)])
    detections = [[seen(box, sure=n < 50)] for n, box in enumerate(truth)]
    found = track(detections, np.arange(100) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    assert found.present.shape == (100, 1) and found.detected.all()
    np.testing.assert_allclose(found.boxes[:, 0], truth, atol=1e-3)


def test_passing_doubts_are_dropped_and_lasting_ones_are_kept():
    def run(count, total=200):
        detections = [[seen(square(200, 100), sure=False, score=0.6)] if n < count else [] for n in range(total)]
        return track(detections, np.arange(total) / RATE, bridge=2.0, hold=0.5, size=SIZE)

    assert run(15).present.shape == (200, 0)
    assert run(15).boxes.shape == (200, 0, 4)
    assert run(40).present[:40].all()
    # Now and then is not lasting.
    blinking = [[seen(square(200, 100), sure=False, score=0.6)] if n % 20 == 0 else [] for n in range(200)]
    assert track(blinking, np.arange(200) / RATE, bridge=2.0, hold=0.5, size=SIZE).present.shape == (200, 0)
    # In a short clip half of it is lasting.
    assert run(15, total=20).present.all()


def test_a_single_sure_sighting_is_a_face():
    detections = [[seen(square(200, 100))] if n == 12 else [] for n in range(30)]
    found = track(detections, np.arange(30) / RATE, bridge=2.0, hold=0.21, size=SIZE)
    assert np.flatnonzero(found.present[:, 0]).tolist() == list(range(7, 18))


def test_doubts_that_follow_a_sure_sighting_do_not_take_its_cover_away():
    detections = [[seen(square(200 + n, 100), sure=n == 0, score=0.6)] if n <= 15 else [] for n in range(100)]
    found = track(detections, np.arange(100) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    assert found.detected[:16, 0].all() and found.rejected == []


def test_of_what_is_taken_for_no_face_the_best_sighting_is_told():
    scores = [0.5, 0.6, 0.55]
    detections = [[seen(square(200 + n, 100), sure=False, score=score)] for n, score in enumerate(scores)]
    found = track(detections + [[]] * 97, np.arange(100) / RATE, bridge=2.0, hold=0.5, size=SIZE)
    ((frame, sighting),) = found.rejected
    assert found.present.shape == (100, 0) and frame == 1
    np.testing.assert_array_equal(sighting.box, square(201, 100))


def test_however_far_frames_lie_apart_the_next_ones_are_covered():
    detections = [[seen(square(200, 100))] if n in (4, 5) else [] for n in range(10)]
    found = track(detections, np.arange(10) * 0.9, bridge=2.0, hold=0.5, size=SIZE)
    assert np.flatnonzero(found.present[:, 0]).tolist() == [3, 4, 5, 6]


def test_loose_ends_are_where_a_face_may_go_on_unseen():
    present, boxes = np.zeros((30, 3), bool), np.full((30, 3, 4), np.nan)
    # One that is lost in between, one that is there throughout, one that comes in over the edge and stays.
    for t, frames, box in (
        (0, [*range(5, 12), *range(20, 30)], [90, 90, 150, 150]),
        (1, range(30), [300, 90, 350, 150]),
    ):
        present[list(frames), t], boxes[list(frames), t] = True, box
    present[10:, 2], boxes[10:, 2] = True, np.linspace([-20, 200, 40, 260], [80, 200, 140, 260], 20)
    found = loose_ends(present, boxes, SIZE)
    assert sorted(n for n, _ in found) == [4, 12, 19]
    np.testing.assert_array_equal(np.stack([box for _, box in found]), [[90, 90, 150, 150]] * 3)
    assert loose_ends(present[:, :1] & False, boxes[:, :1], SIZE) == []
    # The same that leaves over the edge.
    assert sorted(n for n, _ in loose_ends(present[::-1], boxes[::-1], SIZE)) == [10, 17, 25]


def test_a_clip_of_one_frame_and_one_without_faces():
    found = track([[seen(square(200, 100))]], np.zeros(1), bridge=2.0, hold=0.5, size=SIZE)
    assert found.present.tolist() == [[True]]
    assert track([[]] * 5, np.arange(5) / RATE, bridge=2.0, hold=0.5, size=SIZE).present.shape == (5, 0)
