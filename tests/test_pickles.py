import collections
import io
import json
import os
import pathlib
import pickle
import re
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
import yaml
from golden import FOLDER, Fixture
from safetensors import safe_open
from torch import nn

from peekaboo import models, stagefile
from peekaboo.models import pickles
from peekaboo.nets.lpips import Lpips
from peekaboo.nets.stylegan3 import Generator

PUBLISHED = FOLDER.parent / "models"
TINY = {"z_dim": 8, "w_dim": 8, "img_resolution": 16, "channel_base": 128, "channel_max": 16, "num_layers": 4}


@pytest.fixture
def official(monkeypatch):
    """Modules by the names that StyleGAN3's pickles use, so that pickle writes what the official program writes."""

    def module(name, **members):
        made = types.ModuleType(name)
        for key, value in members.items():
            value.__module__, value.__qualname__ = name, key
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the source text would run here")

    class EasyDict(dict):
        pass

    module("torch_utils")
    module("dnnlib")
    return types.SimpleNamespace(
        reconstruct=module(
            "torch_utils.persistence", _reconstruct_persistent_obj=_reconstruct_persistent_obj
        )._reconstruct_persistent_obj,
        EasyDict=module("dnnlib.util", EasyDict=EasyDict).EasyDict,
    )


class Persistent:
    """An object that pickles as NVIDIA's persistent classes do."""

    def __init__(self, official, class_name, state, source="import os\nos.mkdir('ran')\n"):
        self.reduced = (
            official.reconstruct,
            ({"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state},),
        )

    def __reduce__(self):
        return self.reduced


CLASSES = {
    "affine": "FullyConnectedLayer",
    "input": "SynthesisInput",
    "mapping": "MappingNetwork",
    "synthesis": "SynthesisNetwork",
}


def persistent(official, module, class_name, constructor):
    """What the official program would pickle for a module of the project."""
    state = {
        "training": False,
        "_parameters": module._parameters,
        "_buffers": module._buffers,
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": collections.OrderedDict(),
        "_modules": collections.OrderedDict(
            (key, persistent(official, child, CLASSES.get(key, "SynthesisLayer"), {}))
            for key, child in module._modules.items()
        ),
        "_init_args": (),
        "_init_kwargs": constructor,
        "size": np.array([36, 36]),
        "bandwidth": np.float64(2.5),
        "use_fp16": np.bool_(True),
        "padding": [9, 8, 9, 8],
    }
    return Persistent(official, class_name, state)


def network_pickle(official, generator, constructor, protocol):
    recorded = {**constructor, "mapping_kwargs": official.EasyDict(constructor.get("mapping_kwargs", {}))}
    network = persistent(official, generator, "Generator", recorded)
    content = {"G": None, "D": None, "G_ema": network, "augment_pipe": None, "training_set_kwargs": {"path": "ffhq"}}
    return pickle.dumps(content, protocol)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_network_as_nvidia_writes_it_gives_the_official_pictures(official, tmp_path, protocol, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fixture = Fixture("stylegan3_t_64")
    constructor = fixture.manifest["networks"][0]["constructor"]
    original = Generator(**constructor)
    original.load_state_dict(fixture.state_dict(), strict=False)
    (tmp_path / "t.pkl").write_bytes(network_pickle(official, original, constructor, protocol))
    found, state = pickles.stylegan3("t.pkl")
    assert found == constructor
    assert sorted(state) == sorted(entry["key"] for entry in fixture.manifest["networks"][0]["state_dict"])
    generator = Generator(**found).eval()
    generator.load_state_dict(state)
    with torch.no_grad():
        fixture.check("img", generator.synthesis(torch.from_numpy(fixture.arrays["out.ws"])))
    assert not (tmp_path / "ran").exists()

    pickles.convert("t.pkl", "t.safetensors", "stylegan3.Generator")
    assert models.constructor("t.safetensors") == constructor
    converted = models.load("t.safetensors").state_dict()
    assert all(torch.equal(converted[key], value) for key, value in original.state_dict().items())
    with safe_open("t.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["sources"]) == {"t.pkl": stagefile.checksum("t.pkl")}


def test_other_networks_of_a_pickle_are_refused(official, tmp_path):
    path = tmp_path / "net.pkl"
    generator = Generator(**TINY)
    content = {"D": persistent(official, generator, "Discriminator", {})}
    content["shared"] = persistent(official, nn.Sequential(), "Generator", {})
    module = persistent(official, nn.Linear(1, 1), "FullyConnectedLayer", {})
    content["shared"].reduced[1][0]["state"]["_modules"] = {"a": module, "b": module}
    content["old"] = Persistent(official, "Generator", {})
    content["old"].reduced[1][0]["version"] = 5
    path.write_bytes(pickle.dumps(content, 4))
    for key, message in [
        ("G_ema", "with the network G_ema, found a dict of D, shared, old"),
        ("D", "a Discriminator"),
        ("shared", "occurs twice"),
        ("old", "version 5"),
    ]:
        with pytest.raises(ValueError, match=rf"net.pkl: expected .*{message}"):
            pickles.stylegan3(path, key)


def checkpoint():
    """A checkpoint with all that the loader has to cope with."""
    torch.manual_seed(0)
    weight = torch.randn(4, 6)
    state = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    return {
        "state_dict": state,
        "views": [weight, weight.t(), weight[1:3, 2:], torch.empty(0, 3)],
        "kinds": {str(d): torch.arange(3).to(d) for d in set(pickles.STORAGES.values())},
        "parameter": nn.Parameter(torch.ones(2)),
        "opts": {"path": pathlib.PosixPath("a/b"), "lr": 1e-4, "many": 2**70, "none": None, "yes": True},
        "bytes": [b"\x00\xff", b""],
        "numpy": [np.float64(0.5), np.arange(6, dtype=np.float32).reshape(2, 3)],
        "set": {1, 2},
        "size": torch.Size([1, 2]),
        "latent_avg": torch.randn(8),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_checkpoints_read_as_torch_reads_them(tmp_path, zipped):
    path = tmp_path / "some.pt"
    expected = checkpoint()
    torch.save(expected, path, _use_new_zipfile_serialization=zipped)
    found = pickles.read(path)
    for key in ("state_dict", "kinds"):
        assert list(found[key]) == list(expected[key])
        for name, value in expected[key].items():
            assert found[key][name].dtype == value.dtype
            assert torch.equal(found[key][name], value)
    for left, right in zip(found["views"], expected["views"], strict=True):
        assert torch.equal(left, right)
        assert left.stride() == right.stride()
    found["views"][0][1, 2] = 7
    assert found["views"][2][0, 0] == 7, "the same storage"
    assert type(found["parameter"]) is torch.Tensor
    assert not found["parameter"].requires_grad
    path_record = found["opts"].pop("path")
    assert (path_record.name, path_record.arguments) == ("pathlib.PosixPath", ("a", "b"))
    assert found["opts"] == {key: value for key, value in expected["opts"].items() if key != "path"}
    assert found["bytes"] == expected["bytes"]
    assert found["numpy"][0] == 0.5
    np.testing.assert_array_equal(found["numpy"][1], expected["numpy"][1])
    assert (found["set"], found["size"]) == ({1, 2}, (1, 2))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_whole_modules_become_records(tmp_path, zipped):
    path = tmp_path / "module.pt"
    module = nn.Linear(2, 3)
    torch.save(module, path, _use_new_zipfile_serialization=zipped)
    found = pickles.read(path)
    assert isinstance(found, pickles.Record)
    assert found.name == "torch.nn.modules.linear.Linear"
    assert torch.equal(found.state["_parameters"]["weight"], module.weight)


def test_a_published_checkpoint_reads_as_torch_reads_it():
    path = PUBLISHED / "mobilefacenet.pt"
    if not path.is_file():
        pytest.skip(f"no published networks: {PUBLISHED} is absent")
    expected = torch.load(path, map_location="cpu", weights_only=True)
    found = pickles.read(path)
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in expected.items())


def test_conversion_keeps_float32_and_checks_the_network(tmp_path):
    torch.manual_seed(0)
    generator = Generator(**TINY)
    state = {f"module.{key}": value.double() for key, value in generator.state_dict().items()}
    state["module.synthesis.input.transform"] = torch.randn(4, 3, 3)
    path, target = tmp_path / "tuned.pt", tmp_path / "tuned.safetensors"
    torch.save({"decoder": state}, path)
    pickles.convert(path, target, "stylegan3.Generator", TINY, ("decoder",), "module.")
    with safe_open(target, "pt") as file:
        assert file.metadata()["network"] == "stylegan3.Generator"
        assert json.loads(file.metadata()["constructor"]) == TINY
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float32}  # noqa: SIM118
    loaded = models.load(target).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in generator.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tuned.pt", "tuned.safetensors"]
    with pytest.raises(ValueError, match=r"tuned.pt: expected the entry encoder, found a dict of decoder"):
        pickles.state_dict(path, ("encoder",))
    with pytest.raises(ValueError, match=r"tuned.pt: expected tensors named encoder\.…"):
        pickles.state_dict(path, ("decoder",), "encoder.")
    with pytest.raises(ValueError, match=r"tuned.pt: expected the weights of stylegan3.Generator, found"):
        pickles.convert(path, target, "stylegan3.Generator", TINY | {"channel_max": 8}, ("decoder",), "module.")


def test_lpips_comes_from_two_files(tmp_path, monkeypatch):
    trunk, heads = tmp_path / "alexnet.pth", tmp_path / "alex.pth"
    layers = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))
    weights = {f"features.{n}.weight": torch.randn(o, i, k, k) for n, o, i, k in layers}
    biases = {f"features.{n}.bias": torch.randn(o) for n, o, _, _ in layers}
    torch.save(weights | biases | {"classifier.1.weight": torch.zeros(1)}, trunk)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, layers[i][1], 1, 1) for i in range(5)}, heads)
    state = pickles.lpips(trunk, heads)
    net = Lpips()
    before = net.state_dict()["scaling_layer.shift"].clone()
    net.load_state_dict(state)
    assert torch.equal(net.state_dict()["scaling_layer.shift"], before)
    assert torch.equal(net.state_dict()["net.slice4.8.bias"], biases["features.8.bias"])
    monkeypatch.setitem(models.NETWORKS, "lpips.Lpips", Lpips)
    pickles.write(tmp_path / "lpips.safetensors", "lpips.Lpips", {}, state, trunk, heads)
    loaded = models.load(tmp_path / "lpips.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())
    with pytest.raises(
        ValueError, match=r"alexnet.pth: expected tensors named lin…, found a dict of features.0.weight"
    ):
        pickles.lpips(trunk, trunk)
    torch.save({"features.1.weight": torch.zeros(1)}, trunk)
    with pytest.raises(ValueError, match=r"alexnet.pth: expected AlexNet, found the layer features.1"):
        pickles.lpips(trunk, heads)


# A small encoder in place of the published one of 400 MB
SMALL = {"num_layers": 50, "n_styles": 2}


def average():
    """Numbers by a formula."""
    return torch.sin(torch.arange(512) * 0.1).double()


def encoder_checkpoint(path, latent_avg):
    """What ReStyle's training writes, with weights by a formula; returns their state_dict."""
    state = {
        key: torch.cos(torch.arange(value.numel()) * 0.3).view(value.shape).to(value.dtype)
        for key, value in models.NETWORKS["irse.E4eEncoder"](**SMALL).state_dict().items()
    }
    content = {"state_dict": {f"encoder.{key}": value for key, value in state.items()}, "opts": {"n_styles": 2}}
    content["state_dict"]["decoder.w"] = torch.zeros(3)
    torch.save(content | {"latent_avg": latent_avg}, path)
    return state


def test_an_encoder_brings_the_latent_that_it_starts_from(tmp_path, monkeypatch):
    # The heads of a 32-pixel encoder are small; names and kinds of weights stay.
    monkeypatch.setattr("peekaboo.nets.irse.PspEncoder.size", 32)
    path, target = tmp_path / "e4e.pt", tmp_path / "e4e.safetensors"
    how = {"constructor": SMALL, "section": ("state_dict",), "prefix": "encoder.", "average": ("latent_avg",)}
    state = encoder_checkpoint(path, average())
    pickles.convert(path, target, "irse.E4eEncoder", **how)
    loaded = models.load(target)
    assert torch.equal(loaded.latent_avg, average().float()) and "latent_avg" in dict(loaded.named_buffers())
    assert list(loaded.state_dict()) == list(state), "the official names alone"
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())

    encoder_checkpoint(path, average()[None])
    with pytest.raises(ValueError, match=r"e4e.pt: .* latent_avg: expected a latent \[512\], found \[1, 512\]"):
        pickles.convert(path, target, "irse.E4eEncoder", **how)
    torch.save({"state_dict": {"encoder.x": torch.zeros(1)}, "opts": {}}, path)
    with pytest.raises(ValueError, match=r"e4e.pt: expected the entry latent_avg, found a dict of state_dict, opts"):
        pickles.convert(path, target, "irse.E4eEncoder", **how)


