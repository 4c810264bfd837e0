"""The paper's experiment: `raystill compare` on recorded outputs of PaLM 540B with a pretrained student.

The recordings have no test split. A quarter of the rows, selected by the hash of their ids, is held out from labelling and training.
A tenth of the rest is the validation split, which selects the settings. The default student is SmolLM2-135M-Instruct.

    python -m tests.benchmarks.compare_methods DATA OUTPUT --dataset svamp --epochs 5 --set compare.seeds='[0,1,2]'

The same command resumes a killed run. The report is OUTPUT/compare/report.html.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.trained import Dataset, recorded

TEST_SHARE = 0.25
METHODS = ["finetune", "task-distillation", "step-by-step", "rationale-then-label"]


def is_test(example_id: str) -> bool:
    """True if the hash of its id puts a row into the test split."""
    bucket = int.from_bytes(hashlib.sha256(f"test:{example_id}".encode()).digest()[:8], "big")
    return bucket < TEST_SHARE * 2**64


def carve(dataset: Dataset, rows: int | None, folder: Path) -> dict[str, Path]:
    """The first rows of the corpus as train.jsonl and test.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = dataset.corpus.read_text(encoding="utf-8").splitlines()[:rows]
    files = {"train": folder / "train.jsonl", "test": folder / "test.jsonl"}
    for name, file in files.items():
        kept = [line for line in lines if is_test(json.loads(line)["id"]) == (name == "test")]
        file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return files


def main() -> None:
    from cluster.commands.compare import run_comparison
    from pipelines.students.embedded_teacher import embedded_teacher

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dataset", choices=["svamp", "cqa"], default="svamp")
    parser.add_argument("--rows", type=int, help="number of rows (default: all)")
    parser.add_argument("--model", help="student: hub id or folder")
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    dataset = recorded(options.data)[options.dataset]
    output = options.output.absolute()
    files = carve(dataset, options.rows, output / "corpus")
    run: dict[str, Any] = {
        "name": f"{dataset.name}-palm-540b", "output": str(output), "task": dataset.task,
        "corpus": {"train": str(files["train"]), "test": str(files["test"]), "validation": 0.1},
        "teacher": {"engine": "replay", "outputs": str(dataset.outputs)},
        "labelling": {"max_reject_share": 1.0},
        "student": {"model": options.model or str(embedded_teacher()), "labels": "gold"},
        "training": {
            "workers": 1, "gpus_per_worker": int(options.gpu), "zero_stage": 0, "precision": "bf16", "epochs": options.epochs,
            "tokens_per_batch": 4096 if options.gpu else 1024, "tokens_per_micro_batch": 16384 if options.gpu else 2048,
            "learning_rate": 2e-4, "max_input_tokens": 512, "max_target_tokens": 256,
        },
        "evaluation": {"gpus_per_worker": int(options.gpu), "batch_size": 128 if options.gpu else 32},
        "compare": {
            "methods": METHODS, "fractions": [0.25, 1.0], "seeds": [0, 1, 2] if options.gpu else [0],
            "search": {"trials": 2, "fraction": 0.25, "learning_rate": [1e-4, 4e-4], "weight": [0.3, 0.7]},
        },
    }  # fmt: skip
    file = output / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    run_comparison(str(file), tuple(options.overrides), as_json=False, verbose=False)


if __name__ == "__main__":
    main()
