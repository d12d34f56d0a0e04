"""Download the networks of the registry: resumed, checked against their SHA-256, and only under accepted licences."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests
import yaml
from filelock import FileLock
from tqdm import tqdm

from peekaboo import stagefile

LOCK = "models.lock.json"
ATTEMPTS, FIRST_WAIT = 5, 1.0  # per address; seconds, doubled after each attempt
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that a later attempt can better


def fetch(
    name: str, entry: Mapping[str, Any], folder: str | Path, accepted: Collection[str] = (), mirror: str | None = None
) -> Path:
    """Put the file of the registry's entry `name` into `folder`, unless it is there, and check it; return its path.

    `accepted` are the non-commercial licences that the user agreed to. `mirror`, a folder or a base address, replaces
    the origin. Where the registry knows no SHA-256, that of the first download is locked in `models.lock.json` beside
    it, and every later call compares with it. While incomplete the file is called `….part`, and is resumed.

    Raises PermissionError for a licence that was not accepted, FileNotFoundError where a mirror lacks the file,
    ConnectionError where no address gives it, ValueError for a file that is not the expected one.
    """
    if entry.get("non_commercial") and entry["licence"] not in accepted:
        raise PermissionError(
            f"{name}: the licence {entry['licence']!r} allows no commercial use and is not in accept_licences; read it "
            f"at {entry['licence_url']} and, if it fits what you do, add {entry['licence']!r} to accept_licences"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(entry["file"]).name
    if path.is_file():
        return verify(entry, folder)
    partial = path.with_name(f"{path.name}.part")
    sha256, _ = _expected(entry, folder)
    if mirror and "://" not in mirror:
        _copy(name, Path(mirror) / path.name, partial)
    else:
        addresses = [f"{mirror.rstrip('/')}/{path.name}"] if mirror else entry.get("addresses", [])
        _download(name, addresses, partial, resumable=bool(sha256))
    try:
        verify(entry, folder, partial)
    except ValueError:
        partial.unlink()
        raise
    os.replace(partial, path)
    return path


def verify(entry: Mapping[str, Any], folder: Path, path: Path | None = None) -> Path:
    """Compare the file of a registry's entry in `folder`, or the one at `path` that is to become it, with the SHA-256
    of the registry, or with the one locked in `folder`, which is locked now where there is none; return its path.

    Raises FileNotFoundError where there is no file, ValueError where it is not the expected one.
    """
    path = path or folder / Path(entry["file"]).name
    sha256, origin = _expected(entry, folder)
    found = check(path, sha256, entry.get("size"), origin)
    if not sha256:
        _lock(folder, Path(entry["file"]).name, found)
    return path


def check(path: Path, sha256: str | None, size: int | None, origin: str | Path = "the registry") -> str:
    """SHA-256 of a file, compared with what `origin` expects of it where that is known; `size` is in bytes.

    Raises FileNotFoundError where there is no file, ValueError where it is not the expected one.
    """
    shown = str(path).removesuffix(".part")
    if not path.is_file():
        raise FileNotFoundError(f"{shown}: expected the file, found none; fetch it")
    advice = "delete it and fetch it again"
    bytes_found = path.stat().st_size
    if bytes_found != size if size is not None else not bytes_found:
        raise ValueError(f"{shown}: expected {size or 'some'} bytes, found {bytes_found}; {advice}")
    found = stagefile.checksum(path)
    if sha256 and found != sha256.lower():
        raise ValueError(
            f"{shown}: expected the SHA-256 {sha256} of {origin}, found {found}; {advice}. If that doesn't help, the "
            "publisher has changed the file or somebody else has: ask before you trust it"
        )
    return found


def _expected(entry: Mapping[str, Any], folder: Path) -> tuple[str | None, str | Path]:
    """SHA-256 that an entry's file has to have, where known, and who says so."""
    if entry.get("sha256"):
        return entry["sha256"], "the registry"
    return _locked(folder).get(Path(entry["file"]).name), folder / LOCK


