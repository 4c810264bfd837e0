"""OpenVINO and ONNX Runtime through optimum, whichever is installed, on an encoder-decoder folder. Asked by serving_engines.
Task on stdin as JSON, one JSON line for each runtime on stdout, or why it is left out."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

asked = json.load(sys.stdin)


def openvino() -> Any:
    from optimum.intel import OVModelForSeq2SeqLM

    config = {"INFERENCE_NUM_THREADS": str(asked["threads"]), "INFERENCE_PRECISION_HINT": "f32"}
    return OVModelForSeq2SeqLM.from_pretrained(asked["folder"], export=True, ov_config=config)


def onnxruntime() -> Any:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = asked["threads"]
    return ORTModelForSeq2SeqLM.from_pretrained(asked["folder"], export=True, session_options=settings)


def main() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(asked["folder"])
    for name, make in {"OpenVINO float32": openvino, "ONNX Runtime float32": onnxruntime}.items():
        try:
            model = make()
        except (ImportError, AttributeError, ValueError, TypeError, RuntimeError, OSError) as error:
            print(f"left out: {name}: {type(error).__name__}: {error}", flush=True)
            continue
        row: dict[str, Any] = {"runtime": name}
        written: list[list[int]] = []
        for size in asked["sizes"]:
            rates = []
            for round_ in range(asked["rounds"] + 1):
                batch = tokenizer(asked["texts"][:size], return_tensors="pt", padding=True, return_token_type_ids=False)
                began = time.perf_counter()
                output = model.generate(
                    **batch,
                    max_new_tokens=asked["tokens"],
                    min_new_tokens=asked["tokens"],
                    do_sample=False,
                    num_beams=1,
                )
                if round_:
                    rates.append(size * asked["tokens"] / (time.perf_counter() - began))
                written = [line[1:].tolist() for line in output]
            row[f"batch {size}"] = statistics.median(rates)
        print(json.dumps({**row, "written": written}), flush=True)


main()
