"""Jobs that share a worker are real processes; the ids stand for cards, none is touched."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from project import snakemake
from test_generator_stages import NETWORKS
from test_many import write_beginning

from peekaboo import models, stagefile

# Says which process runs it on which card and from when to when, and ends as it is told.
JOB = """
import os, sys, time
start = time.monotonic()
time.sleep(float(sys.argv[1]))
print(os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], start, time.monotonic(), flush=True)
exec(" ".join(sys.argv[2:]))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    # A shell has what it starts in the background ignore interrupts, and the jobs would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield tmp_path
    signal.signal(signal.SIGINT, before)
    for pid in workers(tmp_path):
        os.kill(pid, signal.SIGKILL)


def environment(folder: Path, keep: float, **more: str) -> dict[str, str]:
    shared = {"TMPDIR": str(folder), "PYTHONPATH": str(folder), "PEEKABOO_KEEP": str(keep), "OMP_NUM_THREADS": "1"}
    return os.environ | shared | {"CUDA_VISIBLE_DEVICES": "0"} | more


def start(folder: Path, *arguments: str, keep: float = 30, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "peekaboo.lease", "auto", "job", *(arguments or ["0"])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(folder, keep, **more), cwd=folder, text=True, **pipes)


def finish(job: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Status, what the job said of itself, and its errors."""
    output, errors = job.communicate(timeout=60)
    return job.returncode, output.split(), errors


def workers(folder: Path) -> list[int]:
    """Processes that work in the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").resolve() == folder.resolve() and (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_one_process_runs_the_jobs_of_a_card_and_ends_when_none_comes(folder):
    found = [finish(start(folder, keep=2)) for _ in range(3)]
    assert [status for status, _, _ in found] == [0, 0, 0], found
    (pid,) = {said[0] for _, said, _ in found}
    assert workers(folder) == [int(pid)]
    # It is no part of a run's group of processes, and has the output of no job open.
    assert os.getsid(int(pid)) == int(pid)
    assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)} == {os.devnull}
    for number, (_, _, errors) in enumerate(found, 1):
        assert errors.startswith("card 0 (") and errors.endswith(f"job {number} of process {pid}\n")
    assert gone([int(pid)])
    status, (other, *_), _ = finish(start(folder))
    assert status == 0 and other != pid


def test_eight_jobs_share_two_cards_one_at_a_time(folder):
    jobs = [start(folder, "0.2", CUDA_VISIBLE_DEVICES="0,1") for _ in range(8)]
    found = [finish(job) for job in jobs]
    assert [status for status, _, _ in found] == [0] * 8, found
    said = [line for _, line, _ in found]
    assert len({pid for pid, *_ in said}) == 2 and len({(pid, card) for pid, card, *_ in said}) == 2
    for card in "01":
        spans = sorted((float(begun), float(ended)) for _, c, begun, ended in said if c == card)
        assert spans and all(ended <= begun for (_, ended), (begun, _) in pairwise(spans))


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit('faces.h5: no faces')", 1, "faces.h5: no faces\n"),
        ("raise ValueError('bad setting')", 1, "ValueError: bad setting\n"),
        ("os.kill(os.getpid(), 9)", 1, "job: killed while it ran (out of memory?)\n"),
    ],
)
def test_a_job_that_fails_says_why_and_takes_its_worker_along(folder, end, status, error):
    _, (first, *_), _ = finish(start(folder))
    found, (pid, *_), errors = finish(start(folder, "0", end))
    assert pid == first and found == status and errors.endswith(error)
    assert gone([int(pid)])
    found, (other, *_), _ = finish(start(folder))
    assert found == 0 and other != pid


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_job_stops_at_once_and_frees_its_card(folder, sent):
    finish(start(folder))
    (worker,) = workers(folder)
    job = start(folder, "60")
    assert job.stderr.readline().startswith("card 0")
    time.sleep(0.5)
    job.send_signal(sent)
    job.communicate(timeout=20)
    assert gone([worker])
    status, (pid, *_), _ = finish(start(folder))
    assert status == 0 and int(pid) != worker


def test_the_peak_of_memory_is_the_jobs_own(folder):
    peak = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    first, second = (finish(start(folder, "0", use + peak))[1] for use in ("used = b'1' * (200 << 20); ", ""))
    assert first[0] == second[0]
    assert int(first[4]) > 200 << 10 and int(second[4]) < 100 << 10


def test_jobs_that_differ_in_their_surroundings_share_no_process(folder):
    _, (first, *_), _ = finish(start(folder, keep=1))
    status, (second, *_), errors = finish(start(folder, keep=1, OMP_NUM_THREADS="2"))
    assert status == 0 and second != first
    assert "waiting for a card: 0 in use" in errors


def test_stages_share_networks_and_results_are_those_of_processes_of_their_own(folder):
    torch.manual_seed(0)
    for name in ("generator", "encoder"):
        network, constructor = NETWORKS[name]
        models.save(folder / f"{name}.safetensors", network(**constructor).eval(), constructor)
    for clip in ("a", "b"):
        with stagefile.write(folder / f"{clip}.h5") as file:
            file["crops"] = torch.randint(0, 256, (4, 1, 16, 16, 3), dtype=torch.uint8).numpy()
            file["aligned"] = torch.ones(4, 1, dtype=torch.bool).numpy()
    # Tells the networks that are loaded from those that are there already.
    (folder / "told.py").write_text(
        "import sys\nfrom peekaboo import models\nfrom peekaboo.stages import invert\n"
        "invert.main(sys.argv[1:])\nprint(models._load.cache_info())\n"
    )

    def invert(clip: str, keep: float) -> str:
        output = f"{clip}.{keep:g}"
        weights = ["--generator=generator.safetensors", "--encoder=encoder.safetensors"]
        options = [f"--faces={clip}.h5", *weights, f"--output={output}.h5", f"--report={output}.json"]
        command = [sys.executable, "-m", "peekaboo.lease", "auto", "told", *options]
        return subprocess.run(
            command, env=environment(folder, keep), cwd=folder, text=True, capture_output=True, check=True
        ).stdout

    for keep in (0, 30):
        said = [invert(clip, keep) for clip in ("a", "b")]
        assert "misses=2" in said[0] and "misses=2" in said[1]
        assert ("hits=2" in said[1]) == (keep > 0)
    for clip in ("a", "b"):
        assert (folder / f"{clip}.30.h5").read_bytes() == (folder / f"{clip}.0.h5").read_bytes()


def test_the_jobs_of_a_run_share_the_worker_of_their_card(tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()
    for clip in ("one", "two"):
        write_beginning(tmp_path / "clips" / f"{clip}.mp4", 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    wanted = [f"results/{clip}/blur/summary.json" for clip in ("one", "two")]
    code, output = snakemake(tmp_path, *wanted, clips="clips")
    assert code == 0, output
    logs = [(tmp_path / "logs" / clip / "blur" / "measure.log").read_text() for clip in ("one", "two")]
    said = [re.search(r"^job (\d) of process (\d+)$", log, re.MULTILINE).groups() for log in logs]
    assert sorted(number for number, _ in said) == ["1", "2"] and len({pid for _, pid in said}) == 1
    assert all("stage=measure" in log for log in logs)
