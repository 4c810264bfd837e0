"""Labelling with the command on real Ray and a real vLLM engine."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.data.schema import LABEL
from pipelines.runtime.cpus import computes_bf16
from tests.support.commands import raystill, succeed
from tests.support.local_ray import shared_environment

pytestmark = pytest.mark.integration


def manifest(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "labels/manifest.json").read_text()))


def ids(out: Path) -> Counter[str]:
    parts = [*out.glob("labels/data/*.parquet"), *out.glob("labels/rejects/*.parquet")]
    return Counter(i for part in parts for i in pq.read_table(part)["id"].to_pylist())


@pytest.mark.vllm
def test_vllm_labels_are_complete_and_open_everywhere(run_file: Path, tmp_path: Path) -> None:
    few = ["label", str(run_file), "--set", "corpus.limit=16"]
    summary = succeed(*few, env=shared_environment())["stages"][0]
    out = tmp_path / "out"
    counts = summary["counts"]
    assert counts["read"] == 16 == counts["accepted"] + counts["rejected"]
    assert counts["heldout"]["read"] == 12
    assert counts["accepted"] > 8
    assert set(ids(out).values()) == {1}
    labels = pq.read_table(out / "labels/data")
    assert labels.schema.equals(LABEL)
    assert min(labels["prompt_tokens"].to_pylist()) > 100
    assert summary["tokens"]["output"] >= sum(labels["output_tokens"].to_pylist()) > 0
    record = manifest(out)
    assert record["details"]["teacher"]["engine"] == "vllm"
    assert record["details"]["dtypes"] == {
        "bfloat16" if computes_bf16() else "float32": sum(record["details"]["nodes"].values())
    }
    assert {"ray", "transformers", "pyarrow"} < set(record["versions"])
    _opens_in_datasets_and_pandas(out, counts["accepted"])

    again = succeed(*few, env=shared_environment())["stages"][0]
    assert (again["reused"], again["fingerprint"]) == (True, summary["fingerprint"])

    changed = raystill(*few, "--set", "teacher.sampling.max_tokens=40")
    assert changed.returncode == 2
    assert "teacher.sampling.max_tokens: 48 -> 40" in changed.stderr


def _opens_in_datasets_and_pandas(out: Path, accepted: int) -> None:
    import datasets
    import pandas

    opened = datasets.load_dataset(str(out / "labels"), cache_dir=str(out / "cache"))["train"]
    assert opened.num_rows == accepted
    assert opened.column_names == LABEL.names
    assert list(pandas.read_parquet(out / "labels/data").columns) == LABEL.names


def test_a_hostile_corpus_becomes_rejects(run_file: Path, tmp_path: Path) -> None:
    good = (tmp_path / "train.jsonl").read_bytes()
    first = good.splitlines(keepends=True)[0]
    bad = (
        b"\xff\xfe\n{oops\n"
        + b'{"id": "null", "input": null}\n'
        + b'{"id": "long", "input": "'
        + b"x " * 500_000
        + b'"}\n'
    )
    (tmp_path / "train.jsonl").write_bytes(good + bad + first)
    echo = ("--set", "teacher={engine: echo}")
    counts = succeed("label", str(run_file), *echo, env=shared_environment())["stages"][0]["counts"]
    assert counts["read"] == 45
    assert counts["accepted"] == 40
    assert counts["rejected_by_reason"] == {"bad_input": 4, "duplicate": 1}
    assert counts["gold"] == {"with_gold": 40, "agreeing": 40}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("corpus.train=nowhere.jsonl", "nowhere.jsonl: there is no such file or folder"),
        ("teacher.model=tests", "the folder has no config.json"),
        ("teacher.gpus_per_replica=64", "the run needs 64 GPUs"),
    ],
)
def test_wrong_input_exits_2_and_writes_nothing(run_file: Path, tmp_path: Path, change: str, message: str) -> None:
    result = raystill("label", str(run_file), "--set", change)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
