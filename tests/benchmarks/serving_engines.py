"""Runtimes for encoder-decoder students on a CPU: tokens/s with the same weights, prompts and lengths, in one run.

Greedy texts of exactly `--tokens` tokens; the median of `--rounds`. `same` is the share of texts equal to transformers in float32.
OpenVINO and ONNX Runtime need their own environment (`--peer PYTHON`): some versions of their exporters exclude transformers 5.

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

Generate = Callable[[list[str]], list[tuple[int, ...]]]
"""Texts -> generated token ids, without the start token."""


def transformers_runtime(folder: Path, tokens: int, dtype: str, **options: Any) -> Generate:
    """`generate` with its default cache."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def generate(texts: list[str]) -> list[tuple[int, ...]]:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(
                **batch, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, num_beams=1, **options
            )
        return [tuple(row[1:].tolist()) for row in output]

    return generate


def ctranslate2_runtime(folder: Path, tokens: int, weights: str, threads: int) -> Generate:
    """CTranslate2, as in the endpoint."""
    from pipelines.students.decoding import GenerationRequest
    from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student

    engine = Ctranslate2Student.open(folder, weights=weights, threads=threads)
    return lambda texts: [output.ids for output in engine.write([GenerationRequest(text, tokens) for text in texts])]


def measure(name: str, generate: Generate, texts: list[str], sizes: list[int], rounds: int) -> dict[str, Any]:
    """Tokens/s at each batch size."""
    row: dict[str, Any] = {"runtime": name}
    outputs: list[tuple[int, ...]] = []
    for size in sizes:
        generate(texts[:size])
        rates = []
        for _ in range(rounds):
            begin = time.perf_counter()
            outputs = generate(texts[:size])
            rates.append(sum(map(len, outputs)) / (time.perf_counter() - begin))
        row[f"batch {size}"] = median(rates)
    return {**row, "outputs": outputs}


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
    runtimes: dict[str, Callable[[], Generate]] = {
        "transformers float32": lambda: transformers_runtime(folder, options.tokens, "float32"),
        "transformers bfloat16": lambda: transformers_runtime(folder, options.tokens, "bfloat16"),
        "transformers bfloat16, static cache": lambda: transformers_runtime(
            folder, options.tokens, "bfloat16", cache_implementation="static"
        ),
        "CTranslate2 float32": lambda: ctranslate2_runtime(folder, options.tokens, "float32", options.threads),
        "CTranslate2 int8": lambda: ctranslate2_runtime(folder, options.tokens, "int8", options.threads),
    }
    rows = [measure(name, make(), texts, options.sizes, options.rounds) for name, make in runtimes.items()]
    if options.peer:
        job = {
            "folder": str(folder), "texts": texts, "sizes": options.sizes, "tokens": options.tokens,
            "rounds": options.rounds, "threads": options.threads,
        }  # fmt: skip
        script = Path(__file__).parent / "peers/optimum_t5.py"
        done = subprocess.run(
            [options.peer, str(script)], input=json.dumps(job), capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
        for line in done.stdout.splitlines():
            if line.startswith("skipped: "):
                print(line, file=sys.stderr)
        rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    reference = [tuple(ids) for ids in rows[0]["outputs"]]
    for row in rows:
        outputs = [tuple(ids)[: options.tokens] for ids in row.pop("outputs")]
        row["same"] = sum(a == b for a, b in zip(outputs, reference, strict=True)) / len(reference)
    publish("serving_engines", rows, tokens=options.tokens, threads=options.threads)


if __name__ == "__main__":
    main()
