"""What does an evaluation cost over its bare engine, and how many invalid labels does constrained decoding prevent?

Two students learn some steps of CommonsenseQA and of made pairs for natural language inference: SmolLM2's first layers (vLLM) and a
small T5 (CTranslate2). Each answers both held-out parts, free and constrained. The bare engine gets all prompts at
once. The endpoint's engine answers the first 200.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.config import EvaluationConfig
from pipelines.methods import read_answer, written_labels
from pipelines.runtime.cpus import inherited, threads_of_each, vllm_threads
from pipelines.scoring.predict import PredictRequest, predict
from pipelines.scoring.predictor import Query
from pipelines.scoring.sources import Trained
from pipelines.students.decoding import Family, encode_prompt, encode_target
from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student
from pipelines.students.decoding.vllm_settings import cpu_environment, engine_arguments
from pipelines.tasks import Example, Task
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.nli import NaturalLanguageInference
from tests.benchmarks.results import publish
from tests.benchmarks.students import finish
from tests.integration.test_scored_as_served import served_answers
from tests.support.local_ray import local_ray

MAX_NEW_TOKENS, BATCH, SERVED = 16, 64, 200
PEOPLE, PLACES = ("man", "woman", "boy", "girl", "child"), ("beach", "station", "garden", "kitchen", "street", "market")
"""Of the made pairs: the same place is an entailment, another one a contradiction, a reason neutral."""


def made_pairs(count: int) -> list[Example]:
    chance, task, rows = random.Random(1), NaturalLanguageInference(), []
    for row in range(count):
        who, (where, other) = chance.choice(PEOPLE), chance.sample(PLACES, 2)
        label = chance.choice(("entailment", "neutral", "contradiction"))
        ends = {
            "entailment": f"is in the {where}",
            "contradiction": f"is in the {other}",
            "neutral": "waits for a friend",
        }
        fields = {"premise": f"A {who} walks through the {where}.", "hypothesis": f"The {who} {ends[label]}."}
        rows.append(task.read({"id": str(row), **fields, "gold": label}))
    return rows


def commonsense(data: Path) -> list[Example]:
    lines = (data / "cqa/train.jsonl").read_text(encoding="utf-8").splitlines()
    task = MultipleChoice()
    rows = [json.loads(line) for line in lines]
    return [task.read({**row, "gold": row["label"]}) for row in rows]


def untrained(family: str) -> tuple[Any, Any]:
    """Model and tokenizer: SmolLM2's first 3 layers, or a random T5 with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

    from cluster.commands.embedded_teacher import embedded_teacher

    torch.manual_seed(0)
    source = embedded_teacher()
    tokenizer = AutoTokenizer.from_pretrained(source)
    if family == "decoder-only":
        return AutoModelForCausalLM.from_pretrained(source, num_hidden_layers=3, dtype=torch.float32), tokenizer
    config = T5Config(
        vocab_size=len(tokenizer), d_model=256, d_kv=32, d_ff=1024, num_layers=3, num_heads=8,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return T5ForConditionalGeneration(config), tokenizer


def padded(rows: Sequence[list[int]], value: int) -> Any:
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def train(family: Family, rows: Sequence[Example], folder: Path, steps: int) -> Path:
    """A student of some steps with 16 examples each."""
    import torch

    model, tokenizer = untrained(family)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4 if family == "decoder-only" else 1e-3)
    chance = random.Random(2)
    for _ in range(steps):
        some = chance.sample(list(rows), 16)
        prompts = [encode_prompt(tokenizer, family, example.input) for example in some]
        targets = [encode_target(tokenizer, str(example.gold)) for example in some]
        if family == "decoder-only":
            ids = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
            labels = [[-100] * len(prompt) + target for prompt, target in zip(prompts, targets, strict=True)]
        else:
            ids, labels = prompts, targets
        mask = padded([[1] * len(one) for one in ids], 0)
        model(input_ids=padded(ids, 0), attention_mask=mask, labels=padded(labels, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return finish(folder)


def bare_seconds(family: str, folder: Path, examples: Sequence[Example]) -> float:
    """Time of the engine for all prompts at once, after a warm-up."""
    if family == "decoder-only":
        from vllm import LLM, SamplingParams

        with inherited({**cpu_environment(1), **vllm_threads(1)}):
            arguments = engine_arguments(
                str(folder), weights="float32", max_tokens=512, sequences=BATCH, gpu_share=None
            )
            llm = LLM(**arguments)
        prompts = [f"{example.input}\n" for example in examples]
        parameters = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
        llm.generate(["4"], parameters, use_tqdm=False)
        began = time.perf_counter()
        llm.generate(prompts, parameters, use_tqdm=False)
        return time.perf_counter() - began
    student = Ctranslate2Student.open(folder, threads=threads_of_each(1))
    began = time.perf_counter()
    tokens = [student.tokenizer.tokenize(example.input) for example in examples]
    student._translator.translate_batch(
        tokens, max_batch_size=BATCH, beam_size=1, max_decoding_length=MAX_NEW_TOKENS, max_input_length=0
    )
    return time.perf_counter() - began


def measure(family: str, folder: Path, parts: Sequence[tuple[str, Task, Sequence[Example]]]) -> list[dict[str, Any]]:
    """One row for each task, free and constrained."""
    bare = {name: bare_seconds(family, folder, examples) for name, _, examples in parts}
    source, requests = Trained(str(folder), sequences=BATCH), []
    for _, task, examples in parts:
        labels = [written_labels("finetune", task, example) for example in examples]
        texts = [example.input for example in examples]
        requests.append(PredictRequest("warm-up", Query(source), texts[:BATCH]))
        requests += [PredictRequest("timed", Query(source, constrained=c), texts, labels) for c in (False, True)]
    with local_ray():
        found = predict(requests, EvaluationConfig(max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH))
    rows = []
    for part, (name, task, examples) in enumerate(parts):
        some = examples[:SERVED]
        served = asyncio.run(
            served_answers(str(folder), some, [written_labels("finetune", task, e) for e in some], MAX_NEW_TOKENS)
        )
        timed = found[3 * part + 1 : 3 * part + 3]
        for kind, answered, by_endpoint in zip(("free", "constrained"), timed, served, strict=True):
            answers = [answer for (answer,) in answered.answers]
            read = [
                read_answer("finetune", answer.text, task, example)
                for answer, example in zip(answers, examples, strict=True)
            ]
            right = [
                one is not None and task.same(one.label, str(example.gold), example)
                for one, example in zip(read, examples, strict=True)
            ]
            rows.append(
                {"task": name, "decoding": kind, "engine": answers[0].engine, "rows": len(answers),
                 "same as served": sum(a.text == b.text for a, b in zip(answers, by_endpoint, strict=False)),
                 "invalid": sum(one is None for one in read), "not in set": sum(not answer.in_set for answer in answers),
                 "accuracy": sum(right) / len(right), "seconds": answered.seconds, "bare engine s": bare[name],
                 "ratio": answered.seconds / bare[name]}
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--families", nargs="+", default=["decoder-only", "encoder-decoder"])
    given = parser.parse_args()
    choices, pairs = commonsense(given.data), made_pairs(4 * given.rows)
    parts: list[tuple[str, Task, Sequence[Example]]] = [
        ("cqa", MultipleChoice(), choices[: given.rows]), ("nli", NaturalLanguageInference(), pairs[: given.rows]),
    ]  # fmt: skip
    rows = []
    for family in given.families:
        folder = given.output / f"{family}-{given.steps}"
        if not (folder / "manifest.json").exists():
            train(family, [*choices[given.rows :], *pairs[given.rows :]], folder, given.steps)
        rows += measure(family, folder, parts)
    publish("evaluate_speed", rows)


if __name__ == "__main__":
    main()
