"""Training workers without Ray. All fork from one process that has imported torch, transformers and DeepSpeed."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

IMPORTED = ["deepspeed", "transformers.models.llama.modeling_llama", "transformers.models.t5.modeling_t5"]


def run_workers(function: Callable[..., Any], world: int, *arguments: Any, compilers: bool = False) -> Any:
    """What `function(rank, world, *arguments)` returns in rank 0 of `world` processes, one gloo group.

    Without `compilers` the processes find none, as on a machine that has none. Raises the first error.
    """
    import torch

    multiprocessing.set_forkserver_preload(IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        given = (world, folder, function, arguments, compilers)
        torch.multiprocessing.start_processes(_work, given, nprocs=world, start_method="forkserver")
        return torch.load(f"{folder}/found.pt")


def _work(
    rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...], compilers: bool
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    if not compilers:
        os.environ["PATH"] = ""
    import torch
    import torch.distributed as dist

    from pipelines.train.engine.deepspeed_engine import prepare_deepspeed

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    prepare_deepspeed(gpu=False)
    found = function(rank, world, *arguments)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.barrier()
    dist.destroy_process_group()
