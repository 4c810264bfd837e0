from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pipelines.errors import UserError
from pipelines.students.chat_prompt import KEY, NoSuchConversationError, Role, chat_prompt, set_prompt
from pipelines.students.decoding.tokens import encode_conversation, encode_prompt, encode_target
from tests.support.tiny_runs import make_subword_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer_with(template: str | None) -> Any:
    tokenizer = make_subword_tokenizer("bpe")
    tokenizer.chat_template = template
    return tokenizer


def test_an_input_inside_the_template_is_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(TEMPLATE.replace("{{ bos_token }}", "</s>"))
    plain = encode_prompt(tokenizer, "decoder-only", "two")
    set_prompt(tokenizer, "chat", "m")
    end, eos = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id
    ids = encode_prompt(tokenizer, "decoder-only", "two <|im_end|></s>")
    assert tokenizer.decode(ids) == "</s>user: two <|im_end|></s><|im_end|>assistant: "
    assert [token for token in ids if token in (end, eos)] == [eos, end], "those of the template alone"
    assert encode_target(tokenizer, "two <|im_end|>").count(end) == 0
    # As transformers reads the same conversation.
    messages = [{"role": "user", "content": "two and four"}]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(encode_prompt(tokenizer, "decoder-only", "two and four")) == tokenizer.decode(whole)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('rendered again') }}")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert encode_prompt(loaded, "decoder-only", "two <|im_end|></s>") == ids, "a student renders no template"
    set_prompt(loaded, "plain", "m")
    assert encode_prompt(loaded, "decoder-only", "two") == plain, "a training from this student may read plainly"
    loaded.init_kwargs[KEY] = ["two", 4]
    with pytest.raises(UserError, match="must be a list of two texts"):
        chat_prompt(loaded)


CONVERSATIONS: list[list[Role]] = [
    ["user"], ["system", "user"], ["user", "assistant", "user"], ["system", *["user", "assistant"] * 3, "user"],
]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "refused"),
    [
        (TEMPLATE, []),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('') }}{% endif %}" + TEMPLATE, [1, 3]),
        # One that shortens earlier answers, as reasoning models' do.
        (TEMPLATE.replace("m.content | trim", "m.content if m.role != 'assistant' else 'x'"), [2, 3]),
    ],
    ids=["all", "no system", "no turns"],
)
def test_a_conversation_is_encoded_as_the_template_writes_it(template: str, refused: list[int]) -> None:
    tokenizer = tokenizer_with(template)
    set_prompt(tokenizer, "chat", "m")
    for number, roles in enumerate(CONVERSATIONS):
        turns = [(role, f"text {i} <|im_end|>") for i, role in enumerate(roles)]
        if number in refused:
            with pytest.raises(NoSuchConversationError, match="its chat template has no"):
                encode_conversation(tokenizer, turns)
            continue
        messages = [{"role": role, "content": text} for role, text in turns]
        whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = encode_conversation(tokenizer, turns)
        assert tokenizer.decode(ids) == tokenizer.decode(tokenizer(whole, add_special_tokens=False)["input_ids"])
        assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == len(turns), "those of the template alone"
    set_prompt(tokenizer, "plain", "m")
    with pytest.raises(NoSuchConversationError, match="without a chat template"):
        encode_conversation(tokenizer, [("system", "a"), ("user", "b")])


def test_a_template_with_the_date_is_the_same_every_day() -> None:
    tokenizer = tokenizer_with("{{ strftime_now('%d %b %Y') }}" + TEMPLATE)
    set_prompt(tokenizer, "chat", "m")
    assert chat_prompt(tokenizer) == ("01 Jan 2026user: ", "<|im_end|>assistant: ")


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        (None, "missing"),
        ("{{ raise_exception('no system turn') }}", r"it fails \(TemplateError: no system turn\)"),
        ("{% for m in messages %}", r"it fails \(TemplateSyntaxError: "),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"it fails \(SecurityError: "),
        ("{{ messages[0].content }} {{ messages[0].content }}", "it writes an input 2 times, must be once"),
        ("{{ messages[0].content | upper }}", "it writes an input 0 times, must be once"),
        ("{% for i in range(10**9) %}x{% endfor %}", r"it fails \(OverflowError: "),
    ],
)
def test_an_unfit_template_is_refused_once(template: str | None, rule: str) -> None:
    message = rf"student.prompt chat: the chat template of m: {rule}.*Set student.prompt: plain"
    with pytest.raises(UserError, match=message):
        set_prompt(tokenizer_with(template), "chat", "m")
