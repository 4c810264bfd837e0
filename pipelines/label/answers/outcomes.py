"""One answered example -> one outcome: accepted with label and rationale, or rejected with a reason.

Teacher actors return outcomes as Arrow tables (OUTCOME), which the driver splits into accepted rows and rejects.

With filters.gold `rationalise` a row may take two answers (rationalisation: STaR, Zelikman et al. 2022, section 3.2):

    outcome = judge(split, example, first, task, filters)
    if wants_rationalising(outcome, filters, validation_share):
        second = await teacher.answer(prompts.render(example, hint=True))
        outcome = second_attempt(example, outcome, second, task, filters)
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import FiltersConfig
from pipelines.data.heldout import is_validation
from pipelines.data.reader import DataSplit
from pipelines.data.schema import LABEL, RATIONALE, TEXT, TOKEN_LOGPROBS
from pipelines.errors import UnparsableError
from pipelines.label.answers.consensus import Consensus, find_consensus
from pipelines.label.answers.filters import agrees, kept_rationales, refuse
from pipelines.label.stored.texts import STORED, StoredAnswer
from pipelines.label.teachers.base import Generation, PromptRefusedError, Sample, TokenLogprobs
from pipelines.label.teachers.label_probabilities import Distribution, mean_distribution
from pipelines.tasks import Answer, Example, Task
from pipelines.tasks.failures import RAISED, checked_answer, failure_detail
from pipelines.tasks.parsing.answers import finished_sentences

OUTCOME = pa.schema(
    [
        pa.field("split", pa.string()),
        *(field.with_nullable(True) for field in LABEL),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("output", pa.string()),
        pa.field("agrees", pa.bool_()),
        pa.field("in_prompt", pa.bool_()),
        pa.field("note", pa.string()),
        pa.field("content", pa.uint64()),
        pa.field("node", pa.string()),
        pa.field("dtype", pa.string()),
        pa.field("thoughts", pa.string()),
        pa.field("rationales", pa.list_(pa.string())),
        pa.field("cached_tokens", pa.int32()),
        pa.field("stored", pa.bool_()),
        pa.field("texts", pa.list_(STORED)),
        pa.field("token_logprobs", pa.struct([field for field in TOKEN_LOGPROBS if field.name != "id"])),
    ]
)
THOUGHT = "the teacher thought before it answered: cut"
"""The note of a row whose teacher is a reasoning model."""
MAX_TOKENS = "teacher.sampling.max_tokens"
"""The key that limits an answer, for messages."""
RATIONALISED = "rationalised"
"""The note of a row whose label is the gold label and whose rationale was written with that label as a hint."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One row of OUTCOME, and its columns. The columns of schema.LABEL are None if the row is rejected."""

    split: DataSplit
    id: str
    input: str | None = None
    gold: str | None = None
    label: str | None = None
    rationale: str | None = None
    votes: int | None = None
    agreement: float | None = None
    soft_label: Distribution | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    reason: str | None = None
    """One of schema.REJECT_REASONS; None if the row is accepted."""
    detail: str | None = None
    """As in schema.REJECT, like `output`."""
    output: str | None = None
    agrees: bool | None = None
    """True if the label means the gold label, before any filter and without a hint. None without a gold label or without a label."""
    in_prompt: bool = False
    """True if the row is one of the prompt's examples, whose label the teacher reads: its agreement says nothing."""
    note: str | None = None
    """A peculiarity that the parser noted, or RATIONALISED."""
    content: int | None = None
    """64-bit hash of (id, label, rationales) of an accepted row. Sums of it show whether two artifacts hold the same labels."""
    node: str | None = None
    """Node of the actor that decided the row; None for the scan's rejects."""
    dtype: str | None = None
    """The dtype that the actor's vLLM computes in; None for other teachers."""
    thoughts: str | None = None
    """Of the sample whose rationale is kept. None if the row is rejected, or without teacher.keep_thoughts."""
    rationales: Sequence[str] | None = None
    """Of an accepted train row: all distinct rationales of the label's voters that the filters keep, if there are several. The first one is
    `rationale`."""
    cached_tokens: int = 0
    """Part of `prompt_tokens`: those that an endpoint had in its cache."""
    stored: bool = False
    """True if no teacher was queried: the answer was stored before."""
    texts: Sequence[StoredAnswer] = ()
    """What the teacher wrote, for labels/texts."""
    token_logprobs: TokenLogprobs | None = None
    """Of the sample whose rationale is kept: train rows accepted without a hint, with teacher.token_logprobs."""


