"""The workflow on a real SLURM: `make test-slurm`. Three clips, a few frames of the sample clip each, go through the
profile, and through one job that they share; SLURM's own records tell what was asked for and what happened, and the
results are those of a local run.
"""

import hashlib
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import imageio_ffmpeg
import pandas as pd
import pytest
import yaml
from project import HOME, snakemake
from slurm import MISSING, PACKAGES, cluster, jobs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install {' '.join(PACKAGES)}"),
]

CLIPS = ("clip-1", "clip-2", "clip-3")
FRAMES = 12
# What computes on a card, and what doesn't; withhold and the links to the sources are made where Snakemake runs.
WITH_CARD = {"invert", "tune", "score", "traverse", "decode", "measure"}
WITHOUT_CARD = {"extract", "compose", "report"}
# Too little for a first attempt, enough for the second: MiB.
MEMORY = (300, 6000)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    source = next((HOME / "resources/demo").glob("*.mp4"))
    for second, clip in enumerate(CLIPS):
        cut = ["-ss", str(second), "-i", source, "-frames:v", str(FRAMES), "-an", folder / f"{clip}.mp4"]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *cut], check=True)
    return folder


@pytest.fixture(scope="module")
def settings(clips):
    """Options that name a file of settings, short of all that takes long."""
    file = clips / "settings.yaml"
    chosen = {"clips": str(clips), "methods": ["pti_traversal"], "tune": {"epochs": 1}, "score": {"samples": 40}}
    file.write_text(yaml.safe_dump(chosen))
    return "--configfile", str(file)


@pytest.fixture(scope="module")
def local(tmp_path_factory, settings):
    folder = tmp_path_factory.mktemp("local")
    code, output = snakemake(folder, *settings)
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Variables of a running SLURM, which are set for this process too."""
    with cluster(tmp_path_factory.mktemp("slurm")) as environment, pytest.MonkeyPatch.context() as patch:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, environment[name])
        yield environment


@pytest.fixture(scope="module")
def submitted(tmp_path_factory, settings, slurm):
    """Folder of a run through the profile, what Snakemake said, and SLURM's records."""
    folder = tmp_path_factory.mktemp("submitted")
    first, second = MEMORY
    code, output = snakemake(
        folder,
        "--workflow-profile",
        str(HOME / "workflow/profiles/slurm"),
        # This SLURM keeps no accounts and shares no file system.
        *("--slurm-status-command", "squeue", "--slurm-no-account"),
        *("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"),
        *("--default-resources", "slurm_partition=gpu"),
        *("--set-resources", f"tune:mem_mb={first} if attempt == 1 else {second}", "invert:gpu_model=pretend"),
        *settings,
    )
    return folder, code, output, jobs(slurm)


@pytest.fixture(scope="module")
def allocated(tmp_path_factory, settings, slurm):
    """Folder of a run inside one job of SLURM, that job's number, and how many jobs of SLURM it took."""
    folder = tmp_path_factory.mktemp("allocated")
    before = len(jobs(slurm))
    run = [sys.executable, "-m", "snakemake", "--snakefile", str(HOME / "Snakefile"), "--directory", str(folder)]
    command = shlex.join([*run, "--cores", "2", "--resources", "gpu=1", *settings])
    asked = ["--partition=gpu", "--gpus=1", "--time=60", "--cpus-per-task=2", f"--output={folder}/snakemake.log"]
    done = subprocess.run(["sbatch", "--parsable", "--wait", *asked, "--wrap", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (folder / "snakemake.log").read_text()
    return folder, done.stdout.strip(), len(jobs(slurm)) - before


def results(folder: Path) -> dict[str, str]:
    """Checksums of the stage files, videos and tables in a folder of results, less the table's columns of speed."""
    files = [path for path in sorted((folder / "results").rglob("*")) if path.suffix in (".h5", ".mp4", ".tsv")]
    content = {path: path.read_bytes() for path in files}
    table = pd.read_csv(folder / "results/table.tsv", sep="\t")
    content[folder / "results/table.tsv"] = table.filter(regex="^(?!.*fps)").to_csv().encode()
    return {str(path.relative_to(folder)): hashlib.sha256(data).hexdigest() for path, data in content.items()}


def test_the_run_succeeds(submitted):
    _, code, output, records = submitted
    assert code == 0, output
    # Each stage once a clip, but tune twice, and the report.
    counts = defaultdict(int)
    for record in records:
        counts[record.rule] += 1
    assert counts == dict.fromkeys(WITH_CARD | WITHOUT_CARD, 3) | {"tune": 6, "report": 1}


def test_jobs_ask_for_a_card_where_they_compute_on_one(submitted):
    records = submitted[3]
    assert {record.rule for record in records if record.cards} == WITH_CARD
    assert all(record.cards == (record.rule in WITH_CARD) for record in records)
    assert {record.rule for record in records if record.model} == {"invert"}


def test_never_more_jobs_with_cards_than_cards(submitted):
    spans = [(record.start, record.end) for record in submitted[3] if record.cards]
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) == 2


def test_a_job_killed_by_the_node_is_retried_with_more_memory(submitted):
    records = submitted[3]
    tuned = [record for record in records if record.rule == "tune"]
    for clip in CLIPS:
        killed, retried = [record for record in tuned if record.comment.endswith(clip)]
        assert (killed.state, retried.state) == ("FAILED", "COMPLETED")
        assert (killed.memory, retried.memory) == tuple(f"{memory}M" for memory in MEMORY)
        assert retried.minutes > killed.minutes and retried.start >= killed.end
    assert all(record.state == "COMPLETED" for record in records if record.rule != "tune")


def test_results_are_those_of_a_local_run(submitted, local):
    made = results(submitted[0])
    assert made == results(local) and len(made) > 20


def test_clips_share_one_job_and_the_networks_it_has_loaded(allocated, local):
    folder, number, count = allocated
    assert count == 1
    logs = [*folder.glob("logs/*/*.log"), *folder.glob("logs/*/*/*.log")]
    leased = {path: path.read_text() for path in logs if path.stem in WITH_CARD}
    assert len(leased) == len(WITH_CARD) * len(CLIPS)
    assert all(f"({number}card-" in text for text in leased.values())
    processes = defaultdict(set)
    for path, text in leased.items():
        processes[path.stem].add(re.search(r"^job \d+ of process (\d+)$", text, re.MULTILINE).group(1))
    # Fewer processes than clips, unless the others were done with the card too late.
    assert len(set.union(*processes.values())) < len(CLIPS)
    assert results(folder) == results(local)


def test_a_job_of_one_clip_keeps_no_card(submitted):
    logs = [*submitted[0].glob("logs/*/*.log"), *submitted[0].glob("logs/*/*/*.log")]
    assert not any("of process" in path.read_text() for path in logs)


def test_logs_are_where_a_user_looks(submitted):
    folder = submitted[0]
    for clip in CLIPS:
        assert "stage=invert frames=12" in (folder / f"logs/{clip}/invert.log").read_text()
        # SLURM's own log of a job is kept where it failed.
        kept = list((folder / "logs/slurm/rule_tune" / clip).iterdir())
        assert len(kept) == 1 and "exceeded memory limit" in kept[0].read_text()
