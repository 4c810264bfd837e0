"""Training speed: real (unpadded) tokens/s of `raystill train` against the reference way, same model, data and precision, in one run.

Two regimes: the same number of examples in a step as the reference, and a budget of tokens. Medians of alternating pairs.

    python -m tests.benchmarks.train_speed                                    small shapes, on this machine's CPUs
    python -m tests.benchmarks.train_speed --gpu --model MODEL --rows ROWS.jsonl --batch 64 --steps 100 --budget 65536
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipelines.recipes.word_problems import train_rows
from tests.benchmarks.results import median, publish


def small_models(folder: Path) -> dict[str, str]:
    """A T5 and a Llama shape with random weights and the embedded teacher's tokenizer: on a CPU, large ones take minutes a step."""
    from transformers import AutoTokenizer, LlamaConfig, T5Config

    from cluster.embedded_teacher import embedded_teacher

    tokenizer = AutoTokenizer.from_pretrained(embedded_teacher())
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    shapes = {
        "t5 shape": T5Config(d_model=256, d_kv=64, d_ff=512, num_layers=4, num_heads=4, feed_forward_proj="gated-gelu",
                             decoder_start_token_id=tokenizer.pad_token_id, **common),
        "llama shape": LlamaConfig(hidden_size=256, intermediate_size=640, num_hidden_layers=6, num_attention_heads=4,
                                   num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, **common),
    }  # fmt: skip
    for name, config in shapes.items():
        config.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in shapes}


def reference(model: str, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.reference_trainer", model, str(rows), "--batch", str(options.batch),
               "--steps", str(options.steps)]  # fmt: skip
    return dict(json.loads(_run(command).strip().splitlines()[-1]))


def ours(model: str, rows: Path, options: argparse.Namespace, tokens_per_batch: int, work: Path) -> dict[str, Any]:
    """Label by replay, which is quick, then train as a user does."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    answers = work / "answers.jsonl"
    with rows.open() as source, answers.open("w") as target:
        for row in map(json.loads, source):
            target.write(
                json.dumps({"id": row["id"], "output": f"{row['rationale']} The answer is ({row['label']})."}) + "\n"
            )
    run = {
        "name": "speed", "output": str(work / "out"), "task": "arithmetic",
        "corpus": {"train": str(rows), "validation": 0.0},
        "teacher": {"engine": "replay", "outputs": str(answers)},
        "student": {"model": model, "init": {"kind": "pretrained" if list(Path(model).glob("*.safetensors")) else "random"}},
        "training": {
            "workers": 1, "gpus_per_worker": int(options.gpu), "zero_stage": 0 if not options.gpu else 1,
            "precision": "bf16" if options.gpu else "fp32", "tokens_per_batch": tokens_per_batch,
            "tokens_per_micro_batch": min(tokens_per_batch, options.micro), "epochs": options.epochs,
            "max_input_tokens": 512, "max_target_tokens": 256,
        },
    }  # fmt: skip
    file = work / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as sockets:
        for stage in ("label", "train"):
            _run([sys.executable, "-m", "cluster", stage, str(file)], {"RAY_TMPDIR": sockets})
    manifest = json.loads((work / "out/student/manifest.json").read_text())
    training = manifest["details"]["training"]
    return {"tokens_per_s": training["tokens_per_s"], "steps": training["steps"],
            "step_s": manifest["timings_s"]["steps"] / training["steps"]}  # fmt: skip


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; small shapes where it is not given")
    parser.add_argument(
        "--rows", type=Path, help='JSON Lines of {"id", "input", "label", "rationale"}; generated where not given'
    )
    parser.add_argument("--batch", type=int, default=16, help="examples in a step of the reference")
    parser.add_argument("--steps", type=int, default=30, help="of the reference")
    parser.add_argument("--budget", type=int, default=4096, help="tokens in a step, second regime")
    parser.add_argument("--micro", type=int, default=2048, help="tokens in a micro-batch")
    parser.add_argument("--epochs", type=float, default=1.0, help="of ours")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = options.rows or folder / "rows.jsonl"
        if options.rows is None:
            found = (
                {**row, "rationale": f"{row['input']} So it is {row['label']}."} for row in train_rows(600, seed=1)
            )
            rows.write_text("".join(json.dumps({**row, "id": f"r{i}"}) + "\n" for i, row in enumerate(found)))
        models = {Path(options.model).name: options.model} if options.model else small_models(folder)
        for shape, model in models.items():
            for pair in range(options.pairs):
                theirs = reference(model, rows, options)
                same = round(theirs["tokens_per_example"] * options.batch)
                mine = ours(model, rows, options, same, folder / "work")
                budget = ours(model, rows, options, options.budget, folder / "work")
                table.append({
                    "model": shape, "pair": pair + 1, "reference tok/s": theirs["tokens_per_s"],
                    "same step tok/s": mine["tokens_per_s"], "budget tok/s": budget["tokens_per_s"],
                    "same step ratio": mine["tokens_per_s"] / theirs["tokens_per_s"],
                    "budget ratio": budget["tokens_per_s"] / theirs["tokens_per_s"],
                })  # fmt: skip
                print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    medians = {
        f"{shape}: {key}": median([row[key] for row in table if row["model"] == shape])
        for shape in dict.fromkeys(row["model"] for row in table)
        for key in ("same step ratio", "budget ratio")
    }
    publish("train_speed", table, **medians)


if __name__ == "__main__":
    main()
