"""How many replicas of the teacher, and GPUs, a deadline needs: what `raystill plan --deadline` answers. Pure arithmetic over a plan.

Labelling is the part that grows with the corpus and shrinks with replicas: with n of them it takes the engine's start, and 1/n of what
one would take. Training and evaluation take what the plan says they do, one after the other, whatever n is.
"""

from __future__ import annotations

import math
from typing import Any

from cluster.planning.estimate import Throughput, label_estimate
from pipelines.config import RunConfig
from pipelines.label.engines.dataset import in_flight

_DRIVER_BLOCKS_PER_S = 45
"""That one driver was seen to keep going, whatever their size, with readers and stand-ins for 1,000 nodes on the same two cores
(tests/benchmarks/capacity_simulation). By its CPU time, a driver with a core of its own would do more than twice as many."""


def capacity(
    run: RunConfig, stages: dict[str, dict[str, Any]], text_bytes: float, throughput: Throughput, deadline_s: float
) -> dict[str, Any]:
    """The least number of replicas with which the run ends in time, and what labelling then takes.

    Args:
        stages: of the plan; label's rows and tokens are those still to be asked.
        text_bytes: of a row's input, id and gold label, on average.
        throughput: of one replica.
        deadline_s: for all that is left of the run.

    Returns:
        {"deadline_s", "other_s": what training and evaluation take of it, "left_out": stages of which that is not known, "replicas",
        "gpus": that they hold, "label": label_estimate with so many of them, "rows_per_s": of all replicas,
        "driver_rows_per_s": with which one driver is known to keep up, "problem"}. `replicas`,
        `gpus` and `label` are None where there is a `problem`: in words, why no number is given.
    """
    label = stages["label"]
    others = {stage: stages[stage]["seconds"] for stage in ("train", "evaluate")}
    other_s = sum(seconds for seconds in others.values() if seconds is not None)
    found: dict[str, Any] = {
        "deadline_s": deadline_s,
        "other_s": other_s,
        "left_out": [stage for stage, seconds in others.items() if seconds is None],
        "replicas": None,
        "gpus": None,
        "label": None,
        "rows_per_s": None,
        "driver_rows_per_s": _DRIVER_BLOCKS_PER_S * in_flight(run).rows_per_block,
        "problem": None,
    }
    if not label["rows"]:
        return found | {"problem": "there is nothing to label"}
    if run.teacher.engine == "openai":
        return found | {"problem": "the limits of the teacher's endpoint decide, not replicas"}
    if label["seconds"] is None:
        return found | {"problem": "the throughput of a replica is not known; measure it with --calibrate N"}
    start_s = label["engine_start_s"] or 0.0
    working_s = (label["seconds"] - start_s) * label["replicas"]
    left_s = deadline_s - other_s - start_s
    if left_s <= 0:
        return found | {"problem": "engine start, training and evaluation alone take longer"}
    replicas = max(math.ceil(working_s / left_s), 1)
    if replicas > label["rows"]:
        return found | {"problem": "not even a replica for each row would do"}
    estimate = label_estimate(
        _with_replicas(run, replicas), label["rows"], label["prompt_tokens"], text_bytes, throughput
    )
    return found | {
        "replicas": replicas,
        "gpus": replicas * run.teacher.gpus_per_replica,
        "label": estimate,
        "rows_per_s": label["rows"] / (working_s / replicas) if working_s else None,
    }


def _with_replicas(run: RunConfig, replicas: int) -> RunConfig:
    teacher = run.teacher
    sizes = teacher.replicas.model_copy(update={"min": min(teacher.replicas.min, replicas), "max": replicas})
    return run.model_copy(update={"teacher": teacher.model_copy(update={"replicas": sizes})})
