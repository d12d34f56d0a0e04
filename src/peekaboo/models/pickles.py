"""Published checkpoints, read without running anything that is in them: PyTorch's `.pt`, `.pth` and `.tar` files, as
zip archives and in the older format, and StyleGAN3's network pickles.

Python's own unpickler calls what a file names. Here the opcodes are read as data (`pickletools`) by a small stack
machine that imports nothing: it knows some names, from which it builds tensors and plain containers, keeps other
objects as inert records, and refuses every other call.
"""

import argparse
import io
import json
import math
import mmap
import os
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from peekaboo import stagefile
from peekaboo.models import AVERAGE, NETWORKS, with_average
from peekaboo.models.fetch import entry_of, verify
from peekaboo.nets.lpips import SCALE, SHIFT

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
# The dict subclasses that checkpoints use for weights and settings.
DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict", "easydict.EasyDict")
# Calls that are kept as records: what they would make is a value, not a network.
RECORDED = (
    PERSISTENT,
    "torch.device",
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
)
# Everything that malformed bytes can provoke in the readers below.
MALFORMED = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, OSError, RuntimeError, MemoryError,
    zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A class or function that a file names; it was not imported."""

    name: str


@dataclass(eq=False)
class Record:
    """An object that was not built: the name of its class, the arguments of its construction and its state."""

    name: str
    arguments: tuple
    state: Any = None


def read(path: str | Path) -> Any:
    """Read a PyTorch checkpoint (zip or older format) or a pickle of StyleGAN3 into plain containers, tensors on the
    CPU, and a `Record` or `Name` for everything else.

    Nothing in the file is executed, and it can't take much more memory than its own size. Tensors that share storage in
    the file share it here; parameters are plain tensors.

    Raises ValueError naming the file for anything malformed, truncated, or that asks for a call not known as harmless.
    """
    path = Path(path)
    with open(path, "rb") as file:
        try:
            start = file.read(4)
            if start == b"PK\x03\x04":
                return _archive(file)
            if not start:
                raise ValueError("an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
                return _stream(stream, len(stream), BUILDERS)
        except MALFORMED as error:
            raise ValueError(
                f"{path.name}: expected a PyTorch checkpoint or a StyleGAN3 pickle that only holds data, found "
                f"{str(error)[:300] or type(error).__name__}; nothing in it was run. Download it again from its "
                "publisher and compare its checksum"
            ) from error


def state_dict(path: str | Path, section: Sequence[str] = (), prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of the dict that `section` leads to (`("state_dict",)`, say) whose names start with `prefix`, by
    their names without it.

    Raises ValueError as `read` does, and where there is no such section or no such tensor.
    """
    return _tensors_of(_entry(read(path), section, path), prefix, path)


def _entry(found: Any, section: Sequence[str], path: str | Path) -> Any:
    """What the keys `section` lead to in the content `found` of a file."""
    for i, key in enumerate(section):
        if not isinstance(found, dict) or key not in found:
            raise ValueError(
                f"{Path(path).name}: expected the entry {'.'.join(section[: i + 1])}, found {_contents(found)}"
            )
        found = found[key]
    return found


def _tensors_of(found: Any, prefix: str, path: str | Path) -> dict[str, Tensor]:
    tensors = {
        key.removeprefix(prefix): value
        for key, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(key, str) and isinstance(value, Tensor) and key.startswith(prefix)
    }
    if not tensors:
        raise ValueError(f"{Path(path).name}: expected tensors named {prefix}…, found {_contents(found)}")
    return tensors


