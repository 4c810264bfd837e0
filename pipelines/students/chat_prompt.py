"""The prompt of an instruct student: its chat template around an input (`student.prompt: chat`).

The template is rendered once, before training, in transformers' sandbox. The texts before and after the input are stored in the student's
tokenizer_config.json, so that training, evaluation and serving read the same, and no template of a student is rendered again:

    {"raystill_chat_prompt": ["<|im_start|>user\\n", "<|im_end|>\\n<|im_start|>assistant\\n"]}

A template that writes the date gets a fixed one. Special tokens of the template are the template's; an input is text (`encode_prompt`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pipelines.errors import UserError, last_line

PromptKind = Literal["plain", "chat"]
KEY = "raystill_chat_prompt"
_INPUT = "the-input-of-the-student"
_DATE = datetime(2026, 1, 1)
_REMEDY = "Set student.prompt: plain, or give an instruct model."


def set_prompt(tokenizer: Any, prompt: PromptKind, model: str) -> None:
    """Store the texts around an input in a tokenizer, or remove those of a student that the training starts from.

    Args:
        model: the tokenizer's, for messages.

    Raises:
        UserError: there is no chat template, or it fails, or does not write the input exactly once.
    """
    tokenizer.init_kwargs.pop(KEY, None)
    if prompt == "chat":
        tokenizer.init_kwargs[KEY] = list(_around(tokenizer, model))


def chat_prompt(tokenizer: Any) -> tuple[str, str] | None:
    """The texts before and after an input; None if the student reads inputs plainly. Raises UserError if they are damaged."""
    found = getattr(tokenizer, "init_kwargs", {}).get(KEY)
    if found is None:
        return None
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(text, str) for text in found)):
        raise UserError(f"tokenizer_config.json: {KEY}", "must be a list of two texts", "Train the student again.")
    return found[0], found[1]


def _around(tokenizer: Any, model: str) -> tuple[str, str]:
    value = f"student.prompt chat: the chat template of {model}"
    if not tokenizer.chat_template:
        raise UserError(value, "missing", _REMEDY)
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": _INPUT}],
            tokenize=False,
            add_generation_prompt=True,
            strftime_now=_DATE.strftime,
        )
    except Exception as error:  # whatever the template raises
        raise UserError(value, f"it fails ({type(error).__name__}: {last_line(error)})", _REMEDY) from error
    if text.count(_INPUT) != 1:
        raise UserError(value, f"it writes an input {text.count(_INPUT)} times, must be once", _REMEDY)
    before, _, after = text.partition(_INPUT)
    return before, after
