"""A run is killed at any moment, and the same command goes on to the same results. Minutes long: `make test-all`."""

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice

import pandas as pd
import psutil
import pytest
import yaml
from project import HOME, copy

from peekaboo import media

FRAMES = 12
STAGES = ("extract", "invert", "tune", "score", "traverse", "decode", "compose", "measure", "report")
TIMES = {"seconds", "fps", "peak_mib"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the project with settings that take little time."""
    home = copy(tmp_path_factory.mktemp("project"))
    settings = yaml.safe_load((home / "config.yaml").read_text())
    settings.update(clips="clips", methods=["pti_traversal", "blur"])
    settings["tune"]["epochs"] = 3
    settings["score"].update(samples=40, clip_samples=40)
    settings["traverse"]["steps"] = 500
    (home / "config.yaml").write_text(yaml.safe_dump(settings))
    return home


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    """Working directory of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    clip = HOME / "resources" / "demo" / "infant.mp4"
    info = media.probe(clip)
    info = replace(info, pts=info.pts[:FRAMES], durations=info.durations[:FRAMES])
    (folder / "clips").mkdir()
    with media.writer(folder / "clips" / "infant.mp4", info) as write:
        for frame in islice(media.frames(clip), FRAMES):
            write(frame)
    finish(home, folder)
    return folder


@pytest.fixture
def without_blur(whole, tmp_path_factory):
    """The same, but the method blur is yet to be run."""
    # As far from the project: commands name files from here.
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("run"), symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(folder / "results" / "infant" / "blur")
    (folder / "results" / "table.tsv").unlink()
    return folder


def start(home, folder):
    """Start the command that is given again and again."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(home / "Snakefile"), "--cores", "2"]
    # The copy's own code, whatever is edited meanwhile; a card that is none, so that jobs share a worker on the CPU.
    environment = os.environ | {"PYTHONPATH": str(home / "src"), "CUDA_VISIBLE_DEVICES": "GPU-none"}
    with open(folder / "output.txt", "w") as output:
        return psutil.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)


def finish(home, folder):
    """Give the command and wait for its end, which has to be good."""
    code = start(home, folder).wait()
    assert code == 0, (folder / "output.txt").read_text()


def stage_process(run, stage):
    """The process of a stage as soon as the run has started it."""
    while run.poll() is None:
        for process in run.children(recursive=True):
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if f"peekaboo.stages.{stage}" in words and "python" in os.path.basename(words[0]):
                return process
        time.sleep(0.05)
    pytest.fail(f"the run ended without {stage}")


def kill_all(run):
    """Kill a run with all that it has started, at once."""
    processes = [run, *run.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)


def contents(folder):
    """Results by path, without what differs from run to run: times, and the page and columns that show them."""
    found = {}
    for path in sorted((folder / "results").rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.is_symlink() or path.suffix == ".html":
            continue
        if path.suffix == ".json":
            # A file that is cut off is one that says something else.
            text = path.read_text()
            try:
                found[name] = {key: value for key, value in json.loads(text).items() if key not in TIMES}
            except json.JSONDecodeError:
                found[name] = text
        elif name == "results/table.tsv":
            table = pd.read_csv(path, sep="\t")
            found[name] = table[[column for column in table if "fps" not in column]].to_csv()
        else:
            found[name] = path.read_bytes()
    return found


def incomplete(folder):
    """Outputs that Snakemake knows to be unfinished, by path."""
    marks = (folder / ".snakemake" / "incomplete").rglob("*")
    return {base64.urlsafe_b64decode(mark.name).decode() for mark in marks if mark.is_file()}


def differing(folder, expected):
    """Results that are there and not what they are expected to be, by path."""
    found = contents(folder)
    return {name for name in found.keys() & expected.keys() if found[name] != expected[name]}


# Ten kills of one run: each meets what those before it have left, none of a run's work is done ten times over, and as
# every stage gets one, none is left to chance.
@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_as_if_nothing_had_been(home, whole, tmp_path):
    chance, expected = random.Random(0), contents(whole)
    shutil.copytree(whole / "clips", tmp_path / "clips")
    run = start(home, tmp_path)
    time.sleep(chance.uniform(0, 5))
    kill_all(run)
    for stage in STAGES:
        run = start(home, tmp_path)
        stage_process(run, stage)
        record = next((whole / "benchmarks").rglob(f"{stage}.jsonl"))
        time.sleep(chance.uniform(0, json.loads(record.read_text())["s"]))
        kill_all(run)
        # What bears its name is whole, or will be made again.
        assert differing(tmp_path, expected) <= incomplete(tmp_path), stage
    finish(home, tmp_path)
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_a_job_that_is_killed_fails_the_run_and_leaves_nothing(home, whole, without_blur):
    method = without_blur / "results" / "infant" / "blur"
    run = start(home, without_blur)
    process = stage_process(run, "compose")
    while not list(method.glob(".anonymized.*")):
        time.sleep(0.01)
    process.kill()
    assert run.wait() != 0
    assert not (method / "anonymized.mp4").exists()
    finish(home, without_blur)
    assert contents(without_blur) == contents(whole)


@pytest.mark.slow
def test_jobs_that_outlive_their_run_don_t_disturb_the_next(home, whole, without_blur):
    run = start(home, without_blur)
    left = stage_process(run, "measure")
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert left.is_running()
    finish(home, without_blur)
    assert not left.is_running()
    assert contents(without_blur) == contents(whole)


@pytest.mark.slow
def test_a_stage_that_was_killed_between_its_files_is_run_again(home, whole, without_blur):
    (without_blur / "results" / "infant" / "pti_traversal" / "measure.json").unlink()
    (without_blur / "results" / "infant" / "invert.json").unlink()
    finish(home, without_blur)
    assert contents(without_blur) == contents(whole)
