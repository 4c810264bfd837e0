"""Training speed: unpadded tokens/s of `raystill train` against the reference trainer, same model and data, each in its best setting.

Two regimes: as many examples per step as the reference, and a token budget per step. Results are medians of alternating pairs. Labels
are recorded outputs of real teachers in DATA/cqa and DATA/gsm8k; without DATA they are made up. Losses are means of the last steps,
after as many examples.
On CPUs the reference takes the faster of bf16 and fp32, and we `precision: auto`. MFU: train_flops.py / peak FLOPS.

    python -m tests.benchmarks.train_speed [DATA]                                  small models on CPUs
    python -m tests.benchmarks.train_speed [DATA] --gpu --model FOLDER --shape t5-small-shape --rows 6000 --batch 64 --steps 60 \
        --budget 65536 --micro 65536 --compile --peak-tflops 989
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tests.benchmarks import trained
from tests.benchmarks.results import publish
from tests.benchmarks.students import SHAPES, smollm2, student
from tests.benchmarks.train_flops import training_flops
from tests.benchmarks.trained import LEARNING_RATE, command, labels_of, made_up, recorded, stage

_VOCABULARY = 32_000
_LAST_STEPS = 5


def small_models(folder: Path, texts: list[str]) -> dict[str, str]:
    """A T5 of random weights with a tokenizer of the texts, and the embedded teacher's first layers. Larger ones take minutes per step."""
    from transformers import AutoTokenizer, T5Config

    from pipelines.students.embedded_teacher import embedded_teacher

    tokenizer = AutoTokenizer.from_pretrained(embedded_teacher()).train_new_from_iterator(texts, _VOCABULARY)
    T5Config(
        vocab_size=_VOCABULARY, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6, feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder / "t5")  # fmt: skip
    tokenizer.save_pretrained(folder / "t5")
    return {"T5, d 512": str(folder / "t5"), "SmolLM2, 6 layers": str(smollm2(folder / "llama", layers=6))}


def reference(model: str, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The reference in its best precision."""
    arguments = ["tests.benchmarks.reference_trainer", model, str(rows), "--batch", str(options.batch),
                 "--steps", str(options.steps), "--precision"]  # fmt: skip
    found = {
        precision: dict(json.loads(command([*arguments, precision]).strip().splitlines()[-1]))
        | {"precision": precision}
        for precision in options.reference_precisions
    }
    best = max(found, key=lambda precision: found[precision]["tokens_per_s"])
    options.reference_precisions = [best]
    return found[best]


def ours(model: str, labelled: dict[str, Any], options: argparse.Namespace, batch: int, steps: int) -> dict[str, Any]:
    """Train with the command for about `steps` steps of at most `batch` tokens."""
    output = Path(labelled["output"])
    labels = json.loads((output / "labels/manifest.json").read_text())
    random = not list(Path(model).glob("*.safetensors"))
    run = {
        **labelled,
        "student": {"model": model, "init": {"kind": "random" if random else "pretrained"}},
        "training": {
            "workers": 1, "gpus_per_worker": int(options.gpu), "zero_stage": 1 if options.gpu else 0, "precision": "auto",
            "tokens_per_batch": batch, "compile": options.compile, "learning_rate": LEARNING_RATE,
            "tokens_per_micro_batch": min(2 * batch, options.micro),
            "epochs": steps * options.batch / labels["counts"]["accepted"], "max_input_tokens": 512, "max_target_tokens": 512,
        },
    }  # fmt: skip
    training = stage("train", run, output)["details"]["training"]
    shares = {key: training[key] for key in ("padding_share", "data_wait_share", "precision")}
    lines = (output / "student/training.jsonl").read_text().splitlines()
    return {**trained.steps_of(output), **shares, "losses": [json.loads(line)["loss"] for line in lines]}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="recorded outputs (default: made-up rows)")
    parser.add_argument("--model", action="append", help="folder, repeatable (default: small models)")
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES), help="model made for this run, repeatable")
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
    options = parser.parse_args(given)
    options.reference_precisions = ["bf16"] if options.gpu else ["bf16", "fp32"]
    return options


def models_of(options: argparse.Namespace, folder: Path, rows: Path) -> dict[str, str]:
    """Folders by the names of the table."""
    named = {Path(model).name: model for model in options.model or ()}
    named |= {shape: str(student(shape, folder)) for shape in options.shape or ()}
    return named or small_models(folder / f"models of {rows.stem}", _texts(rows))


def main() -> None:
    options = arguments()
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data:
            datasets = [recorded(options.data)[key] for key in options.dataset or ("cqa", "gsm8k")]
        else:
            datasets = [made_up(folder / "made-up rows", options.rows)]
        for dataset in datasets:
            key = dataset.name
            labelled = labels_of(dataset, options.rows, folder / key)
            rows = folder / f"{key}.jsonl"
            trained.reference_rows(folder / key, rows)
            for shape, model in models_of(options, folder, rows).items():
                for pair in range(options.pairs):
                    found = _pair(model, labelled, rows, options)
                    table.append({"data": key, "model": shape, "pair": pair + 1, **found})
                    print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    medians = {
        f"{key}, {shape}: {ratio}": median([r[ratio] for r in table if (r["data"], r["model"]) == (key, shape)])
        for key, shape in dict.fromkeys((row["data"], row["model"]) for row in table)
        for ratio in ("same step ratio", "budget ratio")
    }
    publish("train_speed", table, **medians)


def _texts(rows: Path) -> list[str]:
    return [text for line in rows.read_text().splitlines() for text in json.loads(line).values()]


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
        "data wait": max(same["data_wait_share"], budget["data_wait_share"]), "reference precision": theirs["precision"],
        "precision": same["precision"], "reference loss": fmean(theirs["losses"][-_LAST_STEPS:]),
        "same step loss": fmean(same["losses"][-_LAST_STEPS:]),
    }  # fmt: skip
    if options.peak_tflops:
        targets = theirs["target_tokens_per_example"]
        flops = training_flops(model, theirs["tokens_per_example"] - targets, targets) / theirs["tokens_per_example"]
        share = flops / (options.peak_tflops * 1e12)
        row |= {
            f"{who} MFU": share * found["tokens_per_s"]
            for who, found in (("reference", theirs), ("same step", same), ("budget", budget))
        }
    return row


if __name__ == "__main__":
    main()
