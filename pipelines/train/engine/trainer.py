"""Runs a training on Ray Train's workers. In: a TrainingJob. Out: worker 0's TrainingResult, or StageFailedError with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.config import TrainingConfig
from pipelines.errors import RaystillError, StageFailedError, last_line
from pipelines.runtime.compat.ray import leave_sigint, torch_config_with_setup, without_datasets
from pipelines.runtime.cpus import KEPT_MEMORY
from pipelines.train.engine.job import TrainingFailure, TrainingJob, TrainingResult
from pipelines.train.engine.loop import train_loop
from pipelines.train.engine.network_interfaces import use_node_interface

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.train import ScalingConfig, UserCallback
    from ray.train.torch import TorchTrainer


_ANSWER_S = 5.0
_RESUMES = "The last checkpoint is of step {step:,}; the same command resumes there."
_STARTS_OVER = "There is no checkpoint yet; the same command starts over from step 0."


def run_training(job: TrainingJob) -> TrainingResult:
    """Train, or resume from the last checkpoint in the job's work folder.

    Raises:
        StageFailedError: the training stopped; another call resumes it.
        KeyboardInterrupt: with what is kept.
    """
    from ray.train import TrainingFailedError

    try:
        result: TrainingResult | TrainingFailure = _trainer(job).fit().return_value
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_how_to_resume(job)) from error
    except TrainingFailedError as error:
        raise _stopped(_reason(error), job) from error
    if isinstance(result, TrainingFailure):
        raise _stopped(result.reason, job)
    return result


def _trainer(job: TrainingJob) -> TorchTrainer:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    training, work = job.run.training, job.work
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        torch_config=torch_config_with_setup(use_node_interface),
        scaling_config=_scaling_config(training),
        run_config=RunConfig(
            # A version of Ray reads only its own snapshots. Under another version training starts from the beginning.
            name=f"ray-{ray.__version__}",
            storage_path=work.root,
            storage_filesystem=None if work.is_local else work.fs,
            failure_config=FailureConfig(max_failures=training.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=training.keep_checkpoints),
            callbacks=[] if job.progress is None else [_checkpoint_callback(job.progress)],
            worker_runtime_env={} if training.gpus_per_worker else {"env_vars": KEPT_MEMORY},
        ),
    )
    leave_sigint(trainer)
    without_datasets(trainer)
    return trainer


def _scaling_config(training: TrainingConfig) -> ScalingConfig:
    from ray.train import ScalingConfig

    gpus = {"GPU": 1} if training.gpus_per_worker else {}
    return ScalingConfig(
        num_workers=(training.min_workers, training.workers) if training.min_workers else training.workers,
        use_gpu=training.gpus_per_worker > 0,
        resources_per_worker={"CPU": 1, **gpus},
        placement_strategy=training.placement.upper(),
    )


def _checkpoint_callback(progress: ActorHandle) -> UserCallback:
    """Reports the step of each checkpoint that Ray Train has committed."""
    from ray.train import UserCallback

    class ReportCheckpoint(UserCallback):  # type: ignore[misc]
        """Runs in Ray Train's process, after the parts of all workers are uploaded."""

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            if checkpoint is not None:
                progress.set_checkpoint.remote(metrics[0]["step"])

    return ReportCheckpoint()


def _stopped(reason: str, job: TrainingJob) -> StageFailedError:
    return StageFailedError(f"training stopped: {reason}. {_how_to_resume(job)}")


def _how_to_resume(job: TrainingJob) -> str:
    """From which step another call resumes."""
    import ray

    if job.progress is not None:
        try:
            step = ray.get(job.progress.checkpoint.remote(), timeout=_ANSWER_S)
        except ray.exceptions.RayError:
            pass  # the cluster is gone, and the folder alone knows
        else:
            if step is not None:
                return _RESUMES.format(step=step) if step else _STARTS_OVER
    return f"The same command resumes from the last checkpoint in {job.work.shown()}, if there is one."


def _reason(error: Exception) -> str:
    """What the workers raised, in one line. The traceback follows as the cause."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = [getattr(failure, "cause", None) or failure for failure in failures.values()]
    ours = [str(cause) for cause in causes if isinstance(cause, RaystillError)]
    if ours:
        return ours[0].rstrip(".")
    return last_line(causes[0] if causes else error).rstrip(".")
