"""Run a module on a card of its own: Snakemake counts cards, but does not choose them.

    python -m peekaboo.lease auto peekaboo.stages.invert --faces extract.h5 ...

A card is leased by a lock on a file of this machine, which the kernel frees when the process ends, however it ends. The
module runs in the same process, or in the worker that keeps the card between the jobs of a run (worker.py), and torch,
which it loads, sees that card alone.
"""

import fcntl
import os
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from peekaboo import worker

Held = TypeVar("Held")

# Of this machine, for all its users: cards are not those of a project or a shared file system.
FOLDER = Path(tempfile.gettempdir()) / "peekaboo-cards"
WAIT, REMIND = 0.5, 60.0  # seconds between two tries, and between two messages


def cards() -> dict[str, str]:
    """Cards that this process may use: by the id that CUDA takes, the name of its lock.

    Those of CUDA_VISIBLE_DEVICES where a scheduler or the user has set it, else all that nvidia-smi lists. Locks go by
    the card's UUID where nvidia-smi tells it, for a scheduler may number the cards of each job from 0 on.
    """
    found = _nvidia_smi()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return found
    ids = [part.strip() for part in allowed.split(",") if part.strip() not in ("", "-1")]
    job = os.environ.get("SLURM_JOB_ID", "")
    return {
        card: found.get(card) or (card if card.startswith(("GPU-", "MIG-")) else f"{job}card-{card}") for card in ids
    }


def _nvidia_smi() -> dict[str, str]:
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (FileNotFoundError, subprocess.SubprocessError):
        return {}
    return dict(line.split(", ") for line in listed.splitlines() if ", " in line)


def try_lock(name: str) -> int | None:
    """File descriptor that holds the lock `name` until it is closed; None while another process has it.

    Raises PermissionError where the lock can't be opened: a card that can't be leased is not used.
    """
    with suppress(FileExistsError):
        FOLDER.mkdir()
        FOLDER.chmod(0o1777)
    path = FOLDER / f"{name}.lock"
    try:
        # Without O_CREAT, which Linux refuses for another user's file in a folder that is everybody's.
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        # Whatever the umask: another user's job may be the next to lease this card.
        os.fchmod(file, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def lease(device: str, take: Callable[[str], Held | None]) -> Held | None:
    """Take a card for this process, waiting until one is free, and let CUDA see it alone; returns what holds it.

    `take` gives that for the name of a card's lock, or None while the card is in use. Without a card in sight, with the
    device `cpu` or `auto`, nothing is taken. Raises RuntimeError where `cuda` is asked for and there is none. Call it
    before torch is loaded; the lease ends with the process.
    """
    known = {} if device == "cpu" else cards()
    if not known:
        if device == "cuda":
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            raise RuntimeError(
                f"device: cuda was asked for, but there is no card (CUDA_VISIBLE_DEVICES={seen}); set device: auto or "
                "cpu"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return None
    said = -REMIND
    while True:
        # Not always the first, so that processes that start together do not all ask for the same.
        for card in random.sample(list(known), len(known)):
            held = take(known[card])
            if held is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = card
                print(f"card {card} ({known[card]})", file=sys.stderr, flush=True)
                return held
        if time.monotonic() - said >= REMIND:
            print(f"waiting for a card: {', '.join(known)} in use", file=sys.stderr, flush=True)
            said = time.monotonic()
        time.sleep(WAIT * random.uniform(0.5, 1.5))


def main() -> None:
    """Lease a card for the device of the first argument, and run the module of the second with the others.

    PEEKABOO_KEEP, set by a run for its jobs, has a worker keep the card for the next job, so many seconds at the most.
    """
    device, module, *arguments = sys.argv[1:]
    patience = float(os.environ.get("PEEKABOO_KEEP", 0))

    def kept(name: str) -> socket.socket | None:
        if (connection := worker.join(name)) is not None:
            return connection
        lock = try_lock(name)
        return None if lock is None else worker.begin(name, lock, patience)

    try:
        held = lease(device, kept if patience else try_lock)
    except (RuntimeError, PermissionError) as error:
        sys.exit(f"{module}: {error}")
    if isinstance(held, socket.socket):
        sys.exit(worker.hand_over(held, module, arguments))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
