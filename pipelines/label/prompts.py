"""Example -> prompt: the task's instruction, its few-shot examples, the question. Nothing here knows an engine.

Q: Anne has 4 apples and gives Peter 2 and Thomas 1. How many apples has she left?
A: Anne starts with 4 apples. 4 - 2 - 1 = 1. The answer is (4 - 2 - 1).

Q: ...
A:
"""

from __future__ import annotations

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import Prompt
from pipelines.tasks import Example, Task


def render_prompt(task: Task, example: Example, config: TeacherConfig) -> Prompt:
    """The prompt for one example, as text or as chat messages."""
    if config.prompt == "plain":
        return Prompt(example, _plain(task, example))
    messages: list[dict[str, str]] = []
    system = "\n".join(part for part in (config.system, task.instruction) if part)
    if system:
        messages.append({"role": "system", "content": system})
    for shot in task.shots:
        messages.append({"role": "user", "content": shot.question})
        messages.append({"role": "assistant", "content": shot.answer})
    messages.append({"role": "user", "content": task.question(example)})
    return Prompt(example, _plain(task, example), tuple(messages))


def prompt_text(prompt: Prompt) -> str:
    """The prompt for people: its text, or its messages, each under its role (the model's chat template adds marks of its own)."""
    if not prompt.messages:
        return prompt.text
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in prompt.messages)


def _plain(task: Task, example: Example) -> str:
    parts = [task.instruction] if task.instruction else []
    parts += [f"Q: {shot.question}\nA: {shot.answer}" for shot in task.shots]
    parts.append(f"Q: {task.question(example)}\nA:")
    return "\n\n".join(parts)
