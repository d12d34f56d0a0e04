"""The helpers of the rules, loaded as plain Python."""

import os
import subprocess
import sys
from collections import namedtuple
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
    assert config["traverse"] == {"steps": 10, "alpha": -50, "top_k": 100}


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


# Weights


def test_weights_of_the_default_configuration_are_in_the_registry():
    paths = common.weights(REGISTRY, settings()["models"], HOME)
    assert list(paths) == ["generator", "encoder", "perceptual", "identity", "affect"]
    assert Path(paths["generator"]).samefile(HOME / "resources" / "embedded" / "generator.safetensors")
    assert not any(os.path.isabs(path) for path in paths.values())


@pytest.mark.parametrize(
    ("role", "name"), [("encoder", "embedded_generator"), ("generator", "stylegan"), ("identity", "dlib_identity")]
)
def test_weights_that_do_not_fit_are_refused(role, name):
    with pytest.raises(
        WorkflowError, match=f"models.{role}: '{name}' is no {role} network .* expected embedded_{role}"
    ):
        common.weights(REGISTRY, settings()["models"] | {role: name}, HOME)


def test_resolution_is_that_of_the_generator():
    from peekaboo import models

    path = HOME / "resources" / "embedded" / "generator.safetensors"
    assert common.resolution(path) == models.constructor(path)["img_resolution"]


def test_a_broken_generator_is_named(tmp_path):
    for content in (b"", b"not safetensors at all", b"\2\0\0\0\0\0\0\0{}"):
        (tmp_path / "g.safetensors").write_bytes(content)
        with pytest.raises(WorkflowError, match=r"g\.safetensors can't be read as a generator"):
            common.resolution(tmp_path / "g.safetensors")


# Code


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


def test_training_of_a_network_waits_for_those_it_reads():
    class Wildcards:
        network = "encoder"

    before = {"perceptual": "training/perceptual.safetensors", "generator": "training/generator.safetensors"}
    assert common.trained_before(Wildcards) == before
    options = "--perceptual training/perceptual.safetensors --generator training/generator.safetensors"
    assert common.before_options(Wildcards) == options
