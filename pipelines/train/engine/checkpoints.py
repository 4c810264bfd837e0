"""Checkpoints that know no number of workers and no ZeRO stage: every weight whole, in float32, with Adam's two moments.

    state.json                     how far the training is, and how many parts there are
    part-00000-of-00002.safetensors  weights 0, 2, 4, ... of the model: {"model.embed.weight/weight": ..., ".../exp_avg": ..., ...}
    part-00000-of-00002.json       that file's size and hash

Every worker writes one part. A checkpoint that is cut short or damaged is recognised by sizes and hashes, and never read. Nothing is
pickled. Random numbers need no state: each step draws from a seed of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATE = "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_KINDS = ("weight", *_MOMENTS)
_FLAT = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
"""Where DeepSpeed's optimizers keep this worker's float32 weights: of ZeRO 1 and 2, of 3, of bf16 without ZeRO."""


def save(engine: Any, state: Mapping[str, Any], folder: Path, rank: int, world: int) -> None:
    """Write this worker's part. Every worker calls it: weights that ZeRO has parted are gathered from all."""
    from safetensors.torch import save_file

    mine: dict[str, Any] = {}
    _link_moments(engine)
    for number, (name, parameter) in enumerate(_trained(engine)):
        whole = _gather(engine, parameter)
        if number % world == rank:
            mine |= {f"{name}/{kind}": tensor.cpu().contiguous() for kind, tensor in zip(_KINDS, whole, strict=True)}
    part = folder / f"part-{rank:05d}-of-{world:05d}.safetensors"
    save_file(mine, part)
    described = {"bytes": part.stat().st_size, "sha256": _digest(part)}
    part.with_suffix(".json").write_text(json.dumps(described), encoding="utf-8")
    if rank == 0:
        (folder / STATE).write_text(json.dumps({"parts": world, "state": dict(state)}), encoding="utf-8")


def problem(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None where it is whole."""
    try:
        count = int(json.loads((folder / STATE).read_text(encoding="utf-8"))["parts"])
        for part in _parts(folder, count):
            described = json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))
            if part.stat().st_size != described["bytes"]:
                return f"{part.name} has {part.stat().st_size:,} of {described['bytes']:,} bytes"
            if _digest(part) != described["sha256"]:
                return f"{part.name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"{STATE} or a part's description is unreadable ({error})"
    return None


def load(engine: Any, folder: Path, steps: int) -> None:
    """Put a whole checkpoint into an engine that has taken no step yet. Every worker calls it.

    Args:
        steps: optimizer steps that the checkpoint has behind it, which Adam's bias correction counts.

    Raises:
        ValueError: it is of another model.
    """
    count = int(json.loads((folder / STATE).read_text(encoding="utf-8"))["parts"])
    _link_moments(engine)
    with _opened(_parts(folder, count)) as tensors:
        for name, parameter in _trained(engine):
            if f"{name}/weight" not in tensors:
                raise ValueError(f"the checkpoint has no weight {name}")
            _scatter(engine, parameter, [tensors[f"{name}/{kind}"].get_tensor(f"{name}/{kind}") for kind in _KINDS])
    for entry in engine.basic_optimizer.state.values():
        entry["step"].fill_(float(steps))


def read_state(folder: Path) -> dict[str, Any]:
    """What `save` was given."""
    return dict(json.loads((folder / STATE).read_text(encoding="utf-8"))["state"])


def _trained(engine: Any) -> list[tuple[str, Any]]:
    return [(name, p) for name, p in engine.module.model.named_parameters() if p.requires_grad]


def _link_moments(engine: Any) -> None:
    """Let every parameter that ZeRO has parted find its moments.

    DeepSpeed links them when the first group of parameters takes its first step. Moments of other groups are not there then and never
    found, and before any step there are none.
    """
    import torch

    optimizer = engine.optimizer
    for name in _FLAT:
        for flat in getattr(optimizer, name, None) or ():
            entry = engine.basic_optimizer.state[flat]
            if not entry:
                entry["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
                entry |= {moment: torch.zeros_like(flat) for moment in _MOMENTS}
    if hasattr(optimizer, "_hp_optimizer_states_linked"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _gather(engine: Any, parameter: Any) -> list[Any]:
    """The parameter's float32 weight and moments, each whole, on every worker."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if _is_parted(parameter):
        weight = safe_get_full_fp32_param(parameter)
        found = [weight, *(safe_get_full_optimizer_state(parameter, moment) for moment in _MOMENTS)]
        return [tensor.detach().reshape(_shape(parameter)) for tensor in found]
    master = _master(engine, parameter)
    state = engine.basic_optimizer.state[master]
    return [tensor.detach() for tensor in (master, *(state[moment] for moment in _MOMENTS))]


def _scatter(engine: Any, parameter: Any, whole: list[Any]) -> None:
    """Set the parameter, its float32 weight and its moments, where this worker holds them."""
    import torch
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    whole = [tensor.to(engine.device) for tensor in whole]
    with torch.no_grad():
        if hasattr(parameter, "ds_id"):  # ZeRO stage 3
            weight, *moments = (_own_slice(parameter, tensor, engine) for tensor in whole)
            safe_set_local_fp32_param(parameter, weight)
            parameter.ds_tensor.data.copy_(weight)
            for moment, tensor in zip(_MOMENTS, moments, strict=True):
                safe_set_local_optimizer_state(parameter, tensor, moment)
            return
        weight, *moments = whole
        parameter.data.copy_(weight)
        if _is_parted(parameter):
            safe_set_full_fp32_param(parameter, weight)
            for moment, tensor in zip(_MOMENTS, moments, strict=True):
                safe_set_full_optimizer_state(parameter, tensor, moment)
            return
        master = _master(engine, parameter)
        master.data.copy_(weight)
        state = {"step": torch.zeros((), dtype=torch.float32, device=engine.device)}
        engine.basic_optimizer.state[master] = state | dict(zip(_MOMENTS, moments, strict=True))


def _master(engine: Any, parameter: Any) -> Any:
    """Without ZeRO: the float32 weight that the optimizer steps, the parameter itself or a copy of it."""
    optimizer = engine.optimizer
    copies = zip(getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ()), strict=True)
    pairs = ((low, high) for lows, highs in copies for low, high in zip(lows, highs, strict=True))
    return next((high for low, high in pairs if low is parameter), parameter)


def _is_parted(parameter: Any) -> bool:
    """Whether ZeRO keeps the parameter's optimizer state, rather than the optimizer under the parameter itself."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _shape(parameter: Any) -> Any:
    return getattr(parameter, "ds_shape", parameter.shape)


def _own_slice(parameter: Any, whole: Any, engine: Any) -> Any:
    """This worker's part of a tensor, as stage 3 cuts it: equal parts, the last one padded with zeros."""
    import torch

    size = parameter.ds_tensor.numel()
    rank = engine.optimizer._get_param_partition_rank(parameter)
    own = torch.zeros(size, dtype=torch.float32, device=whole.device)
    part = whole.flatten()[rank * size : (rank + 1) * size]
    own[: part.numel()] = part
    return own


def _parts(folder: Path, count: int) -> list[Path]:
    return [folder / f"part-{rank:05d}-of-{count:05d}.safetensors" for rank in range(count)]


@contextmanager
def _opened(parts: list[Path]) -> Iterator[dict[str, Any]]:
    """Name of each tensor -> the open file that has it."""
    from contextlib import ExitStack

    from safetensors import safe_open

    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(part, framework="pt")) for part in parts]
        yield {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
