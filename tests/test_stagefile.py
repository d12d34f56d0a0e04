import os
import signal
import stat
import subprocess
import sys

import h5py
import numpy as np
import pytest

from peekaboo import stagefile


def test_nothing_bears_the_final_name_after_an_error(tmp_path):
    path = tmp_path / "faces.h5"
    with pytest.raises(RuntimeError, match="in the middle"), stagefile.write(path) as file:
        file["crops"] = np.zeros(10)
        raise RuntimeError("in the middle")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_earlier_file_as_it_was(tmp_path):
    path = tmp_path / "faces.json"
    stagefile.write_json(path, {"frames": 3})
    with pytest.raises(ValueError, match="Out of range"):
        stagefile.write_json(path, {"frames": float("nan")})
    assert stagefile.read_json(path) == {"frames": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["faces.json"]


def test_a_killed_process_leaves_no_file_under_the_final_name_and_the_next_run_goes_on(tmp_path):
    path = tmp_path / "faces.h5"
    code = (
        "import os, signal, sys\nfrom peekaboo import stagefile\n"
        "with stagefile.write(sys.argv[1]) as file:\n"
        "    file['crops'] = range(1000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    with stagefile.write(path) as file:
        file["crops"] = [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["faces.h5"]
    with stagefile.read(path) as file:
        assert file["crops"][:].tolist() == [1, 2]


def test_of_two_processes_the_later_has_the_last_word(tmp_path):
    path = tmp_path / "faces.h5"
    with pytest.raises(RuntimeError, match=r"faces\.h5: another process"), stagefile.replacing(path) as earlier:
        earlier.write_text("the earlier's")
        with stagefile.replacing(path) as later:
            later.write_text("the later's")
    assert path.read_text() == "the later's"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError, match="another process"), stagefile.replacing(path) as earlier:
        earlier.write_text("the earlier's")
        unfinished = stagefile.replacing(path)
        unfinished.__enter__().write_text("half of")
    # Half of a file doesn't get the name from the one that was there first.
    assert path.read_text() == "the later's"


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path):
    path = tmp_path / "faces.h5"
    code = (
        "import resource, signal, sys\nimport numpy as np\nfrom peekaboo import stagefile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "with stagefile.write(sys.argv[1]) as file:\n"
        "    file['crops'] = np.random.default_rng(0).random(100_000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_files_are_their_owners_alone_while_written_and_after(tmp_path):
    path = tmp_path / "clip" / "faces.h5"
    old = os.umask(0)
    try:
        with stagefile.replacing(path) as partial:
            assert stat.S_IMODE(partial.stat().st_mode) == 0o600
            partial.write_bytes(b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("first.h5", "second.h5"):
        with stagefile.write(tmp_path / name) as file:
            crops = stagefile.frame_dataset(file, "crops", (4, 2, 8, 8, 3), "u1")
            stagefile.scatter(crops, np.array([[0, 1], [3, 0]]), np.full((2, 8, 8, 3), 7))
            file.attrs["clip"] = "infant"
    assert (tmp_path / "first.h5").read_bytes() == (tmp_path / "second.h5").read_bytes()


def test_gather_and_scatter_keep_frame_and_track():
    rng = np.random.default_rng(0)
    rows = rng.random((3, 5)).astype(np.float32)
    pairs = np.array([[4, 0], [0, 1], [2, 1]])
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = stagefile.frame_dataset(file, "latents", (6, 2, 5), "f4", np.nan)
        stagefile.scatter(dataset, pairs, rows)
        np.testing.assert_array_equal(stagefile.gather(dataset, pairs), rows)
        assert np.isnan(dataset[:]).sum() == (6 * 2 - 3) * 5


def test_rows_come_back_by_number_and_leave_nothing(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "clip" / "metrics.tsv"
    rows = rng.normal(size=(stagefile.RUN + 50, 4, 3)).astype(np.float32)
    with stagefile.scratch(path) as kept:
        assert kept.append(rows[:7]).tolist() == list(range(7))
        assert kept.append(rows[7:])[-1] == len(rows) - 1
        assert list(path.parent.iterdir()) == []
        assert stat.S_IMODE(os.fstat(kept.file.fileno()).st_mode) == 0o600
        np.testing.assert_array_equal(kept[np.array([60, 2, 2])], rows[[60, 2, 2]])
        numbers = np.arange(len(rows))
        found = kept.compare(lambda a, b: (a - b).sum((1, 2)), numbers, numbers[::-1])
        np.testing.assert_array_equal(found, (rows - rows[::-1]).sum((1, 2)))
        assert kept.compare(lambda a: a.sum((1, 2)), numbers[:0]).shape == (0,)
    assert list(path.parent.iterdir()) == []


def test_rows_take_the_disk_not_the_memory(tmp_path):
    code = (
        "import resource, sys\nimport numpy as np\nfrom peekaboo import stagefile\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with stagefile.scratch(sys.argv[1]) as rows:\n"
        "    block, before = np.zeros((16, 478, 3)), peak()\n"
        "    numbers = np.concatenate([rows.append(block) for _ in range(1000)])\n"
        "    rows.compare(lambda rows: rows.sum((1, 2)), numbers)\n"
        "    print(peak() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True, capture_output=True, text=True)
    # 90 MB of rows.
    assert int(grown.stdout) < 20_000
