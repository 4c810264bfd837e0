from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.data.label_parts import LabelParts
from pipelines.data.schema import LABEL, REJECT, TOKEN_LOGPROBS
from pipelines.errors import StageFailedError
from pipelines.label.output import merging
from pipelines.label.output.commits import PieceName
from pipelines.label.output.writer import LabelWriter
from pipelines.label.teachers.base import TokenLogprobs
from pipelines.storage.manifest import read_manifest
from pipelines.storage.store import Store
from tests.support import label_writers
from tests.support.label_writers import Killed, LostLock, commit, is_done, killed_after, open_writer
from tests.support.outcomes import accepted, part_ids, reject, table


def test_parts_have_the_schemas_and_counts_add_up(tmp_path: Path) -> None:
    with open_writer(tmp_path) as writer:
        commit(writer, accepted("a"), accepted("b"), accepted("h", "heldout"), reject("c", "tie"),
               reject("k", "unparsable", "heldout"))  # fmt: skip
    rows = {"data": 2, "rejects": 1, "heldout/data": 1, "heldout/rejects": 1}
    assert writer.state.parts == {f"{folder}/part-000000.parquet": count for folder, count in rows.items()}
    data = pq.ParquetFile(tmp_path / "data/part-000000.parquet")
    assert data.schema_arrow.equals(LABEL)
    assert data.metadata.row_group(0).column(0).compression == "ZSTD"
    assert pq.read_schema(tmp_path / "rejects/part-000000.parquet").equals(REJECT)
    counts = writer.counts
    assert (counts.accepted, counts.rejected, counts.heldout_answered) == (2, {"tie": 1}, 1)
    assert counts.heldout_rejected == {"unparsable": 1}
    assert (counts.done, counts.prompt_tokens, counts.output_tokens, counts.agreeing) == (5, 9, 6, 2)


def test_token_logprobs_belong_to_the_commit_of_their_rows(tmp_path: Path) -> None:
    top = np.array([[5, 6], [6, 7]], np.int32)
    logprobs = TokenLogprobs(np.array([5, 7], np.int32), top, np.array([[-0.5, -1.5], [-0.25, -2.0]], np.float16))
    (tmp_path / "token_logprobs").mkdir()
    (tmp_path / "token_logprobs/part-000009.parquet").write_bytes(b"of a commit that was killed")
    with open_writer(tmp_path) as writer:
        commit(writer, accepted("a", token_logprobs=logprobs), accepted("b"))
        assert writer.state.parts == {"data/part-000000.parquet": 2, "token_logprobs/part-000000.parquet": 1}
    [part] = (tmp_path / "token_logprobs").iterdir()
    found = pq.read_table(part)
    assert found.schema.equals(TOKEN_LOGPROBS)
    expected = {"id": "a", "token_ids": [5, 7], "top_ids": top.tolist(), "top_logprobs": [[-0.5, -1.5], [-0.25, -2.0]]}
    assert found.to_pylist() == [expected]
    columns = pq.read_metadata(part).row_group(0)
    assert "RLE_DICTIONARY" in columns.column(2).encodings
    assert "BYTE_STREAM_SPLIT" in columns.column(3).encodings


@pytest.mark.parametrize("writes", range(12))
def test_a_kill_between_two_writes_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    rows = [accepted(f"r{i}", rationales=["r", "s"]) if i % 3 else reject(f"r{i}", "tie") for i in range(12)]

    def label_all() -> None:
        with open_writer(tmp_path) as writer:
            left = [row for row in rows if not is_done(writer, row.id)[0]]
            for start in range(0, len(left), 3):
                commit(writer, *left[start : start + 3])

    monkeypatch.setattr(Store, "write", killed_after(writes))
    with pytest.raises(Killed):
        label_all()
    monkeypatch.undo()
    label_all()
    assert part_ids(tmp_path) == sorted(row.id for row in rows if not row.reason)
    assert part_ids(tmp_path, "rationales") == sorted(2 * part_ids(tmp_path))
    assert part_ids(tmp_path, "rejects") == sorted(row.id for row in rows if row.reason)


def test_rejects_of_the_scan_are_committed_with_their_piece(tmp_path: Path) -> None:
    one, two = PieceName(0, 0), PieceName(0, 1)
    with open_writer(tmp_path) as writer:
        writer.add_scanned([one], [table(reject("a", "duplicate"))])
    with open_writer(tmp_path) as writer:
        assert part_ids(tmp_path, "rejects") == []  # killed before the commit
        assert (writer.state.scanned, writer.total) == (frozenset(), None)
        writer.add_scanned([one], [table(reject("a", "duplicate"))])
        commit(writer, accepted("c"))
        writer.add_scanned([two], [table(reject("b", "bad_input"))])
        writer.finish_scan({"train": 3, "heldout": 0})
    with open_writer(tmp_path) as writer:
        assert (writer.state.scanned, writer.total, writer.is_complete) == (frozenset([one, two]), 3, True)
        assert writer.counts.rejected == {"duplicate": 1, "bad_input": 1}
        assert part_ids(tmp_path, "rejects") == ["a", "b"]
        assert is_done(writer, "a", "b") == [False, False], "a good row may have the same id"


