"""Which runtime an encoder-decoder student should be served with on a CPU: tokens/s of each, same weights, prompts and lengths, in one run.

Texts of exactly `--tokens` tokens, greedy; the median of `--rounds`. `same`: share of texts equal to transformers in float32.
CTranslate2 and transformers are measured here; OpenVINO and ONNX Runtime in an environment of their own (`--peer PYTHON`), since their
exporters and transformers 5 exclude each other in some versions.

    python -m tests.benchmarks.serving_engines DATA OUTPUT --peer /path/to/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.results import median, publish
from tests.benchmarks.students import questions, student

Write = Callable[[list[str]], list[tuple[int, ...]]]
"""Texts -> the tokens that were written, without what a model starts with."""


def transformers_writer(folder: Path, tokens: int, dtype: str, **options: Any) -> Write:
    """`generate` as it comes, with its cache."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def write(texts: list[str]) -> list[tuple[int, ...]]:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(
                **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, num_beams=1, **options
            )
        return [tuple(row[1:].tolist()) for row in output]

    return write


def converted_writer(folder: Path, tokens: int, weights: str, threads: int) -> Write:
    """CTranslate2, as the endpoint has it."""
    from pipelines.students.decoding import GenerationRequest
    from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student

    found = Ctranslate2Student.open(folder, weights=weights, threads=threads)
    return lambda texts: [written.ids for written in found.write([GenerationRequest(text, tokens) for text in texts])]


def measure(name: str, write: Write, texts: list[str], sizes: list[int], rounds: int) -> dict[str, Any]:
    """Tokens/s at each batch size."""
    row: dict[str, Any] = {"runtime": name}
    written: list[tuple[int, ...]] = []
    for size in sizes:
        write(texts[:size])
        rates = []
        for _ in range(rounds):
            began = time.perf_counter()
            written = write(texts[:size])
            rates.append(sum(map(len, written)) / (time.perf_counter() - began))
        row[f"batch {size}"] = median(rates)
    return {**row, "written": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--peer", help="Python with optimum[openvino] or optimum[onnxruntime]")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    folder = student("t5-small-shape", options.output)
    texts = questions(options.data, max(options.sizes))
    writers: dict[str, Callable[[], Write]] = {
        "transformers float32": lambda: transformers_writer(folder, options.tokens, "float32"),
        "transformers bfloat16": lambda: transformers_writer(folder, options.tokens, "bfloat16"),
        "transformers bfloat16, static cache": lambda: transformers_writer(
            folder, options.tokens, "bfloat16", cache_implementation="static"
        ),
        "CTranslate2 float32": lambda: converted_writer(folder, options.tokens, "float32", options.threads),
        "CTranslate2 int8": lambda: converted_writer(folder, options.tokens, "int8", options.threads),
    }
    rows = [measure(name, make(), texts, options.sizes, options.rounds) for name, make in writers.items()]
    if options.peer:
        asked = {
            "folder": str(folder), "texts": texts, "sizes": options.sizes, "tokens": options.tokens,
            "rounds": options.rounds, "threads": options.threads,
        }  # fmt: skip
        script = Path(__file__).parent / "peers/optimum_t5.py"
        done = subprocess.run(
            [options.peer, str(script)], input=json.dumps(asked), capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
        for line in done.stdout.splitlines():
            if line.startswith("left out: "):
                print(line, file=sys.stderr)
        rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    reference = [tuple(ids) for ids in rows[0]["written"]]
    for row in rows:
        written = [tuple(ids)[: options.tokens] for ids in row.pop("written")]
        row["same"] = sum(a == b for a, b in zip(written, reference, strict=True)) / len(reference)
    publish("serving_engines", rows, tokens=options.tokens, threads=options.threads)


if __name__ == "__main__":
    main()
