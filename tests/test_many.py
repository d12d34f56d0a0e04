"""Many clips: how long their plan takes, and a run in which some of them fail."""

import os
import re
import resource
import shutil
import threading
import time

import av
import psutil
import pytest
from project import HOME, snakemake
from test_common import common

DEMO = HOME / "resources" / "demo" / "infant.mp4"


def write_clips(folder, count):
    """Fill `folder`/clips with copies of the sample clip; returns their ids."""
    (folder / "clips").mkdir()
    clips = [f"clip-{number:03}" for number in range(count)]
    for clip in clips:
        shutil.copy(DEMO, folder / "clips" / f"{clip}.mp4")
    return clips


def write_extracted(folder, clips):
    """Write what a plan looks at once extract has run for all clips; their faces are left out."""
    for clip in clips:
        results = folder / "results" / clip
        results.mkdir(parents=True)
        (results / "source").symlink_to(folder / "clips" / f"{clip}.mp4")
        (results / "extract.json").write_text('{"status": "ok"}')
        (results / "extract.h5").touch()


def plan(folder, *options):
    """Seconds of the clock and of processors that a dry run of all methods takes, and its output."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    code, output = snakemake(folder, "-n", *options, clips="clips", device="cpu")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0, output
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


# Ends a plan when all jobs are known, before they are listed.
UNLISTED = ("--quiet", "rules", "progress")


@pytest.mark.slow
def test_two_hundred_clips_are_planned_within_ten_seconds(tmp_path):
    clips = write_clips(tmp_path, 200)
    # Other work on the machine lengthens the time by the clock.
    assert plan(tmp_path, *UNLISTED)[1] < 10
    write_extracted(tmp_path, clips)
    *_, output = plan(tmp_path)
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}
    assert counts["total"] == 3802 and counts["compose"] == 1200 and "extract" not in counts
    assert plan(tmp_path, *UNLISTED)[1] < 10


def write_beginning(path, frames):
    """Write the first frames of the sample clip."""
    with av.open(str(DEMO)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet, _ in zip(source.demux(video=0), range(frames), strict=False):
            packet.stream = stream
            target.mux(packet)


def kill(folder, module, words, killed):
    """Kill the one process in `folder` that runs a module with these words in its command."""
    while not killed.is_set():
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                if module in command and words in " ".join(command) and process.cwd() == str(folder):
                    process.kill()
                    killed.set()
            except psutil.Error:
                continue
        time.sleep(0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder in which clips were run: one well, two failed, three was killed, four is no video; exit code, output."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "clips").mkdir()
    for clip in ("one", "two", "three"):
        write_beginning(folder / "clips" / f"{clip}.mp4", 6)
    (folder / "clips" / "four.mp4").write_text("no video")
    settings = {"clips": "clips", "device": "cpu", "methods": ["blur"]}
    code, output = snakemake(folder, "--until", "extract", **settings)
    assert code == 0, output
    # As a full disk leaves it.
    faces = folder / "results" / "two" / "extract.h5"
    os.truncate(faces, faces.stat().st_size // 2)
    (folder / "results" / "table.tsv").write_text("of an earlier run")
    killed = threading.Event()
    killer = threading.Thread(target=kill, args=(folder, "peekaboo.stages.compose", "results/three/", killed))
    killer.start()
    code, output = snakemake(folder, **settings)
    assert killed.is_set()
    killer.join()
    return folder, settings, code, output


def test_a_failed_clip_does_not_stop_the_others(run):
    folder, _, code, _ = run
    assert code != 0
    made = {str(path.relative_to(folder / "results")) for path in folder.glob("results/*/*/*") if path.is_file()}
    assert {"one/blur/anonymized.mp4", "one/blur/summary.json"} <= made
    assert not any(path.startswith(("two", "three", "four")) for path in made)
    assert (folder / "results" / "four" / "withheld.json").is_file()
    assert (folder / "results" / "table.tsv").read_text() == "of an earlier run"


def test_the_end_says_what_failed_and_why_and_what_is_done(run):
    *_, output = run
    summary = output[output.rindex("Anonymised clips:") :].splitlines()
    assert summary[1] == "  results/one/blur/anonymized.mp4"
    assert summary[2] == "Withheld, 1 of 4 clips:" and summary[3].startswith("  four: ")
    assert summary[4] == "Failed, 2 of 4 clips:"
    assert summary[5].startswith("  three blur compose: no error in its log: killed (out of memory or time?)")
    assert summary[5].endswith(", see logs/three/blur/compose.log")
    assert re.fullmatch(r"  two blur compose: OSError: .*truncated file.*, see logs/two/blur/compose.log", summary[6])
    assert summary[7].endswith("it runs only what is missing.")
    assert summary[8].startswith("The table and the report are made last, when every clip is done or left out; ")
    assert summary[8].endswith("of an earlier run.")


def test_the_same_command_runs_what_is_missing(run):
    folder, settings, *_ = run
    _, output = snakemake(folder, "-n", **settings)
    counts = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    assert counts == {"compose": "2", "measure": "2", "report": "1", "all": "1", "total": "6"}


TRACE = ["Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "    f()"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([*TRACE, "ValueError: clip a: expected 3 frames, found 2;", "look at it"], "ValueError: clip a: expected 3 "),
        (["measure:  33%|███▎      | 32/96Traceback (most recent call last):", "  f()", "KeyError: 1"], "KeyError: 1"),
        ([*TRACE, "OSError: first", "", "During handling ...:", "", *TRACE, "KeyError: 2"], "KeyError: 2"),
        ([*TRACE, "KeyError: 1", "Exception ignored in: <f>", *TRACE, "TypeError: late"], "KeyError: 1"),
        (["W0000 noise", "peekaboo.stages.invert: device: cuda was asked for"], "peekaboo.stages.invert: device: cuda"),
        (["usage: compose.py", "compose.py: error: --method blur takes no --crops"], "compose.py: error: --method"),
        (["/usr/bin/bash: line 2: python: command not found"], "/usr/bin/bash: line 2: python: command not found"),
        (["ValueError: no such network"], "ValueError: no such network"),
        (["ln: failed to create symbolic link"], "ln: failed"),
        (["stage=compose frames=3"], "it came to its end, but its files are not there"),
        ([], "no error in its log: killed"),
        (["INFO: Created a delegate for CPU.", "measure:  33%|███▎      | 32/96 [00:05<00:11]"], "no error in its log"),
        (["/x/torch/a.py:12: UserWarning: old", "  f()"], "no error in its log"),
    ],
)
def test_the_reason_of_a_failure_is_read_from_the_log(lines, expected):
    assert common.error_of(lines).startswith(expected)


def test_the_log_of_an_earlier_run_is_no_reason(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("ValueError: of today")
    assert common.why([str(log)]) == f"ValueError: of today, see {log}"
    os.utime(log, (0, 0))
    assert common.why([str(log)]) == "it was not started, see above"
    assert common.why([str(tmp_path / "none.log")]) == "it was not started, see above"
