import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.storage.store import Store


def test_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a", b"before")

    with pytest.raises(AttributeError), store.writing("a") as file:
        file.writelines(one.encode() for one in ("after", None))  # type: ignore[union-attr]
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"before")]


WRITER = """
import sys
from pipelines.storage.store import Store
with Store(sys.argv[1]).writing("data/part-2.parquet") as file:
    file.write(b"PAR1" * 10_000)
    file.flush()
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_killed_writer_leaves_nothing_that_readers_see(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "data/part-1.parquet")
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"begun\n"
        writer.send_signal(signal.SIGKILL)
    assert len(list((tmp_path / "data").iterdir())) == 2
    assert store.files() == ["data/part-1.parquet"]
    assert len(store.unfinished()) == 1
    assert not store.exists("data/part-2.parquet")
    assert pq.read_table(tmp_path / "data").to_pylist() == [{"a": 1}]


def test_folder_is_copied_and_cleared(tmp_path: Path) -> None:
    (tmp_path / "from/sub").mkdir(parents=True)
    (tmp_path / "from/sub/a").write_bytes(b"x")
    (tmp_path / "from/b").write_bytes(b"y")
    store = Store(f"file://{tmp_path}/to/")
    assert store.uri == f"file://{tmp_path}/to"
    store.put_folder(tmp_path / "from")
    assert store.files() == ["b", "sub/a"]
    assert store.child("sub").read("a") == b"x"
    store.clear()
    store.clear()
    assert not (tmp_path / "to").exists()
