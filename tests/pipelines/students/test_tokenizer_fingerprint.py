from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from pipelines.students.tokenizer_fingerprint import tokenizer_fingerprint

WORDS = {"<s>": 0, "</s>": 1, "<pad>": 2, "apple": 3, "pear": 4}


def saved(folder: Path, words: dict[str, int], **special: Any) -> str:
    tokenizer = Tokenizer(WordLevel(words, unk_token="apple"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", **special}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    return str(folder)


def test_padding_token_and_folder_do_not_matter(tmp_path: Path) -> None:
    first = saved(tmp_path / "a", WORDS)
    padded = saved(tmp_path / "b", dict(reversed(WORDS.items())), pad_token="<pad>")
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(padded)


@pytest.mark.parametrize(
    ("words", "special"),
    [
        ({**WORDS, "apple": 4, "pear": 3}, {}), ({**WORDS, "plum": 5}, {}), (WORDS, {"eos_token": "<s>"}),
        (WORDS, {"additional_special_tokens": ["<turn>"]}),
    ],
)  # fmt: skip
def test_other_tokens_change_the_fingerprint(tmp_path: Path, words: dict[str, int], special: dict[str, Any]) -> None:
    one, other = saved(tmp_path / "a", WORDS), saved(tmp_path / "b", words, **special)
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(other)
