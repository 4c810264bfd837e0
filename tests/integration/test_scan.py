"""The scan on real Ray over many splits rejects the same rows as a plain loop."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.data.near_duplicates import NearDuplicates, signature
from pipelines.data.reader import corpus_files, corpus_splits
from pipelines.label.engines.dataset import ExampleReader
from pipelines.label.output.id_index import id_keys, key_set
from pipelines.label.scan import Corpus, scan_corpus
from pipelines.recipes.word_problems import train_rows
from pipelines.tasks import task_spec
from tests.support.corpora import write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SPEC = task_spec("arithmetic", {})
NOBODY = id_keys([])


def rows_with_trouble() -> list[dict[str, Any]]:
    """3,000 rows: an unreadable row with the id of a good one, repeated ids and repeated texts."""
    draw = random.Random(7)
    rows: list[dict[str, Any]] = [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(2900, seed=1))]
    rows += [{**draw.choice(rows[:2000]), "id": f"again{i}"} for i in range(40)]
    rows += [{**rows[i], "input": f"Another text {i}, with words of its own."} for i in (5, 5, 9, 2400)]
    draw.shuffle(rows)
    rows.insert(3, {"id": "r77", "input": None})
    return rows


def expected(rows: list[dict[str, Any]], threshold: float | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"bad_input": [], "duplicate": [], "near_duplicate": []}
    seen: set[str] = set()
    kept = NearDuplicates(threshold or 0.5)
    for position, row in enumerate(rows):
        if row["input"] is None:
            found["bad_input"].append(row["id"])
        elif row["id"] in seen:
            found["duplicate"].append(row["id"])
        else:
            seen.add(row["id"])
            if threshold and kept.earlier(position, signature(row["input"])) is not None:
                found["near_duplicate"].append(row["id"])
    return {reason: sorted(ids) for reason, ids in found.items() if ids}


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_the_scan_of_many_splits_rejects_what_a_loop_would(
    ray_here: None, tmp_path: Path, threshold: float | None
) -> None:
    rows = rows_with_trouble()
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    splits = corpus_splits(corpus_files(path, "corpus.train"), "train", parallelism=1000)
    assert len(splits) > 4
    tables: list[pa.Table] = []
    scan = scan_corpus(Corpus(splits, SPEC, {}, threshold), tables.append)
    rejects = pa.concat_tables(tables).to_pylist()
    wanted = expected(rows, threshold)
    assert {reason: sorted(r["id"] for r in rejects if r["reason"] == reason) for reason in wanted} == wanted
    assert len(rejects) == sum(map(len, wanted.values())) == len(scan.rejected)
    assert scan.rows == {"train": len(rows), "heldout": 0}
    if threshold:
        assert len(wanted["near_duplicate"]) >= 40
        assert all(r["detail"].startswith("it nearly repeats ") for r in rejects if r["reason"] == "near_duplicate")

    done = {"train": key_set(iter([id_keys(["r1", "r2"])]), 2), "heldout": NOBODY}
    reader = ExampleReader(splits, SPEC, {}, scan.rejected, done)
    left = [row for index in range(len(splits)) for block in reader.blocks(index) for row in block.to_pylist()]
    names = [row["id"] for row in left]
    assert len(names) == len(set(names)) == len(rows) - len(rejects) - 2
    first = {row["id"]: row["input"] for row in reversed(rows) if row["input"] is not None}
    assert all(row["input"] == first[row["id"]] for row in left), "of several rows with one id, the first is labelled"
