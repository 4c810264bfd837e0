"""Student -> text, the same for evaluation and serving. Also THE format of a student's prompts, which training uses too.

    step-by-step   [label] Anne has 4 apples ...      -> 4 - 1
                   [rationale] Anne has 4 apples ...  -> Anne has 4 apples and gives away 1. 4 - 1 = 3.
    finetune       Anne has 4 apples ...              -> 4 - 1

An encoder-decoder student reads the prompt in its encoder. A decoder-only student reads the prompt and a line break, then
writes the target and its end-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import UserError

Part = Literal["label", "rationale"]
Family = Literal["encoder-decoder", "decoder-only"]
MODEL_FILES = ("config.json",)


def prompt_of(method: str, part: Part, text: str) -> str:
    """What the student reads for one part of its answer. Raises ValueError for a part that the method does not train."""
    if method == "step-by-step":
        return f"[{part}] {text}"
    if part == "label":
        return text
    raise ValueError(f"method {method} trains no {part}")


def encode_prompt(tokenizer: Any, family: Family, prompt: str) -> list[int]:
    """Token ids of a prompt. Decoder-only: with the line break that ends it, and with BOS where the tokenizer adds one."""
    if family == "encoder-decoder":
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer(prompt + "\n")["input_ids"])


def encode_target(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a target, closed by the end-of-sequence token."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def model_family(config: Any) -> Family:
    """The family of a transformers config."""
    return "encoder-decoder" if config.is_encoder_decoder else "decoder-only"


def check_model(model: str, key: str) -> None:
    """Refuse a local folder that is not a Hugging Face model. Anything that is not a folder is taken for a hub id.

    Raises:
        UserError: a path that does not exist, or a folder without config.json, weights in safetensors or a tokenizer.
    """
    path = Path(model).expanduser()
    if not path.exists():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise UserError(f"{key} {model}", "there is no such folder", "Give a hub id or an existing model folder.")
        return
    if not (path / "config.json").is_file():
        raise UserError(f"{key} {model}", "the folder has no config.json", "Give a Hugging Face model folder.")
    if any(path.glob("*.bin")) and not any(path.glob("*.safetensors")):
        rule = "its weights are pickled (*.bin), which can run code when they are read"
        raise UserError(f"{key} {model}", rule, "Convert them to safetensors.")


@dataclass(frozen=True)
class Decoded:
    """One part of a student's answer."""

    text: str
    confidence: float
    """Product of the probabilities of the tokens of `text`, the end-of-sequence token included."""
    prompt_tokens: int
    output_tokens: int
