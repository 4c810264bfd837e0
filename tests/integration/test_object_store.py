"""Store and corpus on an S3 server that checks signatures, with killed writers."""

import gzip
import io
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.reader import corpus_files, corpus_splits, read_split
from pipelines.errors import UserError
from pipelines.storage import filesystems
from pipelines.storage.filesystems import open_filesystem
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks import load_task, task_spec
from tests.support.corpora import jsonl
from tests.support.endpoints import wait_until
from tests.support.object_store import Bucket

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TASK = load_task(task_spec("arithmetic"))


def lines(first: int, count: int) -> bytes:
    ids = range(first, first + count)
    return jsonl({"id": f"r{i}", "input": f"Anne has {i} apples.", "label": f"{i}"} for i in ids)


def test_a_store_writes_reads_lists_and_deletes(s3: Bucket) -> None:
    store = Store(s3.uri("out/labels"))
    assert (store.is_local, store.exists(), store.files()) == (False, False, [])
    store.write("data/part-1.parquet", b"one")
    store.child("data").write("part 2?.parquet", b"two")
    assert s3.keys() == ["out/labels/data/part 2?.parquet", "out/labels/data/part-1.parquet"]
    assert store.files() == ["data/part 2?.parquet", "data/part-1.parquet"]
    assert store.files("data", "1.parquet") == ["data/part-1.parquet"]
    assert store.read("data/part 2?.parquet") == b"two"
    assert store.exists("data") and store.exists("data/part-1.parquet")  # noqa: PT018
    store.write("data/part-1.parquet", b"replaced")
    assert store.read("data/part-1.parquet") == b"replaced"
    store.delete("data/part-1.parquet")
    store.delete("data/part-1.parquet")
    assert store.files() == ["data/part 2?.parquet"]
    with pytest.raises(FileNotFoundError):
        store.read("data/part-1.parquet")


def test_the_query_part_stays_with_children_and_files(s3: Bucket) -> None:
    child = Store(s3.uri("out/")).child("labels").child("data")
    assert child.uri == s3.uri("out/labels/data")
    s3.put("corpus/a.jsonl", lines(0, 1))
    for named in ("corpus", "corpus/*.jsonl", "corpus/a.jsonl", "**/a.jsonl"):
        assert corpus_files(s3.uri(named), "corpus.train") == [s3.uri("corpus/a.jsonl")]
    assert open_filesystem(s3.uri("a"))[0] is open_filesystem(s3.uri("b/c"))[0], "made once per bucket and options"
    assert open_filesystem(s3.uri("a"))[0] is not open_filesystem(s3.uri("a") + "&anonymous=true")[0]


def test_put_and_clear_affect_only_their_folder(s3: Bucket, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 80_000)  # 20 MB: a multipart upload
    (tmp_path / "sub/config.json").write_text("{}")
    store = Store(s3.uri("student"))
    s3.put("student2/keep", b"x")
    store.put_folder(tmp_path)
    assert s3.keys("student/") == ["student/model.safetensors", "student/sub/config.json"]
    assert store.read("model.safetensors") == (tmp_path / "model.safetensors").read_bytes()
    store.clear()
    assert not store.exists()
    assert s3.keys() == ["student2/keep"]
    bucket = Store(s3.uri())
    bucket.clear()
    assert bucket.files() == []
    bucket.write("a", b"the bucket is still there")


def test_small_files_are_one_request_and_failed_ones_leave_none(s3: Bucket) -> None:
    store = Store(s3.uri("one"))
    with store.writing(MANIFEST) as file:
        file.write(b"x" * 100_000)
        assert s3.uploads() == []
    with pytest.raises(TypeError), store.writing("part") as file:
        file.writelines([b"n" * (12 << 20), None])  # type: ignore[list-item]
    assert s3.keys() == [f"one/{MANIFEST}"]


WRITER = """
import sys, time
from pipelines.storage.store import Store
store = Store(sys.argv[1])
if sys.argv[2] == "write":
    store.write("data/part.parquet", b"n" * (100 << 20))
else:
    with store.writing("data/part.parquet") as file:
        while True:
            file.write(b"n" * (11 << 20))
            time.sleep(0.1)
"""


