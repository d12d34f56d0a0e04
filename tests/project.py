"""A copy of the project that a test may edit, and runs of its workflow."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parents[1]


def copy(folder: Path, *left_out: str) -> Path:
    """Copy all that the workflow needs into `folder`, without files and folders of the names in `left_out`."""
    ignored = shutil.ignore_patterns("__pycache__", "downloaded", *left_out)
    for name in ("rules", "workflow", "profiles", "src", "resources", "envs", "config"):
        shutil.copytree(HOME / name, folder / name, ignore=ignored)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(HOME / name, folder)
    return folder


def snakemake(folder, *options, home=HOME, **config):
    """Run the workflow in a working directory of its own; returns the exit code and all output."""
    options = ("--snakefile", str(home / "Snakefile"), "--cores", "2", *options)
    settings = [f"{name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in config.items()]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--directory",
        str(folder),
        *options,
        *(["--config", *settings] if settings else []),
    ]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout
