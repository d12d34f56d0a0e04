import hashlib
import http.server
import json
import threading

import pytest
import yaml

from peekaboo.models import fetch

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA; `answers` are played one after the other, then everything goes well."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.data, self.ranges = [], [], DATA, True

    def address(self, path="net.pt"):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        answer = server.answers.pop(0) if server.answers else None
        if isinstance(answer, int):
            self.send_error(answer)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if answer == "another part":
            start += 1
        if start >= len(server.data) > 0 and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("Content-Type", "text/html; charset=utf-8" if answer == "page" else "application/x")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if answer == "cut" else body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.0)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def entry(server, **changes):
    made = {"file": "net.pt", "addresses": [server.address()], "sha256": SHA256, "size": len(DATA), "licence": "MIT"}
    return {key: value for key, value in (made | changes).items() if value is not None}


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch.fetch("net", entry(server), tmp_path / "new")
    assert path == tmp_path / "new" / "net.pt"
    assert path.read_bytes() == DATA
    assert fetch.fetch("net", entry(server), tmp_path / "new") == path
    assert len(server.asked) == 1
    assert files(tmp_path / "new") == ["net.pt"]


def test_cut_connections_are_resumed(server, tmp_path):
    server.answers = ["cut", "cut", 503, "cut"]
    assert fetch.fetch("net", entry(server), tmp_path).read_bytes() == DATA
    first, *starts = [asked for _, asked in server.asked]
    assert first is None
    starts = [int(start.removeprefix("bytes=").removesuffix("-")) / len(DATA) for start in starts]
    # What came of the last block before a cut is lost.
    assert starts == pytest.approx([4 / 8, 6 / 8, 6 / 8, 7 / 8], abs=0.1)
    assert starts[1] == starts[2]


def test_an_interrupted_call_is_resumed_by_the_next(server, tmp_path):
    (tmp_path / "net.pt.part").write_bytes(DATA[:1000])
    assert fetch.fetch("net", entry(server), tmp_path).read_bytes() == DATA
    assert server.asked == [("/net.pt", "bytes=1000-")]
    assert files(tmp_path) == ["net.pt"]


def test_a_part_of_an_unknown_file_is_not_resumed(server, tmp_path):
    (tmp_path / "net.pt.part").write_bytes(b"older" * 100)
    assert fetch.fetch("net", entry(server, sha256=None), tmp_path).read_bytes() == DATA
    assert server.asked == [("/net.pt", None)]


@pytest.mark.parametrize("part", [DATA, DATA + b"more"], ids=["whole", "too long"])
def test_a_part_with_nothing_left_to_fetch(server, tmp_path, part):
    (tmp_path / "net.pt.part").write_bytes(part)
    assert fetch.fetch("net", entry(server), tmp_path).read_bytes() == DATA


def test_servers_without_ranges_start_over(server, tmp_path):
    server.ranges = False
    server.answers = ["cut", "cut"]
    assert fetch.fetch("net", entry(server), tmp_path).read_bytes() == DATA
    assert len(server.asked) == 3


def test_another_part_than_asked_for_is_not_used(server, tmp_path):
    (tmp_path / "net.pt.part").write_bytes(DATA[:1000])
    server.answers = ["another part"]
    assert fetch.fetch("net", entry(server), tmp_path).read_bytes() == DATA
    assert [asked for _, asked in server.asked] == ["bytes=1000-", None]