def test_engine_errors_are_retried_and_replaced(tmp_path: Path) -> None:
    manifest = label_writers.finished_with_engine_errors(tmp_path)
    with open_writer(tmp_path, manifest) as writer:
        assert (writer.finished_rows, writer.counts.done) == (2, 5)
        assert is_done(writer, "a", "t", "e1", "e2", "e3") == [True, True, False, False, False]
    assert (tmp_path / "manifest.json").exists(), "nothing changes before the first new outcome"
    with open_writer(tmp_path, manifest) as writer:
        commit(writer, accepted("e2"))
        assert not (tmp_path / "manifest.json").exists()
    assert part_ids(tmp_path) == ["a", "e2"]
    with open_writer(tmp_path) as writer:  # killed meanwhile, and resumed
        assert (writer.finished_rows, writer.counts.rejected) == (3, {"engine_error": 2, "tie": 1})
        commit(writer, reject("e1", "unparsable"))
        commit(writer, reject("e3", "engine_error"))
        assert writer.counts.rejected == {"engine_error": 1, "tie": 1, "unparsable": 1}
        writer.compact()
    assert (part_ids(tmp_path), part_ids(tmp_path, "rejects")) == (["a", "e2"], ["e1", "e3", "t"])


@pytest.mark.parametrize("calls", range(14))
def test_a_kill_during_a_replacement_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    store = Store(str(tmp_path))
    label_writers.finished_with_engine_errors(tmp_path)

    def label_all() -> None:
        with open_writer(tmp_path, read_manifest(store, "labels")) as writer:
            for row in (accepted("e1"), reject("e2", "tie"), accepted("e3")):
                if not is_done(writer, row.id)[0]:
                    commit(writer, row)
            writer.compact()

    monkeypatch.setattr(Store, "write", killed_after(calls))
    monkeypatch.setattr(Store, "delete", killed_after(calls // 2, "delete"))
    with pytest.raises(Killed):
        label_all()
    monkeypatch.undo()
    label_all()
    assert (part_ids(tmp_path), part_ids(tmp_path, "rejects")) == (["a", "e1", "e3"], ["e2", "t"])
    with open_writer(tmp_path) as writer:
        assert (writer.counts.accepted, +writer.counts.rejected) == (3, {"tie": 2})


@pytest.mark.parametrize("held", range(5))
def test_a_lost_lock_ends_the_work_at_its_next_step(tmp_path: Path, held: int) -> None:
    """`held`: checks that pass: before the attempt, after the records are read, before the parts, before the record."""
    store = Store(str(tmp_path))
    store.write("data/part-000007.parquet", b"a successor's, committed since")
    lock, done = LostLock(held), ["attempt.json", "", "data/part-000000.parquet", "commits/000000.json"][:held]

    def work() -> None:
        writer = LabelWriter(store, label_writers.IDENTITY, label_writers.SETTINGS, check_lock=lock)
        store.write("data/part-000007.parquet", b"a successor's, committed since")
        commit(writer, accepted("a"))

    with pytest.raises(StageFailedError, match="lost") if held < 4 else nullcontext():
        work()
    assert set(store.files()) == {"data/part-000007.parquet", *filter(None, done)}


def test_complete_labels_are_merged_into_few_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that some parts lack is null in their rows. Each merged part has the hash that its record names."""
    monkeypatch.setattr(merging, "_ROW_GROUP_ROWS", 4)
    store = Store(str(tmp_path))
    with open_writer(tmp_path) as writer:
        for i in range(4):
            several = [accepted(f"r{i}-{j}", rationales=[f"r{i}", "s"]) for j in range(3)]
            commit(writer, *several, reject(f"t{i}", "tie"), accepted(f"k{i}", thoughts="hm" if i == 2 else None))
        before = writer.counts
        writer.compact()
        parts = LabelParts(store, writer.state.parts, writer.state.files)
    assert sorted(store.files("", ".parquet")) == sorted(parts.rows), "no old part stays"
    assert [len(parts.names(folder)) for folder in ("data", "rejects", "rationales")] == [1, 1, 1]
    assert [parts.damage(name) for name in parts.rows] == [None] * len(parts.rows)
    [name] = parts.names("data")
    file = parts.open(name)
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [4, 4, 4, 4]
    assert groups[0].column(0).statistics.min == "k0"
    assert groups[0].column(0).compression == "ZSTD"
    assert [row["thoughts"] for row in file.read().to_pylist() if row["id"].startswith("k")] == [None, None, "hm", None]
    assert parts.rationales(name)["r3-2"] == ["r3", "s"]
    with open_writer(tmp_path) as writer:
        assert (writer.counts, len(writer.state.commits)) == (before, 1)
        assert is_done(writer, "r3-2", "t0", "x") == [True, True, False]
