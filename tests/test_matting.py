"""The matte of crops, against heads whose silhouettes are known."""

from pathlib import Path

import numpy as np
import pytest

from peekaboo.faces.matting import matted
from peekaboo.synth import head as heads
from peekaboo.synth import render

MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_facekit.npz"


def test_a_matte_is_where_another_room_changes_nothing():
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    model, agreed, mistaken = heads.load(MODEL), [], []
    for parameters in heads.sample(np.random.default_rng(0), 12):
        elsewhere = parameters.copy()
        elsewhere[heads.PARAMETERS["background"]] *= -1
        crop, other = (render.aligned(model, p, 128)[0] for p in (parameters, elsewhere))
        found = matted(crop)
        np.testing.assert_array_equal(found[..., :3], crop)
        person, room = found[..., 3] >= 128, (crop != other).any(-1)
        agreed.append((person != room).mean())
        mistaken.append(person[room].mean())
    assert np.mean(agreed) > 0.95 and min(agreed) > 0.9
    # Of the rim it is the person's part that is left out: as segmented, 0.058 of the room would count as one.
    assert np.mean(mistaken) < 0.04


@pytest.mark.parametrize("side", [32, 128])
def test_a_crop_in_which_no_person_is_seen_is_kept_whole(side):
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert (matted(noise)[..., 3] == 255).all()
