"""Initial weights of a student: a pretrained model, its first layers, or random weights.

In: `student.model` (hub id or folder) and `student.init`. Out: a float32 model of either family and its tokenizer, for training or
scoring:

    {"model": "HuggingFaceTB/SmolLM2-135M", "init": {"kind": "first-layers", "layers": 4}}
      -> LlamaForCausalLM with 4 of 30 layers; embeddings, final norm and head are unchanged

Weights come from safetensors only. Code of a checkpoint never runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.config import StudentConfig
from pipelines.errors import UserError
from pipelines.students.chat_prompt import PromptKind, set_prompt
from pipelines.students.decoding import check_model, model_family
from pipelines.students.decoding.transformers_student import check_generates

# Config fields of the number of layers. In decoder-only models transformers maps `num_hidden_layers` to the model's own name.
_ENCODER_LAYERS = ("num_layers", "encoder_layers")
_DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
_VOCABULARY_STEP = 64
"""Embedding rows are a multiple of this, for tensor cores."""


def initial_student(student: StudentConfig, seed: int, own_tokenizer: Path | None = None) -> tuple[Any, Any]:
    """Create the untrained student and its tokenizer. Equal arguments give equal weights.

    Args:
        own_tokenizer: folder of a tokenizer that replaces the model's. Random embeddings get its size.

    Returns:
        (model, tokenizer). The model is float32, on the CPU, in evaluation mode. The tokenizer has an end and a padding token, which
        the model's config and generation config name.

    Raises:
        UserError: the model does not exist, lacks safetensors weights or a tokenizer, or has fewer layers than `init.layers`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = student_config(student)
    tokenizer = student_tokenizer(str(own_tokenizer or student.model), student.prompt)
    if own_tokenizer:
        config.vocab_size = vocabulary_rows(len(tokenizer))
        # Ids of the model's own special tokens may exceed the new vocabulary, or be ordinary tokens in it.
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        config.bos_token_id = tokenizer.bos_token_id
        if model_family(config) == "encoder-decoder":
            config.decoder_start_token_id = tokenizer.pad_token_id
    kind = AutoModelForSeq2SeqLM if model_family(config) == "encoder-decoder" else AutoModelForCausalLM
    with _quiet(), _loading_errors(student.model):
        if student.init.kind == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
        else:
            model, loading = kind.from_pretrained(
                student.model, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
            if loading["missing_keys"] or loading["mismatched_keys"]:
                wrong = sorted([*loading["missing_keys"], *map(str, loading["mismatched_keys"])])[:3]
                rule = f"its weights do not fit its config.json ({', '.join(wrong)} ...)"
                raise UserError(f"student.model {student.model}", rule, "Give a complete checkpoint, or init: random.")
    _set_special_tokens(model, tokenizer, student.model)
    return model.eval(), tokenizer


def vocabulary_rows(entries: int) -> int:
    """Embedding rows for a tokenizer with this number of entries.

    >>> vocabulary_rows(350)
    384
    """
    return _VOCABULARY_STEP * -(-entries // _VOCABULARY_STEP)


def student_config(student: StudentConfig) -> Any:
    """transformers config of the student, with `init.layers` layers if set. Raises UserError."""
    from transformers import AutoConfig

    model = student.model
    check_model(model, "student.model")
    with _quiet(), _loading_errors(model):
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        check_generates(config.to_dict(), f"student.model {model}")
        if student.init.layers is None:
            return config
        return AutoConfig.from_pretrained(
            model, trust_remote_code=False, **_layer_settings(config, student.init.layers, model)
        )


def student_tokenizer(model: str, prompt: PromptKind = "plain") -> Any:
    """Tokenizer of a model. Without a padding token of its own, the end token pads.

    Raises:
        UserError: the model has no tokenizer, the tokenizer has no end-of-sequence token, or its chat template is unfit.
    """
    from transformers import AutoTokenizer

    with _quiet(), _loading_errors(model):
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        rule = "its tokenizer has no end-of-sequence token, with which every target ends"
        raise UserError(f"student.model {model}", rule, "Add one to the tokenizer, or give another model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_prompt(tokenizer, prompt, model)
    return tokenizer


def max_positions(config: Any) -> int | None:
    """Largest number of positions. None if positions are relative (T5)."""
    positions = getattr(config, "max_position_embeddings", None)
    return int(positions) if positions else None


def _layer_settings(config: Any, layers: int, model: str) -> dict[str, object]:
    """Config settings that keep the first `layers` layers of the decoder, and of the encoder if there is one."""
    if model_family(config) == "decoder-only":
        names = ["num_hidden_layers"]
    else:
        names = [name for name in (*_ENCODER_LAYERS, *_DECODER_LAYERS) if getattr(config, name, None)]
    counts = [getattr(config, name, None) for name in names]
    if not counts or None in counts:
        rule = f"init first-layers does not support {config.model_type}: its config has no known number of layers"
        raise UserError(f"student.model {model}", rule, "Use init: pretrained or random.")
    fewest = min(int(count) for count in counts if count)
    if layers > fewest:
        rule = f"{model} has {fewest} layers"
        raise UserError(f"student.init.layers {layers}", rule, f"Set it to {fewest} or less, or use init: pretrained.")
    settings: dict[str, object] = dict.fromkeys(names, layers)
    layer_types = getattr(config, "layer_types", None)
    return {**settings, "layer_types": list(layer_types[:layers])} if layer_types else settings


def _set_special_tokens(model: Any, tokenizer: Any, name: str) -> None:
    """Set the tokenizer's special tokens in the model's configs, and greedy generation."""
    from transformers import GenerationConfig

    rows = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        rule = f"its tokenizer has token ids up to {highest:,}, its embedding has {rows:,} rows"
        raise UserError(f"student.model {name}", rule, "Give a model whose tokenizer belongs to it.")
    config = model.config
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    start = None
    if model_family(config) == "encoder-decoder":
        known = (getattr(config, "decoder_start_token_id", None), model.generation_config.decoder_start_token_id)
        start = next((token for token in known if token is not None), tokenizer.pad_token_id)
        config.decoder_start_token_id = start
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=start, do_sample=False,
    )  # fmt: skip


@contextmanager
def _loading_errors(model: str) -> Iterator[None]:
    """Turn errors of transformers for a model that it cannot open into UserError."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        remedy = "Give a hub id or a folder of a Hugging Face model with safetensors weights and a tokenizer."
        if not Path(model).expanduser().exists():
            remedy += " A hub id needs network access, or HF_HOME with the model in its cache."
        raise UserError(f"student.model {model}", f"it cannot be opened ({reason})", remedy) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars of transformers, and its warning about the unused later layers."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
