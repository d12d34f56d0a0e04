"""The helpers of the rules, loaded as plain Python."""

import copy
import fcntl
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from snakemake.exceptions import WorkflowError

HOME = Path(__file__).parents[1]
SCHEMA = HOME / "workflow" / "schemas" / "config.schema.yaml"
REGISTRY = HOME / "resources" / "models.yaml"
REGISTRY_SCHEMA = HOME / "workflow" / "schemas" / "models.schema.yaml"
DEMO = HOME / "resources" / "demo" / "infant.mp4"
Wildcards = namedtuple("Wildcards", "clip method", defaults=("blur",))


def load_common():
    path = str(HOME / "rules" / "common.smk")
    loader = SourceFileLoader("common", path)
    module = module_from_spec(spec_from_loader("common", loader))
    loader.exec_module(module)
    return module


sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
common = load_common()
sys.dont_write_bytecode = before


def settings():
    return yaml.safe_load((HOME / "config.yaml").read_text())


def registry():
    return common.read_registry(REGISTRY, REGISTRY_SCHEMA)


def listing(folder, text):
    (folder / "a.mp4").write_bytes(b"a")
    (folder / "list.tsv").write_text(text)
    return folder / "list.tsv"


# Configuration


def test_config_yaml_is_what_the_schema_fills_in():
    config = {}
    common.check_config(config, SCHEMA)
    assert config == settings()


def test_every_setting_has_a_default_and_a_description_and_every_section_is_closed():
    def check(section):
        assert section["additionalProperties"] is False
        for name, entry in section["properties"].items():
            assert {"default", "description"} <= set(entry), name
            if "properties" in entry:
                check(entry)

    check(yaml.safe_load(SCHEMA.read_text()))


def test_a_section_given_in_part_keeps_the_other_defaults():
    config = {"traverse": {"steps": 10}}
    common.check_config(config, SCHEMA)
    assert config["traverse"] == {"steps": 10, "alpha": -50, "top_k": 100, "parts": 8, "cosine": -0.8, "batch": 16}


def test_defaults_of_two_configurations_are_not_shared():
    first, second = {}, {}
    common.check_config(first, SCHEMA)
    first["methods"].clear()
    common.check_config(second, SCHEMA)
    assert second["methods"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"traverse": {"alhpa": 1}}, "traverse.alhpa is no setting; did you mean alpha?"),
        ({"clip": "x"}, "clip is no setting; did you mean clips?"),
        ({"zzz": 1}, "zzz is no setting; known here: clips,"),
        ({"methods": ["blurr"]}, "methods.0: 'blurr' is not one of"),
        ({"methods": []}, "methods: [] should be non-empty"),
        ({"methods": ["blur", "blur"]}, "methods: "),
        ({"device": "gpu"}, "device: 'gpu' is not one of"),
        ({"extract": {"confidence": 2}}, "extract.confidence: 2 is greater than the maximum of 1"),
        ({"tune": {"epochs": 1.5}}, "tune.epochs: 1.5 is not of type 'integer'"),
        ({"tune": None}, "tune: None is not of type 'object'"),
    ],
)
def test_bad_settings_are_named(change, expected):
    with pytest.raises(WorkflowError) as caught:
        common.check_config(settings() | change, SCHEMA)
    assert expected in str(caught.value)


def test_all_bad_settings_are_named_at_once():
    with pytest.raises(WorkflowError) as caught:
        common.check_config(settings() | {"devise": "cpu", "seed": -1}, SCHEMA)
    assert "devise" in str(caught.value) and "seed" in str(caught.value)


# Clips


