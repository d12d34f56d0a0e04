from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from peekaboo.synth import benchmark, train
from peekaboo.synth import head as heads

MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_facekit.npz"


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_operating_point_of_two_normal_distributions():
    same = np.arange(40000) < 20000
    distances = np.where(same, 0.4, 0.8) + 0.1 * noise(0, 40000)
    threshold, rate = benchmark.equal_error(distances, same)
    assert threshold == pytest.approx(0.6, abs=0.005)
    assert rate == pytest.approx(norm.cdf(-2), abs=0.002)
    assert train.auc(-distances, same) == pytest.approx(norm.cdf(0.4 / np.hypot(0.1, 0.1)), abs=0.001)


def test_operating_point_with_unequal_counts():
    same = np.arange(22000) < 2000
    threshold, rate = benchmark.equal_error(np.where(same, 0.3, 0.9) + 0.15 * noise(1, 22000), same)
    assert threshold == pytest.approx(0.6, abs=0.02)
    assert rate == pytest.approx(norm.cdf(-2), abs=0.006)


def test_pairs_leave_out_missing_faces():
    embeddings = np.array([[1, 0], [0, 2], [np.nan, 0], [3, 0]])
    cosines, distances, same = benchmark.pairs(embeddings, np.array([0, 1, 0, 0]))
    assert np.allclose(cosines, [0, 1, 0])
    assert np.allclose(distances, [5**0.5, 2, 13**0.5])
    assert same.tolist() == [False, True, False]


def test_flicker_of_a_known_course():
    t = np.arange(200)
    places = np.ones((1, 4, 4, 3))
    assert benchmark.flicker(t[:, None, None, None] * places) == 0
    # A triangle of period 2: first differences of 1 each, second ones of 2.
    assert benchmark.flicker((t % 2)[:, None, None, None] * places) == pytest.approx(2)
    smooth = 50 * np.sin(t / 20)[:, None, None, None] * places
    shaken = smooth + np.where(t % 2, 1, -1)[:, None, None, None]
    assert benchmark.flicker(smooth) < 0.06 < 1 < benchmark.flicker(shaken)


def test_sticking_tells_a_moving_texture_from_one_in_place():
    texture = 10 * noise(2, 64, 64, 3)
    moving = np.stack([128 + np.roll(texture, t, 0) for t in range(32)])
    resting = 128 + 10 * noise(3, 64, 64, 3)
    # Of 32 frames of independent detail, their mean keeps a 32nd of the energy.
    assert benchmark.sticking(moving) == pytest.approx(1 / 32, abs=0.015)
    assert benchmark.sticking(moving * 0 + resting) == pytest.approx(1, abs=1e-4)
    assert benchmark.sticking(moving + resting) == pytest.approx(0.5, abs=0.05)


