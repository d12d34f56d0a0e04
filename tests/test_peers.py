"""How far apart an identity judge sees infants, against embeddings that are known."""

from pathlib import Path

import numpy as np
import pytest

from peekaboo.synth import clips, peers
from peekaboo.synth import head as heads
from peekaboo.synth.head import IDENTITY, PARAMETERS, STATE

HEAD = Path(__file__).parents[2] / "shared" / "data" / "ict_facekit.npz"


def test_a_peer_is_another_who_is_alike_and_does_the_same():
    rng = np.random.default_rng(0)
    script = clips.script(clips.CLIPS["synth-01"])[:5]
    other = peers.peer(script, rng)
    for same in (STATE, *(PARAMETERS[name] for name in ("age", "sex", "skin"))):
        np.testing.assert_array_equal(other[:, same], script[:, same])
    shape = other[:, PARAMETERS["shape"]]
    assert (shape == shape[0]).all() and (shape[0] != script[0, PARAMETERS["shape"]]).all()
    assert (peers.peer(script, rng)[0, IDENTITY] != other[0, IDENTITY]).any()


def test_an_infant_is_compared_with_its_other_frames_alone():
    # Means of the other two: 2.5, 2 and 0.5.
    found = peers.to_itself(np.array([[0.0], [1.0], [4.0]]))
    assert found.tolist() == [1, 2.5, 1, 1, 3.5, 3]


def test_the_nearer_of_frame_and_mean_counts_and_what_is_missing_does_not():
    own = np.array([[0.0, 0], [np.nan, 0], [0, 0]])
    found = np.array([[3.0, 4], [3, 4], [np.nan, 0]])
    np.testing.assert_allclose(peers.nearest(found, own, np.array([3.0, 0])), [4, 4, np.nan])


def test_the_threshold_errs_as_often_on_one_infant_as_on_two():
    rng = np.random.default_rng(0)
    own, others = rng.normal(0.2, 0.05, 20_000), rng.normal(0.4, 0.05, 20_000)
    own[7] = np.nan
    halves = [peers.Distances(own[k::2], *3 * [others[k::2]]) for k in (0, 1)]
    limit, rate = peers.threshold(halves)
    # Two standard deviations from either mean.
    assert limit == pytest.approx(0.3, abs=0.002) and rate == pytest.approx(0.0228, abs=0.002)


@pytest.mark.skipif(not HEAD.exists(), reason=f"no head model: {HEAD} is absent")
def test_infants_and_their_peers_are_rendered_in_the_clips_frames(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", 2)
    monkeypatch.setattr(peers, "FRAMES", 3)
    shown = []

    def embed(pictures: np.ndarray) -> np.ndarray:
        shown.append(pictures)
        return pictures.reshape(len(pictures), -1)[:, ::997].astype(np.float64)

    found = peers.compare(heads.load(HEAD), clips.CLIPS["synth-13"], embed)
    assert [pictures.shape for pictures in shown] == [(3, 256, 256, 3)] * 3
    assert found.own.shape == (6,) and found.peers.shape == found.same_frame.shape == found.cosines.shape == (6,)
    assert (found.peers > 0).all() and (found.same_frame >= found.peers).all() and (found.cosines < 1).all()
    # Alike in light and room: the upper corners show the same.
    corners = [pictures[:, :8, :8].astype(int) for pictures in shown]
    assert abs(corners[0] - corners[1]).mean() < 8
