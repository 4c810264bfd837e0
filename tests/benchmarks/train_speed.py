"""Training speed: unpadded tokens/s of `raystill train` against the reference trainer, with the same model, data and precision.

Two regimes: as many examples per step as the reference, and a token budget per step. Results are medians of alternating pairs. Labels
are recorded outputs of real teachers in DATA/cqa and DATA/gsm8k. MFU: train_flops.py / peak FLOPS.

    python -m tests.benchmarks.train_speed DATA                                    small models on CPUs
    python -m tests.benchmarks.train_speed DATA --gpu --model FOLDER --model FOLDER --rows 6000 --batch 64 --steps 60 \
        --budget 65536 --micro 65536 --compile --peak-tflops 989
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.results import median, publish
from tests.benchmarks.train_flops import training_flops
from tests.benchmarks.trained import command, labels_of, recorded, reference_rows, save_shapes, stage, steps_of


def small_models(folder: Path) -> dict[str, str]:
    """A T5 and a Llama with random weights and the embedded teacher's tokenizer. On a CPU, large models take minutes per step."""
    from cluster.commands.embedded_teacher import embedded_teacher

    t5 = {"d_model": 256, "d_kv": 64, "d_ff": 512, "num_layers": 4}
    llama = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6}
    return dict(zip(("t5 shape", "llama shape"), save_shapes(folder, str(embedded_teacher()), t5, llama), strict=True))


def reference(model: str, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    arguments = ["tests.benchmarks.reference_trainer", model, str(rows), "--batch", str(options.batch),
                 "--steps", str(options.steps)]  # fmt: skip
    return dict(json.loads(command(arguments).strip().splitlines()[-1]))


def ours(model: str, labelled: dict[str, Any], options: argparse.Namespace, batch: int, steps: int) -> dict[str, Any]:
    """Train with the command for about `steps` steps of at most `batch` tokens."""
    output = Path(labelled["output"])
    labels = json.loads((output / "labels/manifest.json").read_text())
    random = not list(Path(model).glob("*.safetensors"))
    run = {
        **labelled,
        "student": {"model": model, "init": {"kind": "random" if random else "pretrained"}},
        "training": {
            "workers": 1, "gpus_per_worker": int(options.gpu), "zero_stage": 1 if options.gpu else 0,
            "precision": "bf16" if options.gpu else "fp32", "tokens_per_batch": batch, "compile": options.compile,
            "tokens_per_micro_batch": min(2 * batch, options.micro),
            "epochs": steps * options.batch / labels["counts"]["accepted"], "max_input_tokens": 512, "max_target_tokens": 512,
        },
    }  # fmt: skip
    training = stage("train", run, output)["details"]["training"]
    shares = {key: training[key] for key in ("padding_share", "data_wait_share")}
    return {**steps_of(output), **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", help="folder, repeatable (default: small models)")
    parser.add_argument("--dataset", action="append", choices=["cqa", "gsm8k"], help="repeatable (default: both)")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16, help="examples per step of the reference")
    parser.add_argument("--steps", type=int, default=25, help="steps of the reference")
    parser.add_argument("--budget", type=int, default=8192, help="tokens per step, second regime")
    parser.add_argument("--micro", type=int, default=2048, help="padded tokens per micro-batch")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU; adds MFU to the table")
    options = parser.parse_args()
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {Path(m).name: m for m in options.model} if options.model else small_models(folder)
        for key in options.dataset or ("cqa", "gsm8k"):
            labelled = labels_of(recorded(options.data)[key], options.rows, folder / key)
            rows = folder / f"{key}.jsonl"
            reference_rows(folder / key, rows)
            for shape, model in models.items():
                for pair in range(options.pairs):
                    table.append(
                        {"data": key, "model": shape, "pair": pair + 1, **_pair(model, labelled, rows, options)}
                    )
                    print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    medians = {
        f"{key}, {shape}: {ratio}": median([r[ratio] for r in table if (r["data"], r["model"]) == (key, shape)])
        for key, shape in dict.fromkeys((row["data"], row["model"]) for row in table)
        for ratio in ("same step ratio", "budget ratio")
    }
    publish("train_speed", table, **medians)


def _pair(model: str, labelled: dict[str, Any], rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    theirs = reference(model, rows, options)
    same_batch = round(theirs["tokens_per_example"] * options.batch)
    same = ours(model, labelled, options, same_batch, options.steps)
    budget = ours(model, labelled, options, options.budget, options.steps)
    row = {
        "reference tok/s": theirs["tokens_per_s"], "same step tok/s": same["tokens_per_s"], "budget tok/s": budget["tokens_per_s"],
        "same step ratio": same["tokens_per_s"] / theirs["tokens_per_s"],
        "budget ratio": budget["tokens_per_s"] / theirs["tokens_per_s"],
        "reference step s": theirs["step_s"], "same step s": same["step_s"], "padding": budget["padding_share"],
        "data wait": max(same["data_wait_share"], budget["data_wait_share"]),
    }  # fmt: skip
    if options.peak_tflops:
        targets = theirs["target_tokens_per_example"]
        flops = training_flops(model, theirs["tokens_per_example"] - targets, targets) / theirs["tokens_per_example"]
        share = flops / (options.peak_tflops * 1e12)
        row |= {"reference MFU": share * theirs["tokens_per_s"], "budget MFU": share * budget["tokens_per_s"]}
    return row


if __name__ == "__main__":
    main()
