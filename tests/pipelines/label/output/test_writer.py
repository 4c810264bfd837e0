from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import LabellingConfig
from pipelines.data.schema import LABEL, REJECT, TOKEN_LOGPROBS
from pipelines.errors import StageFailedError, UserError
from pipelines.label.answers.outcomes import OUTCOME, rejected
from pipelines.label.output import writer as sink_module
from pipelines.label.output.counts import Counts
from pipelines.label.output.id_index import contains, id_keys, key_set
from pipelines.label.output.writer import LabelWriter, ScanRecord
from pipelines.storage.lock import folder_lock
from pipelines.storage.manifest import Manifest, manifest_of, read_manifest, write_manifest
from pipelines.storage.store import Store

IDENTITY = {"teacher": "echo"}
SETTINGS = LabellingConfig()


@contextmanager
def open_sink(
    folder: Path, identity: dict[str, Any] = IDENTITY, reopened: Manifest | None = None
) -> Iterator[LabelWriter]:
    store = Store(str(folder))
    with folder_lock(store, SETTINGS.lease_s) as check_lock:
        yield LabelWriter(store, identity, SETTINGS, reopened, check_lock)


def accepted(example_id: str, split: str = "train", label: str = "1") -> dict[str, Any]:
    return {**dict.fromkeys(OUTCOME.names), "split": split, "id": example_id, "input": "i", "gold": "1", "label": label, "rationale": "r",
            "votes": 1, "agreement": 1.0, "prompt_tokens": 3, "output_tokens": 2, "finish_reason": "stop", "agrees": True,
            "content": hash_of(example_id, label)}  # fmt: skip


def hash_of(*words: str) -> int:
    return zlib.crc32(" ".join(words).encode())


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=OUTCOME)


def ids(folder: Path, name: str = "data") -> list[str]:
    return sorted(i for part in (folder / name).glob("*.parquet") for i in pq.read_table(part)["id"].to_pylist())


def test_parts_have_the_schemas_and_the_tally_adds_up(tmp_path: Path) -> None:
    with open_sink(tmp_path) as sink:
        sink.add(table(accepted("a"), accepted("b"), accepted("h", "heldout"), rejected("train", "c", "tie", "d", "o"),
                       rejected("heldout", "k", "unparsable", "d", "o")))  # fmt: skip
        sink.commit()
        parts = sink.parts
    assert parts == {
        f"{n}/part-000000.parquet": c
        for n, c in (("data", 2), ("rejects", 1), ("heldout/data", 1), ("heldout/rejects", 1))
    }
    assert pq.read_schema(tmp_path / "data/part-000000.parquet").equals(LABEL)
    assert pq.read_schema(tmp_path / "rejects/part-000000.parquet").equals(REJECT)
    tally = sink.tally
    assert (tally.accepted, tally.rejected, tally.heldout_answered) == (2, {"tie": 1}, 1)
    assert tally.heldout_rejected == {"unparsable": 1}
    assert (tally.done, tally.prompt_tokens, tally.output_tokens, tally.agreeing, tally.with_gold) == (5, 9, 6, 2, 2)


def test_token_logprobs_stand_in_the_commit_of_their_rows(tmp_path: Path) -> None:
    logprobs = {"token_ids": [5, 7], "top_ids": [[5, 6], [6, 7]], "top_logprobs": [[-0.5, -1.5], [-0.25, -2.0]]}
    (tmp_path / "token_logprobs").mkdir()
    (tmp_path / "token_logprobs/part-000009.parquet").write_bytes(b"of a commit that was killed")
    with open_sink(tmp_path) as sink:
        sink.add(table({**accepted("a"), "token_logprobs": logprobs}, accepted("b")))
        sink.commit()
        assert sink.parts == {"data/part-000000.parquet": 2, "token_logprobs/part-000000.parquet": 1}
    assert [f.name for f in (tmp_path / "token_logprobs").iterdir()] == ["part-000000.parquet"]
    found = pq.read_table(tmp_path / "token_logprobs")
    assert found.schema.equals(TOKEN_LOGPROBS)
    assert found.to_pylist() == [{"id": "a", **logprobs}]


