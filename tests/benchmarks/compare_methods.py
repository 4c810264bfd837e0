"""The paper's experiment at equal budgets: `raystill compare` on recorded outputs of PaLM 540B with a pretrained student.

The recordings have no test split. A share of the rows, selected by the hash of their ids, is held out from labelling and training. A
tenth of the rest is the validation split. The default student is SmolLM2-135M-Instruct; every cell takes equally many steps.

    python -m tests.benchmarks.compare_methods DATA OUTPUT --dataset cqa --set compare.seeds='[0,1,2]'

The same command resumes a killed run. The report is OUTPUT/compare/report.html.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.trained import Dataset, recorded

TEST_SHARES = {"cqa": 0.125, "svamp": 0.25}
METHODS = ["finetune", "task-distillation", "step-by-step", "label-then-rationale"]


def is_test(example_id: str, share: float) -> bool:
    """True if the hash of its id puts a row into the test split."""
    bucket = int.from_bytes(hashlib.sha256(f"test:{example_id}".encode()).digest()[:8], "big")
    return bucket < share * 2**64


def carve(dataset: Dataset, rows: int | None, folder: Path) -> dict[str, Path]:
    """The first rows of the corpus as train.jsonl and test.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = dataset.corpus.read_text(encoding="utf-8").splitlines()[:rows]
    files = {"train": folder / "train.jsonl", "test": folder / "test.jsonl"}
    share = TEST_SHARES[dataset.name]
    for name, file in files.items():
        kept = [line for line in lines if is_test(json.loads(line)["id"], share) == (name == "test")]
        file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return files


def main() -> None:
    from cluster.commands.compare import run_comparison
    from pipelines.students.embedded_teacher import embedded_teacher

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dataset", choices=sorted(TEST_SHARES), default="svamp")
    parser.add_argument("--rows", type=int, help="number of rows (default: all)")
    parser.add_argument("--model", help="student: hub id or folder")
    parser.add_argument("--steps", type=int, default=300)
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
            "workers": 1, "gpus_per_worker": int(options.gpu), "zero_stage": 0, "precision": "bf16", "steps": options.steps,
            "tokens_per_batch": 1024, "learning_rate": 3e-4, "max_input_tokens": 256, "max_target_tokens": 128,
        },
        "evaluation": {"gpus_per_worker": int(options.gpu), "max_new_tokens": 16},
        "compare": {"methods": METHODS, "fractions": [1.0], "seeds": [0, 1, 2, 3, 4]},
    }  # fmt: skip
    file = output / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    run_comparison(str(file), tuple(options.overrides), as_json=False, verbose=False)


if __name__ == "__main__":
    main()
