"""The sweep of the walk's settings, against arrays and stages whose answers are known."""

import argparse
import math

import numpy as np
import pandas as pd
import torch

from peekaboo import models, stagefile
from peekaboo.judges.landmarks import Mesh
from peekaboo.latent.readings import COMPLEXION, Judges
from peekaboo.nets.residual import FaceAttributes, FaceEmbedder
from peekaboo.nets.stylegan3 import Generator
from peekaboo.stages import score, traverse
from peekaboo.synth import sweep


def walks(rows):
    names = ["steps", "top_k", "cosine", "parts", "share", "identity_distance", "valence_rmse", "arousal_rmse"]
    return pd.DataFrame(rows, columns=names)


def test_recommended_is_the_shortest_walk_that_reaches_at_the_least_cost():
    table = walks(
        [
            (math.nan, math.nan, math.nan, 0, 1.0, 0.9, 0.0, 0.0),
            (150, 0, 0.1, 2, 0.90, 0.5, 0.1, 0.1),
            (150, 0, -0.1, 3, 0.96, 0.6, 0.3, 0.3),
            # Costs less, but is longer than the one above.
            (150, 0, -0.3, 8, 0.99, 0.7, 0.1, 0.1),
            (150, 50, -0.3, 8, 0.95, 0.6, 0.2, 0.3),
            (150, 50, -0.1, 3, 0.94, 0.6, 0.1, 0.1),
        ]
    )
    chosen, reached = sweep.recommended(table, "share")
    assert reached and (chosen["top_k"], chosen["parts"]) == (50, 8)
    chosen, reached = sweep.recommended(table.assign(share=[1.0, 0.2, 0.5, 0.7, 0.7, 0.1]), "share")
    assert not reached and (chosen["top_k"], chosen["parts"]) == (0, 8)


def test_pooling_takes_root_mean_squares_of_rmse_and_means_of_the_rest():
    start = sweep.Setting(math.nan, math.nan, math.nan)
    rows = [
        {"clip": clip, **setting._asdict(), "share": share, "valence_rmse": error}
        for setting in (start, sweep.Setting(50, 150, -0.3))
        for clip, share, error in (("a", 0.0, 0.3), ("b", 1.0, 0.4))
    ]
    found = sweep.pooled(pd.DataFrame(rows).astype({"top_k": "Int64", "steps": "Int64"}))
    assert len(found) == 2
    np.testing.assert_allclose(found["share"], 0.5)
    np.testing.assert_allclose(found["valence_rmse"], math.sqrt((0.09 + 0.16) / 2))


def test_the_walk_in_use_is_among_those_that_are_tried_once():
    inside = sweep.Setting(sweep.TOP_KS[0], sweep.STEPS[0], -0.3)
    assert len(sweep.routes(inside)) == len(sweep.TOP_KS) + len(sweep.STEPS) - 1
    outside = sweep.routes(inside._replace(top_k=17))
    assert (17, sweep.STEPS[0]) in outside and len(outside) == len(sweep.TOP_KS) + len(sweep.STEPS)


SIDE = 16
NETWORKS = {
    "generator": (
        Generator,
        {"z_dim": 8, "w_dim": 8, "img_resolution": SIDE, "channel_base": 128, "channel_max": 16, "num_layers": 4},
    ),
    "identity": (FaceEmbedder, {"widths": [8, 16], "dimensions": 16, "size": SIDE, "inner": SIDE}),
    "affect": (FaceAttributes, {"widths": [8, 16], "size": SIDE, "inner": SIDE}),
}


def test_scorers_are_those_of_the_score_stage(tmp_path):
    torch.manual_seed(0)
    for name, (network, constructor) in NETWORKS.items():
        models.save(tmp_path / f"{name}.safetensors", network(**constructor).eval(), constructor)
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in NETWORKS}
    generator, identity, affect = (models.load(path) for path in paths.values())
    pivots = generator.mapping(torch.randn(9, 8, generator=torch.Generator().manual_seed(1))).numpy()
    latents = np.full((10, 2, *pivots.shape[1:]), np.nan, np.float32)
    latents[:9, 1] = pivots
    with stagefile.write(tmp_path / "invert.h5") as file:
        file["latents"] = latents
    with stagefile.write(tmp_path / "tune.h5") as file:
        file.create_group("track_001")
    options = {"samples": 40, "clip-samples": 6, "threshold": 0.5, "weight-decay": 2.0, "seed": 3}
    score.main(
        [
            *(f"--{name}={value}" for name, value in (paths | options).items()),
            *(f"--latents={tmp_path / 'invert.h5'}", f"--tuned={tmp_path / 'tune.h5'}", "--device=cpu"),
            *(f"--output={tmp_path / 'score.h5'}", f"--report={tmp_path / 'score.json'}"),
        ]
    )
    settings = argparse.Namespace(batch=16, **{name.replace("-", "_"): value for name, value in options.items()})
    judges = Judges(identity, affect, Mesh())
    found, readings = sweep.fitted(tmp_path, 1, generator, judges, settings)
    with stagefile.read(tmp_path / "score.h5") as file:
        expected, stored = traverse.read_scorers(file["track_001"])
    assert readings.names == stored.names == ("emotion", "arousal", "age", "sex", "red", "green", "blue", *COMPLEXION)
    np.testing.assert_allclose(readings.gradients, stored.gradients, rtol=1e-3, atol=1e-5)
    for name, scorer in expected.items():
        # Batches of another size round otherwise.
        np.testing.assert_allclose(found[name].weight, scorer.weight, rtol=1e-4, atol=1e-6)