def test_what_no_commit_names_is_removed_and_the_rest_is_done(tmp_path: Path) -> None:
    with open_sink(tmp_path) as sink:
        sink.add(table(accepted("a")))
        sink.commit()
    (tmp_path / "data/part-000001.parquet").write_bytes((tmp_path / "data/part-000000.parquet").read_bytes())
    (tmp_path / "rejects").mkdir()
    (tmp_path / "rejects/part-000001.parquet.abc.tmp").write_bytes(b"torn")
    with open_sink(tmp_path) as sink:
        assert ids(tmp_path) == ["a"]
        assert not list((tmp_path / "rejects").iterdir())
        assert contains(sink.done["train"], id_keys(["a", "b"])).tolist() == [True, False]
        assert sink.tally.accepted == 1
        sink.add(table(accepted("b")))
        sink.commit()
        assert sorted(sink.parts) == ["data/part-000000.parquet", "data/part-000001.parquet"]
    assert ids(tmp_path) == ["a", "b"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def killed_after(calls: int, method: str = "write") -> Callable[..., None]:
    original, left = getattr(Store, method), [calls]

    def call(self: Store, *arguments: Any) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        original(self, *arguments)

    return call


@pytest.mark.parametrize("writes", range(12))
def test_a_kill_between_any_two_writes_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    rows = [accepted(f"r{i}") if i % 3 else rejected("train", f"r{i}", "tie", "", "") for i in range(12)]

    def label_all() -> None:
        with open_sink(tmp_path) as sink:
            left = [r for r in rows if not contains(sink.done["train"], id_keys([r["id"]]))[0]]
            for start in range(0, len(left), 3):
                sink.add(table(*left[start : start + 3]))
                sink.commit()

    monkeypatch.setattr(sink_module.Store, "write", killed_after(writes))
    with pytest.raises(Killed):
        label_all()
    monkeypatch.undo()
    label_all()
    assert ids(tmp_path) + ids(tmp_path, "rejects") == sorted(r["id"] for r in rows if not r["reason"]) + sorted(
        r["id"] for r in rows if r["reason"]
    )


def test_rejects_of_the_scan_count_when_the_scan_is_whole_and_do_not_make_their_ids_done(tmp_path: Path) -> None:
    scanned = table(rejected("train", "a", "duplicate", "", ""), rejected("train", "b", "bad_input", "", ""))
    with open_sink(tmp_path) as sink:
        sink.add_scanned(scanned)
    with open_sink(tmp_path) as sink:
        assert ids(tmp_path, "rejects") == []  # the scan broke off
        assert sink.scan is None
        sink.add_scanned(scanned.slice(0, 1))
        sink.add_scanned(scanned.slice(1))
        sink.commit_scan(ScanRecord({"train": 3}, [{"uri": "u"}], np.array([1, 2])))
    with open_sink(tmp_path) as sink:
        assert sink.scan is not None
        assert (sink.scan.rows, sink.scan.splits, sink.scan.passed_over.tolist()) == (
            {"train": 3},
            [{"uri": "u"}],
            [1, 2],
        )
        assert sink.tally.rejected == {"duplicate": 1, "bad_input": 1}
        assert ids(tmp_path, "rejects") == ["a", "b"]
        assert not contains(sink.done["train"], id_keys(["a", "b"])).any()


FAILED = [rejected("train", name, "engine_error", "died", "") for name in ("e1", "e2", "e3")]


def finished_with_engine_errors(folder: Path) -> Manifest:
    """Labels with one accepted row, one `tie` and three rows that no engine could answer."""
    with open_sink(folder) as sink:
        sink.add(table(accepted("a"), *FAILED, rejected("train", "t", "tie", "", "")))
        sink.commit()
        manifest = manifest_of("labels", IDENTITY, config={}, counts={}, timings_s={}, provenance={},
                               details={"parts": sink.parts, "tally": sink.tally.as_json()})  # fmt: skip
        write_manifest(Store(str(folder)), manifest)
        sink.tidy()
    return manifest


def test_engine_errors_are_tried_again_and_nothing_changes_before_they_have_an_outcome(tmp_path: Path) -> None:
    manifest = finished_with_engine_errors(tmp_path)
    with open_sink(tmp_path, reopened=manifest) as sink:
        assert (sink.retried, sink.tally.done) == (3, 5)
        wanted = contains(sink.done["train"], id_keys(["a", "t", "e1", "e2", "e3"]))
        assert wanted.tolist() == [True, True, False, False, False]
    assert (tmp_path / "manifest.json").exists()
    with open_sink(tmp_path, reopened=manifest) as sink:
        sink.add(table(accepted("e2")))
        sink.commit()
        assert not (tmp_path / "manifest.json").exists()
    assert (ids(tmp_path), ids(tmp_path, "rejects")) == (["a", "e2"], ["e1", "e3", "t"])
    with open_sink(tmp_path) as sink:  # killed meanwhile: it goes on
        assert (sink.retried, sink.tally.rejected) == (2, {"engine_error": 2, "tie": 1})
        assert (sink.scan, sink.scan_counted) == (None, True), "what the scan rejected is in the finished labels"
        sink.add(table(rejected("train", "e1", "unparsable", "", "")))
        sink.commit()
        sink.add(table(rejected("train", "e3", "engine_error", "again", "")))
        sink.commit()
        assert sink.tally.rejected == {"engine_error": 1, "tie": 1, "unparsable": 1}
    assert (ids(tmp_path), ids(tmp_path, "rejects")) == (["a", "e2"], ["e1", "e3", "t"])


@pytest.mark.parametrize("calls", range(10))
def test_a_kill_while_engine_errors_are_replaced_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    store = Store(str(tmp_path))
    finished_with_engine_errors(tmp_path)

    def label_all() -> None:
        manifest = read_manifest(store, "labels")
        with open_sink(tmp_path, reopened=manifest) as sink:
            for row in (accepted("e1"), rejected("train", "e2", "tie", "", ""), accepted("e3")):
                if not contains(sink.done["train"], id_keys([row["id"]]))[0]:
                    sink.add(table(row))
                    sink.commit()

    kill = killed_after(calls)
    monkeypatch.setattr(sink_module.Store, "write", kill)
    monkeypatch.setattr(sink_module.Store, "delete", killed_after(calls // 2, "delete"))
    with pytest.raises(Killed):
        label_all()
    monkeypatch.undo()
    label_all()
    assert (ids(tmp_path), ids(tmp_path, "rejects")) == (["a", "e1", "e3"], ["e2", "t"])
    with open_sink(tmp_path) as sink:
        assert (sink.tally.accepted, +sink.tally.rejected) == (3, {"tie": 2})


class LostLock:
    """A folder's lock that is lost after it has been made sure of some times."""

    def __init__(self, held: int) -> None:
        self.left = held

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StageFailedError("lost")


@pytest.mark.parametrize("held", range(3))
def test_a_lock_that_is_lost_ends_the_commit_at_its_next_step(tmp_path: Path, held: int) -> None:
    """`held`: how often the lock is still there: before the parts, before their record."""
    lock = LostLock(100)
    sink = LabelWriter(Store(str(tmp_path)), IDENTITY, SETTINGS, check_lock=lock)
    sink.add(table(accepted("a")))
    lock.left = held
    if held < 2:
        with pytest.raises(StageFailedError, match="lost"):
            sink.commit()
    else:
        sink.commit()
    there = {name for name in Store(str(tmp_path)).files() if name != "attempt.json"}
    assert there == set(["data/part-000000.parquet", "commits/000000.json"][:held])


@pytest.mark.parametrize("held", range(2))
def test_a_lock_that_is_lost_before_the_labels_are_opened_lets_nothing_be_removed(tmp_path: Path, held: int) -> None:
    """`held`: before the attempt is written, and after the records are read."""
    store = Store(str(tmp_path))
    store.write("data/part-000007.parquet", b"a successor's, committed since")
    with pytest.raises(StageFailedError, match="lost"):
        LabelWriter(store, IDENTITY, SETTINGS, check_lock=LostLock(held))
    assert store.files() == [*["attempt.json"][:held], "data/part-000007.parquet"]


def test_a_lock_that_is_lost_during_the_scan_leaves_the_scan_of_another_driver(tmp_path: Path) -> None:
    lock = LostLock(100)
    store = Store(str(tmp_path))
    sink = LabelWriter(store, IDENTITY, SETTINGS, check_lock=lock)
    store.write("commits/scan.npy", b"another driver's")
    lock.left = 0
    with pytest.raises(StageFailedError, match="lost"):
        sink.commit_scan(ScanRecord({"train": 1}, [], np.empty((0,), np.int64)))
    assert store.read("commits/scan.npy") == b"another driver's"


def test_content_is_the_same_in_any_order_and_changes_with_a_label() -> None:
    one, two = accepted("a"), accepted("b")
    split = Counts()
    split.add(Counts.of(table(two)))
    split.add(Counts.of(table(one)))
    assert Counts.of(table(one, two)).content == split.content
    assert Counts.of(table(one, accepted("b", label="2"))).content != split.content


def test_content_of_held_out_rows_is_told_apart() -> None:
    before = Counts.of(table(accepted("a"), rejected("heldout", "h", "engine_error", "", "")))
    after = Counts.of(table(accepted("a"), accepted("h", "heldout")))
    assert (before.content, before.heldout_content) == (after.content, 0)
    assert after.heldout_content == hash_of("h", "1")


def test_a_tally_survives_its_record() -> None:
    tally = Counts.of(table(accepted("a"), {**accepted("b"), "agreement": 0.3}, rejected("train", "c", "tie", "", "")))
    assert tally.agreements == {"9": 1, "3": 1}
    assert Counts.from_json(json.loads(json.dumps(tally.as_json()))) == tally


def test_a_row_counts_for_the_node_that_gave_its_outcome_in_the_end() -> None:
    failed = {**rejected("train", "c", "engine_error", "", ""), "node": "x"}
    scanned = rejected("train", "d", "duplicate", "", "")
    answers = [{**accepted("a"), "node": "x"}, {**rejected("train", "b", "tie", "", ""), "node": "y"}]
    tally = Counts.of(table(*answers, failed, scanned))
    assert tally.nodes == {"x": 1, "y": 1}
    tally.add(Counts.of(table({**accepted("c"), "node": "y", "dtype": "float32"})))
    tally.add(Counts.of(table({**accepted("d"), "node": "z", "dtype": "bfloat16"})))
    assert (tally.nodes, tally.dtypes) == ({"x": 1, "y": 2, "z": 1}, {"float32": 1, "bfloat16": 1})


def test_the_index_finds_exactly_its_ids() -> None:
    index = key_set(iter([id_keys([f"id-{i}" for i in range(0, 2000, 2)])]), 1000)
    assert index.nbytes == 16 * 1000
    found = contains(index, id_keys([f"id-{i}" for i in range(2000)]))
    assert found.tolist() == [i % 2 == 0 for i in range(2000)]
    assert not contains(index[:0], id_keys(["a"])).any()