def test_folder_takes_videos_of_any_letter_case_and_nothing_else(tmp_path):
    for name in ("b.MP4", "a.mov", "c.avi", "d.mkv", "e.WebM", "notes.txt", "._a.mov"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.mp4").mkdir()
    clips = common.read_clips(tmp_path, "drop")
    assert list(clips) == ["a", "b", "c", "d", "e"]
    assert clips["b"] == (str(tmp_path / "b.MP4"), "drop")


def test_list_takes_paths_from_its_own_folder_and_sound_per_clip(tmp_path):
    table = listing(tmp_path, f"id\tpath\taudio\none\ta.mp4\tcopy\ntwo\t{DEMO}\t\nthree\ta.mp4\tdrop\n")
    clips = common.read_clips(table, "copy")
    assert clips["one"] == (str(tmp_path / "a.mp4"), "copy")
    assert clips["two"] == (str(DEMO), "copy")
    assert clips["three"].audio == "drop"


def test_list_of_a_spreadsheet_program_is_read(tmp_path):
    listing(tmp_path, "")
    (tmp_path / "list.tsv").write_bytes("\ufeffpath\tid\r\na.mp4\tone\r\n\r\n".encode())
    assert list(common.read_clips(tmp_path / "list.tsv", "drop")) == ["one"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has the columns none; expected id and path"),
        ("id,path\none,a.mp4\n", "has the columns id,path; expected id and path"),
        ("id\tfile\none\ta.mp4\n", "has the columns id, file; expected id and path"),
        ("id\tpath\tsound\none\ta.mp4\tcopy\n", "has the columns id, path, sound; expected"),
        ("id\tpath\n", "lists no clip; add a line"),
        ("id\tpath\none a.mp4\n", "row 1 of"),
        ("id\tpath\none\tgone.mp4\n", "gone.mp4: no such file (clip one"),
        ("id\tpath\none\ta.mp4\none\ta.mp4\n", "the id 'one' is also that of"),
        ("id\tpath\none\ta.mp4\nOne\ta.mp4\n", "the id 'One' is also that of"),
        ("id\tpath\n../one\ta.mp4\n", "the id '../one' is not made of"),
        ("id\tpath\n-one\ta.mp4\n", "the id '-one' is not made of"),
        ("id\tpath\n\ta.mp4\n", "the id '' is not made of"),
        (f"id\tpath\n{'x' * 65}\ta.mp4\n", "is not made of 1 to 64"),
        ("id\tpath\nReport\ta.mp4\n", "the id 'Report' is taken by results/report/; change the id"),
        ("id\tpath\nSynth-07\ta.mp4\n", "the id 'Synth-07' is taken by results/synth-07/; change the id"),
        ("id\tpath\nsweep-3\ta.mp4\n", "the id 'sweep-3' is taken by results/sweep-3/; change the id"),
        ("id\tpath\taudio\none\ta.mp4\tyes\n", "audio 'yes' of clip one; expected drop, copy or nothing"),
    ],
)
def test_bad_lists_are_explained(tmp_path, text, expected):
    with pytest.raises(WorkflowError) as caught:
        common.read_clips(listing(tmp_path, text), "drop")
    assert expected in str(caught.value)


def test_bad_folders_are_explained(tmp_path):
    with pytest.raises(WorkflowError, match="no folder or list"):
        common.read_clips(tmp_path / "gone", "drop")
    with pytest.raises(WorkflowError, match=r"no video in the folder .* expected files ending in \.mp4"):
        common.read_clips(tmp_path, "drop")
    for name in ("a.mp4", "a.mov", "b c.mp4", "synth-01.mp4"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WorkflowError) as caught:
        common.read_clips(tmp_path, "drop")
    message = str(caught.value)
    assert "3 of 4 clips" in message and "rename the file" in message
    assert "the id 'synth-01' is taken by results/synth-01/; rename the file" in message
    assert f"{tmp_path / 'a.mp4'}: the id 'a' is also that of {tmp_path / 'a.mov'}" in message


def test_a_list_in_another_encoding_is_explained(tmp_path):
    (tmp_path / "list.tsv").write_bytes("id\tpath\na\té.mp4\n".encode("utf-16"))
    with pytest.raises(WorkflowError, match=r"is no TSV: .* UTF-8"):
        common.read_clips(tmp_path / "list.tsv", "drop")


# Presets


