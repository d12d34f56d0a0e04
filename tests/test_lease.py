"""Cards are leased by real processes; their ids stand for cards, none is touched."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from peekaboo import lease

# Notes when it had which card, and whether torch had been loaded before.
HOLDER = """
import os, sys, time
from pathlib import Path
start = time.monotonic()
time.sleep(float(sys.argv[2]))
card = os.environ["CUDA_VISIBLE_DEVICES"]
Path(sys.argv[1]).write_text(f"{card} {start} {time.monotonic()} {'torch' in sys.modules}")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "holder.py").write_text(HOLDER)
    return tmp_path


def start(folder: Path, name: str, seconds: float = 0.4, device: str = "auto", cards: str | None = "0,1"):
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(folder)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if cards is not None:
        environment["CUDA_VISIBLE_DEVICES"] = cards
    command = [sys.executable, "-m", "peekaboo.lease", device, "holder", str(folder / name), str(seconds)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_eight_jobs_on_two_cards_never_share_one(folder):
    jobs = [start(folder, f"{n}.txt") for n in range(8)]
    messages = [job.communicate(timeout=60)[1] for job in jobs]
    assert all(job.returncode == 0 for job in jobs), messages
    held = [(folder / f"{n}.txt").read_text().split() for n in range(8)]
    assert {card for card, *_ in held} == {"0", "1"}
    assert all(loaded == "False" for *_, loaded in held)
    for card in "01":
        spans = sorted((float(a), float(b)) for c, a, b, _ in held if c == card)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    locks = folder / "peekaboo-cards"
    assert locks.stat().st_mode & 0o7777 == 0o1777
    assert all(path.stat().st_mode & 0o777 == 0o666 for path in locks.iterdir())
    assert any("waiting for a card: 0, 1 in use" in message for message in messages)
    assert all(f"card {card} " in message for message, (card, *_) in zip(messages, held, strict=True))


def test_a_killed_job_frees_its_card(folder):
    first = start(folder, "first.txt", seconds=60, cards="0")
    assert first.stderr.readline().startswith("card 0")
    second = start(folder, "second.txt", seconds=0, cards="0")
    assert "waiting" in second.stderr.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    begun = time.monotonic()
    assert second.wait(timeout=20) == 0 and time.monotonic() - begun < 10
    first.stderr.close()
    second.stderr.close()


@pytest.mark.parametrize("cards", ["", None])
def test_a_card_that_is_asked_for_and_not_there_is_an_error(folder, cards):
    if cards is None and lease._nvidia_smi():
        pytest.skip("this machine has a card")
    job = start(folder, "never.txt", device="cuda", cards=cards)
    message = job.communicate(timeout=20)[1]
    assert job.returncode == 1 and "holder: device: cuda was asked for, but there is no card" in message
    assert not (folder / "never.txt").exists()


@pytest.mark.parametrize(("device", "cards"), [("cpu", "0,1"), ("auto", "")])
def test_without_a_card_none_is_seen_or_waited_for(folder, device, cards):
    job = start(folder, "cpu.txt", seconds=0, device=device, cards=cards)
    assert job.communicate(timeout=20)[1] == "" and job.returncode == 0
    assert (folder / "cpu.txt").read_text().startswith(" ")


def test_locks_go_by_what_a_card_is_not_by_its_number(monkeypatch):
    monkeypatch.setattr(lease, "_nvidia_smi", lambda: {"0": "GPU-a", "1": "GPU-b"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert lease.cards() == {"0": "GPU-a", "1": "GPU-b"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert lease.cards() == {"1": "GPU-b"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-x, -1")
    assert lease.cards() == {"MIG-x": "MIG-x"}
    # Two jobs of SLURM on one machine may both have a card 0, of which nothing more is known.
    monkeypatch.setattr(lease, "_nvidia_smi", dict)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert lease.cards() == {"0": "7card-0"}