def _locked(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, as the first downloads had them."""
    path = folder / LOCK
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lock(folder: Path, file: str, sha256: str) -> None:
    # Several processes may fetch at the same time.
    with FileLock(folder / f".{LOCK}"):
        partial = folder / f"{LOCK}.part"
        partial.write_text(json.dumps(_locked(folder) | {file: sha256}, indent=2, sort_keys=True) + "\n", "utf-8")
        os.replace(partial, folder / LOCK)


def _copy(name: str, source: Path, partial: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(
            f"{name}: expected {source.name} in the mirror {source.parent}, found none; put it there"
        )
    shutil.copyfile(source, partial)


def _download(name: str, addresses: Collection[str], partial: Path, resumable: bool) -> None:
    """Fill `partial` from the first address that gives the whole file.

    Numbers of an interrupted call are kept only where a checksum tells whether they belong to the same file.
    """
    if not addresses:
        raise ConnectionError(f"{name}: expected addresses in the registry, found none; see its note for how to get it")
    failures = []
    for address in addresses:
        if not resumable:
            partial.unlink(missing_ok=True)
        for attempt in range(ATTEMPTS):
            try:
                _receive(address, partial)
                return
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failure, passing = error, True
            except requests.RequestException as error:
                failure = error
                passing = error.response is not None and error.response.status_code in PASSING
            if not passing:
                break
            if attempt < ATTEMPTS - 1:
                time.sleep(FIRST_WAIT * 2**attempt)
        failures.append(f"{address}: {failure}")
    raise ConnectionError(
        f"{name}: expected the file {partial.name.removesuffix('.part')}, found no address that gives it "
        f"({'; '.join(failures)}). Try again later, or download it elsewhere and name its folder as the mirror"
    )


def _receive(address: str, partial: Path) -> None:
    """Add to `partial` what it lacks of the file at `address`, or start over where the server can't continue.

    Raises requests' exceptions; a transfer that ends early is a ConnectionError.
    """
    have = partial.stat().st_size if partial.is_file() else 0
    # Compressed transfers would have other lengths.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with ExitStack() as stack:
        answer = stack.enter_context(requests.get(address, headers=headers, stream=True, timeout=TIMEOUT))
        if answer.status_code == 416:
            # It has no more than what is here: the checksum tells whether that is the file.
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return
            partial.unlink()
            raise requests.ConnectionError("the file changed while it was downloaded")
        answer.raise_for_status()
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise requests.RequestException("a web page in place of the file")
        if answer.status_code != 206:
            have = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise requests.ConnectionError("another part of the file than was asked for")
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        file = stack.enter_context(open(partial, "ab" if have else "wb"))
        bar = stack.enter_context(
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=partial.stem, disable=None)
        )
        for block in answer.iter_content(1 << 16):
            file.write(block)
            bar.update(len(block))
    if total is not None and partial.stat().st_size != total:
        raise requests.ConnectionError(f"expected {total} bytes, found {partial.stat().st_size}")


def entry_of(registry: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The entry `name` of the registry at `path`. Raises ValueError where it has none."""
    if name not in registry:
        raise ValueError(f"{name}: expected an entry of {path}; it has {', '.join(registry)}")
    return registry[name]


def main(argv: list[str] | None = None) -> None:
    """Fetch entries of a registry; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="entries of the registry")
    parser.add_argument("--registry", type=Path, required=True, help="models.yaml")
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    parser.add_argument("--mirror", help="folder or base address that replaces the publishers'")
    parser.add_argument(
        "--accept-licences", nargs="*", default=[], metavar="LICENCE", help="non-commercial licences that you agree to"
    )
    args = parser.parse_args(argv)
    registry = yaml.safe_load(args.registry.read_text(encoding="utf-8"))
    try:
        for name in args.names:
            print(fetch(name, entry_of(registry, name, args.registry), args.folder, args.accept_licences, args.mirror))
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
