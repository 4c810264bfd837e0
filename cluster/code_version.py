"""Which code a process runs: the hash of our packages, compared across the nodes of a cluster."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

_CODE = ("cluster", "pipelines", "serving")


def code_folders() -> list[Path]:
    """The folders of our packages, which lie side by side in a checkout and apart in a job."""
    found = []
    for name in _CODE:
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        found.append(Path(spec.origin).parent)
    return found


def code_hash() -> str:
    """Hash of our packages' sources."""
    found = hashlib.sha256()
    for root in code_folders():
        for file in sorted(root.rglob("*.py")):
            found.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return found.hexdigest()[:16]
