"""One answered example -> one outcome row: accepted with label and rationale, or rejected with a reason.

An outcome row is what a teacher actor returns: the columns of schema.LABEL, with nulls where it is rejected, and

    split: train | heldout    reason: null | one of REJECT_REASONS    detail, output: as in schema.REJECT
    agrees: whether the label means the gold label, null where there is no gold or no label (before any filter, and without a hint)
    note: what the parser found worth counting, or RATIONALISED
    token_logprobs: of the sample whose rationale is kept, where teacher.token_logprobs asks for it and a train row is accepted without
        a hint
    content: hash of (id, label, rationale), null where it is rejected; sums of it tell whether labels are the same
    node: of the actor that gave the outcome, null where the scan did
    dtype: that its vLLM computed in, null of other teachers

With filters.gold `rationalise` a row may take two answers (STaR: Zelikman et al. 2022, section 3.2, rationalisation). The caller asks

    row = judge(split, example, first, task, filters)
    if wants_rationalising(row, filters, share_that_is_held_out):
        again = await teacher.answer(prompts.render(example, hint=True))
        row = second_attempt(split, example, row, again, task, filters)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import FiltersConfig
from pipelines.data.heldout import is_validation
from pipelines.data.schema import LABEL, TOKEN_LOGPROBS
from pipelines.errors import UnparsableError
from pipelines.label.answers.consensus import Consensus, vote
from pipelines.label.answers.filters import agrees, refuse
from pipelines.label.teachers.base import Generation, PromptRefusedError, Sample
from pipelines.label.teachers.label_probabilities import mean_distribution
from pipelines.tasks import Answer, Example, Task

OUTCOME = pa.schema(
    [
        pa.field("split", pa.string()),
        *(field.with_nullable(True) for field in LABEL),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("output", pa.string()),
        pa.field("agrees", pa.bool_()),
        pa.field("note", pa.string()),
        pa.field("content", pa.uint64()),
        pa.field("node", pa.string()),
        pa.field("dtype", pa.string()),
        pa.field("token_logprobs", pa.struct([field for field in TOKEN_LOGPROBS if field.name != "id"])),
    ]
)
RATIONALISED = "rationalised"
"""The note of a row whose label is the gold label and whose rationale was written with that label as a hint."""
_EMPTY: dict[str, Any] = dict.fromkeys(OUTCOME.names)


def judge(split: str, example: Example, generation: Generation, task: Task, filters: FiltersConfig) -> dict[str, Any]:
    """The outcome row of an example that the teacher answered."""
    answers, problem = _parse(generation.samples, example, task)
    consensus = vote(answers, task)
    raw = _raw(generation.samples)
    tokens = {
        "prompt_tokens": generation.prompt_tokens,
        "output_tokens": sum(sample.tokens for sample in generation.samples),
    }
    if consensus is None:
        cut = all(sample.finish_reason == "length" for sample in generation.samples)
        reason = "truncated" if cut else "unparsable"
        return {**rejected(split, example.id, reason, problem, raw), **tokens, "gold": example.gold}
    refusal = refuse(consensus, example, task, filters) if split == "train" else None
    row = _accepted(split, example, consensus, generation, answers, task) | tokens
    row["note"] = next((a.note for a in answers if a is not None and a.note), "")
    if refusal:
        row["reason"], row["detail"] = refusal
        row["output"] = raw
    else:
        row["content"] = _content(row)
        row["token_logprobs"] = _token_logprobs(generation.samples[consensus.kept]) if split == "train" else None
    return row


def wants_rationalising(row: Mapping[str, Any], filters: FiltersConfig, validation: float = 0.0) -> bool:
    """Whether this outcome of a first answer asks for a second one, to a prompt with the gold label as a hint.

    So it is where the label is not the gold one, and also where there is no label: the answer was unparsable, truncated or a tie. An
    answer that means the gold label and was dropped for another reason, a row without gold and a held-out row get no second one. Nor
    does a row of the validation split: an answer that knows the gold label would be scored as the teacher's.

    Args:
        validation: share of train that is held out by the hash of the id.
    """
    if filters.gold != "rationalise" or row["split"] != "train" or row["gold"] is None:
        return False
    if is_validation(row["id"], validation):
        return False
    return row["agrees"] is False or row["reason"] in ("unparsable", "truncated", "tie")


def second_attempt(
    split: str,
    example: Example,
    first_row: Mapping[str, Any],
    generation: Generation,
    task: Task,
    filters: FiltersConfig,
) -> dict[str, Any]:
    """The outcome row of an example that was asked again with its gold label as a hint.

    Accepted where the second answer means the gold label and passes the filters. Its label is then the gold label; votes and agreement
    are the second answer's; there is no soft label, since a distribution given the answer is not the teacher's; `agrees` stays what
    it was without the hint, so that the teacher's accuracy is not flattered; note is RATIONALISED. Where the second answer means the
    gold label but a filter drops it, the reason is that filter's; else it is the first answer's. A reject's `output` holds both texts.
    Tokens are those of both answers. Where the second prompt is refused (too long with the hint), the first row stands.

    Args:
        split: train.
        example: with gold.
        first_row: for which `wants_rationalising` holds.
        generation: the answer to the prompt with the hint.
    """
    assert example.gold is not None
    answers, _ = _parse(generation.samples, example, task)
    consensus = vote(answers, task)
    row = {
        **first_row,
        "prompt_tokens": first_row["prompt_tokens"] + generation.prompt_tokens,
        "output_tokens": first_row["output_tokens"] + sum(sample.tokens for sample in generation.samples),
        "output": f"[first answer]\n{first_row['output']}\n[with the gold label as a hint]\n{_raw(generation.samples)}",
    }
    if consensus is None or not agrees(consensus, example, task):
        return row
    refusal = refuse(consensus, example, task, filters, hinted=True)
    if refusal:
        return {**row, "reason": refusal[0], "detail": f"with the gold label as a hint: {refusal[1]}"}
    kept = _accepted(split, example, consensus, generation, answers, task)
    changed = {"label": example.gold, "soft_label": None, "agrees": first_row["agrees"], "note": RATIONALISED}
    accepted = {**kept, **changed, "prompt_tokens": row["prompt_tokens"], "output_tokens": row["output_tokens"]}
    return {**accepted, "content": _content(accepted)}


def rejected(split: str, example_id: str, reason: str, detail: str, output: str) -> dict[str, Any]:
    """The outcome row of a row that got no label."""
    return {**_EMPTY, "split": split, "id": example_id, "reason": reason, "detail": detail, "output": output}


def outcome_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Outcome rows as a table of OUTCOME."""
    columns = ([row[field.name] for row in rows] for field in OUTCOME)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, OUTCOME, strict=True)], schema=OUTCOME
    )


