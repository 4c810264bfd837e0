"""Worker processes without Ray. All fork from one process that has imported torch, transformers and DeepSpeed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

IMPORTED = ["deepspeed", "transformers.models.llama.modeling_llama", "transformers.models.t5.modeling_t5"]


def run_processes(function: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in `count` processes. Raises the first error."""
    import torch

    multiprocessing.set_forkserver_preload(IMPORTED)
    torch.multiprocessing.start_processes(function, arguments, nprocs=count, start_method="forkserver")
