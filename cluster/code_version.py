"""The code that a process runs, as a hash. It is compared across the nodes of a cluster and between jobs."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

_PACKAGES = ("cluster", "pipelines", "serving")


def code_folders() -> list[Path]:
    """Folders of Raystill's packages. They lie side by side in a checkout and apart in a job."""
    folders = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        folders.append(Path(spec.origin).parent)
    return folders


def code_hash() -> str:
    """Hash of the packages' sources, 16 hex digits."""
    digest = hashlib.sha256()
    for root in code_folders():
        for file in sorted(root.rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]
