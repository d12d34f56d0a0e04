"""A SLURM of this machine alone: munged, slurmctld and slurmd from the distribution's packages, all in one folder."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]

# Two cards that compute nothing: SLURM counts no card without a device. More cores and memory than there are,
# so that it's the cards that jobs wait for.
CONFIGURATION = """
ClusterName=peekaboo
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={node}
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
MinJobAge=36000
ReturnToService=2
KillWait=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 Gres=gpu:pretend:2
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE
"""


class Job(NamedTuple):
    """A job as SLURM recorded it."""

    number: int
    state: str  # COMPLETED, FAILED, OUT_OF_MEMORY, ...
    comment: str  # what the executor says of it: rule_NAME_wildcards_CLIP
    cards: int
    model: str  # of the cards, where one was asked for
    memory: str  # as asked for, such as 4G
    minutes: int  # the limit
    start: datetime
    end: datetime

    @property
    def rule(self) -> str:
        """The rule, or the group of rules, that it ran."""
        return self.comment.split("_wildcards_")[0].removeprefix("rule_")


def jobs(environment: dict[str, str]) -> list[Job]:
    """All jobs that the cluster of this environment has had, by their number."""
    listed = subprocess.run(
        ["scontrol", "--oneliner", "show", "jobs"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    return sorted(_job(line) for line in listed.splitlines() if line.startswith("JobId="))


def _job(line: str) -> Job:
    fields = dict(re.findall(r"(\w[\w:/]*)=(\S*)", line))
    days, hours, minutes, _ = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", fields["TimeLimit"]).groups(0)
    asked = re.search(r"TresPerJob=gres:gpu(?::([a-z]\w*))?:(\d+)", line)
    return Job(
        int(fields["JobId"]),
        fields["JobState"],
        fields.get("Comment", ""),
        int(asked[2]) if asked else 0,
        asked[1] or "" if asked else "",
        fields["MinMemoryNode"],
        (int(days) * 24 + int(hours)) * 60 + int(minutes),
        datetime.fromisoformat(fields["StartTime"]),
        datetime.fromisoformat(fields["EndTime"]),
    )


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start a cluster of one node in an empty folder; gives the environment in which its commands find it.

    Raises TimeoutError, with the ends of its logs, where the node isn't idle within 30 seconds.
    """
    # A socket's path has at most 107 characters, and munge wants folders that nobody else can write to.
    munge = folder / "munge"
    for path in (munge, folder / "state", folder / "spool"):
        path.mkdir(mode=0o700, parents=True)
    munge.chmod(0o711)
    host = socket.gethostname().split(".")[0]
    controller, node = free_ports(2)
    user = subprocess.run(["id", "--user", "--name"], capture_output=True, text=True, check=True).stdout.strip()
    text = CONFIGURATION.format(host=host, user=user, controller=controller, node=node, folder=folder)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu Type=pretend File={folder}/card[0-1]\n")
    # Any two devices will do: SLURM hands out their numbers.
    for number, device in enumerate(("/dev/null", "/dev/zero")):
        (folder / f"card{number}").symlink_to(device)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o600)
    # The executor clears SLURM's variables before it starts a step, where a real cluster's configuration is in /etc.
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    environment = os.environ | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{srun.parent}{os.pathsep}{os.environ['PATH']}",
    }
    files = (f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed"))
    daemons = {
        "munged": ["munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files],
        "slurmctld": ["slurmctld", "-D"],
        "slurmd": ["slurmd", "-D", "-N", host],
    }
    running = []
    try:
        for name, command in daemons.items():
            with open(folder / f"{name}.out", "wb") as out:
                running.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
            time.sleep(0.5)
        _wait_for_node(environment, folder, running)
        yield environment
    finally:
        if all(process.poll() is None for process in running):
            subprocess.run(["scancel", f"--user={user}"], env=environment, check=False, timeout=30)
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=30)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens to."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for_node(environment: dict[str, str], folder: Path, daemons: list[subprocess.Popen]) -> None:
    state, until = "", time.monotonic() + 30
    while time.monotonic() < until and all(daemon.poll() is None for daemon in daemons):
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%t"], env=environment, capture_output=True, text=True, check=False
        )
        state = asked.stdout.strip() or asked.stderr.strip()
        if state == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.out"))
    raise TimeoutError(f"SLURM's node is not idle but {state!r}:\n{logs}")
