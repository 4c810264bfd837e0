"""Private names of DeepSpeed 0.19, with the reason why no public name does the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import Tensor


def disable_compiled_collective() -> None:
    """Make DeepSpeed on the CPU communicate through gloo instead of building a shared-memory collective from C++.

    Private: no setting turns the build off, and a worker may have no compiler.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def skip_reduction(engine: DeepSpeedEngine) -> None:
    """Make an engine of one worker without ZeRO leave gradients as they are.

    Private: it copies all of them into one buffer, sums that over its one worker, and copies it back.
    """
    if engine.enable_backward_allreduce:
        engine.enable_backward_allreduce = False


def sharded_weights(engine: DeepSpeedEngine) -> list[Tensor]:
    """This worker's float32 weights under ZeRO stage 3, one flat tensor per group of parameters.

    Private: stage 3 lists them in the public `optimizer.param_groups` only while a step runs.
    """
    return list(engine.optimizer.fp32_partitioned_groups_flat)


def link_moments(engine: DeepSpeedEngine) -> None:
    """Make the public `safe_get_full_optimizer_state` find the Adam moments of all parameters under ZeRO stages 1 and 2.

    Private: DeepSpeed links them once, in the first step of the first group of parameters. It never finds moments that are created
    before that step or for a later group.
    """
    optimizer = engine.optimizer
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()
