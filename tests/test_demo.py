"""The sample clip through the whole workflow, and what its table must show. Minutes long: `make test-all`."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from project import HOME, copy, snakemake

from peekaboo import media, stagefile

METHODS = ("pti_traversal", "pti", "traversal", "blur", "pixelate", "mask")


# What follows from each stage, but for the report, which follows from all.
AFTER = {
    "extract": {"withhold", "invert", "tune", "score", "traverse", "decode", "compose", "measure"},
    "invert": {"tune", "score", "traverse", "decode", "compose", "measure"},
    "tune": {"score", "traverse", "decode", "compose", "measure"},
    "score": {"traverse", "decode", "compose", "measure"},
    "traverse": {"decode", "compose", "measure"},
    "decode": {"compose", "measure"},
    "compose": {"measure"},
    "measure": set(),
}


def run(home, folder, *options):
    """What the workflow of the project in `home` prints, on the sample clip."""
    code, output = snakemake(folder, *options, home=home, clips="clips", device="cpu")
    assert code == 0, output
    return output


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, and the folder in which it has run on the sample clip."""
    home, folder = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("demo")
    copy(home)
    shutil.copytree(HOME / "resources" / "demo", folder / "clips")
    run(home, folder)
    return home, folder


@pytest.fixture(scope="module")
def results(project):
    """Results of the workflow on the sample clip."""
    return project[1] / "results"


def due(home, folder, *options):
    """Stages that a run would run now."""
    listed = re.findall(r"^(\w+) +\d+$", run(home, folder, "-n", *options), re.MULTILINE)
    return set(listed) - {"total", "all", "report"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", AFTER)
def test_an_edit_of_a_stage_runs_it_and_what_follows_and_an_edit_of_words_nothing(project, stage):
    path = project[0] / "src" / "peekaboo" / "stages" / f"{stage}.py"
    text = path.read_text()
    path.write_text(text + "\n# edited\n")
    assert due(*project) == set()
    path.write_text(text + "\nEDITED = True\n")
    # Before a checkpoint has run again, nobody knows what follows it.
    assert due(*project) >= {stage} and due(*project) <= {stage} | AFTER[stage]
    if stage != "extract":
        assert due(*project) == {stage} | AFTER[stage] - {"withhold"}
    path.write_text(text)
    assert due(*project) == set()


@pytest.mark.slow
def test_another_clip_runs_alone(project):
    another = project[1] / "clips" / "second.mp4"
    shutil.copy(another.with_name("infant.mp4"), another)
    planned = run(*project, "-n")
    another.unlink()
    assert "second: " in planned and "infant: " not in planned


@pytest.mark.slow
def test_another_method_or_judge_runs_its_own_stages(project, tmp_path):
    results = project[1] / "results"
    # As if the method were yet to be run: its results aren't there, nor the table that has it.
    for name in ("infant/mask", "table.tsv"):
        (results / name).rename(tmp_path / Path(name).name)
    assert due(*project) == {"compose", "measure"}
    for name in ("infant/mask", "table.tsv"):
        (tmp_path / Path(name).name).rename(results / name)
    (tmp_path / "judge.yaml").write_text("measure: {identity: none}\n")
    assert due(*project, "--configfile", str(tmp_path / "judge.yaml")) == {"measure"}


@pytest.mark.slow
def test_each_part_of_the_method_does_what_it_is_for(results):
    table = pd.read_csv(results / "table.tsv", sep="\t").set_index("method")
    assert tuple(table.index) == METHODS
    ours = table.loc["pti_traversal"]
    assert ours["identity_cos"] < table.loc["pti", "identity_cos"]
    assert ours["valence_rmse"] < table.loc["traversal", "valence_rmse"]
    assert (table["coverage"] == 1).all()


@pytest.mark.slow
def test_tuning_keeps_arousal_on_the_walk(results):
    table = pd.read_csv(results / "table.tsv", sep="\t").set_index("method")
    assert table.loc["pti_traversal", "arousal_rmse"] < table.loc["traversal", "arousal_rmse"]


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
