"""Extras of the distribution: which packages a role needs, and one message with the install line if they are missing."""

from __future__ import annotations

import importlib.util
from typing import Literal

from pipelines.errors import UserError

Role = Literal["label", "train", "serve"]
_MODULES: dict[Role, tuple[str, ...]] = {
    "label": ("aiorwlock", "datasketch", "openai", "transformers"),
    "train": ("datasketch", "deepspeed", "torch", "peft", "jinja2", "scipy"),
    "serve": ("fastapi", "limits", "torch", "transformers"),
}
"""Modules of packages that the role's extra brings; pyproject.toml lists the packages."""


def require_extra(role: Role) -> None:
    """Check that the packages of a role are installed. Imports nothing.

    Raises:
        UserError: a package is missing; the message has the line that installs it.
    """
    missing = [name for name in _MODULES[role] if importlib.util.find_spec(name) is None]
    if missing:
        rule = f"the packages of this role are not installed ({', '.join(missing)})"
        raise UserError(f"raystill[{role}]", rule, f"Run `pip install 'raystill[{role}]'`.")


def require_vllm() -> None:
    """Check that vLLM is installed.

    Raises:
        UserError: it is not; the message names both builds.
    """
    if importlib.util.find_spec("vllm") is None:
        remedy = "Run `pip install 'raystill[gpu]'`, or `pip install 'raystill[cpu]'` on a machine without a GPU."
        raise UserError("vllm", "it is not installed", remedy)
