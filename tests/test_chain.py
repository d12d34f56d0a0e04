"""The benchmark of the chain, against arrays whose answers are known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from peekaboo import stagefile
from peekaboo.judges import pose
from peekaboo.synth import chain, peers


def test_spread_is_mean_and_standard_error_of_what_is_known():
    found = chain.spread([1.0, 2.0, 3.0, 4.0, math.nan])
    assert found.mean == 2.5 and found.clips == 4
    # Variance of 1, 2, 3, 4 is 5/3.
    assert found.error == pytest.approx(math.sqrt(5 / 3 / 4))
    assert chain.spread([7.0]) == (7.0, None, 1)
    assert chain.spread([math.nan]) == (None, None, 0)


def test_share_of_different_persons():
    distances = np.array([0.2, 0.6, 0.7, math.nan, 0.59])
    assert chain.different(distances, 0.6) == 0.5
    assert math.isnan(chain.different(distances, None))
    assert math.isnan(chain.different(np.array([math.nan]), 0.6))


def test_each_threshold_is_held_against_the_distances_that_it_was_found_by():
    same_frame, nearest = np.array([0.5, 0.7, math.nan, 0.7]), np.array([0.5, 0.3, 0.9, 0.65])
    found = chain.persons(same_frame, nearest, {"published": 0.6, "rendered": None, "filmed": 0.4})
    assert found["different_published"] == pytest.approx(2 / 3) and found["different_filmed"] == 0.75
    assert found["verdict_published"] == 0.5 and "verdict_filmed" not in found
    assert math.isnan(found["different_rendered"]) and math.isnan(found["verdict_rendered"])
    assert found["identity_distance"] == pytest.approx(1.9 / 3) and found["nearest_distance"] == pytest.approx(2.35 / 4)


@pytest.mark.parametrize(
    ("mean", "error", "higher", "expected"),
    [
        (0.3, 0.1, True, "better"),
        (0.3, 0.1, False, "worse"),
        (-0.3, 0.1, False, "better"),
        (0.2, 0.1, True, "within noise"),
        (0.0, 0.0, True, "within noise"),
        (0.3, None, True, "not known"),
        (None, None, True, "not known"),
    ],
)
def test_standing_of_a_difference(mean, error, higher, expected):
    assert chain.standing(chain.Spread(mean, error, 5), higher) == expected


def test_errors_against_the_truth_are_those_that_were_planted():
    rng = np.random.default_rng(0)
    truth = {"rotation": Rotation.from_euler("YXZ", rng.uniform(-40, 40, (6, 3)), degrees=True).as_matrix()}
    truth |= {"valence": rng.uniform(-0.5, 0.5, 6), "arousal": rng.uniform(-0.5, 0.5, 6)}
    turned = truth["rotation"] @ Rotation.from_rotvec([0, 0, 7], degrees=True).as_matrix()
    rows = pd.DataFrame(pose.angles(turned), columns=["yaw_original", "pitch_original", "roll_original"])
    rows = rows.assign(
        frame=np.arange(6), valence_original=truth["valence"] + [0.3, -0.3] * 3, arousal_original=truth["arousal"]
    )
    rows.loc[2, ["yaw_original", "pitch_original", "roll_original"]] = math.nan
    # Frame 5 is not judged at all.
    found = chain.against_truth(rows.iloc[[4, 3, 2, 1, 0]], "original", truth)
    assert found["pose_truth"] == pytest.approx(7)
    assert found["valence_truth_rmse"] == pytest.approx(0.3)
    assert found["arousal_truth_rmse"] == pytest.approx(0)


def test_the_infant_is_the_face_nearest_to_the_truth():
    boxes = np.full((3, 2, 4), np.nan)
    boxes[0] = [[100, 100, 160, 160], [0, 0, 60, 60]]
    # Both hold the middle, (30, 30); the second is nearer.
    boxes[1] = [[0, 0, 100, 100], [5, 0, 65, 60]]
    boxes[2, 0] = [100, 100, 160, 160]
    landmarks = np.broadcast_to(np.array([30.0, 30.0]), (3, 68, 2))
    table = pd.DataFrame({"frame": [0, 0, 1, 1, 2], "track": [0, 1, 0, 1, 0], "value": range(5)})
    found = chain.infant_rows(table, boxes, landmarks)
    assert found[["frame", "track", "value"]].to_numpy().tolist() == [[0, 1, 1], [1, 1, 3]]


def made_up(**means):
    """A table of six clips: each method's measures as given, all others 1, with the same ups and downs by clip."""
    ups = np.array([-0.02, 0.01, 0.0, 0.02, -0.01, 0.0])
    rows = []
    for method in (chain.ORIGINAL, "pti_traversal", "pti", "traversal"):
        for number, up in enumerate(ups):
            row = dict.fromkeys(chain.MEASURES, 1.0) | means.get(method, {})
            # Differences between methods vary a little, those between clips a lot.
            rows.append({"clip": f"c{number}", "method": method} | {k: v + 10 * up + up for k, v in row.items()})
    table = pd.DataFrame(rows)
    table["valence_rmse"] += np.random.default_rng(0).normal(0, 0.01, len(table))
    return table


