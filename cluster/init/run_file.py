"""The text of a run file for a corpus: every key that a first run needs, each with a comment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from cluster.init.guess import Guess
from pipelines.train.data.step_counts import FEW_STEPS

_CHARACTERS_PER_TOKEN = 3
"""A careful estimate: English has about 4."""
_ANSWER_TOKENS = 64
_TARGET_TOKENS = 128
_TYPICAL_CHARACTERS_PER_TOKEN = 4
_RATIONALE_TOKENS = 40
_EPOCHS = 3
_MOST_BATCH_TOKENS = 1024
_MARGIN = 1.5
"""Steps by epochs are an estimate: so many times those that are few, or a number of steps is written."""
_WIDTH = 36


@dataclass(frozen=True)
class RunFile:
    """What the run file says."""

    name: str
    file: str
    """Name of the run file."""
    corpus: str
    """Path relative to the run file, or a URI."""
    guess: Guess
    teacher: str
    teacher_note: str
    with_gold: int
    without_gold: int
    validation: float | str
    test: str | None = None
    instruction: str = ""
    examples: Sequence[Mapping[str, str]] = field(default_factory=list)
    task_file: str | None = None
    """Path of an own task file, which then has labels and examples."""

    def text(self) -> str:
        """The YAML text."""
        training = _TRAINING.format(
            batch=self._batch(), length=self._length(), input_tokens=self._input_tokens(), target_tokens=_TARGET_TOKENS
        )
        return "".join((self._head(), self._task(), self._corpus(), self._teacher(), self._student(), training, _REST))

    def _head(self) -> str:
        return (
            f"# Made by `raystill init`. Paths are relative to this file.\n"
            f"# Look first: raystill plan {self.file}. Then try 20 rows: raystill label {self.file} "
            f"--set corpus.limit=20 --set output=runs/try\n"
            f"{_line('name: ' + flow(self.name), 'of the run')}"
            f"{_line(f'output: runs/{self.name}', 'labels/, student/ and report/ appear here')}"
        )

    def _task(self) -> str:
        guess = self.guess
        if self.task_file is not None:
            return _line(f"task: {flow(self.task_file)}", "your own task: prompt, labels, parser")
        lines = _line(f"task: {guess.task}", "see the table of tasks in README.md")
        if guess.task != "classification":
            note = "the position of the right choice, counted from 0"
            return lines + (_line(f"task_options: {flow(guess.options)}", note) if guess.options else "")
        lines += "task_options:\n"
        lines += (
            f"  instruction: {flow(self.instruction)}   # put the question in your words, with what each label means\n"
        )
        if guess.labels:
            lines += f"  labels: {flow(guess.labels)}\n"
        if not self.examples:
            lines += (
                "  # Without examples a teacher rarely answers in the expected form. Fill in two or more:\n"
                "  # examples:\n"
                '  #   - {input: "a text of the corpus", rationale: "Why it has this label.", label: "its label"}\n'
            )
            return lines
        lines += "  # The rationales only quote the text. Replace them by real reasons: the student learns to write such ones.\n"
        lines += "  examples:\n"
        for example in self.examples:
            lines += f"    - {flow(dict(example))}\n"
        return lines

    def _corpus(self) -> str:
        lines = f"corpus:\n  train: {flow(self.corpus)}\n"
        share = "held out of train by hash of the id, and scored" if self.test is None else "held out of train: watched"
        lines += _line(
            f"  validation: {flow(self.validation)}", "a file" if isinstance(self.validation, str) else share
        )
        if self.test is not None:
            lines += _line(f"  test: {flow(self.test)}", "scored, never trained on")
        return lines + _line(f"  fields: {flow(self.guess.fields)}", "the task's name of a field: this corpus' column")

    def _teacher(self) -> str:
        closed = self.task_file is None and self.guess.task == "classification" and bool(self.guess.labels)
        constrained = _line("  constrained: true", "every answer ends with one of the labels") if closed else ""
        return (
            "teacher:\n"
            "  engine: vllm\n"
            f"{_line(f'  model: {flow(self.teacher)}', self.teacher_note)}"
            f"{_line('  prompt: plain', 'chat, for an instruct model of some size')}"
            f"{_line('  gpus_per_replica: 0', '1 on a machine with GPUs')}"
            f"{_line('  replicas: {min: 1, max: 1}', 'of the teacher')}"
            f"  sampling: {{n: 1, temperature: 0.0, max_tokens: {self._answer_tokens()}, seed: 0}}\n"
            f"{constrained}"
            f"{_line('  filters: {gold: keep}', 'drop-disagreeing keeps only rows whose label is gold')}"
            f"  vllm: {{max_model_len: {self._model_len()}, max_num_seqs: 32}}\n"
        )

    def _student(self) -> str:
        labels, why = "gold", "all rows have a gold label"
        if not self.with_gold:
            labels, why = "teacher", "no row has a gold label"
        elif self.without_gold:
            labels, why = (
                "gold-else-teacher",
                "people labelled some rows, the teacher the others. gold: learn those rows alone",
            )
        return (
            "student:\n"
            f"{_line(f'  model: {flow(self.teacher)}', 'hub id or folder, such as google/t5-v1_1-small')}"
            f"{_line('  init: {kind: first-layers, layers: 8}', 'remove this line for a pretrained student')}"
            "  method: step-by-step\n"
            f"{_line(f'  labels: {labels}', why)}"
            "  rationale_weight: 0.5\n"
        )

    def _answer_tokens(self) -> int:
        longest = max((len(one["label"]) + len(one["rationale"]) for one in self.examples), default=0)
        return max(_ANSWER_TOKENS, _rounded(longest / _CHARACTERS_PER_TOKEN * 1.5, 32))

    def _input_tokens(self) -> int:
        longest = self.guess.input.longest if self.guess.input else 0
        return min(max(256, _rounded(longest / _CHARACTERS_PER_TOKEN, 128)), 1024)

    def _epoch_tokens(self) -> float:
        """Tokens of one pass over the training rows, about: each input is read twice."""
        mean = self.guess.input.mean if self.guess.input else 0
        share = self.validation if isinstance(self.validation, float) else 0.0
        rows = (self.with_gold + self.without_gold) * (1 - share)
        return rows * (2 * mean / _TYPICAL_CHARACTERS_PER_TOKEN + _RATIONALE_TOKENS)

    def _batch(self) -> int:
        """Tokens of a step: few for a small corpus, whose steps would be few; room for the longest row in any case."""
        longest = (self.guess.input.longest if self.guess.input else 0) / _CHARACTERS_PER_TOKEN
        room = 2 * (min(longest, self._input_tokens()) + _TARGET_TOKENS)
        enough = _EPOCHS * self._epoch_tokens() / (_MARGIN * FEW_STEPS)
        return _rounded(max(room, min(enough, _MOST_BATCH_TOKENS)), 128)

    def _length(self) -> str:
        """The training's length: epochs, or for a small corpus as many steps as are not few."""
        passes = self._epoch_tokens() / self._batch()
        if _EPOCHS * passes >= FEW_STEPS * _MARGIN:
            return _line(f"  epochs: {_EPOCHS}", "passes over the rows")
        return _line(
            f"  steps: {FEW_STEPS}", f"about {math.ceil(FEW_STEPS / max(passes, 0.01)):,} passes over so few rows"
        )

    def _model_len(self) -> int:
        shots = sum(len(flow(dict(example))) for example in self.examples) + len(self.instruction)
        shots += sum(map(len, self.guess.labels or []))
        own = 2400 if self.guess.task != "classification" else 0  # the examples of the built-in task
        tokens = (shots + own) / _CHARACTERS_PER_TOKEN + self._input_tokens() + self._answer_tokens()
        return min(max(1024, _rounded(tokens, 512)), 8192)


_TRAINING = """training:
  workers: 1
  gpus_per_worker: 0                # 1 on a machine with GPUs
  zero_stage: 0
  precision: auto                   # bf16 if the hardware computes in it, else fp32
{length}  tokens_per_batch: {batch}
  tokens_per_micro_batch: {batch}
  learning_rate: 1.0e-3
  max_input_tokens: {input_tokens:<14}  # longer inputs are not learned
  max_target_tokens: {target_tokens}
"""
_REST = """evaluation: {batch_size: 32, max_new_tokens: 32}
serving: {replicas: {min: 1, max: 2}}
"""


def flow(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=math.inf)
    return text.removesuffix("...\n").strip()


def _line(text: str, comment: str) -> str:
    return f"{text:{_WIDTH - 2}}  # {comment}\n"


def _rounded(value: float, step: int) -> int:
    return math.ceil(value / step) * step
