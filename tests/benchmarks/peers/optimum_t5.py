"""OpenVINO and ONNX Runtime through optimum, on an encoder-decoder folder. Started by serving_engines.

Reads a job as JSON from stdin. Prints one JSON line per runtime, or the reason for skipping it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

job = json.load(sys.stdin)


def openvino() -> Any:
    from optimum.intel import OVModelForSeq2SeqLM

    config = {"INFERENCE_NUM_THREADS": str(job["threads"]), "INFERENCE_PRECISION_HINT": "f32"}
    return OVModelForSeq2SeqLM.from_pretrained(job["folder"], export=True, ov_config=config)


def onnxruntime() -> Any:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = job["threads"]
    return ORTModelForSeq2SeqLM.from_pretrained(job["folder"], export=True, session_options=settings)


def main() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["folder"])
    for name, make in {"OpenVINO float32": openvino, "ONNX Runtime float32": onnxruntime}.items():
        try:
            model = make()
        except (ImportError, AttributeError, ValueError, TypeError, RuntimeError, OSError) as error:
            print(f"skipped: {name}: {type(error).__name__}: {error}", flush=True)
            continue
        row: dict[str, Any] = {"runtime": name}
        outputs: list[list[int]] = []
        for size in job["sizes"]:
            rates = []
            for round_ in range(job["rounds"] + 1):
                batch = tokenizer(job["texts"][:size], return_tensors="pt", padding=True, return_token_type_ids=False)
                begin = time.perf_counter()
                output = model.generate(
                    **batch,
                    max_new_tokens=job["tokens"],
                    min_new_tokens=job["tokens"],
                    do_sample=False,
                    num_beams=1,
                )
                if round_:
                    rates.append(size * job["tokens"] / (time.perf_counter() - begin))
                outputs = [line[1:].tolist() for line in output]
            row[f"batch {size}"] = statistics.median(rates)
        print(json.dumps({**row, "outputs": outputs}), flush=True)


main()
