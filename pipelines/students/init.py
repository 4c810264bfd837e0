"""The student before any training: pretrained weights, the first layers of a pretrained model, or fresh weights.

In: `student.model` (hub id or folder) and `student.init`. Out: a float32 model of either family and its tokenizer, ready to be
trained or scored:

    {"model": "HuggingFaceTB/SmolLM2-135M", "init": {"kind": "first-layers", "layers": 4}}
      -> LlamaForCausalLM with 4 of 30 layers, the embeddings, the final norm and the head as they were

Weights come from safetensors only, and no code from a checkpoint is ever run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.config import StudentConfig
from pipelines.errors import UserError
from pipelines.students.decoding import check_model, model_family

# Names under which architectures keep their number of layers. transformers maps `num_hidden_layers` to a family's own name.
_ENCODER_LAYERS = ("num_layers", "encoder_layers")
_DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
_VOCABULARY_STEP = 64
"""An embedding's rows are a multiple of it, which tensor cores want."""


def initial_student(student: StudentConfig, seed: int, own_tokenizer: Path | None = None) -> tuple[Any, Any]:
    """The student before any training, and its tokenizer. The same weights for the same arguments.

    Args:
        own_tokenizer: the folder of a tokenizer in place of the model's; the embedding of random weights has its size then.

    Returns:
        (model, tokenizer): float32, on the CPU, in evaluation mode; the tokenizer has an end and a padding token, and the
        model's config and generation config name them.

    Raises:
        UserError: the model is not there, has no safetensors weights or no tokenizer, or has fewer layers than asked for.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = student_config(student)
    tokenizer = student_tokenizer(str(own_tokenizer or student.model))
    if own_tokenizer:
        config.vocab_size = vocabulary_rows(len(tokenizer))
        # Special tokens of the model's own tokenizer may lie beyond the new vocabulary, or be ordinary tokens of it.
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        config.bos_token_id = tokenizer.bos_token_id
        if model_family(config) == "encoder-decoder":
            config.decoder_start_token_id = tokenizer.pad_token_id
    kind = AutoModelForSeq2SeqLM if model_family(config) == "encoder-decoder" else AutoModelForCausalLM
    with _quiet(), _refused(student.model):
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
                lacking = sorted([*loading["missing_keys"], *map(str, loading["mismatched_keys"])])[:3]
                rule = f"its weights do not fit its config.json ({', '.join(lacking)} ...)"
                raise UserError(f"student.model {student.model}", rule, "Give a complete checkpoint, or init: random.")
    _agree(model, tokenizer, student.model)
    return model.eval(), tokenizer


def vocabulary_rows(entries: int) -> int:
    """The rows of the embedding for a tokenizer of so many entries.

    >>> vocabulary_rows(350)
    384
    """
    return _VOCABULARY_STEP * -(-entries // _VOCABULARY_STEP)


def student_config(student: StudentConfig) -> Any:
    """The transformers config of the student, cut to `init.layers` where that is asked for. Raises UserError."""
    from transformers import AutoConfig

    model = student.model
    check_model(model, "student.model")
    with _quiet(), _refused(model):
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        if student.init.layers is None:
            return config
        return AutoConfig.from_pretrained(model, trust_remote_code=False, **_cut(config, student.init.layers, model))


def student_tokenizer(model: str) -> Any:
    """The tokenizer of a model, with an end and a padding token (padding is the end token where there is none).

    Raises:
        UserError: there is no tokenizer, or it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    with _quiet(), _refused(model):
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        rule = "its tokenizer has no end-of-sequence token, with which every target ends"
        raise UserError(f"student.model {model}", rule, "Add one to the tokenizer, or give another model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def max_positions(config: Any) -> int | None:
    """Tokens that the model can tell the positions of; None where positions are relative (T5)."""
    positions = getattr(config, "max_position_embeddings", None)
    return int(positions) if positions else None


def _cut(config: Any, layers: int, model: str) -> dict[str, Any]:
    """Config settings that keep the first `layers` layers, of encoder and decoder each."""
    if model_family(config) == "decoder-only":
        names = ["num_hidden_layers"]
    else:
        names = [name for name in (*_ENCODER_LAYERS, *_DECODER_LAYERS) if getattr(config, name, None)]
    counts = [getattr(config, name, None) for name in names]
    if not counts or None in counts:
        rule = f"init first-layers does not know where a {config.model_type} keeps its number of layers"
        raise UserError(f"student.model {model}", rule, "Use init: pretrained or random.")
    fewest = min(int(count) for count in counts if count)
    if layers > fewest:
        has = f"{model} has {fewest} layers"
        raise UserError(f"student.init.layers {layers}", has, f"Set it to {fewest} or less, or init: pretrained.")
    settings: dict[str, Any] = dict.fromkeys(names, layers)
    kinds = getattr(config, "layer_types", None)
    return {**settings, "layer_types": list(kinds[:layers])} if kinds else settings


def _agree(model: Any, tokenizer: Any, name: str) -> None:
    """Make model and tokenizer name the same special tokens, and generation greedy."""
    from transformers import GenerationConfig

    rows = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        rule = f"its tokenizer has token ids up to {highest:,}, its embedding {rows:,} rows"
        raise UserError(f"student.model {name}", rule, "Give a model whose tokenizer belongs to it.")
    config = model.config
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    start = None
    if model_family(config) == "encoder-decoder":
        given = (getattr(config, "decoder_start_token_id", None), model.generation_config.decoder_start_token_id)
        start = next((token for token in given if token is not None), tokenizer.pad_token_id)
        config.decoder_start_token_id = start
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=start, do_sample=False,
    )  # fmt: skip


@contextmanager
def _refused(model: str) -> Iterator[None]:
    """What transformers raises for a model that it cannot open, as the user's error."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        remedy = "Give a hub id or a folder of a Hugging Face model with safetensors weights and a tokenizer."
        if not Path(model).expanduser().exists():
            remedy += " A hub id needs the network, or HF_HOME with the model in it."
        raise UserError(f"student.model {model}", f"it cannot be opened ({reason})", remedy) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without progress bars, and without the report that cut-off layers are not used."""
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
