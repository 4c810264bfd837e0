from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.fingerprint import file_fingerprint, fingerprint, model_fingerprint


def test_fingerprints_follow_content_not_path(tmp_path: Path) -> None:
    expected = "13d9a822ad32e5e212330efcac0a1d999dfc0508cee708a8a0cdbe2802a26cf1"
    assert fingerprint({"b": ["é", None], "a": 1}) == fingerprint({"a": 1, "b": ["é", None]}) == expected
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    assert model_fingerprint(str(one)) == model_fingerprint(str(two))
    assert file_fingerprint(str(one / "config.json")) == file_fingerprint(str(two / "config.json"))
    (two / "config.json").write_text('{"a": 1}')
    assert model_fingerprint(str(one)) != model_fingerprint(str(two))
    before = model_fingerprint(str(one))
    for name in ("manifest.json", "progress.json", "content.json"):  # content.json: of a student of 0.1
        (one / name).write_text("{}")
    assert model_fingerprint(str(one)) == before
    (one / "other.json").write_text("{}")
    assert model_fingerprint(str(one)) != before


def test_unreadable_model_file_is_one_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")

    def refused(uri: str) -> str:
        raise PermissionError(13, f"Failed to open local file '{uri}'")

    monkeypatch.setattr("pipelines.storage.fingerprint.file_fingerprint", refused)
    with pytest.raises(UserError, match=r"a file is not readable .*model.safetensors.* Grant this user read access"):
        model_fingerprint(str(tmp_path))
