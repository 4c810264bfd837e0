"""A decoder-only student is a plain checkpoint: vLLM loads it and generates the same texts."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.local_ray import local_ray
from tests.support.tiny_runs import label_rows, make_run, write_labels

pytestmark = [
    pytest.mark.integration, pytest.mark.deepspeed, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(400),
]  # fmt: skip

PLAIN = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompts = json.load(sys.stdin)
llm = LLM(model=folder, dtype="float32", max_model_len=256, enforce_eager=True)
outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=8, logprobs=1), use_tqdm=False)
answers = [output.outputs[0] for output in outputs]
print("LABELS " + json.dumps([[answer.text.strip(), answer.cumulative_logprob] for answer in answers]))
"""


def test_a_decoder_only_student_is_loaded_by_plain_vllm(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from pipelines.students.decoding import Student
    from pipelines.train.stage import train
    from tests.support.tiny_students import tiny_tokenizer

    tokenizer = tiny_tokenizer("decoder-only")
    model = tmp_path / "model"
    tokenizer.save_pretrained(model)
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256,
    ).save_pretrained(model)  # fmt: skip
    write_labels(tmp_path, label_rows(200))
    student = {"model": str(model), "init": {"kind": "random"}}
    training = {"max_input_tokens": 160, "max_target_tokens": 64, "tokens_per_batch": 4000, "tokens_per_micro_batch": 4000,
                "epochs": 6}  # fmt: skip
    with local_ray():
        train(make_run(tmp_path, str(model), student=student, training=training))
    inputs = [row["input"] for row in label_rows(100, seed=9)]
    job = json.dumps([str(tmp_path / "student"), [f"[label] {text}\n" for text in inputs]])
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PLAIN], input=job, capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("LABELS "))[7:])
    here = Student.load(tmp_path / "student").answer(inputs, "label", 8)
    assert sum(one.text == text for one, (text, _) in zip(here, found, strict=True)) >= 99
    # A tiny student gives similar answers to all inputs; only its confidence differs.
    assert len({f"{one.confidence:.3e}" for one in here}) > 50
    near = [
        one.confidence == pytest.approx(math.exp(found_log), rel=1e-2)
        for one, (_, found_log) in zip(here, found, strict=True)
    ]
    assert sum(near) >= 99
