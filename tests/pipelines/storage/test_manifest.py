from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import UserError
from pipelines.storage.fingerprint import file_fingerprint, fingerprint, model_fingerprint
from pipelines.storage.manifest import manifest_of, read_manifest, require_manifest, write_manifest
from pipelines.storage.store import MANIFEST, Store

PARTS: dict[str, Any] = {"config": {}, "counts": {}, "timings_s": {}, "details": {}, "provenance": {}}


def finish(store: Store, identity: dict[str, Any]) -> None:
    write_manifest(store, manifest_of("labels", identity, **PARTS))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_manifest_makes_an_artifact_finished(tmp_path: Path, scheme: str) -> None:
    store = Store(f"{scheme}{tmp_path}/labels")
    assert read_manifest(store, "labels") is None
    finish(store, {"a": 1})
    assert store.files() == [MANIFEST]
    manifest = read_manifest(store, "labels")
    assert manifest is not None
    assert manifest.fingerprint == fingerprint({"a": 1})


@pytest.mark.parametrize("created", ["", "yesterday", "2026-13-01T00:00:00+00:00", "2026-01-01T00:00:00"])
def test_a_manifest_of_no_time_is_refused(tmp_path: Path, created: str) -> None:
    store = Store(str(tmp_path))
    finish(store, {"a": 1})
    manifest = json.loads(store.read(MANIFEST))
    store.write(MANIFEST, json.dumps({**manifest, "created": created}).encode())
    with pytest.raises(UserError, match="not a manifest"):
        read_manifest(store, "labels")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"type": "labels"}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="not a manifest"):
        read_manifest(Store(str(tmp_path)), "labels")


def test_another_type_or_schema_version_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    finish(store, {})
    with pytest.raises(UserError, match="it is a labels artifact"):
        read_manifest(store, "student")
    tree = json.loads(store.read(MANIFEST)) | {"schema_version": 99}
    store.write(MANIFEST, json.dumps(tree).encode())
    with pytest.raises(UserError, match="schema version 99"):
        read_manifest(store, "labels")


def test_a_missing_input_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raystill label RUN"):
        require_manifest(Store(str(tmp_path)), "labels", "label RUN")


def test_fingerprints_follow_content_not_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    assert model_fingerprint(str(one)) == model_fingerprint(str(two))
    assert file_fingerprint(str(one / "config.json")) == file_fingerprint(str(two / "config.json"))
    (two / "config.json").write_text('{"a": 1}')
    assert model_fingerprint(str(one)) != model_fingerprint(str(two))


def test_a_model_that_may_not_be_read_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")

    def refused(uri: str) -> str:
        raise PermissionError(13, f"Failed to open local file '{uri}'")

    monkeypatch.setattr("pipelines.storage.fingerprint.file_fingerprint", refused)
    with pytest.raises(UserError, match=r"may not read a file of it .*model.safetensors.* Give it the right"):
        model_fingerprint(str(tmp_path))


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="no filesystem opens it"):
        Store("nonsense://bucket/x")


def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a", b"before")

    def fail() -> None:
        with store.writing("a") as file:
            file.write(b"after")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"before")]


WRITER = """
import sys
from pipelines.storage.manifest import Store
with Store(sys.argv[1]).writing("data/part-2.parquet") as file:
    file.write(b"PAR1" * 10_000)
    file.flush()
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_nothing_that_a_reader_sees(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "data/part-1.parquet")
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        writer.send_signal(signal.SIGKILL)
    assert len(list((tmp_path / "data").iterdir())) == 2
    assert store.files() == ["data/part-1.parquet"]
    assert len(store.unfinished()) == 1
    assert not store.exists("data/part-2.parquet")
    assert pq.read_table(tmp_path / "data").to_pylist() == [{"a": 1}]


def test_a_folder_is_put_and_cleared(tmp_path: Path) -> None:
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


def test_a_manifest_holds_no_credentials() -> None:
    config = {
        "output": "s3://KEY:SECRET@bucket/run?region=x",
        "corpus": {"train": ["s3://KEY:SECRET@bucket/a.jsonl", "b.jsonl"]},
    }
    found = manifest_of("labels", {}, config=config, counts={}, timings_s={}, details={}, provenance={})
    assert found.config == {
        "output": "s3://bucket/run?region=x",
        "corpus": {"train": ["s3://bucket/a.jsonl", "b.jsonl"]},
    }
