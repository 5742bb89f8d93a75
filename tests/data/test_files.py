"""Files as lines, and files that appear whole or not at all."""

import gzip
import io
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from stillwatch.data import files
from stillwatch.data.errors import InputError, OutputError
from stillwatch.data.files import OVERLONG, atomic_writer, check_writable, open_lines

LINES = [b"one", b"", b"  three\r", "vier \N{SNOWMAN}\u2028".encode(), b"five"]
TEXT = b"\n".join(LINES)
EXPECTED = list(enumerate(LINES, start=1))


def forms() -> list[tuple[str, bytes]]:
    """The same lines, plain and compressed, also in several members."""
    parts = TEXT[:7], TEXT[7:]
    return [
        ("plain", TEXT),
        ("end", TEXT + b"\n"),
        ("gz", gzip.compress(TEXT, mtime=0)),
        ("members.gz", b"".join(gzip.compress(part, mtime=0) for part in parts)),
        ("zst", zstandard.compress(TEXT)),
        ("frames.zst", b"".join(map(zstandard.compress, parts))),
    ]


@pytest.mark.parametrize(("name", "data"), forms())
def test_lines_are_the_same_however_they_are_stored(tmp_path: Path, name: str, data: bytes) -> None:
    # The name says nothing: the first bytes do.
    path = tmp_path / "log"
    path.write_bytes(data)
    assert list(open_lines(path)) == EXPECTED


@pytest.mark.parametrize(("name", "data"), forms())
def test_standard_input_is_read_like_a_file(
    monkeypatch: pytest.MonkeyPatch, name: str, data: bytes
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert list(open_lines("-")) == EXPECTED


@pytest.mark.parametrize("data", [b"", b"a", b"\n", b"\x1f", b"ab\n\nc"])
def test_short_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(data)
    lines = data.split(b"\n")
    expected = lines if lines[-1] else lines[:-1]
    assert [text for _, text in open_lines(path)] == expected


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("fault", ["cut off", "damaged"])
def test_a_broken_file_is_named_with_the_line_reached(
    tmp_path: Path, compress: Callable[[bytes], bytes], fault: str
) -> None:
    random.seed(0)
    data = compress(b"".join(b"%x\n" % random.getrandbits(256) for _ in range(60_000)))
    path = tmp_path / "log"
    cut = len(data) * 9 // 10
    broken = data[:cut] if fault == "cut off" else data[:cut] + b"?" * 64 + data[cut + 64 :]
    path.write_bytes(broken)
    read: list[int] = []
    with pytest.raises(InputError, match=fault) as caught:
        read.extend(number for number, _ in open_lines(path))
    assert read
    assert f"{path} must be readable" in str(caught.value)
    assert f"after line {read[-1]};" in str(caught.value)


@pytest.mark.parametrize("name", ["absent", "folder"])
def test_what_is_no_file_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="must be a readable file"):
        list(open_lines(tmp_path / name))


def test_an_overlong_line_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 10)
    monkeypatch.setattr(files, "_CHUNK_BYTES", 4)
    path = tmp_path / "log"
    path.write_bytes(b"short\n" + b"x" * 50 + b"\nten bytes!\n" + b"y" * 11)
    lines = list(open_lines(path))
    assert [number for number, _ in lines] == [1, 2, 3, 4]
    assert lines[0][1] == b"short"
    assert lines[1][1] is OVERLONG
    assert lines[2][1] == b"ten bytes!"
    assert lines[3][1] is OVERLONG


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with atomic_writer(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with atomic_writer(tmp_path / "out") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert [*tmp_path.iterdir()] == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_writer(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_stays_a_device() -> None:
    with atomic_writer("/dev/null") as file:
        file.write(b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_output_error() -> None:
    with pytest.raises(OutputError, match="make room"), atomic_writer("/dev/full") as file:
        file.write(b"x")


def test_an_unwritable_place_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "good").write_bytes(b"kept")
    for path in (tmp_path, tmp_path / "absent" / "out", tmp_path / "file" / "out"):
        with pytest.raises(OutputError):
            check_writable(path)
    check_writable(tmp_path / "good")
    check_writable(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "good"]
    assert (tmp_path / "good").read_bytes() == b"kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_found_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="must be writable"):
        check_writable(tmp_path / "out")