_COLUMNS = operator.attrgetter(*OUTCOME.names)


def judge(split: DataSplit, example: Example, generation: Generation, task: Task, filters: FiltersConfig) -> Outcome:
    """The outcome of an example that the teacher answered. If the task raises, the row is `unparsable`."""
    try:
        return _judge(split, example, generation, task, filters)
    except Exception as error:  # noqa: BLE001 - the task may be the user's code
        row = rejected(split, example.id, "unparsable", failure_detail(error), _text(generation.samples))
        prompt_tokens, output_tokens = generation.prompt_tokens, generation.output_tokens
        return dataclasses.replace(row, gold=example.gold, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def _judge(split: DataSplit, example: Example, generation: Generation, task: Task, filters: FiltersConfig) -> Outcome:
    answers, problem = _parse(generation.samples, example, task)
    consensus = find_consensus(answers, task)
    text = _text(generation.samples)
    prompt_tokens, output_tokens = generation.prompt_tokens, generation.output_tokens
    if consensus is None:
        cut = all(sample.finish_reason == "length" for sample in generation.samples)
        truncated = cut and not problem.startswith(RAISED)
        detail = f"{problem}. Raise {MAX_TOKENS}" if truncated else problem
        row = rejected(split, example.id, "truncated" if truncated else "unparsable", detail, text)
        return dataclasses.replace(row, gold=example.gold, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    row = _accepted(split, example, consensus, generation, answers, task)
    row.note = next((a.note for a in answers if a is not None and a.note), "")
    if not row.note and any(sample.thoughts for sample in generation.samples):
        row.note = THOUGHT
    refusal = refuse(consensus, example, task, filters) if split == "train" else None
    if refusal:
        row.reason, row.detail, row.output = refusal.reason, refusal.detail, text
        return row
    if split == "train":
        row.rationales = _several(kept_rationales(consensus, example, task, filters))
    row.content = _content(row)
    row.token_logprobs = generation.samples[consensus.kept].logprobs if split == "train" else None
    return row


def wants_rationalising(outcome: Outcome, filters: FiltersConfig, validation: float = 0.0) -> bool:
    """True if the example is worth a second prompt, with its gold label as a hint.

    That holds for a train row with a gold label whose answer has another label, or none: unparsable, truncated or a tie. It does not
    hold for rows of the validation split, since an answer that knows the gold label would be scored as the teacher's.

    Args:
        validation: share of train that is held out by the hash of the id.
    """
    if filters.gold != "rationalise" or outcome.split != "train" or outcome.gold is None:
        return False
    if is_validation(outcome.id, validation):
        return False
    return outcome.agrees is False or outcome.reason in ("unparsable", "truncated", "tie")


def second_attempt(
    example: Example, first: Outcome, generation: Generation, task: Task, filters: FiltersConfig
) -> Outcome:
    """The outcome of an example that was answered again, with its gold label as a hint.

    Accepted if the second answer means the gold label and passes the filters. Then the label is the gold label, and votes and
    agreement are the second answer's. There is no soft label, because a distribution that knows the answer is not the teacher's.
    `agrees` stays that of the first answer, so that the hint does not raise the teacher's accuracy.

    Rejected otherwise: with the filter's reason if the second answer means the gold label, else with the first reason. `output` then
    has both texts. Tokens are those of both answers.

    Args:
        example: with a gold label.
        first: an outcome for which `wants_rationalising` holds.
        generation: the answer to the prompt with the hint.
    """
    prompt_tokens = (first.prompt_tokens or 0) + generation.prompt_tokens
    output_tokens = (first.output_tokens or 0) + generation.output_tokens
    first = dataclasses.replace(first, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    try:
        return _second_attempt(example, first, generation, task, filters)
    except Exception as error:  # noqa: BLE001 - the task may be the user's code
        return dataclasses.replace(
            first,
            reason="unparsable",
            detail=f"with the gold label as a hint: {failure_detail(error)}",
            output=first.output or _text(generation.samples),
        )


def _second_attempt(
    example: Example, first: Outcome, generation: Generation, task: Task, filters: FiltersConfig
) -> Outcome:
    """`first`: with the tokens of both answers."""
    assert example.gold is not None
    answers, _ = _parse(generation.samples, example, task)
    consensus = find_consensus(answers, task)
    output = f"[first answer]\n{first.output}\n[with the gold label as a hint]\n{_text(generation.samples)}"
    row = dataclasses.replace(first, output=output)
    if consensus is None or not agrees(consensus, example, task):
        return row
    refusal = refuse(consensus, example, task, filters, hinted=True)
    if refusal:
        row.reason, row.detail = refusal.reason, f"with the gold label as a hint: {refusal.detail}"
        return row
    accepted = dataclasses.replace(
        _accepted(first.split, example, consensus, generation, answers, task),
        label=example.gold,
        rationales=_several(kept_rationales(consensus, example, task, filters, hinted=True)),
        soft_label=None,
        agrees=first.agrees,
        note=RATIONALISED,
        prompt_tokens=first.prompt_tokens,
        output_tokens=first.output_tokens,
    )
    accepted.content = _content(accepted)
    return accepted


def rejected(split: DataSplit, example_id: str, reason: str, detail: str, output: str) -> Outcome:
    """The outcome of a row without a label."""
    return Outcome(split=split, id=example_id, reason=reason, detail=detail, output=output)


def refused(split: DataSplit, example: Example, refusal: PromptRefusedError) -> Outcome:
    """The outcome of an example whose prompt no teacher answers."""
    return rejected(split, example.id, refusal.reason, refusal.detail, example.input)


def outcome_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Outcomes as a table of OUTCOME."""
    columns = dict(zip(OUTCOME.names, zip(*map(_COLUMNS, outcomes), strict=True), strict=True)) if outcomes else {}
    columns["soft_label"] = [found and list(map(_label_entry, found)) for found in columns.get("soft_label", ())]
    columns["texts"] = [[answer.entry() for answer in answers] for answers in columns.get("texts", ())]
    columns["token_logprobs"] = [found and _logprob_entry(found) for found in columns.get("token_logprobs", ())]
    arrays = [pa.array(columns.get(field.name, ()), field.type) for field in OUTCOME]
    return pa.table(arrays, schema=OUTCOME)


def rationales_table(outcomes: pa.Table) -> pa.Table:
    """The rows of labels/rationales (schema.RATIONALE) in a table of OUTCOME."""
    chosen = outcomes.filter(pc.is_valid(outcomes["rationales"]))
    lists = chosen["rationales"].combine_chunks()
    ids = chosen["id"].combine_chunks().take(pc.list_parent_indices(lists))
    indices = [index for size in pc.list_value_length(lists).to_pylist() for index in range(size)]
    return pa.table([ids, pc.list_flatten(lists), pa.array(indices, pa.int32())], schema=RATIONALE)


def texts_table(outcomes: pa.Table) -> pa.Table:
    """The rows of labels/texts (schema.TEXT) in a table of OUTCOME."""
    lists = outcomes["texts"].combine_chunks()
    rows = pc.list_parent_indices(lists)
    key, prompt_tokens, samples = pc.list_flatten(lists).flatten()
    return pa.table([key, outcomes["id"].take(rows), prompt_tokens, outcomes["dtype"].take(rows), samples], schema=TEXT)


def token_logprobs_table(outcomes: pa.Table) -> pa.Table:
    """The rows of labels/token_logprobs (schema.TOKEN_LOGPROBS) in a table of OUTCOME."""
    chosen = outcomes.filter(pc.is_valid(outcomes["token_logprobs"]))
    fields = chosen["token_logprobs"].combine_chunks().flatten()
    return pa.table([chosen["id"], *fields], schema=TOKEN_LOGPROBS)


def _accepted(
    split: DataSplit,
    example: Example,
    consensus: Consensus,
    generation: Generation,
    answers: Sequence[Answer | None],
    task: Task,
) -> Outcome:
    soft_label = mean_distribution(generation.samples, answers, task)
    if soft_label is None and len(answers) > 1:
        soft_label = consensus.soft_label
    return Outcome(
        split=split,
        id=example.id,
        input=example.input,
        gold=example.gold,
        label=consensus.label,
        rationale=consensus.rationale,
        votes=consensus.votes,
        agreement=consensus.agreement,
        soft_label=soft_label,
        prompt_tokens=generation.prompt_tokens,
        output_tokens=generation.output_tokens,
        finish_reason=generation.samples[consensus.kept].finish_reason,
        thoughts=generation.samples[consensus.kept].thoughts,
        agrees=None if example.gold is None else agrees(consensus, example, task),
    )


def _label_entry(entry: tuple[str, float]) -> dict[str, str | float]:
    return {"label": entry[0], "probability": entry[1]}


def _logprob_entry(found: TokenLogprobs) -> dict[str, object]:
    return {"token_ids": found.token_ids, "top_ids": list(found.top_ids), "top_logprobs": list(found.top_logprobs)}


def _several(rationales: list[str]) -> list[str] | None:
    return rationales if len(rationales) > 1 else None


def _content(row: Outcome) -> int:
    text = "\x00".join((row.id, row.label or "", *(row.rationales or [row.rationale or ""])))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _parse(samples: Sequence[Sample], example: Example, task: Task) -> tuple[list[Answer | None], str]:
    """(an answer per sample, None if it is unparsable; what is wrong with the first unparsable one)."""
    answers: list[Answer | None] = []
    problem = ""
    for sample in samples:
        try:
            answers.append(_parse_sample(sample, example, task))
        except UnparsableError as error:
            answers.append(None)
            problem = problem or str(error)
        except Exception as error:  # noqa: BLE001 - the task may be the user's code
            answers.append(None)
            problem = failure_detail(error)
    return answers, problem


def _parse_sample(sample: Sample, example: Example, task: Task) -> Answer:
    """The answer of one sample. A cut text must state it before its unfinished last sentence: `The answer is 12` may go on as 1200.

    Raises:
        UnparsableError: the text holds no answer, or only one that may be cut.
    """
    if not sample.thoughts_end:
        used_up = f": they have used up all {sample.tokens:,} tokens of the answer"
        raise UnparsableError(f"the thoughts do not end{used_up if sample.finish_reason == 'length' else ''}")
    if sample.finish_reason == "length" and not sample.text.strip():
        raise UnparsableError(
            f"no text after {sample.tokens:,} tokens: thoughts that are not shown may have used them up"
        )
    answer = checked_answer(task.parse(sample.text, example))
    if sample.finish_reason != "length":
        return answer
    try:
        finished = checked_answer(task.parse(finished_sentences(sample.text), example))
        if task.key(finished.label) == task.key(answer.label):
            return answer
    except UnparsableError:
        pass
    raise UnparsableError(f"the text is cut where it states {answer.label[:60]!r}")


def _text(samples: Sequence[Sample]) -> str:
    """The raw text of one sample, or of several with their numbers."""
    if len(samples) == 1:
        return samples[0].raw or samples[0].text
    return "\n".join(f"[{number}] {(sample.raw or sample.text).strip()}" for number, sample in enumerate(samples, 1))