@pytest.mark.parametrize("word", ["permissive", "research"])
def test_a_word_is_what_its_file_says_and_the_user_has_the_last_word(word):
    given = {"models": word, "measure": {"pose": "mediapipe_mesh"}, "traverse": {"steps": 7}}
    config = settings() | copy.deepcopy(given)
    assert common.apply_preset(config, given, HOME) == word
    common.check_config(config, SCHEMA)
    preset = yaml.safe_load((HOME / "config" / f"{word}.yaml").read_text())
    assert config["models"] == preset["models"]
    assert config["measure"] == preset["measure"] | {"pose": "mediapipe_mesh"}
    assert config["traverse"] == settings()["traverse"] | preset.get("traverse", {}) | {"steps": 7}
    assert given["measure"] == {"pose": "mediapipe_mesh"}


def test_embedded_is_the_default_and_roles_are_no_word():
    config = settings() | {"models": "embedded"}
    assert common.apply_preset(config, {"models": "embedded"}, HOME) == "embedded"
    common.check_config(config, SCHEMA)
    assert config == settings()
    assert common.apply_preset(config, {}, HOME) is None
    assert config == settings()
    assert common.apply_preset({}, {}, HOME) is None


def test_another_word_is_refused():
    with pytest.raises(WorkflowError, match="models: 'reserch' is no set of networks; expected embedded, permissive"):
        common.apply_preset({"models": "reserch"}, {}, HOME)


@pytest.mark.parametrize("word", ["permissive", "research"])
def test_presets_can_be_used(word):
    config = yaml.safe_load((HOME / "config" / f"{word}.yaml").read_text())
    common.check_config(config, SCHEMA)
    licences = {entry["licence"] for entry in registry().values()}
    common.check_models(registry(), config["models"], config["measure"], licences)


def test_the_paper_has_the_settings_of_research():
    paper = HOME.parent / "shared" / "papers" / "infant_anonymization_pose_emotion.txt"
    if not paper.is_file():
        pytest.skip(f"no paper: {paper} is absent")
    config = yaml.safe_load((HOME / "config" / "research.yaml").read_text())
    text = " ".join(paper.read_text().split())
    steps, alpha = re.search(r"we use (\d+) steps per image and an \$\\alpha\$ of (-[.\d]+\d)", text).groups()
    assert (config["traverse"]["steps"], config["traverse"]["alpha"]) == (int(steps), float(alpha))
    assert config["score"]["threshold"] == float(re.search(r"cosine similarity above (\.\d+)", text).group(1))


# The registry


def test_the_shipped_registry_is_valid_and_complete():
    from peekaboo import models

    found = registry()
    files = [entry["file"] for entry in found.values() if "addresses" in entry]
    assert len(set(files)) == len(files)
    for name, entry in found.items():
        if entry["tier"] == "embedded":
            assert (HOME / entry["file"]).is_file(), name
        if "convert" in entry:
            assert entry["convert"]["network"] in models.NETWORKS, name
        elif "addresses" in entry and Path(entry["file"]).suffix not in (".onnx", ".task"):
            assert any(other.get("convert", {}).get("trunk") == name for other in found.values()), name
    for role in settings()["models"]:
        assert f"embedded_{role}" in common.steering(found, role)


def test_the_registry_agrees_with_the_files_that_are_here():
    from peekaboo import stagefile

    folder = HOME.parent / "shared" / "models"
    if not folder.is_dir():
        pytest.skip(f"no published networks: {folder} is absent")
    here = [entry for entry in registry().values() if (folder / entry["file" if "file" in entry else "tier"]).is_file()]
    assert len(here) == 5
    for entry in here:
        path = folder / entry["file"]
        assert (path.stat().st_size, stagefile.checksum(path)) == (entry["size"], entry["sha256"])