def refused(split: str, example: Example, refusal: PromptRefusedError) -> dict[str, Any]:
    """The outcome row of an example that the teacher could not be asked."""
    return rejected(split, example.id, refusal.reason, refusal.detail, example.input)


def _accepted(
    split: str,
    example: Example,
    consensus: Consensus,
    generation: Generation,
    answers: Sequence[Answer | None],
    task: Task,
) -> dict[str, Any]:
    soft_label = mean_distribution(generation.samples, answers, task)
    if soft_label is None and len(answers) > 1:
        soft_label = consensus.soft_label
    return {
        **_EMPTY,
        "split": split,
        "id": example.id,
        "input": example.input,
        "gold": example.gold,
        "label": consensus.label,
        "rationale": consensus.rationale,
        "votes": consensus.votes,
        "agreement": consensus.agreement,
        "soft_label": [{"label": k, "probability": p} for k, p in soft_label] if soft_label else None,
        "finish_reason": generation.samples[consensus.kept].finish_reason,
        "agrees": None if example.gold is None else agrees(consensus, example, task),
    }


def token_logprobs_table(outcomes: pa.Table) -> pa.Table:
    """The rows of labels/token_logprobs (schema.TOKEN_LOGPROBS) among outcomes: those of accepted train rows that have any."""
    chosen = outcomes.filter(pc.is_valid(outcomes["token_logprobs"]))
    fields = chosen["token_logprobs"].combine_chunks().flatten()
    return pa.table([chosen["id"], *fields], schema=TOKEN_LOGPROBS)


def _token_logprobs(sample: Sample) -> dict[str, Any] | None:
    if sample.logprobs is None:
        return None
    return {"token_ids": sample.logprobs.token_ids, "top_ids": list(sample.logprobs.top_ids),
            "top_logprobs": list(sample.logprobs.top_logprobs)}  # fmt: skip


def _content(row: dict[str, Any]) -> int:
    text = "\x00".join((row["id"], row["label"], row["rationale"]))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _parse(samples: Sequence[Sample], example: Example, task: Task) -> tuple[list[Answer | None], str]:
    answers: list[Answer | None] = []
    problem = ""
    for sample in samples:
        try:
            answers.append(task.parse(sample.text, example))
        except UnparsableError as error:
            answers.append(None)
            problem = problem or str(error)
    return answers, problem


def _raw(samples: Sequence[Sample]) -> str:
    if len(samples) == 1:
        return samples[0].text
    return "\n".join(f"[{number}] {sample.text.strip()}" for number, sample in enumerate(samples, 1))
