"""What a reasoning model thinks aloud, cut from its answer before anything is parsed.

    <think>4 - 1 = 5, so the answer is 5. No, 3.</think>4 - 1 = 3. The answer is (4 - 1).
    |------------------- thoughts -------------------|  |----------- answer ------------|

A thought states answers that the model later drops, so no label may come from it. Templates may write the opening mark into the prompt;
then the text begins within the thought. A thought that does not end leaves no answer.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from pipelines.label.teachers.base import Generation, Sample

TAGS = {
    "think": ("<think>", "</think>"),
    "thinking": ("<thinking>", "</thinking>"),
    "thought": ("<thought>", "</thought>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "seed": ("<seed:think>", "</seed:think>"),
    "kimi": ("◁think▷", "◁/think▷"),
    "gemma": ("<|channel>thought", "<channel|>"),
    "granite": ("Here is my thought process:", "Here is my response:"),
}
"""Parser -> opening and closing mark. DeepSeek, Qwen, GLM, MiniMax, Nemotron, Olmo and others use `think`."""
_MORE_TAGS = (
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
)
"""Marks that `auto` cuts, too."""
_ALL_TAGS = (*TAGS.values(), *_MORE_TAGS)
_ANSWER_MARKS = re.compile(r"<\|(?:START|END)_RESPONSE\|>|<\|(?:begin|end)_of_solution\|>")
HARMONY = "harmony"
"""gpt-oss: channels `analysis` and `final`."""

_CHANNEL = re.compile(r"(?:<\|start\|>\s*(?:assistant)?\s*)?<\|channel\|>\s*(\w+)[^<]*<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# The same channels if the engine has dropped the special tokens: `analysisWe need ...assistantfinalThe answer is 5.`
_BARE_ANALYSIS = re.compile(r"\A\s*analysis(?=[A-Z])")
_BARE_FINAL = re.compile(r"assistant\s*final(?=\S)")


@dataclass(frozen=True)
class Split:
    """A text without its thoughts."""

    answer: str
    thoughts: str = ""
    ends: bool = True
    """False if a thought does not end: then there is no answer after it."""


def opens_thought(prompt: str) -> bool:
    """True if a rendered prompt ends within a thought, as templates of reasoning models do."""
    tail = prompt[-200:]
    return any(tail.rfind(opening) > tail.rfind(closing) for opening, closing in _ALL_TAGS if opening[0] in "<[◁")


def marks_are_special(tokenizer: Any) -> bool:
    """True if a tokenizer's special tokens, which engines drop from texts, include the marks of thoughts."""
    special = set(getattr(tokenizer, "all_special_tokens", None) or ())
    marks = {mark for tags in _ALL_TAGS for mark in tags} | {"<|channel|>", "<|channel>"}
    return bool(special & marks)


class ThoughtCutter:
    """Cuts the thoughts of one teacher's texts. Remembers whether the teacher leaves out the opening mark."""

    def __init__(self, parser: str) -> None:
        """`parser`: `teacher.reasoning`."""
        self._tags = _ALL_TAGS if parser == "auto" else (TAGS[parser],) if parser in TAGS else ()
        self._harmony = parser in ("auto", HARMONY)
        self._named = parser not in ("auto", "none")
        self._skips_opening = False

    def cut(self, generation: Generation) -> Generation:
        """The generation with the thoughts of each sample cut. Samples that their teacher has cut stay."""
        if not self._tags and not self._harmony:
            return generation
        samples = tuple(
            sample if sample.raw else self.cut_sample(sample, sample.opened) for sample in generation.samples
        )
        return dataclasses.replace(generation, samples=samples)

    def cut_sample(self, sample: Sample, opened: bool = False) -> Sample:
        """One sample with its thoughts cut. `opened`: the prompt ends within a thought."""
        found = self.split(sample.text, opened=opened, is_cut=sample.finish_reason == "length")
        thoughts = "\n".join(part for part in (sample.thoughts, found.thoughts) if part)
        if not thoughts and found.ends:
            return sample
        return dataclasses.replace(
            sample, text=found.answer, thoughts=thoughts, thoughts_end=found.ends, raw=sample.text or thoughts
        )

    def split(self, text: str, *, opened: bool = False, is_cut: bool = False) -> Split:
        """Separate a text.

        Args:
            opened: the prompt ends within a thought.
            is_cut: the token limit cut the text.
        """
        if self._harmony and ("<|channel|>" in text or _BARE_ANALYSIS.match(text)):
            return _split_channels(text)
        for opening, closing in self._tags:
            if opening in text or closing in text:
                if closing in text and text.find(closing) < (text.find(opening) % (len(text) + 1)):
                    self._skips_opening = True
                return _split_tags(text, opening, closing)
        unmarked = opened or (is_cut and (self._skips_opening or self._named))
        return Split("", text.strip(), ends=False) if unmarked and self._tags else Split(text)


def _split_tags(text: str, opening: str, closing: str) -> Split:
    """The answer is what stands outside of marks. A closing mark alone ends a thought that the prompt began."""
    answer, depth, position = "", 0, 0
    thoughts: list[str] = []
    for mark in re.finditer(f"({re.escape(opening)})|{re.escape(closing)}", text):
        part, position = text[position : mark.start()], mark.end()
        if mark[1]:
            answer, thoughts = (answer, [*thoughts, part]) if depth else (answer + part, thoughts)
            depth += 1
        elif depth:
            thoughts.append(part)
            depth -= 1
        else:  # all before it was a thought
            answer, thoughts = "", [*thoughts, answer + part]
    rest = text[position:]
    answer, thoughts = (answer, [*thoughts, rest]) if depth else (answer + rest, thoughts)
    joined = "\n".join(part.strip() for part in thoughts if part.strip())
    return Split(_ANSWER_MARKS.sub("", answer).strip(), joined, ends=not depth)


def _split_channels(text: str) -> Split:
    finals: list[str] = []
    others: list[str] = []
    if "<|channel|>" not in text:
        found = list(_BARE_FINAL.finditer(text))
        if not found:
            return Split("", _BARE_ANALYSIS.sub("", text).strip(), ends=False)
        thoughts = _BARE_ANALYSIS.sub("", text[: found[-1].start()]).strip()
        return Split(text[found[-1].end() :].strip(), thoughts)
    marks = list(_CHANNEL.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        content = text[mark.end() : following.start() if following else len(text)]
        content = _CHANNEL_END.split(content)[0].strip()
        (finals if mark[1] == "final" else others).append(content)
    return Split(finals[-1] if finals else "", "\n".join(others), ends=bool(finals))
