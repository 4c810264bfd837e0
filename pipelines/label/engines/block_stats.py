"""Ray Data's driver keeps the times of every block until a dataset is done: some 800 bytes for each operator and block.

That is about 100 bytes per row in blocks of 16, and grows with the corpus. Nothing reads them here, so they are dropped as they come.
"""

from __future__ import annotations

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback


class _Forget(ExecutionCallback):  # type: ignore[misc]
    def on_execution_step(self, executor: object) -> None:
        """Called by Ray Data after each step of a dataset's execution, in the thread that appends to the lists."""
        for operator in executor._topology:  # type: ignore[attr-defined]
            for of_blocks in operator.get_stats().values():
                of_blocks.clear()


def forget_blocks(context: DataContext) -> None:
    """Datasets of this context keep no times of their blocks; their `stats()` tell of none."""
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _Forget]
