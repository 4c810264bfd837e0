"""Held-out loss of every method on every kind of student, before and after a short training on labels of real teachers.

21 cells: 7 methods x {tiny T5, tiny Llama, SmolLM2-135M}, all with SmolLM2's tokenizer. Labels and rationales are recorded outputs of
PaLM 540B on SVAMP (DATA/svamp). soft-label and token-kd need distributions: SmolLM2 in vLLM answers word problems with three samples
and token log-probabilities.

    python -m tests.benchmarks.train_methods DATA [--rows 260] [--method soft-label]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines.methods import METHODS
from pipelines.recipes.word_problems import train_rows
from tests.benchmarks.results import publish
from tests.benchmarks.trained import labels_of, recorded, save_shapes, stage


def tiny_models(folder: Path, teacher: str) -> dict[str, str]:
    """A T5 and a Llama with random weights and the teacher's tokenizer."""
    t5 = {"d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 2, "dropout_rate": 0.0}
    llama = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3}
    return dict(zip(("tiny T5", "tiny Llama"), save_shapes(folder, teacher, t5, llama), strict=True))


def distributions(folder: Path, teacher: str, rows: int) -> dict[str, Any]:
    """A run whose labels come from SmolLM2 in vLLM."""
    folder.mkdir()
    corpus = folder / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({**row, "id": f"r{i}"}) + "\n" for i, row in enumerate(train_rows(rows, seed=1)))
    )
    run = {
        "name": "methods", "output": str(folder / "out"), "task": "arithmetic",
        "corpus": {"train": str(corpus), "validation": 0.15},
        "teacher": {
            "engine": "vllm", "model": teacher, "sampling": {"n": 3, "temperature": 0.3, "max_tokens": 64},
            "token_logprobs": 20, "vllm": {"max_model_len": 1024, "max_num_seqs": 96},
        },
        "student": {"model": "none"},
    }  # fmt: skip
    counts = stage("label", run, folder / "out")["counts"]
    print(json.dumps(counts), file=sys.stderr, flush=True)
    return run


def main() -> None:
    from cluster.commands.embedded_teacher import embedded_teacher

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=260)
    parser.add_argument("--method", action="append", choices=list(METHODS), help="repeatable (default: all)")
    parser.add_argument("--layers", type=int, help="layers of the third student (default: all)")
    parser.add_argument("--epochs", type=float, default=1.0, help="of the third student; tiny ones: 6 times")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder, teacher = Path(name), str(embedded_teacher())
        runs = {
            # Ties of three samples are rejected, so label twice as many rows.
            True: distributions(folder / "distributions", teacher, 2 * options.rows),
            False: labels_of(recorded(options.data)["svamp"], options.rows, folder / "svamp", validation=0.15),
        }
        students = {**tiny_models(folder, teacher), "SmolLM2-135M": teacher}
        for method in options.method or METHODS:
            for student, model in students.items():
                tiny = model != teacher
                init: dict[str, Any] = {"kind": "random" if tiny else "pretrained"}
                if options.layers and not tiny:
                    init = {"kind": "first-layers", "layers": options.layers}
                run = runs[method in ("soft-label", "token-kd")] | {
                    "student": {"model": model, "init": init, "method": method},
                    "training": {
                        "workers": 1, "zero_stage": 1, "precision": "fp32", "epochs": options.epochs * (6 if tiny else 1),
                        "tokens_per_batch": 2048, "tokens_per_micro_batch": 4096, "learning_rate": 3e-3 if tiny else 1e-4,
                        "max_input_tokens": 512, "max_target_tokens": 128,
                    },
                }  # fmt: skip
                table.append({"method": method, "student": student, **_cell(stage("train", run, Path(run["output"])))})
                print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    publish("train_methods", table, all_fell=all(row["fell"] for row in table))


def _cell(manifest: dict[str, Any]) -> dict[str, Any]:
    validation = manifest["details"]["training"]["loss"]["validation"]
    before, after = validation["before"], validation["after"]
    shown = {term: f"{before[term]:.3f} -> {after[term]:.3f}" for term in before}
    return {
        "train": manifest["counts"]["train_examples"],
        "held out": manifest["counts"]["validation_examples"],
        "held-out loss": ", ".join(f"{term} {values}" for term, values in shown.items()),
        "fell": all(after[term] < before[term] for term in before),
    }


if __name__ == "__main__":
    main()