def test_summary_tells_targets_rivalry_and_the_papers_claims():
    table = made_up(
        pti_traversal={"valence_rmse": 0.5, "arousal_rmse": 0.1, "identity_cos": 0.5, "different_published": 0.96},
        pti={"valence_rmse": 0.3, "arousal_rmse": 0.05, "identity_cos": 0.8, "pose_rmat": 0.5},
        traversal={"valence_rmse": 0.5, "arousal_rmse": 0.3, "identity_cos": 0.6, "different_published": 0.9},
    )
    found = chain.summarize(table)
    ours = found["methods"]["pti_traversal"]
    assert ours["valence_rmse"]["met"] is False and ours["arousal_rmse"]["met"] is True
    assert ours["different_published"]["met"] is True and "met" not in ours["fps"]
    standings = {name: entry["standing"] for name, entry in found["rivalry"].items()}
    assert standings == {
        "different_published": "better",
        "valence_rmse": "within noise",
        "arousal_rmse": "better",
        "pose_rmat": "within noise",
        "identity_tc": "within noise",
    }
    holds = {(entry["method"], entry["claim"], entry["measure"]): entry["holds"] for entry in found["claims"]}
    assert holds == {
        ("pti", "keeps more", "valence_rmse"): "holds",
        ("pti", "keeps more", "arousal_rmse"): "holds",
        ("pti", "keeps more", "pose_rmat"): "holds",
        ("pti", "hides less", "identity_cos"): "holds",
        ("traversal", "hides more", "identity_cos"): "does not hold",
        ("traversal", "keeps less", "valence_rmse"): "within noise",
        ("traversal", "keeps less", "arousal_rmse"): "holds",
    }


def test_page_shows_every_measure_and_what_is_missing():
    table = made_up(pti_traversal={"coverage": 1.0})
    table.loc[table["method"] == chain.ORIGINAL, "coverage"] = math.nan
    table[["different_rendered", "verdict_rendered"]] = math.nan
    results = chain.summarize(table) | {
        "machine": {"processor": "Abacus", "cores": 2, "card": "none"},
        "thresholds": {"published": 0.6, "rendered": None, "filmed": 0.41},
        "mistaken": 0.13,
        "withheld": {"c9": "no face found"},
        "frames": 10,
    }
    text = chain.page(results)
    rows = {line.split(" | ")[0][2:]: line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "}
    assert all(measure.title in rows for measure in chain.MEASURES.values())
    assert rows[chain.MEASURES["coverage"].title][1:5] == ["≥ 1", "met", "–", "1.00 ± 0.06"]
    assert rows[chain.MEASURES["different_rendered"].title][2:] == ["n/a"] * 5
    assert rows[chain.MEASURES["verdict_rendered"].title][-4:] == ["n/a"] * 4
    assert "Abacus, cores: 2, card: none" in text and "c9 (no face found)" in text and "not calibrated" in text
    assert "- 0.410 on (equal error rate, 13 %" in text
    assert "6 of its 20 clips, 10 frames" in text
    valence = table.loc[(table["clip"] == "c3") & (table["method"] == "pti_traversal"), "valence_rmse"].item()
    shares = ["1.22", "–", "1.22", "1.22", "1.22"]
    assert rows["`c3`"][1:] == [*shares, f"{valence:.2f}", "1.22", "1.2", "1.220", "1.22", "–"]


def test_other_infants_have_a_row_for_each_clip():
    nearest, same_frame = np.array([0.3, 0.5, 0.7, math.nan]), np.array([0.5, 0.7, 0.9, math.nan])
    apart = peers.Distances(np.array([0.1]), nearest, same_frame, np.array([0.9, 0.7, 0.8, math.nan]))
    found = chain.peer_rows({"c0": apart, "c1": apart}, {"published": 0.6, "rendered": None, "filmed": 0.4})
    assert found["clip"].tolist() == ["c0", "c1"] and set(found["method"]) == {chain.PEER}
    row = found.iloc[0]
    assert row["different_published"] == pytest.approx(2 / 3) and row["different_filmed"] == pytest.approx(2 / 3)
    assert row["verdict_published"] == pytest.approx(1 / 3) and math.isnan(row["different_rendered"])
    assert row["infant_published"] == row["different_published"] and math.isnan(row["infant_rendered"])
    assert row["identity_distance"] == pytest.approx(0.7) and row["identity_cos"] == pytest.approx(0.8)


def test_thresholds_come_from_the_judge_and_from_the_benchmark_of_the_networks(tmp_path):
    assert chain.thresholds(None) == {"published": 0.6, "rendered": None}
    stagefile.write_json(tmp_path / "e.json", {"operating_points": {"dlib": {"published": 0.6, "rendered": 0.41}}})
    assert chain.thresholds(str(tmp_path / "e.json")) == {"published": 0.6, "rendered": 0.41}
