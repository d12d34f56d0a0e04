import numpy as np
import pandas as pd
import pytest

from peekaboo import verdict

NAN = np.nan


def decide(
    covered=(1, 1, 1),
    same=(0.9, 0.8, 0.7),
    template=(0.95, 0.9, 0.85),
    judge="a judge",
    tracks=0,
    masked=False,
    places=0,
):
    columns = {"covered": covered, "identity_distance": same, "identity_distance_mean": template}
    faces = pd.DataFrame({name: np.asarray(values, float) for name, values in columns.items()})
    return verdict.decide(faces.assign(track=tracks, masked=masked), judge, 0.6, places)


def test_passes_when_every_frame_is_covered_and_far():
    found = decide()
    assert found.verdict == "pass"
    assert "none of 3 judged" in found.reason
    assert "0.700" in found.reason


@pytest.mark.parametrize("where", ["same", "template"])
def test_one_recognised_frame_fails(where):
    found = decide(**{where: (0.9, 0.59, 0.9)})
    assert found.verdict == "fail"
    assert "in 1 of 3 judged" in found.reason
    assert "0.590" in found.reason


def test_the_operating_point_itself_is_another_person():
    assert decide(same=(0.6, 0.9, 0.9)).verdict == "pass"


@pytest.mark.parametrize("gap", [0.999, 0, NAN])
def test_uncovered_frames_fail_before_anything_else(gap):
    for judge in ("a judge", None):
        found = decide(covered=(1, gap, 1), judge=judge)
        assert found.verdict == "fail"
        assert "not fully covered in 1 of 3" in found.reason


def test_no_evidence_without_a_judge_of_real_faces():
    found = decide(judge=None, same=(NAN, NAN, NAN), template=(NAN, NAN, NAN))
    assert found.verdict == "no evidence"
    assert "no network trained on real faces" in found.reason


def test_no_evidence_when_nothing_could_be_judged():
    assert decide(same=(NAN, NAN, NAN), template=(NAN, NAN, NAN)).verdict == "no evidence"
    assert decide((), (), ()).verdict == "no evidence"


def test_frames_that_could_not_be_judged_are_counted():
    found = decide(same=(0.9, NAN, 0.9), template=(0.9, NAN, 0.9))
    assert found.verdict == "pass"
    assert "none of 2 judged" in found.reason
    assert "1 more could not be judged" in found.reason


def test_no_evidence_where_one_of_the_new_faces_could_never_be_judged():
    one_blind = {"same": (0.9, NAN, 0.8), "template": (0.9, NAN, 0.8), "tracks": [0, 1, 0]}
    found = decide(**one_blind)
    assert found.verdict == "no evidence" and "no frame of track 1" in found.reason
    # Under plain grey there is nobody to be judged.
    assert decide(**one_blind, masked=[False, True, False]).verdict == "pass"
    assert decide(**one_blind | {"same": (0.5, NAN, 0.8)}).verdict == "fail"
    assert decide(**one_blind | {"same": (0.9, NAN, NAN), "template": (NAN, NAN, 0.9)}).verdict == "no evidence"
    assert decide(**one_blind | {"tracks": [0, 1, 1]}).verdict == "pass"


def test_a_pass_says_where_a_face_may_be_uncovered():
    assert "2 places to look at" in decide(places=2).reason and "1 place to look at" in decide(places=1).reason
    assert "look at" not in decide().reason


def test_evidence_names_each_kind_of_judge():
    class Judge:
        def __init__(self, name, real_faces):
            self.name, self.real_faces = name, real_faces

    text = verdict.evidence([Judge("A", True), Judge("B", False), Judge("C", False)])
    assert "not validated on infants: A." in text
    assert "no evidence about a real child: B, C." in text
    assert "synthetic" not in verdict.evidence([Judge("A", True)])
