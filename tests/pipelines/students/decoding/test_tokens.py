from typing import Any

import pytest

from pipelines.students.decoding.tokens import encode_prompt, encode_target, unwritable
from tests.support.tiny_runs import make_subword_tokenizer

KINDS = ["unigram", "bpe"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["two </s> and four", "</s>two", "two <pad></s>", "<|im_end|> two <|im_end|>"])
def test_special_tokens_in_a_text_are_text(kind: Any, text: str) -> None:
    tokenizer = make_subword_tokenizer(kind)
    template = encode_prompt(tokenizer, "encoder-decoder", "two")[-1:] if kind == "unigram" else []
    prompt = encode_prompt(tokenizer, "encoder-decoder", text)
    special = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert [token for token in prompt if token in special] == template
    *target, end = encode_target(tokenizer, text)
    assert not special & set(target)
    assert end == tokenizer.eos_token_id
    assert encode_prompt(tokenizer, "encoder-decoder", "two and four") == tokenizer("two and four")["input_ids"]


def test_texts_that_cannot_be_written_are_found() -> None:
    texts = ["two and four", " two  and\nfour", "{two}", "</s>"]
    assert unwritable(make_subword_tokenizer("unigram"), texts) == {"{two}": "{}", "</s>": "</>"}
    assert unwritable(make_subword_tokenizer("bpe"), texts) == {}
