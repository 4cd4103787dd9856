"""One contract, over a disk and over S3: files are whole or not there, and one of many writers wins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.storage.place import Location, StorageError, place_of
from infra.storage.store import Storage
from tests.object_storage import s3

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3() as url:
        yield url


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "disk" else f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"


@pytest.fixture
def storage(root: str) -> Storage:
    return Storage(place_of(root))


def test_a_file_is_made_once_and_read_as_it_was_made(storage: Storage) -> None:
    assert storage.list() == []
    assert storage.create("a/b=1/one.json", b"one")
    assert not storage.create("a/b=1/one.json", b"another")
    assert storage.read("a/b=1/one.json") == b"one"
    with storage.open("a/b=1/one.json") as file:
        file.seek(1)
        assert file.read() == b"ne"
    assert storage.size("a/b=1/one.json") == 3
    assert storage.size("a/b=1/two.json") is None
    with pytest.raises(FileNotFoundError):
        storage.read("a/b=1/two.json")


def test_what_is_listed_is_what_is_below(storage: Storage) -> None:
    for name in ("a/2", "a/1", "ab/3", "top"):
        storage.create(name, name.encode())
    assert [(f.name, f.size) for f in storage.list()] == [("a/1", 3), ("a/2", 3), ("ab/3", 4), ("top", 3)]
    assert [f.name for f in storage.list("a")] == ["a/1", "a/2"]
    assert all(abs(f.written_s - time.time()) < 60 for f in storage.list())
    storage.delete("a/1")
    storage.delete("a/1")
    assert [f.name for f in storage.list("a/")] == ["a/2"]


def test_what_is_uploaded_again_counts_as_written_now(storage: Storage, tmp_path: Path) -> None:
    for again in (False, True):
        made = tmp_path / "made"
        made.write_bytes(b"content")
        storage.upload(made, "day/part.parquet")
        assert not made.exists()
        if storage.local and not again:
            os.utime(storage.local / "day/part.parquet", (0, 0))
    (only,) = storage.list()
    assert only.written_s > 1e9
    assert storage.read("day/part.parquet") == b"content"


_MANY = """
import sys, time
from infra.storage.place import place_of
from infra.storage.store import Storage
storage, me = Storage(place_of(sys.argv[1])), sys.argv[2]
storage.list()
while time.time() < float(sys.argv[3]): time.sleep(0.001)
print(sum(storage.create(f"log/{n:020d}.json", f"{me} {n}".encode()) for n in range(20)))
"""


def test_of_writers_in_many_processes_one_makes_each_file(storage: Storage, root: str) -> None:
    start = str(time.time() + 4)
    writers = [subprocess.Popen([sys.executable, "-c", _MANY, root, str(i), start], stdout=subprocess.PIPE, text=True) for i in range(4)]
    won = [int(w.communicate(timeout=60)[0]) for w in writers]
    assert sum(won) == 20
    said = [storage.read(f.name).decode().split() for f in storage.list()]
    assert [n for _, n in said] == [str(n) for n in range(20)]
    assert [sum(who == str(i) for who, _ in said) for i in range(4)] == won


_ENDLESS = """
import sys, pathlib
from infra.storage.place import place_of
from infra.storage.store import Storage
storage, n = Storage(place_of(sys.argv[1])), 0
while True:
    made = pathlib.Path(sys.argv[2], "made"); made.write_bytes(bytes([n % 256]) * 3_000_000)
    storage.upload(made, f"up/{n}"); storage.create(f"made/{n}", bytes([n % 256]) * 300_000)
    n += 1; print(n, flush=True)
"""


def test_a_writer_that_is_killed_leaves_no_part_of_a_file(storage: Storage, root: str, tmp_path: Path) -> None:
    for wait in (0.003, 0.02):
        with subprocess.Popen([sys.executable, "-c", _ENDLESS, root, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(wait)
            writer.send_signal(signal.SIGKILL)
        for file in storage.list():
            assert file.size == (3_000_000 if file.name.startswith("up/") else 300_000)
            assert len(set(storage.read(file.name))) == 1


def test_places() -> None:
    assert place_of("/a/b") == place_of("file:///a/b") == Path("/a/b")
    assert place_of("s3://bucket/a/") / "b" == Location("s3://bucket/a/b")
    assert str(place_of("gs://bucket") / "b") == "gs://bucket/b"
    assert (place_of("s3://bucket/a") / "b").name == "b"
    for wrong in ("http://x/y", "s3:///a", "s3:/bucket", "file://a/b"):
        with pytest.raises(StorageError, match=wrong.replace("/", "[/]")):
            place_of(wrong)


def test_storage_that_refuses_is_named_with_what_to_set(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"s3://nobodys/a/b: .*AWS_ACCESS_KEY_ID"):
        Storage(place_of("s3://nobodys/a")).create("b", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/b: (Not a directory|File exists)"):
        Storage(tmp_path / "file").create("b", b"")
