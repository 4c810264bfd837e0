import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import manifest_of, read_manifest, require_manifest, write_manifest
from pipelines.storage.store import MANIFEST, Store

PARTS: dict[str, Any] = {"config": {}, "counts": {}, "timings_s": {}, "details": {}, "provenance": {}}


def finished(uri: str, identity: dict[str, object]) -> Store:
    store = Store(uri)
    write_manifest(store, manifest_of("labels", identity, **PARTS))
    return store


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_manifest_makes_an_artifact_finished(tmp_path: Path, scheme: str) -> None:
    assert read_manifest(Store(f"{scheme}{tmp_path}/labels"), "labels") is None
    with pytest.raises(UserError, match="raystill label RUN"):
        require_manifest(Store(f"{scheme}{tmp_path}/labels"), "labels", "label RUN")
    store = finished(f"{scheme}{tmp_path}/labels", {"a": 1})
    assert store.files() == [MANIFEST]
    manifest = read_manifest(store, "labels")
    assert manifest.fingerprint == fingerprint({"a": 1})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *((one, "not a manifest") for one in ("", "{}", "[]", {"created": "x"}, {"created": "2026-01-01T00:00:00"})),
        ({"type": "student"}, "it is a student artifact, must be a labels artifact"),
        ({"schema_version": 99}, "schema version 99, must be 1"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, changed: str | dict[str, Any], message: str) -> None:
    """`changed`: fields of a manifest, or the whole file."""
    store = finished(str(tmp_path), {})
    text = changed if isinstance(changed, str) else json.dumps({**json.loads(store.read(MANIFEST)), **changed})
    store.write(MANIFEST, text.encode())
    with pytest.raises(UserError, match=message):
        read_manifest(store, "labels")