@pytest.mark.parametrize(("way", "before"), [("write", b"what was there"), ("writing", None)])
def test_a_writer_killed_during_an_upload_leaves_no_file(s3: Bucket, way: str, before: bytes | None) -> None:
    if before is not None:
        s3.put("labels/data/part.parquet", before)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, s3.uri("labels"), way])
    try:
        wait_until(lambda: _parts(s3) > 0, every_s=0.02, of=lambda: "the start of the upload")
    finally:
        writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL, "the upload ended before the kill"
    assert s3.uploads() == ["labels/data/part.parquet"], "the kill must fall into an upload"
    store = Store(s3.uri("labels"))
    if before is None:
        assert not store.exists("data/part.parquet")
        assert store.files() == s3.keys() == []
    else:
        assert store.read("data/part.parquet") == before
    store.write("data/part.parquet", b"later")
    assert store.read("data/part.parquet") == b"later"


def _parts(s3: Bucket) -> int:
    client = s3.server.client()
    uploads = client.list_multipart_uploads(Bucket=s3.name).get("Uploads", [])
    listed = (client.list_parts(Bucket=s3.name, Key=u["Key"], UploadId=u["UploadId"]) for u in uploads)
    return sum(len(parts.get("Parts", [])) for parts in listed)


def test_a_corpus_of_several_files_is_read_in_order(s3: Bucket) -> None:
    s3.put("corpus/a.jsonl", lines(0, 3000))
    s3.put("corpus/b.jsonl.gz", gzip.compress(lines(3000, 100)))
    table = pa.Table.from_pylist([json.loads(line) for line in lines(3100, 100).splitlines()])
    parquet = io.BytesIO()
    pq.write_table(table, parquet, row_group_size=30)
    s3.put("corpus/c.parquet", parquet.getvalue())
    s3.put("corpus/d.jsonl", b"")
    s3.put("corpus/_done", b"")
    files = corpus_files(s3.uri("corpus/"), "corpus.train")
    assert files == [s3.uri(f"corpus/{name}") for name in ("a.jsonl", "b.jsonl.gz", "c.parquet", "d.jsonl")]
    splits = corpus_splits(files, "train", parallelism=10)
    assert len(splits) > 6
    rows = [row for split in splits for row in read_split(split, TASK, {})]
    assert [row.id for row in rows] == [f"r{i}" for i in range(3200)]
    assert not [row.problem for row in rows if row.problem]


def refused(uri: str) -> str:
    """The message of both writing and reading."""
    with pytest.raises(UserError) as writing:
        Store(uri).write("a", b"x")
    with pytest.raises(UserError) as read:
        corpus_files(uri, "corpus.train")
    assert writing.value.rule[:20] == read.value.rule[:20] or "no such" in read.value.rule
    return str(writing.value)


@pytest.mark.parametrize("key", ["AKIAWRONG", ""])
def test_wrong_credentials_are_one_error_that_does_not_show_them(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    assert "the bucket does not exist" in refused(s3.uri("x").replace(s3.name, "no-such-bucket"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key or s3.server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not/the-secret")
    message = refused(s3.uri("x") + "&allow_bucket_creation=" + ("true" if key else "false"))  # each another client
    assert "refuses these credentials" in message
    assert "the-secret" not in message


@pytest.mark.parametrize(("scheme", "listens"), [("s3", False), ("s3", True), ("gs", False)])
def test_an_unreachable_endpoint_is_one_timely_error(
    monkeypatch: pytest.MonkeyPatch, scheme: str, listens: bool
) -> None:
    """It refuses connections, or it accepts them and never answers."""
    if listens:
        monkeypatch.setattr(filesystems, "REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(filesystems, "GCS_RETRY_S", 2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        if listens:
            taken.listen(16)
        endpoint = f"endpoint_override=127.0.0.1:{taken.getsockname()[1]}&scheme=http"
        uris = {"s3": "s3://bucket/x?region=us-east-1&anonymous=true&", "gs": "gs://anonymous@bucket/x?"}
        uri = uris[scheme] + endpoint
        begin = time.monotonic()
        if scheme == "s3" and not listens:
            assert "cannot be reached" in refused(uri)
        else:
            with pytest.raises(UserError, match="cannot be reached"):
                Store(uri).exists("a")
    assert time.monotonic() - begin < (filesystems.S3_ATTEMPTS + 10 if listens else 30)
