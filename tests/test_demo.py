"""The sample clip through the whole workflow, and what its table must show. Minutes long: `make test-all`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from peekaboo import media, stagefile

HOME = Path(__file__).parents[1]
METHODS = ("pti_traversal", "pti", "traversal", "blur", "pixelate", "mask")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of the workflow on the sample clip."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(HOME / "Snakefile"), "--directory", str(folder)]
    command += ["--cores", "all", "--config", f"clips={HOME / 'resources/demo'}", "device=cpu"]
    subprocess.run(command, check=True, cwd=folder)
    return folder / "results"


@pytest.mark.slow
def test_each_part_of_the_method_does_what_it_is_for(results):
    table = pd.read_csv(results / "table.tsv", sep="\t").set_index("method")
    assert tuple(table.index) == METHODS
    ours = table.loc["pti_traversal"]
    assert ours["identity_cos"] < table.loc["pti", "identity_cos"]
    assert ours["valence_rmse"] < table.loc["traversal", "valence_rmse"]
    assert ours["arousal_rmse"] < table.loc["traversal", "arousal_rmse"]
    assert (table["coverage"] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_frame_and_no_time_stamp_is_lost(results, method):
    source, made = (media.probe(results / "infant" / name) for name in ("source", f"{method}/anonymized.mp4"))
    assert (made.width, made.height, made.duration) == (source.width, source.height, source.duration)
    assert made.times == source.times


@pytest.mark.slow
def test_tuning_lowered_its_loss(results):
    losses = stagefile.read_json(results / "infant" / "tune.json")["losses"]
    assert all(np.less(track["last"], track["first"]).all() for track in losses.values())