def test_waits_grow_and_end(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(fetch, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(fetch.time, "sleep", waits.append)
    server.answers = [503] * fetch.ATTEMPTS
    with pytest.raises(ConnectionError, match=r"net: expected the file net.pt, found no address .*net.pt: 503"):
        fetch.fetch("net", entry(server), tmp_path)
    assert waits == [1, 2, 4, 8]
    assert files(tmp_path) == []


def test_the_next_address_is_tried(server, tmp_path):
    server.answers = [404, "page"]
    addresses = [server.address("gone.pt"), server.address("page.pt"), "file:///etc/hostname", server.address()]
    assert fetch.fetch("net", entry(server, addresses=addresses), tmp_path).read_bytes() == DATA
    assert [path for path, _ in server.asked] == ["/gone.pt", "/page.pt", "/net.pt"]


def test_all_failures_are_named(server, tmp_path):
    server.answers = [404, "page"]
    addresses = [server.address("gone.pt"), server.address("page.pt")]
    with pytest.raises(ConnectionError, match=r"gone.pt: 404 .*page.pt: a web page in place of the file.*mirror"):
        fetch.fetch("net", entry(server, addresses=addresses), tmp_path)
    assert files(tmp_path) == []
    with pytest.raises(ConnectionError, match=r"net: expected addresses in the registry, found none"):
        fetch.fetch("net", entry(server, addresses=[]), tmp_path)


def test_wrong_bytes_never_bear_the_name(server, tmp_path):
    server.data = DATA[:-1] + b"!"
    found = hashlib.sha256(server.data).hexdigest()
    with pytest.raises(ValueError, match=rf"net.pt: expected the SHA-256 {SHA256} of the registry, found {found}; del"):
        fetch.fetch("net", entry(server), tmp_path)
    server.data = DATA[:-1]
    with pytest.raises(ValueError, match=rf"net.pt: expected {len(DATA)} bytes, found {len(DATA) - 1}; delete it"):
        fetch.fetch("net", entry(server), tmp_path)
    server.data = b""
    with pytest.raises(ValueError, match=r"net.pt: expected some bytes, found 0"):
        fetch.fetch("net", entry(server, sha256=None, size=None), tmp_path)
    assert files(tmp_path) == []


def test_files_that_change_later_are_found(server, tmp_path):
    path = fetch.fetch("net", entry(server), tmp_path)
    path.write_bytes(DATA[:100])
    with pytest.raises(ValueError, match=rf"net.pt: expected {len(DATA)} bytes, found 100"):
        fetch.fetch("net", entry(server), tmp_path)
    path.write_bytes(DATA[::-1])
    with pytest.raises(ValueError, match=rf"net.pt: expected the SHA-256 {SHA256}"):
        fetch.fetch("net", entry(server), tmp_path)
    assert len(server.asked) == 1, "a file of the user is not replaced unasked"
    with pytest.raises(FileNotFoundError, match=r"absent.pt: expected the file, found none; fetch it"):
        fetch.check(tmp_path / "absent.pt", SHA256, None)


def test_unknown_checksums_are_locked(server, tmp_path):
    unknown = entry(server, sha256=None, size=None)
    path = fetch.fetch("net", unknown, tmp_path)
    fetch.fetch("other", entry(server, sha256=None, file="other.pt"), tmp_path)
    assert json.loads((tmp_path / "models.lock.json").read_text()) == {"net.pt": SHA256, "other.pt": SHA256}
    path.unlink()
    server.data = DATA[::-1]
    with pytest.raises(ValueError, match=rf"net.pt: expected the SHA-256 {SHA256} of \S*models.lock.json, found"):
        fetch.fetch("net", unknown, tmp_path)
    assert not path.exists()
    path.write_bytes(DATA)
    assert fetch.fetch("net", unknown, tmp_path) == path


def test_a_mirror_replaces_the_origin(server, tmp_path):
    mirror, folder = tmp_path / "mirror", tmp_path / "models"
    mirror.mkdir()
    with pytest.raises(FileNotFoundError, match=r"net: expected net.pt in the mirror .*mirror, found none"):
        fetch.fetch("net", entry(server), folder, mirror=str(mirror))
    (mirror / "net.pt").write_bytes(DATA[::-1])
    with pytest.raises(ValueError, match=r"net.pt: expected the SHA-256"):
        fetch.fetch("net", entry(server), folder, mirror=str(mirror))
    (mirror / "net.pt").write_bytes(DATA)
    assert fetch.fetch("net", entry(server), folder, mirror=str(mirror)).read_bytes() == DATA
    assert server.asked == []
    fetch.fetch("net", entry(server), tmp_path / "again", mirror=server.address("base/"))
    assert server.asked == [("/base/net.pt", None)]


def test_non_commercial_licences_have_to_be_accepted(server, tmp_path):
    restricted = entry(server, licence="CC BY-NC 4.0", licence_url="https://example.org/by-nc", non_commercial=True)
    with pytest.raises(
        PermissionError, match=r"net: .*'CC BY-NC 4.0'.*accept_licences; read it at https://example.org"
    ):
        fetch.fetch("net", restricted, tmp_path / "models", ["CC BY-NC-ND 4.0"])
    assert not (tmp_path / "models").exists()
    assert server.asked == []
    assert fetch.fetch("net", restricted, tmp_path, ["CC BY-NC 4.0"]).is_file()


def test_the_program_fetches_and_ends_with_the_reason(server, tmp_path, capsys):
    registry = tmp_path / "models.yaml"
    registry.write_text(yaml.safe_dump({"net": entry(server)}))
    arguments = ["--registry", str(registry), "--folder", str(tmp_path / "models")]
    fetch.main(["net", *arguments])
    assert capsys.readouterr().out.strip() == str(tmp_path / "models" / "net.pt")
    with pytest.raises(SystemExit, match=r"other: expected an entry of .*models.yaml; it has net"):
        fetch.main(["other", *arguments])
    registry.write_text(yaml.safe_dump({"net": entry(server, file="b.pt", addresses=[server.address(), "ftp://x/y"])}))
    server.answers = [404]
    with pytest.raises(SystemExit, match=r"ConnectionError: net: expected the file b.pt"):
        fetch.main(["net", *arguments])
