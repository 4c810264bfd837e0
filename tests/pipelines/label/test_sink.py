from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.artifacts import Store
from pipelines.errors import UserError
from pipelines.label import sink as sink_module
from pipelines.label.outcomes import OUTCOME, rejected
from pipelines.label.scan import contains, id_keys, sort_keys
from pipelines.label.sink import LabelSink, Tally
from pipelines.schema import LABEL, REJECT

IDENTITY = {"teacher": "echo"}


def accepted(example_id: str, split: str = "train") -> dict[str, Any]:
    return {**dict.fromkeys(OUTCOME.names), "split": split, "id": example_id, "input": "i", "gold": "1", "label": "1", "rationale": "r",
            "votes": 1, "agreement": 1.0, "prompt_tokens": 3, "output_tokens": 2, "finish_reason": "stop", "agrees": True}  # fmt: skip


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=OUTCOME)


def ids(folder: Path, name: str = "data") -> list[str]:
    return sorted(i for part in (folder / name).glob("*.parquet") for i in pq.read_table(part)["id"].to_pylist())


def test_parts_have_the_schemas_and_the_tally_adds_up(tmp_path: Path) -> None:
    with LabelSink(Store(str(tmp_path)), IDENTITY) as sink:
        sink.add(table(accepted("a"), accepted("b"), accepted("h", "heldout"), rejected("train", "c", "tie", "d", "o"),
                       rejected("heldout", "k", "unparsable", "d", "o")))  # fmt: skip
        parts = sink.finish()
    assert parts == {
        f"{n}/part-000000.parquet": c
        for n, c in (("data", 2), ("rejects", 1), ("heldout/data", 1), ("heldout/rejects", 1))
    }
    assert pq.read_schema(tmp_path / "data/part-000000.parquet").equals(LABEL)
    assert pq.read_schema(tmp_path / "rejects/part-000000.parquet").equals(REJECT)
    tally = sink.tally
    assert (tally.accepted, dict(tally.rejected), tally.heldout_answered, tally.heldout_rejected) == (
        2,
        {"tie": 1},
        1,
        1,
    )
    assert (tally.done, tally.prompt_tokens, tally.output_tokens, tally.agreeing, tally.with_gold) == (5, 9, 6, 2, 2)


def test_what_no_commit_names_is_removed_and_the_rest_is_done(tmp_path: Path) -> None:
    with LabelSink(Store(str(tmp_path)), IDENTITY) as sink:
        sink.add(table(accepted("a")))
        sink.commit()
    (tmp_path / "data/part-000001.parquet").write_bytes((tmp_path / "data/part-000000.parquet").read_bytes())
    (tmp_path / "rejects").mkdir()
    (tmp_path / "rejects/part-000001.parquet.abc.tmp").write_bytes(b"torn")
    with LabelSink(Store(str(tmp_path)), IDENTITY) as sink:
        assert ids(tmp_path) == ["a"]
        assert not list((tmp_path / "rejects").iterdir())
        assert contains(sink.done["train"], id_keys(["a", "b"])).tolist() == [True, False]
        assert sink.tally.accepted == 1
        sink.add(table(accepted("b")))
        assert sorted(sink.finish()) == ["data/part-000000.parquet", "data/part-000001.parquet"]
    assert ids(tmp_path) == ["a", "b"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def killed_after(writes: int) -> Callable[[Store, str, bytes], None]:
    original, left = Store.write, [writes]

    def write(self: Store, name: str, data: bytes) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        original(self, name, data)

    return write


@pytest.mark.parametrize("writes", range(12))
def test_a_kill_between_any_two_writes_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    rows = [accepted(f"r{i}") if i % 3 else rejected("train", f"r{i}", "tie", "", "") for i in range(12)]

    def label_all() -> None:
        with LabelSink(Store(str(tmp_path)), IDENTITY) as sink:
            left = [r for r in rows if not contains(sink.done["train"], id_keys([r["id"]]))[0]]
            for start in range(0, len(left), 3):
                sink.add(table(*left[start : start + 3]))
                sink.commit()
            sink.finish()

    monkeypatch.setattr(sink_module.Store, "write", killed_after(writes))
    with pytest.raises(Killed):
        label_all()
    monkeypatch.undo()
    label_all()
    assert ids(tmp_path) + ids(tmp_path, "rejects") == sorted(r["id"] for r in rows if not r["reason"]) + sorted(
        r["id"] for r in rows if r["reason"]
    )


def test_rejects_of_the_scan_do_not_make_their_ids_done(tmp_path: Path) -> None:
    with LabelSink(Store(str(tmp_path)), IDENTITY) as sink:
        sink.add(table(rejected("train", "a", "duplicate", "", "")))
        sink.commit(scan=True)
    with LabelSink(Store(str(tmp_path)), IDENTITY) as sink:
        assert sink.scanned
        assert sink.tally.rejected == {"duplicate": 1}
        assert not contains(sink.done["train"], id_keys(["a"]))[0]


def test_unfinished_labels_of_other_settings_are_refused(tmp_path: Path) -> None:
    with LabelSink(Store(str(tmp_path)), IDENTITY):
        pass
    with pytest.raises(UserError, match="teacher differ"), LabelSink(Store(str(tmp_path)), {"teacher": "vllm"}):
        pass


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    with (
        LabelSink(Store(str(tmp_path)), IDENTITY),
        pytest.raises(UserError, match="another process is labelling"),
        LabelSink(Store(str(tmp_path)), IDENTITY),
    ):
        pass


def test_content_is_the_same_in_any_order_and_changes_with_a_label() -> None:
    one, two = accepted("a"), accepted("b")
    split = Tally()
    split.add(Tally.of(table(two)))
    split.add(Tally.of(table(one)))
    assert Tally.of(table(one, two)).content == split.content
    assert Tally.of(table(one, {**two, "label": "2"})).content != split.content


def test_the_index_finds_exactly_its_ids() -> None:
    index = sort_keys(id_keys([f"id-{i}" for i in range(0, 2000, 2)]))
    assert index.nbytes == 16 * 1000
    found = contains(index, id_keys([f"id-{i}" for i in range(2000)]))
    assert found.tolist() == [i % 2 == 0 for i in range(2000)]
    assert not contains(np.empty((0, 2), dtype=np.uint64), id_keys(["a"])).any()