def test_a_starting_latent_beside_another_network_is_refused(tmp_path):
    path = tmp_path / "tuned.pt"
    torch.save({"weights": Generator(**TINY).state_dict(), "latent_avg": average()}, path)
    with pytest.raises(ValueError, match=r"tuned.pt: .* latent_avg: .* found it beside Generator"):
        pickles.convert(
            path, tmp_path / "x.safetensors", "stylegan3.Generator", TINY, ("weights",), average=("latent_avg",)
        )


# The program


def test_the_program_converts_what_the_registry_says(tmp_path, capsys):
    generator = Generator(**TINY)
    torch.save({"g": generator.state_dict()}, tmp_path / "g.pt")
    convert = {"network": "stylegan3.Generator", "constructor": TINY, "section": ["g"]}
    registry = {"tiny": {"file": "g.pt", "convert": convert, "sha256": stagefile.checksum(tmp_path / "g.pt")}}
    registry["plain"] = {"file": "g.onnx"}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    options = ["--registry", str(tmp_path / "models.yaml"), "--folder", str(tmp_path)]
    pickles.main(["tiny", *options])
    assert capsys.readouterr().out.strip() == str(tmp_path / "tiny.safetensors")
    loaded = models.load(tmp_path / "tiny.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in generator.state_dict().items())
    (tmp_path / "tiny.safetensors").unlink()
    with open(tmp_path / "g.pt", "ab") as file:
        file.write(b"more")
    with pytest.raises(SystemExit, match=r"g.pt: expected the SHA-256 \w+ of the registry, found \w+; delete it and"):
        pickles.main(["tiny", *options])
    with pytest.raises(SystemExit, match=r"plain: expected the field convert, found none"):
        pickles.main(["plain", *options])
    with pytest.raises(SystemExit, match=r"other: expected an entry of .*models.yaml; it has plain, tiny"):
        pickles.main(["other", *options])
    (tmp_path / "g.pt").unlink()
    with pytest.raises(SystemExit, match=r"FileNotFoundError: .*g.pt: expected the file, found none; fetch it"):
        pickles.main(["tiny", *options])
    assert not (tmp_path / "tiny.safetensors").exists()


def test_a_checkpoint_without_a_known_checksum_is_locked_when_it_is_converted(tmp_path):
    (tmp_path / "models.yaml").write_text(
        yaml.safe_dump({"tiny": {"file": "g.pt", "convert": {"network": "stylegan3.Generator", "constructor": TINY}}})
    )
    options = ["tiny", "--registry", str(tmp_path / "models.yaml"), "--folder", str(tmp_path)]
    torch.save(Generator(**TINY).state_dict(), tmp_path / "g.pt")
    pickles.main(options)
    locked = json.loads((tmp_path / "models.lock.json").read_text())
    assert locked == {"g.pt": stagefile.checksum(tmp_path / "g.pt")}
    torch.save(Generator(**TINY).state_dict(), tmp_path / "g.pt")
    with pytest.raises(SystemExit, match=r"g.pt: expected the SHA-256 \w+ of \S*models.lock.json, found"):
        pickles.main(options)


def test_the_program_puts_lpips_together(tmp_path):
    trunk, heads = tmp_path / "alexnet.pth", tmp_path / "alex.pth"
    state = Lpips().state_dict()
    features = {f"features.{key.split('.', 2)[2]}": state[key] for key in state if key.startswith("net.")}
    torch.save(features, trunk)
    torch.save({key: value for key, value in state.items() if re.match(r"lin\d", key)}, heads)
    registry = {
        "alexnet": {"file": "alexnet.pth"},
        "lpips_alex": {
            "file": "alex.pth",
            "convert": {"network": "lpips.Lpips", "constructor": {}, "trunk": "alexnet"},
        },
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    pickles.main(["lpips_alex", "--registry", str(tmp_path / "models.yaml"), "--folder", str(tmp_path)])
    loaded = models.load(tmp_path / "lpips_alex.safetensors").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


# Hostile files


class Calls:
    """Pickles as a call of `function`, by default one that makes the folder `ran`."""

    def __init__(self, function=os.mkdir, arguments=("ran",)):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


class Shell:
    def __reduce__(self):
        return os.system, ("mkdir ran",)


class Evaluated:
    def __reduce__(self):
        return eval, ("__import__('os').mkdir('ran')",)


class SetsState:
    """Unpickles by a class of the reader's own process that has a __setstate__."""

    def __getstate__(self):
        return {"x": 1}

    def __setstate__(self, state):
        os.mkdir("ran")


def legacy(content: bytes, keys=(), numbers=b"", system=b""):
    """A file of torch.save's older format around the pickle `content`."""
    system = system or pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
    head = pickle.dumps(pickles.LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + system
    return head + content + pickle.dumps(list(keys), 2) + numbers


def archive(content: bytes, storages=(), compression=zipfile.ZIP_STORED, **members):
    """A zip archive of torch.save around the pickle `content`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("archive/data.pkl", content)
        for key, data in dict(storages).items():
            made.writestr(f"archive/data/{key}", data)
        for name, data in members.items():
            made.writestr(f"archive/{name}", data)
    return file.getvalue()


def storage(count=1, key="0", kind="torch\nFloatStorage\n"):
    """Opcodes of a persistent id: count numbers of a storage."""
    return b"(X\7\0\0\0storagec" + kind.encode() + text(key) + text("cpu") + integer(count) + b"tQ"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(count, offset, size, stride):
    """A pickle of one tensor."""
    shape = b"".join(b"(" + b"".join(map(integer, n)) + b"t" for n in (size, stride))
    return b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count) + integer(offset) + shape + b"\x89NtR."


CALL = b"cos\nmkdir\n(X\3\0\0\0rantR"
NESTED = legacy(b"\x80\2ctorch.storage\n_load_from_bytes\n(B\1\0\0\0.tR.")
HOSTILE = {
    "system": pickle.dumps(Shell(), 4),
    "system, protocol 0": pickle.dumps(Shell(), 0),
    "eval": pickle.dumps(Evaluated(), 4),
    "within the weights": pickle.dumps({"state_dict": {"w": [Calls()]}}, 2),
    "memo": b"\x80\4" + CALL[:-1] + b"0cos\nmkdir\n\x94h\0(X\3\0\0\0rantR.",
    "INST": b"(X\3\0\0\0ranios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nX\3\0\0\0rano.",
    "EXT1": b"\x80\2\x82\1)R.",
    "EXT2": b"\x80\2\x83\1\0)R.",
    "EXT4": b"\x80\2\x84\1\0\0\0)R.",
    "text persistent id": b"P0\n.",
    "persistent id in a plain pickle": b"\x80\2" + storage() + b".",
    "call of a built object": b"\x80\2ccollections\nOrderedDict\n)RX\3\0\0\0ran\x85R.",
    "call of a record": b"\x80\2cos\nmkdir\n)\x81X\3\0\0\0ran\x85R.",
    "attributes by name": b"\x80\4\x8c\2os\x8c\5mkdir\x93\x8c\3ran\x85R.",
    "name that is no text": b"\x80\4K\1\x8c\5mkdir\x93\x8c\3ran\x85R.",
    "arguments that are no tuple": b"\x80\2ctorch\nSize\n]R.",
    "state of a function": b"\x80\2ctorch._utils\n_rebuild_tensor_v2\n}X\10\0\0\0__code__K\1s}\x86b.",
    "state of a tensor": archive(tensor(1, 0, (1,), (1,))[:-1] + b"}b.", {"0": bytes(4)}),
    "second state": b"\x80\2ca\nB\n)\x81K\1bK\2b.",
    "items of a record": b"\x80\2ca\nB\n)\x81(K\1K\2u.",
    "importer": pickle.dumps(Calls(__import__, ("os",)), 2),
    "getattr": pickle.dumps(Calls(getattr, (1, "real")), 2),
    "torch.load": pickle.dumps(Calls(torch.load, ("x",)), 2),
    "persistent id with a call": archive(b"\x80\2" + CALL + b"Q."),
    "persistent id with a function": archive(b"\x80\2" + storage(kind="os\nmkdir\n") + b".", {"0": bytes(4)}),
    "persistent id of another length": archive(b"\x80\2K\1Q."),
    "zip": archive(pickle.dumps(Calls(), 2)),
    "legacy": legacy(pickle.dumps(Calls(), 2)),
    "legacy head": pickle.dumps(Calls(), 2) + legacy(b"N."),
    "legacy system": legacy(b"N.", system=pickle.dumps(Calls(), 2)),
    "legacy keys": legacy(b"\x80\2N.")[: -len(pickle.dumps([], 2))] + pickle.dumps(Calls(), 2),
    "module source": legacy(b"\x80\2(X\6\0\0\0module" + CALL + text("a.py") + text("import os") + b"tQ."),
    "storage bytes": pickle.dumps(Calls(torch.storage._load_from_bytes, (pickle.dumps(Calls(), 2),)), 2),
    "storage in a storage": pickle.dumps(Calls(torch.storage._load_from_bytes, (NESTED,)), 2),
    "storage outside": archive(tensor(4, 3, (2,), (1,)), {"0": bytes(16)}),
    "storage outside by stride": archive(tensor(4, 0, (2, 2), (3, 1)), {"0": bytes(16)}),
    "negative stride": archive(tensor(4, 3, (2,), (-1,)), {"0": bytes(16)}),
    "negative offset": archive(tensor(4, -1, (1,), (1,)), {"0": bytes(16)}),
    "negative size": archive(tensor(4, 0, (-1, -4), (1, 1)), {"0": bytes(16)}),
    "negative count": archive(b"\x80\2" + storage(-1) + b".", {"0": bytes(16)}),
    "expanded number": archive(tensor(1, 0, (1 << 20, 1 << 20), (0, 0)), {"0": bytes(4)}),
    "huge size": archive(tensor(1, 0, (1 << 62, 1 << 62, 0), (1, 1, 1)) + b"", {"0": bytes(3)}),
    "huge storage, zip": archive(b"\x80\2" + storage(1 << 50) + b".", {"0": bytes(4)}),
    "huge storage, legacy": legacy(b"\x80\2" + storage(1 << 50) + b".", ["0"], (1 << 50).to_bytes(8, "little")),
    "many huge storages": legacy(b"\x80\2(" + b"".join(storage(50, str(i)) for i in range(9)) + b"t."),
    "huge bytes": b"\x80\4\x8e" + (1 << 50).to_bytes(8, "little") + b"x.",
    "huge number": b"\x80\2\x8b\xff\xff\xff\x7f\1.",
    "huge memo": b"\x80\4Nr\xff\xff\xff\xffj\xff\xff\xff\xfe.",
    "copies of copies": b"\x80\2" + text("x" * 999) + b"q\0("
    + (b"c_codecs\nencode\n(h\0" + text("latin1") + b"tR") * 99 + b"t.",
    "compressed": archive(pickle.dumps(bytes(1 << 20), 2), compression=zipfile.ZIP_DEFLATED),
    "storage used as another kind": archive(
        b"\x80\2" + storage() + storage(kind="torch\nIntStorage\n") + b"\x86.", {"0": bytes(4)}
    ),
    "missing storage": archive(b"\x80\2" + storage() + b"."),
    "missing numbers": legacy(b"\x80\2" + storage() + b".", ["0"], (1).to_bytes(8, "little")),
    "unfilled storage": legacy(b"\x80\2" + storage() + b"."),
    "path as a key": archive(b"\x80\2" + storage(key="../../x") + b"."),
    "deep key": b"\x80\2}" + b")" + b"\x85" * 100_000 + b"Ns.",
    "endless": b"\x80\2" + b"(" * 100_000,
    "empty stack": b"\x80\2R.",
    "empty tuple stack": b"\x80\2\x87.",
    "NumPy objects": pickle.dumps(np.array([Calls()], dtype=object), 2),
    "NumPy negative shape": b"\x80\2cnumpy.core.multiarray\n_reconstruct\n)R(K\1" + integer(-1) + integer(-8)
    + b"\x86cnumpy\ndtype\n(X\2\0\0\0i1tR\x89C\10abcdefghtb.",
    "empty": b"",
    "text": b"<!DOCTYPE html><html>Sign in</html>",
    "cut zip": archive(b"\x80\2N.")[:-30],
    "not a pickle": bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_and_broken_files_are_refused_by_name_and_run_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"^bad\.pt: expected a PyTorch checkpoint .* found .*; nothing in it was run"):
        pickles.read("bad.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_these_calls_would_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("system", "eval", "within the weights", "INST", "OBJ", "attributes by name"):
        pickle.loads(HOSTILE[name])
        os.rmdir("ran")


def test_objects_stay_records_whatever_their_class_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "object.pt").write_bytes(pickle.dumps(SetsState(), 2))
    found = pickles.read("object.pt")
    assert (found.name.split(".")[-1], found.arguments, found.state) == ("SetsState", (), {"x": 1})
    assert not (tmp_path / "ran").exists()


def test_a_cycle_of_modules_is_refused(official, tmp_path):
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": {}}
    network = Persistent(official, "Generator", state)
    state["_modules"]["child"] = Persistent(official, "MappingNetwork", dict(state))
    (tmp_path / "loop.pkl").write_bytes(pickle.dumps({"G_ema": network}, 2))
    with pytest.raises(ValueError, match=r"loop.pkl: expected .* occurs twice"):
        pickles.stylegan3(tmp_path / "loop.pkl")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.pt"):
        pickles.read(tmp_path / "absent.pt")
