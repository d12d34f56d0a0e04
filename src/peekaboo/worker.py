"""A process that keeps a card and runs one job after another on it, so that many short clips load torch, CUDA and the
networks once.

The first job on a free card starts it. Each job's own process stays, and is what Snakemake sees: it hands over what is
to be run and where its output goes, waits, and ends with the same status. Where it is killed the worker ends too, and
where the worker is killed it fails; after a job that failed the worker ends, so that nothing of it reaches another.
"""

import contextlib
import gc
import hashlib
import itertools
import json
import os
import runpy
import socket
import struct
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

# Bytes of a message that names a module and its arguments.
LIMIT = 1 << 17
READY = b"1"


def address(card: str) -> bytes:
    """Where the worker of `card` is found: a name that no file stands for, the same for jobs that may share one.

    Those are the jobs of one user, one folder, one Python and its threads, one state of the package's code.
    """
    code = sorted((str(path), path.stat().st_mtime_ns) for path in Path(__file__).parent.rglob("*.py"))
    shared = (os.getuid(), card, os.getcwd(), sys.executable, os.environ.get("OMP_NUM_THREADS"), code)
    return b"\0peekaboo-" + hashlib.sha256(repr(shared).encode()).hexdigest().encode()


def join(card: str) -> socket.socket | None:
    """Connection to the worker that keeps `card` and has nothing to do, or None."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(OSError):
        connection.connect(address(card))
        # One that has taken another job meanwhile hangs up.
        if peer(connection) == os.getuid() and connection.recv(1) == READY:
            return connection
    connection.close()
    return None


def begin(card: str, lock: int, patience: float) -> socket.socket:
    """Start the worker of `card`, which takes over its `lock`, and connect to it.

    It ends once no job has come for `patience` seconds. Call it before torch is loaded: threads do not outlive a fork.
    """
    where = address(card)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        serve(where, its, patience)
    its.close()
    os.close(lock)
    return ours


def hand_over(connection: socket.socket, module: str, arguments: list[str]) -> int:
    """Have a worker run a module on this process's card, with this process's output; returns its exit status."""
    job = json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], module, *arguments]).encode()
    status = b""
    with contextlib.suppress(OSError):
        socket.send_fds(connection, [job], [1, 2])
        status = connection.recv(1)
    if not status:
        print(f"{module}: killed while it ran (out of memory?)", file=sys.stderr)
        return 1
    return status[0]


def serve(where: bytes, connection: socket.socket, patience: float) -> NoReturn:
    """Run the jobs that arrive, the first over `connection`; never returns."""
    try:
        os.setsid()
        for number in itertools.count(1):
            work(connection, number)
            if (connection := next_job(where, patience)) is None:
                break
    except OSError:
        traceback.print_exc()
    finally:
        os._exit(1)


def work(connection: socket.socket, number: int) -> None:
    """Run one job, the process's `number`-th; ends the process where the job fails, or who waits for it is gone."""
    message, files, _, _ = socket.recv_fds(connection, LIMIT, 2)
    if not message:
        return
    for output, file in zip((1, 2), files, strict=True):
        os.dup2(file, output)
        os.close(file)
    # Tools that list what uses a card name this process.
    print(f"job {number} of process {os.getpid()}", file=sys.stderr, flush=True)
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(connection, ended))
    watcher.start()
    status = run(*json.loads(message))
    # Nobody's log is held open in between.
    with open(os.devnull, "r+b") as nothing:
        for stream in range(3):
            os.dup2(nothing.fileno(), stream)
    ended.set()
    connection.send(bytes([status]))
    watcher.join()
    connection.close()
    if status:
        os._exit(1)


def watch(connection: socket.socket, ended: threading.Event) -> None:
    """End the process where whoever waits for the job hangs up before it has `ended`."""
    if not connection.recv(1) and not ended.is_set():
        os._exit(1)


def run(card: str, module: str, *arguments: str) -> int:
    """Run a module as a program that sees `card` alone; returns the exit status that it would have."""
    os.environ["CUDA_VISIBLE_DEVICES"] = card
    # The peak of memory begins anew, for the job's report.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    sys.argv = [module, *arguments]
    status: object = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    return status & 0xFF if isinstance(status, int) else int(status is not None)


def next_job(where: bytes, patience: float) -> socket.socket | None:
    """Wait for a job; None where none comes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(where)
        door.listen()
        door.settimeout(patience)
        try:
            connection, _ = door.accept()
        except TimeoutError:
            return None
    if peer(connection) != os.getuid():
        return None
    connection.send(READY)
    return connection


def peer(connection: socket.socket) -> int:
    """The user at the other end."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user