@pytest.mark.parametrize(
    ("name", "field", "value", "expected"),
    [
        ("deca", "licence", None, "deca: 'licence' is a required property"),
        ("deca", "non_commercial", None, "deca: 'non_commercial' is a required property"),
        ("deca", "licence_url", None, "deca: 'licence_url' is a required property"),
        ("deca", "addresses", None, "deca: 'addresses' is a required property"),
        ("deca", "addresses", ["file:///a"], "deca.addresses.0: 'file:///a' does not match"),
        ("deca", "sha256", "abc", "deca.sha256: 'abc' does not match"),
        ("deca", "size", 0, "deca.size: 0 is less than the minimum of 1"),
        ("deca", "tier", "free", "deca.tier: 'free' is not one of"),
        ("deca", "file", "../x.tar", "deca.file: '../x.tar' does not match"),
        ("deca", "licens", "MIT", "deca.licens is no field; did you mean licence?"),
        ("deca", "judge", {"posture": "pose.Deca"}, "deca.judge.posture is no field; did you mean pose?"),
        ("deca", "convert", {"section": []}, "deca.convert: 'network' is a required property"),
        ("stylegan3_r_ffhq_1024", "resolution", None, "stylegan3_r_ffhq_1024: 'resolution' is a required property"),
        ("embedded_affect", "file", None, "embedded_affect: 'file' is a required property"),
        ("dlib_identity", "package", None, "dlib_identity: 'package' is a required property"),
        (
            "fsanet",
            "parts",
            ["fsanet_1x1", "fsanet_2"],
            "fsanet.parts: expected entries with a file to download, found",
        ),
    ],
)
def test_bad_entries_are_named_with_their_field(tmp_path, name, field, value, expected):
    found = yaml.safe_load(REGISTRY.read_text())
    found[name][field] = value
    if value is None:
        del found[name][field]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(found))
    with pytest.raises(WorkflowError) as caught:
        common.read_registry(tmp_path / "models.yaml", REGISTRY_SCHEMA)
    assert f"\n  {expected}" in str(caught.value)


def test_a_registry_that_is_none_is_explained(tmp_path):
    path = tmp_path / "models.yaml"
    for text, expected in (
        ("a: [", "models.yaml is no YAML"),
        ("", "None is not of type 'object'"),
        ("A b: {}", "'A b'"),
    ):
        path.write_text(text)
        with pytest.raises(WorkflowError, match=expected):
            common.read_registry(path, REGISTRY_SCHEMA)


# Weights

MODELS = {
    "generator": "stylegan3_r_ffhq_1024",
    "encoder": "restyle_e4e_ffhq",
    "perceptual": "lpips_alex",
    "identity": "mobilefacenet",
    "affect": "anycost_attributes",
}


def test_weights_of_the_default_configuration_are_in_the_repository():
    paths = common.weights(registry(), settings()["models"], HOME, "dl")
    assert list(paths) == ["generator", "encoder", "perceptual", "identity", "affect"]
    assert Path(paths["generator"]).samefile(HOME / "resources" / "embedded" / "generator.safetensors")
    assert not any(os.path.isabs(path) for path in paths.values())


def test_downloaded_weights_are_converted_or_as_they_are():
    paths = common.weights(registry(), MODELS, HOME, "dl")
    assert set(paths.values()) == {f"dl/{name}.safetensors" for name in MODELS.values()}
    measure = {
        "identity": "arcface_buffalo_l",
        "affect": "emonet_8",
        "pose": "fsanet",
        "demographics": "none",
        "action_units": "mediapipe_face_landmarker",
    }
    judges = common.judges(registry(), measure, HOME, "dl")
    assert list(judges.values()) == [
        ["dl/w600k_r50.onnx"],
        ["dl/emonet_8.safetensors"],
        ["dl/fsanet-1x1-iter-688590.onnx", "dl/fsanet-var-iter-688590.onnx"],
        ["dl/face_landmarker_v2_with_blendshapes.task"],
    ]
    assert "pose.FsaNet=dl/fsanet-1x1-iter-688590.onnx,dl/fsanet-var-iter-688590.onnx" in common.judge_options(judges)
    assert common.judge_options(common.judges(registry(), {"identity": "dlib_identity"}, HOME, "dl")) == "identity.Dlib"
    assert common.judge_options({"pose.Deca": ["a b/d"]}) == "pose.Deca='a b/d'"