def pictures(seed):
    """Smooth random pictures [20, 64, 64, 3] with the falling spectrum of photographs."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(64) * 64] * 2))
    spectrum = np.fft.fft2(noise(seed, 20, 64, 64)) / np.maximum(frequency, 1) ** 1.5
    smooth = np.fft.ifft2(spectrum).real
    return np.repeat((128 + 40 * smooth / smooth.std())[..., None], 3, -1)


def test_grid_finds_a_planted_grid_alone():
    rendered, drawn = pictures(0), pictures(1)
    assert abs(benchmark.grid(drawn, rendered, 16)) < 2
    planted = drawn + 6 * np.cos(2 * np.pi * 16 * np.arange(64) / 64)[:, None]
    assert benchmark.grid(planted, rendered, 16) > 10
    # A texture that is no multiple of the rate is none of the generator's grids.
    other = drawn + 6 * np.cos(2 * np.pi * 24.5 * np.arange(64) / 64)[:, None]
    assert benchmark.grid(other, rendered, 16) < 2


def test_rotation_in_the_crop_is_the_truth_less_the_crops_own_turn():
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    model = heads.load(MODEL)
    for parameters in heads.sample(np.random.default_rng(3), 4):
        # From afar, where perspective tilts the line of the eyes little.
        parameters[heads.PARAMETERS["camera"]] = 4
        _, truth = benchmark.render.aligned(model, parameters, 64)
        found = benchmark.crop_rotation(model, parameters, truth)
        assert np.allclose(found @ found.T, np.eye(3))
        # In the crop both eyes lie about level, so that what roll is left is that of perspective.
        points = benchmark.render.pose(model, parameters)[model.landmarks]
        eyes = [points[36:42].mean(0), points[42:48].mean(0)]
        turned = found @ truth.rotation.T @ (eyes[1] - eyes[0])
        across = truth.landmarks[42:48].mean(0) - truth.landmarks[36:42].mean(0)
        assert np.degrees(np.arctan2(turned[1], turned[0])) == pytest.approx(
            np.degrees(np.arctan2(-across[1], across[0])), abs=2
        )


def test_sheet_runs_in_rows():
    tiles = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert benchmark.sheet(tiles, 3)[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_inversions_come_in_passes():
    class Generator(torch.nn.Module):
        num_ws = 2

        def __init__(self):
            super().__init__()
            self.mapping = torch.nn.Module()
            self.mapping.w_avg = torch.zeros(3)

        def synthesis(self, latents):
            return latents.mean(1)[..., None, None].expand(-1, 3, 4, 4)

    def encoder(images):
        # Half of what is still missing.
        return ((images[:, :3] - images[:, 3:]).mean((2, 3)) / 2)[:, None].expand(-1, 2, 3)

    wanted = np.full((benchmark.BATCH + 2, 4, 4, 3), 255, np.uint8)
    drawn = benchmark.inversions(encoder, Generator(), wanted)
    assert drawn.shape == (benchmark.PASSES, *wanted.shape)
    assert drawn[:, -1, 0, 0, 0].tolist() == [191, 223, 239]


RESULTS = {
    "seed": 0,
    "renders": {"identities": 8, "size": 64},
    "networks": {
        name: {
            "bytes": 1234567,
            "parameters": 1000,
            "sha256": "abc",
            "constructor": {"widths": [8, 16]},
            "recipe": {"network": {"widths": [8, 16]}, "steps": 70},
        }
        for name in ("affect", "generator")
    },
    "measures": [
        benchmark.row("affect", "valence", 0.1234, most=0.15),
        benchmark.row("affect", "sex", 81.25, "%", least=90, note="few"),
        benchmark.row("affect", "age", None, most=0.1, note="needs a file"),
        benchmark.row("generator", "PSNR", 21.06, "dB"),
    ],
}


def test_table_says_what_is_met():
    lines = benchmark.table(RESULTS["measures"], ("network", "measure", "value", "target", "met")).splitlines()
    assert lines[2:] == [
        "| affect | valence | 0.123 | at most 0.15 | yes |",
        "| affect | sex (few) | 81.2 % | at least 90 % | no |",
        "| affect | age | needs a file | at most 0.1 | not measured |",
        "| generator | PSNR | 21.1 dB |  |  |",
    ]


def test_card_is_rewritten_between_its_marks_alone(tmp_path):
    card = tmp_path / "affect.md"
    card.write_text("# Affect\n\nProse \\1.\n\n<!-- measured -->\nold\n<!-- /measured -->\n\nLimits.\n")
    text = benchmark.card_table(RESULTS, "affect")
    assert "| size | 1.23 MB, 1000 parameters |" in text
    assert "| recipe | seed 0, steps 70 |" in text
    assert "| valence | 0.123 | at most 0.15 | yes |" in text
    assert "PSNR" not in text
    benchmark.rewrite_card(card, text)
    whole = f"# Affect\n\nProse \\1.\n\n<!-- measured -->\n{text}<!-- /measured -->\n\nLimits.\n"
    assert card.read_text() == whole
    benchmark.rewrite_card(card, text)
    assert card.read_text() == whole


def test_card_without_marks_is_refused(tmp_path):
    card = tmp_path / "affect.md"
    card.write_text("# Affect\n")
    with pytest.raises(ValueError, match=r"affect\.md: expected one part between"):
        benchmark.rewrite_card(card, "text")
    assert card.read_text() == "# Affect\n"
