"""`raystill plan`: what a run would do, without Ray, an engine or weights (--calibrate excepted).

Tokens are counted with the teacher's tokenizer if it is on this machine, in its folder or in the hub's cache, else as 4 characters each.
The first 1,000 rows are rendered, or as many of a sample (corpus_sample.py), and the totals scale them up. estimate.py has the arithmetic,
plan_text.py the words.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.planning.capacity import capacity
from cluster.planning.comparison import comparison_plan
from cluster.planning.corpus_sample import corpus_rows
from cluster.planning.estimate import histogram, label_estimate, share_at
from cluster.planning.local_models import model_config, token_counter
from cluster.planning.measured import evaluate_estimate, known_throughput, train_estimate
from cluster.planning.model import (
    NO_STUDENT,
    CorpusRows,
    Existing,
    ExistingArtifacts,
    ExistingLabels,
    Plan,
    PromptTokens,
    ReplicaThroughput,
    Rows,
    RowSample,
    StageEstimate,
    StageEstimates,
    Tokens,
    TrainEstimate,
)
from cluster.planning.scored_rows import scored_rows
from cluster.planning.training_memory import student_shape, training_memory, training_storage
from cluster.planning.training_steps import training_steps
from pipelines.config import RunConfig
from pipelines.corpus_checks import corpus_survey, corpus_warnings
from pipelines.data.heldout import heldout_files, validation_share
from pipelines.data.reader import corpus_files
from pipelines.errors import UserError
from pipelines.reuse import Action, Decision
from pipelines.run import STAGES, decisions
from pipelines.status import Finished, NotBegun, StageState, run_status
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task, load_task, task_spec
from pipelines.tasks.failures import failure_detail
from pipelines.train.checks import teacher_warnings

if TYPE_CHECKING:
    from pipelines.label.answers.prompts import PromptMaker
    from pipelines.label.teachers.base import TokensUsed

_RENDERED_ROWS = 1000
_LABELS = 100
_MOST_EXAMPLES = 1_000_000
_NOT_PLANNED = StageEstimate(seconds=0.0, gpu_hours=None, source=NO_STUDENT)


@dataclass
class _Corpus:
    """What one pass over the corpus finds."""

    rows: dict[str, int] = field(default_factory=lambda: {"train": 0, "heldout": 0, "unreadable": 0})
    first: list[Example] = field(default_factory=list)
    """Of train: the first ones, or some of each place of a sample."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """By split: all that were read if answers are stored, so that their rows can be counted; else as in `first`."""
    sample: RowSample | None = None
    """Of train, if it was not read as a whole."""

    @property
    def text_bytes(self) -> float:
        """Mean size of an example: input, id and gold label."""
        texts = (example.input + example.id + (example.gold or "") for example in self.first)
        return statistics.mean(len(text.encode()) for text in texts)


def make_plan(
    run: RunConfig, prompts: int, calibration: ReplicaThroughput | None = None, deadline_s: float | None = None
) -> Plan:
    """The plan of a run that has passed its checks, with the first `prompts` rendered prompts.

    Raises:
        UserError: no row of the corpus can be read, or a manifest is damaged.
    """
    from pipelines.data.shots import read_shots
    from pipelines.label.answers.prompts import PromptMaker
    from pipelines.label.stored.forecast import stored_files

    task = load_task(task_spec(run.task, run.task_options))
    (exists, decision), replaceable = _existing(run), stored_files(run)
    corpus = _read_corpus(run, task, _MOST_EXAMPLES if replaceable else _RENDERED_ROWS)
    if not corpus.first:
        # The first rows, which the survey reads, may all be readable while none of a sample is.
        problems = [f": {problem} (first: {found.first})" for problem, found in corpus_survey(run).unreadable.items()]
        rule = f"the task can read none of {'a sample of ' if corpus.sample else ''}its rows{''.join(problems[:1])}"
        raise UserError("corpus.train", rule, "Check corpus.fields, or the task file.")
    maker = PromptMaker(task, run.teacher, read_shots(run.teacher, task))
    texts = [_rendered(maker, example, run.task) for example in corpus.first]
    rows = corpus.rows["train"] + corpus.rows["heldout"]
    heldout = corpus.rows["heldout"] or _validation_rows(run, corpus)
    tokens = _tokens(run, texts, rows)
    throughput = calibration or known_throughput(run, task)
    remaining = exists.label.rows_retried if exists.label.reused else max(rows - exists.label.rows_finished, 0)
    stored = min(_stored_rows(run, corpus, decision), remaining) if replaceable and not exists.label.reused else 0
    remaining -= stored
    text_bytes = corpus.text_bytes
    prompt_tokens = round(tokens.prompt.mean * remaining)
    stages = StageEstimates(
        label=label_estimate(
            run, remaining, prompt_tokens, text_bytes, throughput, stored=stored, used=_used_tokens(run, decision)
        ),
        train=_train_estimate(run, task, corpus, throughput, reused=exists.train.reused),
        evaluate=evaluate_estimate(run, heldout, reused=exists.evaluate.reused) if run.has_student else _NOT_PLANNED,
    )
    return Plan(
        config=run.model_dump(),
        prompts=texts[:prompts],
        rows=Rows(**corpus.rows, sample=corpus.sample),
        tokens=tokens,
        throughput=throughput,
        stages=stages,
        capacity=None if deadline_s is None else capacity(run, stages, text_bytes, throughput, deadline_s),
        exists=exists,
        corpus=_corpus_rows(run, decision.manifest),
        scored=scored_rows(run, corpus.rows, corpus.examples) if run.has_student else None,
        comparison=comparison_plan(run, heldout) if run.has_student else None,
    )


def _used_tokens(run: RunConfig, decision: Decision) -> TokensUsed:
    """What the labels that the run resumes have used of the budget, and calibrations."""
    from pipelines.label.output.commits import committed_counts
    from pipelines.label.output.spending import AllSpending, used_tokens
    from pipelines.label.teachers.base import NOTHING_USED

    labels, budget = Store(run.output).child("labels"), run.teacher.budget
    if decision.action is Action.REFUSE or (budget.tokens is None and budget.money is None):
        return NOTHING_USED
    if decision.replaces:  # labels with a lower corpus.limit, whose rows are taken over
        return AllSpending.read(labels).used
    return used_tokens(labels, committed_counts(labels)[0].paid_tokens)


def _stored_rows(run: RunConfig, corpus: _Corpus, decision: Decision) -> int:
    """Rows of the corpus that take over a stored answer: counted, or estimated if the corpus was sampled."""
    from pipelines.label.stored.forecast import stored_among

    replaced, stored = decision.action is Action.REFUSE or decision.replaces, 0.0
    for name, examples in corpus.examples.items():
        if examples:
            stored += corpus.rows[name] * stored_among(run, examples, replaced=replaced) / len(examples)
    return round(stored)


def _rendered(maker: PromptMaker, example: Example, task: str) -> str:
    from pipelines.label.answers.prompts import prompt_text

    try:
        return prompt_text(maker.render(example))
    except UserError:
        raise
    except Exception as error:  # the task may be the user's code
        raise UserError(f"task {task}", f"{failure_detail(error)} on row {example.id}", "Correct the file.") from error


def _corpus_rows(run: RunConfig, labels: Manifest | None) -> CorpusRows:
    found = corpus_survey(run)
    return CorpusRows(
        checked=found.rows,
        with_gold=found.with_gold,
        labels=dict(found.labels.most_common(_LABELS)),
        repeated_ids=found.repeated.rows,
        unreadable={problem: rows.rows for problem, rows in found.unreadable.items()},
        warnings=[*corpus_warnings(run), *(teacher_warnings(labels, run) if labels and run.has_student else [])],
    )


def _validation_rows(run: RunConfig, corpus: _Corpus) -> int:
    """Rows that are scored if there is no file of held-out examples."""
    return round(corpus.rows["train"] * validation_share(run.corpus.validation))


def _read_corpus(run: RunConfig, task: Task, most_examples: int) -> _Corpus:
    corpus = _Corpus()
    sources = {"train": corpus_files(run.corpus.train, "corpus.train"), "heldout": heldout_files(run.corpus) or []}
    for name, files in sources.items():
        found = corpus_rows(files, task, run.corpus.fields, limit=run.corpus.limit, examples=most_examples)
        corpus.rows[name] += found.readable
        corpus.rows["unreadable"] += found.unreadable
        corpus.examples[name] = found.examples
        if name == "train":
            first = found.examples if found.sample else found.examples[:_RENDERED_ROWS]
            corpus.first, corpus.sample = first, found.sample
    return corpus


def _tokens(run: RunConfig, texts: list[str], rows: int) -> Tokens:
    """Token counts of the rendered prompts, scaled to `rows` rows."""
    count, how = token_counter(run.teacher.model, "teacher")
    lengths = [count(text) for text in texts]
    mean, sampling = statistics.mean(lengths), run.teacher.sampling
    room = run.teacher.vllm.max_model_len - sampling.max_tokens
    return Tokens(
        counted_with=how,
        rows_counted=len(lengths),
        prompt=PromptTokens(
            mean=mean,
            median=share_at(lengths, 0.5),
            p95=share_at(lengths, 0.95),
            max=max(lengths),
            total=round(mean * rows),
        ),
        histogram=histogram(lengths),
        too_long=sum(n > room for n in lengths) if run.teacher.engine == "vllm" else 0,
        output_at_most=sampling.n * sampling.max_tokens * rows,
    )


def _existing(run: RunConfig) -> tuple[ExistingArtifacts, Decision]:
    """What OUTPUT holds and what the run would do with it, and the decision on the labels."""
    states, found = run_status(run).stages, decisions(run, STAGES if run.has_student else ("label",))
    label, train, evaluate = (
        Existing(
            state=_state(states[stage]),
            reused=stage in found and _reused(found[stage]),
            detail=_detail(found[stage]) if stage in found else NO_STUDENT,
        )
        for stage in STAGES
    )
    labels = ExistingLabels(
        **label.model_dump(),
        rows_finished=found["label"].rows_finished,
        rows_retried=found["label"].rows_retried,
    )
    return ExistingArtifacts(label=labels, train=train, evaluate=evaluate), found["label"]


def _state(state: StageState) -> str:
    if isinstance(state, Finished):
        return f"finished {state.created}"
    return "to be made" if isinstance(state, NotBegun) else state.state


def _reused(decision: Decision) -> bool:
    """Finished labels are reused also if some of their rows are retried."""
    return decision.reused is not None or decision.rows_retried > 0


def _detail(decision: Decision) -> str:
    if decision.action is Action.REFUSE:
        return f"{decision.reason}: refused without --replace"
    if decision.rows_finished:
        return f"{decision.rows_finished:,} rows are finished and kept"
    return decision.reason


def _train_estimate(
    run: RunConfig, task: Task, corpus: _Corpus, throughput: ReplicaThroughput, *, reused: bool
) -> TrainEstimate:
    if not run.has_student:
        return TrainEstimate(**_NOT_PLANNED.model_dump(), memory=None)
    rows = corpus.rows["train"]
    if run.student.leaves_out_rows and (found := corpus_survey(run)).readable:
        rows = round(rows * found.with_gold / found.readable)
    estimate = train_estimate(run, rows, reused=reused)
    steps = training_steps(run, task, corpus.first, rows, throughput)
    config = model_config(run.student.model)
    shape = student_shape(config, run.student) if config else None
    if shape is None:  # its config.json is not on this machine, or its architecture is unknown
        return TrainEstimate(**estimate.model_dump(), memory=None, steps=steps)
    memory = training_memory(shape, run.training, run.student.lora)
    storage = training_storage(shape, run.training, run.student.lora)
    return TrainEstimate(**estimate.model_dump(), memory=memory, steps=steps, storage_bytes=storage)
