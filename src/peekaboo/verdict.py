"""May the clip be shared: pass, fail or no evidence, and why."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from peekaboo.judges.judge import Judge

PASS, FAIL, NO_EVIDENCE = "pass", "fail", "no evidence"


class Verdict(NamedTuple):
    """One of pass, fail and no evidence, with the reason in a sentence."""

    verdict: str
    reason: str


def decide(faces: pd.DataFrame, judge: str | None, operating_point: float | None, open_places: int) -> Verdict:
    """Decide from all face-frames of all tracks, a row each.

    Columns: `track`; `covered`, the share of the face region replaced, NaN counts as nothing; `masked`, whether by grey
    alone; `identity_distance` and `identity_distance_mean`, the independent judge's distances from the anonymised face
    to the original in the same frame and to the mean original of its track, NaN where the judge could not be applied.
    `judge` names that judge, trained on real faces; None where there is none. A distance below its `operating_point`
    means one person. `open_places` counts where nothing is covered and a face may be in sight all the same.

    A face left uncovered fails first; then, without a judge or without a judged frame, there is no evidence; then one
    frame in which either distance takes the anonymised face for the original fails the clip. There is no evidence
    either where no frame of a track could be judged, unless all that it shows is grey.
    """
    if not len(faces):
        return Verdict(NO_EVIDENCE, "no face was tracked in any frame")
    # Written so that NaN counts as uncovered.
    uncovered = int((~(faces["covered"] >= 1)).sum())
    if uncovered:
        return Verdict(FAIL, f"the face is not fully covered in {uncovered} of {len(faces)} face-frames")
    if judge is None:
        return Verdict(
            NO_EVIDENCE, "no network trained on real faces and without a part in the edit judged the identity"
        )
    distances = faces[["identity_distance", "identity_distance_mean"]].min(axis=1)
    judged = distances.dropna()
    if not len(judged):
        return Verdict(NO_EVIDENCE, f"{judge} could judge none of {len(faces)} face-frames")
    unjudged = len(faces) - len(judged)
    left_out = f"; {unjudged} more could not be judged" if unjudged else ""
    taken = int((judged < operating_point).sum())
    nearest = f"nearest distance {judged.min():.3f}, same person below {operating_point:g}"
    if taken:
        reason = f"{judge} takes the anonymised face for the original in {taken} of {len(judged)} judged face-frames"
        return Verdict(FAIL, f"{reason} ({nearest}){left_out}")
    reason = f"{judge} takes the anonymised face for the original in none of {len(judged)} judged face-frames"
    blind = sorted(set(faces["track"][~faces["masked"]]) - set(faces["track"][judged.index]))
    if blind:
        which = f"track{'s' if len(blind) > 1 else ''} {', '.join(map(str, blind))}"
        return Verdict(NO_EVIDENCE, f"{reason} ({nearest}), but it could judge no frame of {which}")
    places = f"{open_places} place{'s' if open_places > 1 else ''}"
    watch = f"; {places} to look at, where a face may be in sight and is not covered" if open_places else ""
    return Verdict(PASS, f"{reason} ({nearest}){left_out}{watch}")


def evidence(judges: Sequence[Judge]) -> str:
    """What the judges' numbers are worth for a real infant, in a few sentences."""
    real = [judge.name for judge in judges if judge.real_faces]
    synthetic = [judge.name for judge in judges if not judge.real_faces]
    sentences = []
    if real:
        sentences.append(
            f"Trained on faces of real people, mostly adults, and not validated on infants: {', '.join(real)}."
        )
    if synthetic:
        sentences.append(
            f"Trained on rendered synthetic faces alone, so no evidence about a real child: {', '.join(synthetic)}."
        )
    return " ".join(sentences)
