"""Checkpoints that fit any number of workers and any ZeRO stage: whole float32 weights with Adam's two moments.

    state.json                        the progress of the training, and the number of parts
    part-00000-of-00002.safetensors   weights 0, 2, 4, ... of the model: {"model.embed.weight/weight": ..., ".../exp_avg": ..., ...}
    part-00000-of-00002.json          size and hash of that file

Each worker writes one part. Sizes and hashes expose a truncated or damaged checkpoint before it is read. Nothing is pickled. No random
state is saved: every step seeds its own generator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.compat.deepspeed import link_moments, sharded_weights
from pipelines.train.engine.deepspeed_engine import parameter_groups

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import Tensor
    from torch.nn import Parameter

STATE = "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_KINDS = ("weight", *_MOMENTS)


def save(engine: DeepSpeedEngine, state: Mapping[str, object], folder: Path, rank: int, world: int) -> None:
    """Write this worker's part. Every worker must call it, because partitioned weights are gathered from all.

    Args:
        state: written as JSON by worker 0; `read_state` returns it.
    """
    from safetensors.torch import save_file

    _prepare_moments(engine)
    masters = _master_weights(engine)
    part: dict[str, Tensor] = {}
    for number, (name, parameter) in enumerate(_trained(engine)):
        tensors = _gather(engine, parameter, masters)
        if number % world == rank:
            part |= {f"{name}/{kind}": tensor.cpu().contiguous() for kind, tensor in zip(_KINDS, tensors, strict=True)}
    path = folder / f"part-{rank:05d}-of-{world:05d}.safetensors"
    save_file(part, path)
    description = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(description), encoding="utf-8")
    if rank == 0:
        (folder / STATE).write_text(json.dumps({"parts": world, "state": dict(state)}), encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None if it is whole."""
    try:
        count = int(json.loads((folder / STATE).read_text(encoding="utf-8"))["parts"])
        for part in _parts(folder, count):
            description = json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))
            if part.stat().st_size != description["bytes"]:
                return f"{part.name} has {part.stat().st_size:,} of {description['bytes']:,} bytes"
            if _sha256(part) != description["sha256"]:
                return f"{part.name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"{STATE} or the description of a part is unreadable ({error})"
    return None


def load(engine: DeepSpeedEngine, folder: Path, steps: int) -> None:
    """Load a whole checkpoint into an engine that has taken no step yet. Every worker must call it.

    Args:
        steps: optimizer steps of the checkpoint, for Adam's bias correction.

    Raises:
        ValueError: it is of another model.
    """
    count = int(json.loads((folder / STATE).read_text(encoding="utf-8"))["parts"])
    _prepare_moments(engine)
    masters = _master_weights(engine)
    with _open_tensors(_parts(folder, count)) as files:
        for name, parameter in _trained(engine):
            if f"{name}/weight" not in files:
                raise ValueError(f"the checkpoint has no weight {name}")
            tensors = [files[f"{name}/{kind}"].get_tensor(f"{name}/{kind}") for kind in _KINDS]
            _scatter(engine, parameter, masters, [tensor.to(engine.device) for tensor in tensors])
    for entry in engine.optimizer.state.values():
        entry["step"].fill_(float(steps))


def read_state(folder: Path) -> dict[str, object]:
    """The state that `save` wrote."""
    return dict(json.loads((folder / STATE).read_text(encoding="utf-8"))["state"])


def _trained(engine: DeepSpeedEngine) -> list[tuple[str, Parameter]]:
    return [(name, p) for name, p in engine.module.model.named_parameters() if p.requires_grad]


def _optimizer_weights(engine: DeepSpeedEngine) -> list[Tensor]:
    """The float32 tensors that this worker's Adam updates: whole weights without ZeRO, flat partitions with it."""
    if engine.zero_optimization_stage() == 3:
        return sharded_weights(engine)
    return [weight for group in engine.optimizer.param_groups for weight in group["params"]]


def _prepare_moments(engine: DeepSpeedEngine) -> None:
    """Give every weight moments of 0 if it has none yet. Adam creates them in its first step only."""
    import torch

    for weight in _optimizer_weights(engine):
        entry = engine.optimizer.state[weight]
        if not entry:
            entry["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            entry |= {moment: torch.zeros_like(weight) for moment in _MOMENTS}
    if engine.zero_optimization_stage() in (1, 2):
        link_moments(engine)


def _master_weights(engine: DeepSpeedEngine) -> dict[Parameter, Tensor]:
    """Without ZeRO: each parameter's float32 weight that Adam updates, which is a copy in bf16. Empty with ZeRO."""
    if engine.zero_optimization_stage():
        return {}
    parameters = [p for group in parameter_groups(engine.module.model, 0.0) for p in group["params"]]
    return dict(zip(parameters, _optimizer_weights(engine), strict=True))


def _gather(engine: DeepSpeedEngine, parameter: Parameter, masters: Mapping[Parameter, Tensor]) -> list[Tensor]:
    """The parameter's float32 weight and moments, each whole, on every worker."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage():
        moments = [safe_get_full_optimizer_state(parameter, moment) for moment in _MOMENTS]
        return [tensor.detach() for tensor in (safe_get_full_fp32_param(parameter), *moments)]
    master = masters[parameter]
    state = engine.optimizer.state[master]
    return [tensor.detach() for tensor in (master, *(state[moment] for moment in _MOMENTS))]


def _scatter(
    engine: DeepSpeedEngine, parameter: Parameter, masters: Mapping[Parameter, Tensor], tensors: list[Tensor]
) -> None:
    """Set the parameter, and what this worker holds of its float32 weight and moments."""
    import deepspeed
    import torch
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    weight, *moments = tensors
    stage = engine.zero_optimization_stage()
    with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=stage == 3):
        parameter.data.copy_(weight)
    if stage == 3:
        _set_shard(parameter, weight, moments)
    elif stage:
        safe_set_full_fp32_param(parameter, weight)
        for name, moment in zip(_MOMENTS, moments, strict=True):
            safe_set_full_optimizer_state(parameter, moment, name)
    else:
        master = masters[parameter]
        master.data.copy_(weight)
        for name, moment in zip(_MOMENTS, moments, strict=True):
            engine.optimizer.state[master][name].copy_(moment)


def _set_shard(parameter: Parameter, weight: Tensor, moments: list[Tensor]) -> None:
    """Set this worker's part of a parameter under ZeRO stage 3: equal parts by rank, the last one padded with zeros.

    DeepSpeed's `safe_set_full_*` refuse a parameter whose size is no multiple of the number of workers.
    """
    import torch
    from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param, safe_set_local_optimizer_state

    size, rank = safe_get_local_fp32_param(parameter).numel(), torch.distributed.get_rank()

    def shard(whole: Tensor) -> Tensor:
        own = torch.zeros(size, dtype=torch.float32, device=whole.device)
        part = whole.flatten()[rank * size : (rank + 1) * size]
        own[: part.numel()] = part
        return own

    safe_set_local_fp32_param(parameter, shard(weight))
    for name, moment in zip(_MOMENTS, moments, strict=True):
        safe_set_local_optimizer_state(parameter, shard(moment), name)


def _parts(folder: Path, count: int) -> list[Path]:
    return [folder / f"part-{rank:05d}-of-{count:05d}.safetensors" for rank in range(count)]


@contextmanager
def _open_tensors(parts: list[Path]) -> Iterator[dict[str, Any]]:
    """Name of each tensor -> the open safetensors file that has it."""
    from safetensors import safe_open

    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(part, framework="pt")) for part in parts]
        yield {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
