"""Results of a benchmark: a table on stdout and the same figures as JSON in `benchmarks-out/`."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.storage.manifest import library_versions, now

OUT = Path("benchmarks-out")


def machine() -> dict[str, Any]:
    """The machine and library versions."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cpus, instructions = len(os.sched_getaffinity(0)), torch.backends.cpu.get_cpu_capability()
    found = {"cpus": cpus, "instructions": instructions, "gpus": gpus, "python": platform.python_version()}
    return found | library_versions()


def publish(
    name: str, rows: Sequence[Mapping[str, Any]], *, title: str = "", unprinted: Mapping[str, Any] | None = None, **more: Any
) -> None:  # fmt: skip
    """Print the rows as a table and write `benchmarks-out/NAME.json`, which also has what is `unprinted`."""
    table = Table(title=title or name)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(_shown(row.get(column, "")) for column in columns))
    Console(width=140).print(table)
    for key, value in more.items():
        print(f"{key}: {_shown(value)}")
    OUT.mkdir(exist_ok=True)
    record = {"benchmark": name, "when": now(), "machine": machine(), "rows": list(rows), **more, **(unprinted or {})}
    (OUT / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
