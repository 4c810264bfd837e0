"""Students for serving benchmarks, and their inputs."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.storage.manifest import manifest_of, write_manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import Family
from tests.support.corpora import train_rows
from tests.support.tiny_students import tiny_model, tiny_tokenizer

MAX_INPUT_TOKENS = 256


def finish(folder: Path) -> Path:
    """Turn a Hugging Face folder into a finished student artifact of the arithmetic task."""
    from transformers import AutoConfig

    task = {"name": "arithmetic", "version": "3", "options": {}, "source": None}
    family = "encoder-decoder" if AutoConfig.from_pretrained(folder).is_encoder_decoder else "decoder-only"
    limits = {"max_input_tokens": MAX_INPUT_TOKENS, "max_target_tokens": 64}
    details = {"method": "finetune", "family": family, "task": task, "parameters": 0, "training": {}, **limits}
    nothing: dict[str, Any] = {name: {} for name in ("config", "counts", "timings_s", "provenance")}
    manifest = manifest_of("student", {"folder": str(folder)}, details=details, **nothing)
    write_manifest(Store(str(folder)), manifest)
    return folder


def t5_small_shape(folder: Path) -> Path:
    """T5-small with random weights (60 million parameters) and the embedded teacher's tokenizer. It never generates an end token."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    from pipelines.students.embedded_teacher import embedded_teacher

    tokenizer = AutoTokenizer.from_pretrained(embedded_teacher())
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    # Random weights would generate the end token first. Without it, every text has the maximum length.
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return finish(folder)


def smollm2(folder: Path, layers: int | None = None) -> Path:
    """The embedded teacher SmolLM2-135M as a student, or its first layers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipelines.students.embedded_teacher import embedded_teacher

    source = embedded_teacher()
    fewer = {} if layers is None else {"num_hidden_layers": layers}
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **fewer).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return finish(folder)


def tiny(folder: Path, family: Family) -> Path:
    """A student with random weights, for a dry run."""
    tokenizer = tiny_tokenizer(family)
    model = tiny_model(family, len(tokenizer), width=128)
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return finish(folder)


SHAPES: dict[str, Callable[[Path], Path]] = {
    "t5-small-shape": t5_small_shape,
    "smollm2-135m": smollm2,
    "tiny-t5": partial(tiny, family="encoder-decoder"),
    "tiny-llama": partial(tiny, family="decoder-only"),
}


def student(name: str, root: Path) -> Path:
    """The folder of a student of SHAPES below `root`, created once."""
    folder = root / name / "student"
    if not (folder / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        SHAPES[name](folder)
    return folder


def questions(data: Path | None, count: int) -> list[str]:
    """Inputs of SVAMP's train rows, or word problems."""
    if data is None:
        return [row["input"] for row in train_rows(count)]
    lines = (data / "svamp/train.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["input"] for line in lines]
