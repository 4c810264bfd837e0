from typing import Any

import pytest

from pipelines.label.teachers.chat import ChatTemplate, TemplateError, folded

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}


class Tokenizer:
    """A tokenizer whose template raises on, drops or renders the system turn."""

    def __init__(self, system: str) -> None:
        self._system = system

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        if messages[0]["role"] == "system" and self._system == "raises":
            raise ValueError("System role not supported")
        kept = [m for m in messages if m["role"] != "system" or self._system == "renders"]
        return "".join(f"<{m['role']}>{m['content']}" for m in kept) + str(options.get("enable_thinking", ""))


@pytest.mark.parametrize("system", ["renders", "raises", "drops"])
def test_the_system_text_always_reaches_the_model(system: str) -> None:
    template = ChatTemplate(Tokenizer(system))
    text = "<system>Be brief.<user>1 + 1?" if system == "renders" else "<user>Be brief.\n\n1 + 1?"
    assert [template.render([SYSTEM, USER]) for _ in range(2)] == [text, text]
    assert folded([USER]) == [USER]


def test_template_options_and_errors_pass_through() -> None:
    assert ChatTemplate(Tokenizer("renders"), {"enable_thinking": False}).render([USER]).endswith("False")
    with pytest.raises(TemplateError, match="IndexError"):
        ChatTemplate(Tokenizer("renders")).render([])
