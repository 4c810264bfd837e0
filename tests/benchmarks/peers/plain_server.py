"""The endpoint that one writes in an afternoon: FastAPI around transformers' `generate`, a request at a time, in bf16
where the CPU has instructions for it and in float32 where not: the faster of the two.

python -m tests.benchmarks.peers.plain_server STUDENT --port 8001 --max-new-tokens 16
"""

from __future__ import annotations

import argparse
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from pipelines.runtime.cpus import computes_bf16


class Asked(BaseModel):
    text: str


def create(folder: str, max_new_tokens: int) -> FastAPI:
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    dtype = torch.bfloat16 if computes_bf16() else torch.float32
    model = kind.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Two requests in torch at once would only take each other's cores.
    one_at_a_time = threading.Lock()
    app = FastAPI()

    @app.post("/generate")
    def generate(asked: Asked) -> dict[str, Any]:
        inputs = tokenizer(asked.text, return_tensors="pt")
        with one_at_a_time, torch.inference_mode():
            output = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        written = output[0] if config.is_encoder_decoder else output[0, inputs["input_ids"].shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True)
        return {"text": text, "tokens": len(written), "dtype": str(dtype).removeprefix("torch.")}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    given = parser.parse_args()
    uvicorn.run(create(given.student, given.max_new_tokens), port=given.port, log_level="warning")
