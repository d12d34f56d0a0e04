"""May the clip be shared: pass, fail or no evidence, and why."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from peekaboo.judges.judge import Judge

PASS, FAIL, NO_EVIDENCE = "pass", "fail", "no evidence"


class Verdict(NamedTuple):
    """One of pass, fail and no evidence, with the reason in a sentence."""

    verdict: str
    reason: str


def decide(
    covered: np.ndarray, same_frame: np.ndarray, template: np.ndarray, judge: str | None, operating_point: float | None
) -> Verdict:
    """Decide from all face-frames of all tracks [F].

    `covered`: share of the face region replaced, NaN counts as nothing. `same_frame`, `template`: the independent
    judge's distances from the anonymised face to the original in the same frame, and to the mean original of its track;
    NaN where the judge could not be applied. `judge` names that judge, trained on real faces; None where there is none.
    A distance below its `operating_point` means one person.

    A face left uncovered fails first; then, without a judge or without a judged frame, there is no evidence; then one
    frame in which either distance takes the anonymised face for the original fails the clip.
    """
    if not len(covered):
        return Verdict(NO_EVIDENCE, "no face was tracked in any frame")
    # Written so that NaN counts as uncovered.
    uncovered = int((~(covered >= 1)).sum())
    if uncovered:
        return Verdict(FAIL, f"the face is not fully covered in {uncovered} of {len(covered)} face-frames")
    if judge is None:
        return Verdict(
            NO_EVIDENCE, "no network trained on real faces and without a part in the edit judged the identity"
        )
    distances = np.fmin(same_frame, template)
    judged = distances[np.isfinite(distances)]
    if not len(judged):
        return Verdict(NO_EVIDENCE, f"{judge} could judge none of {len(covered)} face-frames")
    unjudged = len(covered) - len(judged)
    left_out = f"; {unjudged} more could not be judged" if unjudged else ""
    taken = int((judged < operating_point).sum())
    nearest = f"nearest distance {judged.min():.3f}, same person below {operating_point:g}"
    if taken:
        reason = f"{judge} takes the anonymised face for the original in {taken} of {len(judged)} judged face-frames"
        return Verdict(FAIL, f"{reason} ({nearest}){left_out}")
    reason = f"{judge} takes the anonymised face for the original in none of {len(judged)} judged face-frames"
    return Verdict(PASS, f"{reason} ({nearest}){left_out}")


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
