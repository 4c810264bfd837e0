"""The prompt of an instruct student: its chat template around an input (`student.prompt: chat`).

The template is rendered once, before training, in transformers' sandbox. The texts before and after the input are stored in the student's
tokenizer_config.json, so that training, evaluation and serving read the same, and no template of a student is rendered again:

    {"raystill_chat_prompt": ["<|im_start|>user\\n", "<|im_end|>\\n<|im_start|>assistant\\n"],
     "raystill_chat_turns": {"turns": ["<|im_end|>\\n<|im_start|>assistant\\n", "<|im_end|>\\n<|im_start|>user\\n"],
                             "system": ["<|im_start|>system\\n", "<|im_end|>\\n<|im_start|>user\\n"]}}

The second entry is for conversations that the endpoint takes; what the template does not write in this way is missing in it.

A template that writes the date gets a fixed one. Special tokens of the template are the template's; an input is text (`encode_prompt`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pipelines.errors import UserError, last_line

PromptKind = Literal["plain", "chat"]
KEY = "raystill_chat_prompt"
TURNS = "raystill_chat_turns"
Role = Literal["system", "user", "assistant"]
_INPUT = "the-input-of-the-student"
_CONTENTS = tuple(
    f"the-{number}-text-of-the-conversation" for number in ("first", "second", "third", "fourth", "fifth")
)
_DATE = datetime(2026, 1, 1)
_REMEDY = "Set student.prompt: plain, or give an instruct model."


class NoSuchConversationError(Exception):
    """The student's chat template does not write such turns."""


def set_prompt(tokenizer: Any, prompt: PromptKind, model: str) -> None:
    """Store the texts around an input in a tokenizer, or remove those of a student that the training starts from.

    Args:
        model: the tokenizer's, for messages.

    Raises:
        UserError: there is no chat template, or it fails, or does not write the input exactly once.
    """
    for key in (KEY, TURNS):
        tokenizer.init_kwargs.pop(key, None)
    if prompt == "chat":
        around = _around(tokenizer, model)
        tokenizer.init_kwargs[KEY] = list(around)
        tokenizer.init_kwargs[TURNS] = _turns(tokenizer, *around)


def chat_prompt(tokenizer: Any) -> tuple[str, str] | None:
    """The texts before and after an input; None if the student reads inputs plainly. Raises UserError if they are damaged."""
    found = getattr(tokenizer, "init_kwargs", {}).get(KEY)
    if found is None:
        return None
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(text, str) for text in found)):
        raise UserError(f"tokenizer_config.json: {KEY}", "must be a list of two texts", "Train the student again.")
    return found[0], found[1]


def conversation_texts(tokenizer: Any, roles: Sequence[Role]) -> tuple[str, ...]:
    """The template's texts around the contents of a conversation, one more than it has turns.

    Args:
        roles: perhaps a system turn, then the user's and the assistant's in turn; the user has the last word.

    Raises:
        NoSuchConversationError: the template has no such conversations.
    """
    around = chat_prompt(tokenizer)
    found = getattr(tokenizer, "init_kwargs", {}).get(TURNS) or {}
    has_system = roles[0] == "system"
    if around is None:
        raise NoSuchConversationError("it was trained without a chat template")
    if has_system and not found.get("system"):
        raise NoSuchConversationError("its chat template has no system turn")
    if len(roles) - has_system > 1 and not found.get("turns"):
        raise NoSuchConversationError("its chat template has no conversations of several turns")
    start = list(found["system"]) if has_system else [around[0]]
    between = [text for _ in range((len(roles) - has_system) // 2) for text in found["turns"]]
    return (*start, *between, around[1])


def _turns(tokenizer: Any, before: str, after: str) -> dict[str, list[str]]:
    """What `conversation_texts` needs, as far as the template writes each turn in the same way wherever it stands."""
    found: dict[str, list[str]] = {}
    short, long = (_rendered(tokenizer, ("user", *("assistant", "user") * pairs)) for pairs in (1, 2))
    if short and long and (short[0], short[-1]) == (before, after):
        _, answer, question, _ = short
        if long == [before, answer, question, answer, question, after]:
            found["turns"] = [answer, question]
    system = _rendered(tokenizer, ("system", "user"))
    if system and system[-1] == after:
        with_turns = _rendered(tokenizer, ("system", "user", "assistant", "user"))
        if "turns" not in found or with_turns == [*system[:-1], *found["turns"], after]:
            found["system"] = system[:-1]
    return found


def _rendered(tokenizer: Any, roles: Sequence[Role]) -> list[str] | None:
    """The texts around the contents of a conversation. None if the template refuses it, or does not write each content once, in order."""
    contents = _CONTENTS[: len(roles)]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    try:
        rest = _render(tokenizer, messages)
    except Exception:  # noqa: BLE001 whatever the template raises: it has no such conversation
        return None
    texts = []
    for content in contents:
        if rest.count(content) != 1:
            return None
        text, _, rest = rest.partition(content)
        texts.append(text)
    return [*texts, rest]


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            strftime_now=_DATE.strftime,
        )
    )


def _around(tokenizer: Any, model: str) -> tuple[str, str]:
    value = f"student.prompt chat: the chat template of {model}"
    if not tokenizer.chat_template:
        raise UserError(value, "missing", _REMEDY)
    try:
        text = _render(tokenizer, [{"role": "user", "content": _INPUT}])
    except Exception as error:  # whatever the template raises
        raise UserError(value, f"it fails ({type(error).__name__}: {last_line(error)})", _REMEDY) from error
    if text.count(_INPUT) != 1:
        raise UserError(value, f"it writes an input {text.count(_INPUT)} times, must be once", _REMEDY)
    before, _, after = text.partition(_INPUT)
    return before, after
