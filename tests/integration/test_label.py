"""Labelling with the command on real Ray and a real vLLM engine."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.data.schema import LABEL
from pipelines.runtime.cpus import computes_bf16
from tests.support.commands import raystill, succeed
from tests.support.local_ray import shared_environment

pytestmark = pytest.mark.integration


def test_vllm_labels_are_complete_and_open_everywhere(run_file: Path, tmp_path: Path) -> None:
    import datasets
    import pandas

    few = ["label", str(run_file), "--set", "corpus.limit=16"]
    summary = succeed(*few, env=shared_environment())["stages"][0]
    out = tmp_path / "out"
    counts = summary["counts"]
    assert counts["read"] == 16 == counts["accepted"] + counts["rejected"]
    assert (counts["heldout"]["read"], counts["accepted"] > 8) == (12, True)
    labels = pq.read_table(out / "labels/data")
    ids = [
        i
        for part in out.glob("labels/*/*.parquet")
        if part.parent.name in ("data", "rejects")
        for i in pq.read_table(part)["id"].to_pylist()
    ]
    assert len(set(ids)) == len(ids) == 16
    assert labels.schema.equals(LABEL)
    assert min(labels["prompt_tokens"].to_pylist()) > 100
    assert summary["tokens"]["output"] >= sum(labels["output_tokens"].to_pylist()) > 0
    record = json.loads((out / "labels/manifest.json").read_text())
    assert record["details"]["teacher"]["engine"] == "vllm"
    dtype = "bfloat16" if computes_bf16() else "float32"
    assert record["details"]["dtypes"] == {dtype: sum(record["details"]["nodes"].values())}
    assert {"ray", "transformers", "pyarrow"} < set(record["versions"])
    opened = datasets.load_dataset(str(out / "labels"), cache_dir=str(out / "cache"))["train"]
    assert (opened.num_rows, opened.column_names) == (counts["accepted"], LABEL.names)
    assert list(pandas.read_parquet(out / "labels/data").columns) == LABEL.names

    again = succeed(*few, env=shared_environment())["stages"][0]
    assert (again["reused"], again["fingerprint"]) == (True, summary["fingerprint"])

    changed = raystill(*few, "--set", "teacher.sampling.max_tokens=40")
    assert changed.returncode == 2
    assert "teacher.sampling.max_tokens: 48 -> 40" in changed.stderr