@pytest.mark.parametrize(
    ("section", "role", "name", "expected"),
    [
        ("models", "encoder", "embedded_generator", "no encoder network .* for models; expected embedded_encoder"),
        (
            "models",
            "generator",
            "stylegan",
            "no generator network .* expected embedded_generator, stylegan3_t_ffhq_1024",
        ),
        ("models", "identity", "dlib_identity", "no identity network .* expected embedded_identity, arcface_ir_se50"),
        ("models", "identity", "arcface_buffalo_l", "no identity network"),
        ("models", "perceptual", "alexnet", "no perceptual network .* expected embedded_perceptual, lpips_alex$"),
        ("models", "affect", "emonet_8", "no affect network .* expected embedded_affect, anycost_attributes$"),
        ("measure", "identity", "embedded_identity", "no identity network .* for measure; expected dlib_identity,"),
        ("measure", "affect", "none", "no affect network .* expected embedded_affect, emonet_8, emonet_5$"),
        ("measure", "pose", "fsanet_var", "no pose network .* expected deca, fsanet, mediapipe_mesh$"),
        ("measure", "action_units", "deca", "no action_units network .* expected mediapipe_face_landmarker, none$"),
    ],
)
def test_networks_that_do_not_fit_are_refused(section, role, name, expected):
    config = settings()
    config[section][role] = name
    with pytest.raises(WorkflowError, match=f"{section}.{role}: '{name}' is {expected}"):
        common.check_models(registry(), config["models"], config["measure"], [])


def test_the_judge_of_the_identity_is_not_what_steers():
    models, measure = settings()["models"] | {"identity": "mobilefacenet"}, settings()["measure"]
    common.check_models(registry(), models, measure, [])
    with pytest.raises(WorkflowError, match=r"measure.identity: mobilefacenet steers the edit .* take another or none"):
        common.check_models(registry(), models, measure | {"identity": "mobilefacenet"}, [])


def test_licences_without_commercial_use_have_to_be_accepted():
    models, measure = settings()["models"] | {"generator": "stylegan3_r_ffhq_1024"}, settings()["measure"]
    measure["affect"] = "emonet_8"
    with pytest.raises(WorkflowError) as caught:
        common.check_models(registry(), models, measure, ["CC BY-NC-ND 4.0"])
    name = "NVIDIA Source Code License for StyleGAN3"
    assert f"stylegan3_r_ffhq_1024: {name}, https://github.com/NVlabs/stylegan3/blob/main/LICENSE.txt" in str(
        caught.value
    )
    assert f"accept_licences: {json.dumps([name])}" in str(caught.value) and "emonet" not in str(caught.value)
    common.check_models(registry(), models, measure, ["CC BY-NC-ND 4.0", name])


def test_a_tier_is_downloaded_whole_and_other_choices_in_so_far_as_they_are_used():
    found = registry()
    permissive = common.to_download(found, "permissive", set())
    assert {found[name]["tier"] for name in permissive} == {"permissive"}
    assert {"alexnet", "fsanet_1x1", "fsanet_var", "yunet", "lpips_alex"} <= set(
        permissive
    ) and "fsanet" not in permissive
    research = common.to_download(found, "research", set())
    assert set(research) == {name for name, entry in found.items() if "addresses" in entry}
    assert common.to_download(found, "embedded", {"embedded_affect"}) == []
    used = common.to_download(found, None, {"lpips_alex", "fsanet", "embedded_affect", "dlib_identity"})
    assert used == ["alexnet", "lpips_alex", "fsanet_1x1", "fsanet_var"]
    files = common.fetched(found, used, "dl", [])(None)
    assert files[0] == "dl/alexnet-owt-7be5be79.pth" and files[-1] == "dl/lpips_alex.safetensors" and len(files) == 5
    with pytest.raises(WorkflowError, match=r"(?s)deca: DECA, Max Planck.*add their names"):
        common.fetched(found, research, "dl", [])(None)


