"""How many replicas of the teacher, and GPUs, a deadline needs: the arithmetic of `raystill plan --deadline`.

Only labelling gets faster with replicas. With n of them it takes the engine's start, and 1/n of the time of one. Training and evaluation
follow it, and take what the plan says whatever n is.
"""

from __future__ import annotations

import math

from cluster.planning.estimate import label_estimate
from cluster.planning.model import Capacity, ReplicaThroughput, StageEstimates
from pipelines.config import RunConfig
from pipelines.label.engines.dataset import in_flight

_DRIVER_BLOCKS_PER_S = 45
"""What one driver keeps up with, whatever the size of a block: measured with readers and stand-ins for 1,000 nodes on the same two cores
(tests/benchmarks/capacity_simulation). By its CPU time, a driver with a core of its own would manage more than twice as many."""


def capacity(
    run: RunConfig, stages: StageEstimates, text_bytes: float, throughput: ReplicaThroughput, deadline_s: float
) -> Capacity:
    """The least number of replicas that meets the deadline, and what labelling then takes.

    Args:
        text_bytes: mean size of a row's input, id and gold label.
        throughput: of one replica.
        deadline_s: for all that is left of the run.
    """
    label = stages.label
    others = {"train": stages.train.seconds, "evaluate": stages.evaluate.seconds}
    other_s = sum(seconds for seconds in others.values() if seconds is not None)
    found = Capacity(
        deadline_s=deadline_s,
        other_s=other_s,
        left_out=[stage for stage, seconds in others.items() if seconds is None],
        driver_rows_per_s=_DRIVER_BLOCKS_PER_S * in_flight(run).rows_per_block,
    )
    left_s = deadline_s - other_s - (label.engine_start_s or 0.0)
    problem = _problem(run, stages, left_s)
    if problem or label.seconds is None:
        return found.model_copy(update={"problem": problem})
    working_s = (label.seconds - (label.engine_start_s or 0.0)) * label.replicas
    replicas = max(math.ceil(working_s / left_s), 1)
    if replicas > label.rows:
        return found.model_copy(update={"problem": "a replica for each row would still be late"})
    estimate = label_estimate(_with_replicas(run, replicas), label.rows, label.prompt_tokens, text_bytes, throughput)
    return found.model_copy(
        update={
            "replicas": replicas,
            "gpus": replicas * run.teacher.gpus_per_replica,
            "label": estimate,
            "rows_per_s": label.rows / (working_s / replicas) if working_s else None,
        }
    )


def _problem(run: RunConfig, stages: StageEstimates, left_s: float) -> str | None:
    """Why no number of replicas can be given. `left_s`: for labelling, without the engine's start."""
    if not stages.label.rows:
        return "no rows are left to label"
    if run.teacher.engine == "openai":
        return "the teacher's endpoint sets the pace, not replicas"
    if stages.label.seconds is None:
        return "the throughput of a replica is unknown; measure it with --calibrate N"
    return "engine start, training and evaluation alone take longer" if left_s <= 0 else None


def _with_replicas(run: RunConfig, replicas: int) -> RunConfig:
    teacher = run.teacher
    sizes = teacher.replicas.model_copy(update={"min": min(teacher.replicas.min, replicas), "max": replicas})
    return run.model_copy(update={"teacher": teacher.model_copy(update={"replicas": sizes})})
