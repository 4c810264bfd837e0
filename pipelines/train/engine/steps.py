"""The optimizer steps of a training: validation in between, checkpoints, progress, and the reasons to stop early.

With `training.validate_every_steps` the validation split is measured in between. The best step is the one with the lowest objective by
`training.choose_by`. Its weights are stored, and exported at the end.
"""

from __future__ import annotations

import math
import time

from pipelines.errors import StageFailedError
from pipelines.students.details import BestStep, Losses
from pipelines.train.engine.job import TrainingJob
from pipelines.train.engine.resume import CheckpointSaver, TrainingState
from pipelines.train.engine.worker import Worker
from pipelines.train.loss_terms import SPIKE_WINDOW, TERMS, criterion, is_spike
from pipelines.train.tracking.progress_actor import ProgressUpdate
from pipelines.train.tracking.trackers import Trackers


def run_steps(worker: Worker, state: TrainingState, job: TrainingJob, trackers: Trackers | None) -> None:
    """Run the steps from `state.step` to the end of the plan, or until patience ends. Updates `state`.

    Args:
        trackers: given on worker 0 only.
    """
    saver, progress = CheckpointSaver(worker), _ProgressReporter(worker, job)
    progress.resume(state)
    while state.step < worker.plan.steps and not is_patience_over(state, worker.run.training.patience):
        tokens = worker.plan.tokens(state.step, state.step + 1)
        losses, step_s = _take_step(worker, state)
        if trackers is not None:
            trackers.log(state.step, {**losses, "tokens_per_s": tokens / step_s, "step_s": step_s})
        progress.report(state, tokens, losses)
        measured = len(state.validation)
        if validate_if_due(worker, state):
            _store_best(worker, state, job)
        if trackers is not None and len(state.validation) > measured:
            trackers.log(state.step, state.validation[-1], "validation/")
        if saver.save_if_due(state) and trackers is not None:
            trackers.sync()


def _take_step(worker: Worker, state: TrainingState) -> tuple[Losses, float]:
    """One step with its losses, and the seconds that it took."""
    began, waited_s = time.monotonic(), worker.loader.waited_s
    losses = worker.step(state.step)
    step_s = time.monotonic() - began
    state.seconds += step_s
    state.waited_s += worker.loader.waited_s - waited_s
    check_spike(worker, state, losses)
    state.history.append({"step": state.step, **losses})
    state.step += 1
    return losses, step_s


class _ProgressReporter:
    """Sends worker 0's progress to the driver. Does nothing on other workers, or without a progress actor."""

    def __init__(self, worker: Worker, job: TrainingJob) -> None:
        self._actor = job.progress if worker.rank == 0 else None
        self._plan = worker.plan
        self._total = self._plan.tokens() if self._actor else 0
        self._done: int | None = None

    def resume(self, state: TrainingState) -> None:
        """Report the state that the steps begin with: a new one, or that of a checkpoint."""
        if self._actor is not None:
            self._actor.set_checkpoint.remote(state.step)
        self.report(state)

    def report(self, state: TrainingState, tokens: int = 0, losses: Losses | None = None) -> None:
        """Report the state after a step with so many tokens."""
        if self._actor is None:
            return
        self._done = self._plan.tokens(0, state.step) if self._done is None else self._done + tokens
        detail = ""
        if losses:
            terms = ", ".join(f"{term} {losses[term]:.3f}" for term in TERMS if term in losses)
            detail = f"step {state.step}/{self._plan.steps}, loss: {terms}"
        self._actor.update.remote(ProgressUpdate(self._done, self._total, self._plan.steps - state.step, detail))


def validate_if_due(worker: Worker, state: TrainingState) -> bool:
    """Measure the validation split if it is due. True if the step is the best so far."""
    every = worker.run.training.validate_every_steps
    if every is None or (state.step % every and state.step < worker.plan.steps):
        return False
    means = worker.validate()
    value = criterion(worker.run.training.choose_by, worker.weights, means)
    state.validation.append({"step": state.step, "objective": value, **means})
    if math.isnan(value) or (state.best is not None and state.best.objective <= value):
        return False
    state.best = BestStep(step=state.step, objective=value, terms=means)
    return True


def _store_best(worker: Worker, state: TrainingState, job: TrainingJob) -> None:
    """Store the weights, and remove those that are no longer the best, neither now nor at a checkpoint."""
    from pipelines.train.engine.export import write_weights

    state.best_difference = write_weights(worker, job.best_weights(state.step))
    needed = {state.step, *state.best_at_saves}
    if worker.rank == 0:
        for step in set(state.best_kept) - needed:
            job.best_weights(step).clear()
    state.best_kept = sorted({*state.best_kept, state.step} & needed)


def is_patience_over(state: TrainingState, patience: int | None) -> bool:
    """True if as many measurements as `patience` follow the best one."""
    if patience is None or state.best is None:
        return False
    return len([row for row in state.validation if row["step"] > state.best.step]) >= patience


def check_spike(worker: Worker, state: TrainingState, losses: Losses) -> None:
    """Raise StageFailedError if the loss is above training.max_loss_spike times the median of the last steps."""
    factor = worker.run.training.max_loss_spike
    recent = [row["loss"] for row in state.history[-SPIKE_WINDOW:]]
    if factor is None or not is_spike(recent, losses["loss"], factor):
        return
    raise StageFailedError(
        f"the loss of step {state.step} is {losses['loss']:.3g}, more than {factor:g} times the median before it. "
        f"{worker.examples_of(state.step)}. Lower training.learning_rate, or raise training.max_loss_spike"
    )