def stylegan3(path: str | Path, key: str = "G_ema") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the generator `key` of a StyleGAN3 network pickle: the arguments of its constructor, as they were recorded,
    and its state_dict.

    Raises ValueError as `read` does, and where the file holds no such generator.
    """
    name = Path(path).name
    networks = read(path)
    if not isinstance(networks, dict) or key not in networks:
        raise ValueError(f"{name}: expected a StyleGAN3 pickle with the network {key}, found {_contents(networks)}")
    try:
        description = _description(networks[key])
        if description["class_name"] != "Generator":
            raise ValueError(f"a {description['class_name']}")
        state = description["state"]
        # The official constructor takes these by position as well.
        positional = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
        constructor = dict(zip(positional, state["_init_args"], strict=False)) | state["_init_kwargs"]
        # It says in which precision layers run, not what they are.
        constructor.pop("num_fp16_res", None)
        json.dumps(constructor)
        return constructor, dict(_tensors(networks[key], "", set()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name}: expected a StyleGAN3 generator as {key}, found {error!r}") from error


def convert(
    path: str | Path,
    target: str | Path,
    network: str,
    constructor: Mapping[str, Any] | None = None,
    section: Sequence[str] = (),
    prefix: str = "",
    average: Sequence[str] = (),
) -> None:
    """Write published weights as the safetensors file that `models.load` reads, all in float32.

    `network` is a name in `models.NETWORKS`; `section` and `prefix` say where its weights are (see `state_dict`).
    Without `constructor` the file is a StyleGAN3 pickle, which brings the arguments, and `section` its network.
    `average` leads to the latent `[w_dim]` that an encoder's refinement starts from, kept as the tensor `latent_avg`.

    Raises ValueError as `read` does, and where the weights are not those of the network.
    """
    if constructor is None:
        constructor, state = stylegan3(path, *section)
    else:
        found = read(path)
        state = _tensors_of(_entry(found, section, path), prefix, path)
        if average:
            state[AVERAGE] = _entry(found, average, path)
    write(target, network, constructor, state, path)


def lpips(trunk: str | Path, heads: str | Path) -> dict[str, Tensor]:
    """Put the state_dict of `nets.lpips.Lpips` together from torchvision's AlexNet and the linear layers that
    richzhang/PerceptualSimilarity publishes as `alex.pth`.

    Raises ValueError as `read` does, and where the files hold something else.
    """
    state = {
        "scaling_layer.shift": torch.tensor(SHIFT).view(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor(SCALE).view(1, 3, 1, 1),
    }
    for i, (key, value) in enumerate(sorted(state_dict(heads, prefix="lin").items())):
        if key != f"{i}.model.1.weight":
            raise ValueError(f"{Path(heads).name}: expected the tensor lin{i}.model.1.weight, found lin{key}")
        # The official class has each of these layers by two names.
        state[f"lin{key}"] = state[f"lins.{key}"] = value
    # A slice ends after each ReLU; the layers keep their numbers.
    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    for key, value in state_dict(trunk, prefix="features.").items():
        number = key.split(".")[0]
        if number not in slices:
            raise ValueError(f"{Path(trunk).name}: expected AlexNet, found the layer features.{number} with weights")
        state[f"net.slice{slices[number]}.{key}"] = value
    return state


def write(
    target: str | Path, network: str, constructor: Mapping[str, Any], state: Mapping[str, Tensor], *sources: str | Path
) -> None:
    """Write weights by their state_dict names as the safetensors file that `models.load` reads, all in float32.

    The metadata hold the SHA-256 of the files they came from, `sources`, by name. Raises ValueError where they are not
    the weights of the network.
    """
    target = Path(target)
    try:
        module = NETWORKS[network](**constructor)
        if "synthesis.input.transform" in state:
            # The transform belongs to a picture: tuned generators keep that of their last batch.
            state = {**state, "synthesis.input.transform": module.state_dict()["synthesis.input.transform"]}
        # Beside the weights, so that the official names stay those of the module.
        state, extra = dict(state), {}
        if AVERAGE in state:
            with_average(module, state[AVERAGE])
            extra[AVERAGE] = state.pop(AVERAGE)
        module.load_state_dict(state)
    except (TypeError, RuntimeError, ValueError) as error:
        names = ", ".join(Path(source).name for source in sources)
        raise ValueError(f"{names}: expected the weights of {network}, found {error}") from error
    # Copies: safetensors takes no two names for one tensor.
    weights = {
        name: (value.float() if value.is_floating_point() else value).clone(memory_format=torch.contiguous_format)
        for name, value in (module.state_dict() | extra).items()
    }
    metadata = {
        "network": network,
        "constructor": json.dumps(dict(constructor), sort_keys=True),
        "sources": json.dumps({Path(source).name: stagefile.checksum(source) for source in sources}),
    }
    partial = target.with_name(f"{target.name}.part")
    save_file(weights, partial, metadata)
    os.replace(partial, target)


def _contents(value: Any) -> str:
    """What was found, for an error: the first keys of a dict, else the kind of thing."""
    if isinstance(value, dict):
        return f"a dict of {', '.join(str(key) for key in list(value)[:6]) or 'nothing'}"
    return value.name if isinstance(value, Name | Record) else type(value).__name__


def _description(network: Any) -> dict[str, Any]:
    """What a StyleGAN3 pickle records of one network object; its source text is left alone."""
    if not isinstance(network, Record) or network.name != PERSISTENT:
        raise ValueError(f"{_contents(network)} in place of a network")
    (description,) = network.arguments
    if (description["type"], description["version"]) != ("class", 6):
        raise ValueError(f"{description['type']} of version {description['version']}, not a class of version 6")
    return description


def _tensors(network: Any, path: str, seen: set[int]) -> list[tuple[str, Tensor]]:
    """All tensors below a network object by their state_dict names. `seen` are the objects met so far."""
    if id(network) in seen:
        raise ValueError(f"{path}: an object that occurs twice")
    seen.add(id(network))
    state = _description(network)["state"]
    found = []
    for name, value in [*state["_parameters"].items(), *state["_buffers"].items()]:
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{path}{name}: {_contents(value)} in place of a tensor")
        found += [] if value is None else [(f"{path}{name}", value)]
    for name, module in state["_modules"].items():
        found += [] if module is None else _tensors(module, f"{path}{name}.", seen)
    return found


def _archive(file: IO[bytes]) -> Any:
    """Read a zip archive of torch.save: a pickle, and one file for each storage it names by persistent id."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("compressed members, which torch.save doesn't write")
        if sum(info.file_size for info in members.values()) > os.fstat(file.fileno()).st_size:
            raise ValueError("members larger than the archive")
        pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} pickles in the archive instead of one")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("numbers that are not little-endian")
        storages: dict[str, Tensor] = {}

        def storage(identifier: Any) -> Tensor:
            dtype, key, count = _storage_identifier(identifier[:5])
            if key not in storages:
                storages[key] = _values(archive.read(f"{folder}data/{key}"), dtype, count)
            return _same(storages[key], dtype, count)

        return _run(io.BytesIO(archive.read(pickles[0])), BUILDERS, storage)


