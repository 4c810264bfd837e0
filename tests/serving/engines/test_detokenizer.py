"""Tokens become text that can be sent: no half characters, nothing of a stop."""

from typing import Any

import pytest

from serving.engines.detokenizer import Detokenizer
from tests.support.tiny_students import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer("decoder-only")


def sent(tokenizer: Any, text: str, stop: tuple[str, ...] = (), *, ended: bool = True) -> tuple[list[str], Detokenizer]:
    so_far, pieces = Detokenizer(tokenizer, stop), list[str]()
    for token in [*tokenizer(text)["input_ids"], *([tokenizer.eos_token_id] if ended else [])]:
        pieces.append(so_far.add(token))
        if so_far.stopped:
            break
    return [*pieces, so_far.rest()], so_far


@pytest.mark.parametrize("text", ["4 apples and 2 pears", "Ünïcödé → 中文 🙂!", "a", " leading", "trailing \n"])
@pytest.mark.parametrize(("ended", "reason"), [(True, "stop"), (False, "length")])
def test_pieces_are_the_text_and_no_half_characters(tokenizer: Any, text: str, ended: bool, reason: str) -> None:
    pieces, so_far = sent(tokenizer, text, ended=ended)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert so_far.finish_reason == reason
    assert so_far.num_tokens == len(tokenizer(text)["input_ids"]) + ended


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (("\n\n",), "one\ntwo"), (("\nt",), "one"), (("two", "one"), ""), (("o\n\nth",), "one\ntw"),
        (("four",), "one\ntwo\n\nthree"),
    ],
)  # fmt: skip
def test_nothing_of_a_stop_is_sent(tokenizer: Any, stop: tuple[str, ...], left: str) -> None:
    pieces, so_far = sent(tokenizer, "one\ntwo\n\nthree", stop)
    assert "".join(pieces) == left
    assert so_far.stopped == (stop != ("four",))
    assert so_far.finish_reason == "stop"
