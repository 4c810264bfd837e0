"""Reference endpoint: FastAPI around transformers' `generate`, one request at a time.

Computes in bf16 on a GPU, or if the CPU has instructions for it, otherwise in float32.

python -m tests.benchmarks.peers.plain_server STUDENT --port 8001 --max-new-tokens 16
"""

import argparse
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from pipelines.runtime.cpus import computes_bf16


class TextBody(BaseModel):
    text: str


def create(folder: str, max_new_tokens: int, gpu: bool) -> FastAPI:
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    dtype = torch.bfloat16 if gpu or computes_bf16() else torch.float32
    model = kind.from_pretrained(folder, dtype=dtype).to("cuda" if gpu else "cpu").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Concurrent requests in torch only compete for cores.
    one_at_a_time = threading.Lock()
    app = FastAPI()

    @app.post("/generate")
    def generate(body: TextBody) -> dict[str, Any]:
        inputs = tokenizer(body.text, return_tensors="pt").to(model.device)
        with one_at_a_time, torch.inference_mode():
            limits = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
            output = model.generate(**inputs, **limits, do_sample=False)
        generated = output[0] if config.is_encoder_decoder else output[0, inputs["input_ids"].shape[1] :]
        text = tokenizer.decode(generated, skip_special_tokens=True)
        return {"text": text, "tokens": len(generated), "dtype": str(dtype).removeprefix("torch.")}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    uvicorn.run(create(options.student, options.max_new_tokens, options.gpu), port=options.port, log_level="warning")