def _stream(stream: Any, size: int, builders: Mapping[str, Callable]) -> Any:
    """Read a pickle, or torch.save's older format: pickles one after the other, then the numbers of each storage.

    `size` are the bytes of the stream, which no storage can exceed.
    """
    first = _run(stream, builders)
    if first != LEGACY_MAGIC or type(first) is not int:
        return first
    version, system = _run(stream, builders), _run(stream, builders)
    if version != LEGACY_VERSION or system["little_endian"] is not True:
        raise ValueError(f"version {version!r} of the older format, or numbers that are not little-endian")
    storages: dict[str, Tensor] = {}

    def storage(identifier: Any) -> Any:
        # Whole modules come with their source text, which nobody needs.
        if len(identifier) == 4 and identifier[0] == "module" and isinstance(identifier[1], Name):
            return identifier[1]
        dtype, key, count = _storage_identifier(identifier[:5])
        if key not in storages:
            if sum(value.nbytes for value in storages.values()) + count * dtype.itemsize > size:
                raise ValueError(f"storages larger than the file: {count} numbers in {key!r}")
            storages[key] = torch.empty(count, dtype=dtype)
        values = _same(storages[key], dtype, count)
        view = identifier[5] if len(identifier) > 5 else None
        return values if view is None else _tensor(values, view[1], (view[2],), (1,))

    found = _run(stream, builders, storage)
    keys = _run(stream, builders)
    if sorted(keys) != sorted(storages):
        raise ValueError(f"numbers of {len(keys)} storages, not of the {len(storages)} that are used")
    # The tensors made above are views of these storages.
    for key in keys:
        count = int.from_bytes(_exactly(stream, 8), "little", signed=True)
        values = _same(storages[key], storages[key].dtype, count)
        values.copy_(_values(_exactly(stream, values.nbytes), values.dtype, count))
    return found


