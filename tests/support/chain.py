"""A run whose corpus and artifacts are in a bucket, and its outcomes."""

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from botocore.exceptions import ClientError

from tests.support.object_store import Bucket, Server
from tests.support.tiny_runs import label_rows, make_model, write_labels

HELD_OUT = 40
Note = Callable[..., None]
"""Records figures (a fixture of tests/faults)."""
TRAINING = {
    "workers": 2, "placement": "spread", "zero_stage": 2, "precision": "fp32", "epochs": 2, "tokens_per_batch": 4000,
    "tokens_per_micro_batch": 2000, "learning_rate": 1e-3, "max_input_tokens": 40, "max_target_tokens": 20,
}  # fmt: skip
SERVING = {
    "replicas": {"min": 2, "max": 2}, "ingress_replicas": 2, "max_replicas_per_node": 1, "engine": "transformers", "max_new_tokens": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """A run over small sums: `echo` labels `rows` rows, and a tiny student with random weights learns them."""

    file: Path
    bucket: Bucket
    rows: int

    @property
    def student(self) -> str:
        return self.bucket.uri("out/student")

    def manifest(self, artifact: str) -> dict[str, Any]:
        return dict(json.loads(self.bucket.get(f"out/{artifact}/manifest.json")))

    def is_finished(self, artifact: str) -> bool:
        return bool(self.bucket.keys(f"out/{artifact}/manifest.json"))

    def commits(self) -> int:
        """Number of commits, including the scan's."""
        return len(self.bucket.keys("out/labels/commits/0"))

    def checkpoints(self) -> int:
        """Number of checkpoints that Ray Train knows."""
        for key in self.bucket.keys("out/training/"):
            if key.endswith("checkpoint_manager_snapshot.json"):
                try:
                    return len(json.loads(self.bucket.get(key) or b"{}").get("checkpoint_results", []))
                except ClientError:  # it is being replaced
                    return 0
        return 0

    def outcomes(self) -> Counter[str]:
        parts = [key for key in self.bucket.keys("out/labels/") if key.endswith(".parquet")]
        return Counter(i for part in parts for i in pq.read_table(io.BytesIO(self.bucket.get(part)))["id"].to_pylist())

    def lost_and_doubled(self) -> tuple[int, int]:
        """(rows without an outcome, rows with more than one)."""
        found = self.outcomes()
        return self.rows + HELD_OUT - len(found), sum(count > 1 for count in found.values())


def write_chain(
    folder: Path, bucket: Bucket, rows: int, task: str = "arithmetic", **sections: Mapping[str, Any]
) -> Chain:
    """A run with its corpus in the bucket. Run file, task and model are in the folder, as in an image."""
    for seed, (name, count) in enumerate({"train": rows, "test": HELD_OUT}.items()):
        examples = [
            {"id": f"{name}-{i}", "input": row["input"], "label": row["gold"]}
            for i, row in enumerate(label_rows(count, seed=seed))
        ]
        if name == "test":  # texts differ from the train rows
            examples = [{**row, "input": row["input"].replace("Anne", "Tom")} for row in examples]
        bucket.put(f"corpus/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in examples).encode())
    tree: dict[str, Any] = {
        "name": "chain",
        "output": bucket.uri("out"),
        "task": task,
        "corpus": {"train": bucket.uri("corpus/train.jsonl"), "test": bucket.uri("corpus/test.jsonl"), "validation": 0.1},
        "teacher": {"engine": "echo", "latency_s": 0.1, "replicas": {"min": 6, "max": 6}, "vllm": {"max_num_seqs": 4}},
        "labelling": {"commit_rows": 200, "commit_every_s": 0.5},
        "student": {"model": make_model("decoder-only", folder / "model"), "method": "step-by-step", "labels": "teacher"},
        "training": TRAINING,
        "evaluation": {"batch_size": 20, "max_new_tokens": 8},
        "serving": SERVING,
    }  # fmt: skip
    for name, section in sections.items():
        tree[name] = {**tree[name], **section}
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return Chain(file, bucket, rows)


def put_labels(folder: Path, bucket: Bucket, rows: int) -> None:
    write_labels(folder, label_rows(rows))
    for file in sorted((folder / "labels").rglob("*")):
        if file.is_file():
            bucket.put(f"out/{file.relative_to(folder)}", file.read_bytes())


def with_student(folder: Path, storage: Server, serving: dict[str, Any] | None = None) -> Chain:
    """A run with a finished student, without training."""
    from tests.support.tiny_students import write_student

    serving = {"host": "0.0.0.0", "keys": "none", **(serving or {})}
    chain = write_chain(folder, storage.bucket(), 10, serving=serving)
    for file in write_student(folder / "student", "decoder-only").iterdir():
        chain.bucket.put(f"out/student/{file.name}", file.read_bytes())
    return chain