def test_an_altered_file_that_is_used_as_it_is_is_named(tmp_path):
    found = registry()
    names = ["yunet", "mobilefacenet", "fsanet", "dlib_identity"]
    common.check_downloads(found, names, tmp_path)
    (tmp_path / "mobilefacenet.pt").write_bytes(b"is looked at when it is converted")
    common.check_downloads(found, names, tmp_path)
    (tmp_path / "yunet_n_dynamic.onnx").write_bytes(b"cut")
    with pytest.raises(
        WorkflowError, match=r"yunet_n_dynamic.onnx: expected the SHA-256 104ee2\w+ of yunet .* \(3 bytes"
    ):
        common.check_downloads(found, names, tmp_path)


def test_resolution_is_that_of_the_generator():
    from peekaboo import models

    path = HOME / "resources" / "embedded" / "generator.safetensors"
    assert common.resolution(path) == models.constructor(path)["img_resolution"]


def test_resolution_of_a_generator_that_is_yet_to_be_downloaded_is_that_of_the_registry(tmp_path):
    declared = registry()["stylegan3_r_ffhq_1024"]["resolution"]
    assert common.resolution(tmp_path / "absent.safetensors", declared) == 1024
    embedded = registry()["embedded_generator"]
    assert common.resolution(HOME / embedded["file"], 1024) == embedded["resolution"]


def test_a_broken_generator_is_named(tmp_path):
    for content in (b"", b"not safetensors at all", b"\2\0\0\0\0\0\0\0{}"):
        (tmp_path / "g.safetensors").write_bytes(content)
        with pytest.raises(WorkflowError, match=r"g\.safetensors can't be read as a generator"):
            common.resolution(tmp_path / "g.safetensors")


# Code


def test_the_code_of_judges_belongs_to_the_measure_stage():
    def code(module):
        return [f"{module}.py", "shared.py"]

    judges = {"identity.Dlib": [], "pose.Deca": ["d"], "pose.Other": []}
    modules = ["judges.identity", "judges.pose", "stages.measure"]
    assert common.judge_code(judges, code) == [f"peekaboo.{module}.py" for module in modules] + ["shared.py"]