def _exactly(stream: Any, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ValueError(f"the end of the file, {count - len(data)} bytes too early")
    return data


def _storage_identifier(identifier: Any) -> tuple[torch.dtype, str, int]:
    """The number format, key and count of a storage; where it was (`cuda:0`) doesn't matter."""
    kind, storage, key, _, count = identifier
    if kind != "storage" or not isinstance(storage, Name) or storage.name not in STORAGES:
        raise ValueError(f"{_contents(storage)} in place of a storage")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise ValueError(f"a storage {key!r} of {count!r} numbers")
    return STORAGES[storage.name], key, count


def _values(data: bytes, dtype: torch.dtype, count: int) -> Tensor:
    """The numbers of a storage `[count]`."""
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {count} numbers of {dtype}")
    return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _same(values: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    if (values.dtype, len(values)) != (dtype, count):
        raise ValueError(f"a storage of {len(values)} {values.dtype}, used as {count} {dtype}")
    return values


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """A view of a storage, which has to lie within it and can't be larger; gradients and hooks are left out."""
    if not isinstance(storage, Tensor) or storage.ndim != 1:
        raise ValueError(f"a tensor of {_contents(storage)}")
    shape = (offset, *size, *stride)
    if any(type(n) is not int or n < 0 for n in shape) or len(size) != len(stride):
        raise ValueError(f"a tensor of size {size!r}, stride {stride!r} and offset {offset!r}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > len(storage) or offset > len(storage) or (count and last >= len(storage)):
        raise ValueError(f"a tensor of size {size!r} outside its storage of {len(storage)} numbers")
    return storage[offset:].as_strided(size, stride)


def _nested(data: bytes) -> Tensor:
    """A storage that is a file of its own within the pickle."""
    # Without this very call: files in files in files would multiply the memory.
    builders = {name: builder for name, builder in BUILDERS.items() if builder is not _nested}
    return _stream(io.BytesIO(data), len(data), builders)


def _dict(pairs: Sequence[tuple] = ()) -> dict:
    return _filled({}, [item for key, value in pairs for item in (key, value)])


def _filled(target: dict, items: Sequence[Any]) -> dict:
    """Set keys and values that alternate in `items`."""
    keys, values = items[::2], items[1::2]
    target.update(zip(_plain(keys), values, strict=True))
    return target


def _plain(keys: Sequence[Any]) -> Sequence[Any]:
    """Check that `keys` are plain values: hashing anything deeper could exhaust the stack."""
    if not all(isinstance(key, str | bytes | int | float | None) for key in keys):
        raise ValueError("keys that are not plain values")
    return keys


def _bytes(text: str, encoding: str) -> bytes:
    """What protocol 2 writes for bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _dtype(text: str, *_: Any) -> np.dtype:
    if not re.fullmatch(r"[<|=]?[biuf][1248]", text):
        raise ValueError(f"the NumPy type {text!r}")
    return np.dtype(text)


def _scalar(dtype: np.dtype, data: bytes) -> float | int | bool:
    if not isinstance(dtype, np.dtype) or len(data) != dtype.itemsize:
        raise ValueError("a malformed NumPy number")
    return np.frombuffer(data, dtype)[0].item()


def _empty_array(*_: Any) -> np.ndarray:
    return np.empty(0)


def _record(name: str) -> Callable[..., Record]:
    return lambda *arguments: Record(name, arguments)


BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.storage._load_from_bytes": _nested,
    "torch.Size": lambda size: tuple(size),
    # Protocol 2 spells `builtins` as Python 2 did.
    **dict.fromkeys(("builtins.set", "__builtin__.set"), lambda items=(): set(_plain(items))),
    **dict.fromkeys(("builtins.bytes", "__builtin__.bytes"), lambda: b""),
    "_codecs.encode": _bytes,
    "numpy.dtype": _dtype,
    **dict.fromkeys(DICTS, _dict),
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
    **{name: _record(name) for name in RECORDED},
}


def _build(target: Any, state: Any) -> None:
    """Give an object its state; attributes of dicts (PyTorch's version numbers) are left out."""
    if isinstance(target, Record) and target.state is None:
        target.state = state
    elif isinstance(target, np.dtype):
        if state[1] == ">":
            raise ValueError("NumPy numbers that are not little-endian")
    elif isinstance(target, np.ndarray):
        _, shape, dtype, _, data = state
        if not isinstance(dtype, np.dtype) or min(shape, default=0) < 0 or not isinstance(data, bytes):
            raise ValueError("a malformed NumPy array")
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError("a malformed NumPy array")
        target.__setstate__(state)
    elif not isinstance(target, dict):
        raise ValueError(f"state for {_contents(target)}")


def _call(name: Any, arguments: Any, builders: Mapping[str, Callable]) -> Any:
    if not isinstance(name, Name) or name.name not in builders or type(arguments) is not tuple:
        raise ValueError(f"a call of {_contents(name)}")
    return builders[name.name](*arguments)


def _copied(arguments: Any) -> int:
    """Length of all that a builder may copy from its arguments."""
    kinds = str | bytes | list | tuple
    return sum(len(item) for item in arguments if isinstance(item, kinds)) if type(arguments) is tuple else 0


def _new(kind: Any, arguments: Any) -> Any:
    """An object of a class: a dict where its class is one, else a record."""
    if not isinstance(kind, Name) or type(arguments) is not tuple:
        raise ValueError(f"an object of {_contents(kind)}")
    return {} if kind.name in DICTS and not arguments else Record(kind.name, arguments)


def _extend(target: Any, kind: type, items: Sequence[Any]) -> None:
    """Put `items` into a list, set or dict that has to be a plain one."""
    if type(target) is not kind:
        raise ValueError(f"items for {_contents(target)} in place of a {kind.__name__}")
    if kind is list:
        target.extend(items)
    elif kind is set:
        target.update(_plain(items))
    else:
        _filled(target, items)


def _run(stream: Any, builders: Mapping[str, Callable], storage: Callable[[Any], Any] | None = None) -> Any:
    """Evaluate one pickle at the position of a binary stream: values, containers, and calls of `builders` alone.

    `storage` gives the object for a persistent id. Raises ValueError for any other call and any other opcode.
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []  # stacks below each MARK
    memo: dict[int, Any] = {}
    copied = 0
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name in ("TUPLE", "APPENDS", "SETITEMS", "ADDITEMS", "LIST", "DICT", "FROZENSET", "POP_MARK"):
            items, stack = stack, marked.pop()
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(set())
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                if len(stack) < count:
                    raise ValueError("a tuple of things that are not there")
                stack[-count:] = [tuple(stack[-count:])]
            case "MARK":
                marked.append(stack)
                stack = []
            case "TUPLE":
                stack.append(tuple(items))
            case "LIST":
                stack.append(items)
            case "DICT":
                stack.append(_filled({}, items))
            case "FROZENSET":
                stack.append(frozenset(_plain(items)))
            case "POP_MARK":
                pass
            case "APPENDS":
                _extend(stack[-1], list, items)
            case "SETITEMS":
                _extend(stack[-1], dict, items)
            case "ADDITEMS":
                _extend(stack[-1], set, items)
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], list, [value])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _extend(stack[-1], dict, [key, value])
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(Name(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(Name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"))
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                copied += _copied(arguments)
                stack.append(_call(name, arguments, builders))
            case "NEWOBJ":
                arguments, kind = stack.pop(), stack.pop()
                stack.append(_new(kind, arguments))
            case "BUILD":
                state = stack.pop()
                copied += _copied(state)
                _build(stack[-1], state)
            case "BINPERSID" if storage:
                stack.append(storage(stack.pop()))
            case _:
                raise ValueError(f"the pickle opcode {opcode.name}, which no checkpoint needs")
        # What was read once can be named again in two bytes, and copied again.
        if copied > position:
            raise ValueError("copies of the same data that would fill the memory")
    raise ValueError("a pickle without end")


def main(argv: list[str] | None = None) -> None:
    """Convert a downloaded checkpoint of a registry; see `--help`."""
    parser = argparse.ArgumentParser(description="Make NAME.safetensors from the downloaded checkpoint of NAME.")
    parser.add_argument("name", help="entry of the registry")
    parser.add_argument("--registry", type=Path, required=True, help="models.yaml")
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoint is and the result goes")
    args = parser.parse_args(argv)
    registry = yaml.safe_load(args.registry.read_text(encoding="utf-8"))
    try:
        entry = entry_of(registry, args.name, args.registry)
        if "convert" not in entry:
            raise ValueError(f"{args.name}: expected the field convert, found none; its file is used as it is")
        how = dict(entry["convert"])
        path, target = verify(entry, args.folder), args.folder / f"{args.name}.safetensors"
        if "trunk" in how:
            trunk = verify(entry_of(registry, how["trunk"], args.registry), args.folder)
            write(target, how["network"], how["constructor"], lpips(trunk, path), trunk, path)
        else:
            convert(path, target, **how)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(target)


if __name__ == "__main__":
    main()