def write_package(folder):
    files = {
        "pkg/__init__.py": "",
        "pkg/base.py": "import os\n",
        "pkg/other.py": "",
        "pkg/lazy.py": "",
        "pkg/sub/__init__.py": "from .. import other\n",
        "pkg/sub/a.py": "import numpy\nfrom pkg import base\nfrom .b import f\n\ndef g():\n    import pkg.lazy\n",
        "pkg/sub/b.py": "from pkg.sub import a\n",
        "pkg/sub/unused.py": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_sources_are_the_modules_that_are_imported(tmp_path, monkeypatch):
    write_package(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert common.sources("pkg.sub.a", tmp_path / "pkg") == [
        "pkg/__init__.py",
        "pkg/base.py",
        "pkg/lazy.py",
        "pkg/other.py",
        "pkg/sub/__init__.py",
        "pkg/sub/a.py",
        "pkg/sub/b.py",
    ]
    assert common.sources("pkg.lazy", tmp_path / "pkg") == ["pkg/__init__.py", "pkg/lazy.py"]


def test_sources_of_a_stage_are_those_that_python_loads(monkeypatch):
    monkeypatch.chdir(HOME)
    script = (
        "import sys, peekaboo.stages.traverse\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.startswith('peekaboo')))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded
    found = common.sources("peekaboo.stages.traverse", HOME / "src" / "peekaboo")
    assert {os.path.relpath(file) for file in loaded} <= set(found)


def test_code_is_what_modules_say_to_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    texts = {
        "plain": "def f(x):\n    return x + 1\n",
        "worded": '"""A module."""\n\n\ndef f(x):\n    """One more."""\n    # So it is.\n    return (x  + 1)\n',
        "other": "def f(x):\n    return x + 2\n",
        "empty": 'def f(x):\n    """Nothing."""\n',
    }
    found = {}
    for folder, text in texts.items():
        common.essence.cache_clear()
        (package / "a.py").write_text(text)
        paths = common.code_of("pkg.a", package, f"code/{folder}")
        assert paths == [f"code/{folder}/pkg/__init__.py", f"code/{folder}/pkg/a.py"]
        found[folder] = Path(paths[1]).read_text()
    assert found["plain"] == found["worded"] != found["other"]
    assert found["empty"] == "def f(x):\n    pass"
    # A file that says the same is left alone, with its time.
    before = os.stat("code/plain/pkg/a.py").st_mtime_ns
    (package / "a.py").write_text(texts["worded"])
    common.essence.cache_clear()
    common.code_of("pkg.a", package, "code/plain")
    assert os.stat("code/plain/pkg/a.py").st_mtime_ns == before


# Resources


def test_frames_of_a_clip_are_about_right():
    from peekaboo import media

    assert common.clip_frames(common.Clip(str(DEMO), "drop")) == pytest.approx(media.probe(DEMO).n_frames, rel=0.02)


def test_frames_of_a_file_that_is_no_video_come_from_its_size(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x" * 40_000)
    (tmp_path / "b.mp4").write_text("#EXTM3U\n#EXTINF:100,\nhttp://example.invalid/a.ts\n")
    assert common.clip_frames(common.Clip(str(tmp_path / "a.mp4"), "drop")) == 10
    assert common.clip_frames(common.Clip(str(tmp_path / "b.mp4"), "drop")) == 1


@pytest.mark.parametrize("stage", ["extract", "invert", "tune", "score", "traverse", "decode", "compose", "measure"])
def test_resources_grow_with_the_clip_and_the_attempt(tmp_path, stage):
    clips = {}
    for name, size in (("short", 10_000), ("long", 10_000_000)):
        (tmp_path / name).write_bytes(b"x" * size)
        clips[name] = common.Clip(str(tmp_path / name), "drop")
    for function in (common.minutes(stage, clips), common.memory(stage, clips)):
        short, long = (function(Wildcards(name), attempt=1) for name in ("short", "long"))
        assert 0 < short < long
        assert function(Wildcards("short"), attempt=2) == pytest.approx(2 * short, abs=1)


def test_rendered_clips_are_known_before_they_are_there(tmp_path, monkeypatch):
    assert list(common.RENDERED) == [f"synth-{n:02}" for n in range(1, 21)] + ["sweep-1", "sweep-2", "sweep-3"]
    assert common.original({})(Wildcards("synth-20")) == "synthetic/synth-20.mp4"
    assert common.sound({})(Wildcards("sweep-1")) == ""
    monkeypatch.chdir(tmp_path)
    functions = common.minutes("tune", {}), common.memory("tune", {})
    before = [function(Wildcards("synth-01"), attempt=1) for function in functions]
    Path("synthetic").mkdir()
    Path("synthetic", "synth-01.mp4").write_bytes(DEMO.read_bytes())
    after = [function(Wildcards("synth-01"), attempt=1) for function in functions]
    assert all(b > a > 0 for b, a in zip(before, after, strict=True))


# What rules ask for


def test_what_needs_no_clips_runs_without_them(tmp_path):
    clips, problem = common.found_clips(DEMO.parent, "drop")
    assert list(clips) == ["infant"] and problem is None
    assert common.needed(problem)(None) == []
    clips, problem = common.found_clips(tmp_path / "gone", "drop")
    assert clips == {}
    with pytest.raises(WorkflowError, match="no folder or list"):
        common.needed(problem)(None)
    with pytest.raises(WorkflowError, match="no folder or list"):
        common.original(clips, problem)(Wildcards("one"))
    assert common.original(clips, problem)(Wildcards("synth-01")) == "synthetic/synth-01.mp4"


def test_options_of_the_download():
    words = common.fetch_options("models.yaml", "", ["CC BY-NC 4.0"])(None, ["dl/a.pt"])
    assert words == "--registry models.yaml --folder dl --accept-licences 'CC BY-NC 4.0'"
    assert "--mirror '/a b'" in common.fetch_options("models.yaml", "/a b", [])(None, ["dl/a.pt"])


def test_methods_decode_their_latents_with_their_generator():
    wanted = {
        "pti_traversal": ("results/x/traverse.h5", "results/x/tune.h5"),
        "pti": ("results/x/invert.h5", "results/x/tune.h5"),
        "traversal": ("results/x/traverse.h5", []),
    }
    for method, files in wanted.items():
        wildcards = Wildcards("x", method)
        assert (common.latents(wildcards), common.own_generator(wildcards)) == files
        assert common.decoded(wildcards) == f"results/x/{method}/decode.h5"
    assert common.decoded(Wildcards("x", "mask")) == []


def test_options_name_their_values():
    assert (
        common.options({"top_k": 3, "lossless": True, "other": False}, alpha=-0.75)
        == "--top-k 3 --lossless --alpha -0.75"
    )
    assert common.option("tuned")(None, {"tuned": "x.h5"}) == "--tuned x.h5"
    assert common.option("tuned")(None, {"tuned": []}) == ""


@pytest.mark.parametrize(
    ("audio", "sounding", "expected"), [("copy", True, True), ("copy", False, False), ("drop", True, False)]
)
def test_sound_is_copied_where_it_is_asked_for_and_there_is_some(tmp_path, audio, sounding, expected):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 10, width=32, height=32, pix_fmt="yuv420p")
        streams = [(video, av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)))]
        if sounding:
            sound = container.add_stream("aac", 8000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            streams.append((sound, silence))
        for stream, frame in streams:
            container.mux([*stream.encode(frame), *stream.encode(None)])
    options = common.sound({"a": common.Clip(str(path), audio)})(Wildcards("a"))
    assert options == ("--audio results/a/source" if expected else "")


def test_the_closing_words_name_results_and_withheld_clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "b").mkdir(parents=True)
    (tmp_path / "results" / "b" / "withheld.json").write_text('{"clip": "b", "reason": "no face was found"}')
    for path in ("a/blur/anonymized.mp4", "table.tsv", "report/index.html"):
        (tmp_path / "results" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / path).touch()
    words = common.closing(["a", "b"], ["blur", "mask"])
    assert "results/a/blur/anonymized.mp4" in words and "results/b/blur" not in words
    assert "Withheld, 1 of 2 clips:\n  b: no face was found" in words
    assert words.endswith("results/report/index.html")


def test_the_closing_words_name_nothing_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert common.closing(["a"], ["blur"]) == ""


def test_a_file_is_asked_for_where_there_is_one(tmp_path):
    path = tmp_path / "a.json"
    assert common.if_there(path) == []
    path.touch()
    assert common.if_there(path) == [path]


@pytest.mark.parametrize("network, read", [("encoder", ["affect", "generator"]), ("generator", ["affect"])])
def test_training_of_a_network_waits_for_those_it_reads(network, read):
    class Wildcards:
        pass

    Wildcards.network = network
    before = {name: f"training/{name}.safetensors" for name in ("perceptual", *read)}
    assert common.trained_before(Wildcards) == before
    assert common.before_options(Wildcards) == " ".join(f"--{name} {path}" for name, path in before.items())


def test_runs_that_begin_at_once_both_hold_the_directory(tmp_path, monkeypatch):
    """While one still looks for what a killed run left, another begins; a third must not take that one for dead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEEKABOO_RUN", "")
    monkeypatch.setenv("PEEKABOO_KEEP", "")
    (tmp_path / ".snakemake").mkdir()
    with open(tmp_path / ".snakemake" / "held", "a") as first, ThreadPoolExecutor(1) as pool:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = pool.submit(common.hold)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        fcntl.flock(first, fcntl.LOCK_SH)
        held = second.result(timeout=10)
    with open(tmp_path / ".snakemake" / "held", "a") as third:
        with pytest.raises(BlockingIOError):
            fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.close()
        fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("method", common.ALL_METHODS)
def test_the_report_counts_the_stages_that_a_method_waits_for(method):
    from peekaboo.stages import report

    waited_for = {Path(path).stem for path in common.drawing_reports("one", [method])}
    assert waited_for | {"extract", "compose", "measure"} == set(report.stages_of(method))
