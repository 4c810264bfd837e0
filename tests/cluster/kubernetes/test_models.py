"""Downloads of models: from an object store or the hub, checked, and never mixed with another model."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from cluster.kubernetes.models import RECORD, Model, checksum, download, main, read_list
from pipelines.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model's files, as a folder that a file:// URI names."""
    folder = tmp_path / "bucket" / "tiny"
    (folder / "nested").mkdir(parents=True)
    for name, text in {"config.json": "{}", "model.safetensors": "weights", "nested/tokenizer.json": "[]"}.items():
        (folder / name).write_text(text)
    return folder


def test_the_checksum_is_that_of_sha256sum(source: Path) -> None:
    (source / ".hidden").write_text("x")
    command = "find * -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    done = subprocess.run(["bash", "-c", command], cwd=source, capture_output=True, text=True, check=True)
    assert checksum(source) == done.stdout.split()[0]
    before = checksum(source)
    (source / "nested/tokenizer.json").rename(source / "tokenizer.json")
    assert checksum(source) != before


def test_a_finished_model_is_kept_and_never_replaced(source: Path, tmp_path: Path) -> None:
    volume = tmp_path / "models"
    volume.mkdir()
    entry = Model(name="tiny", source=source.as_uri())
    found = download(entry, volume)
    assert json.loads((volume / "tiny" / RECORD).read_text()) == {**entry.model_dump(), "sha256": found}
    (source / "model.safetensors").write_text("other weights")
    assert download(entry, volume) == found
    assert download(entry.model_copy(update={"sha256": found}), volume) == found
    with pytest.raises(UserError, match=r"models/tiny: it holds another model \(file://.*\)\. Give this one"):
        download(Model(name="tiny", source="org/model"), volume)
    (volume / "by-hand").mkdir()
    with pytest.raises(UserError, match="copied by hand"):
        download(Model(name="by-hand", source=source.as_uri()), volume)


def test_a_download_resumes_unless_its_source_changed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.kubernetes.models.shutil.copyfileobj", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        download(Model(name="tiny", source=source.as_uri()), tmp_path)
    monkeypatch.undo()
    partial = tmp_path / ".tiny.partial"
    (partial / "config.json").write_text("[]")  # as large as the source's
    (partial / "model.safetensors").write_text("wei")  # was cut
    volume = shutil.copytree(tmp_path, tmp_path / "second")
    download(Model(name="tiny", source=source.as_uri()), tmp_path)
    assert (tmp_path / "tiny" / "config.json").read_text() == "[]", "a whole file is not copied again"
    assert (tmp_path / "tiny" / "model.safetensors").read_text() == "weights"
    assert not partial.exists()
    other = source.rename(source.with_name("other"))
    assert download(Model(name="tiny", source=other.as_uri()), volume) == checksum(other)


def test_wrong_content_leaves_no_model(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "models.yaml"
    listed.write_text(f"- {{name: tiny, source: '{source.as_uri()}', sha256: '{'0' * 64}'}}\n")
    assert main([str(listed), str(tmp_path)]) == 2
    assert f"have the checksum {checksum(source)}, and {'0' * 64} is expected" in capsys.readouterr().err
    other = source.rename(source.with_name("other"))
    shutil.copytree(other, source, ignore=shutil.ignore_patterns("*.safetensors"))
    listed.write_text(f"- {{name: tiny, source: '{source.as_uri()}'}}\n")
    assert main([str(listed), str(tmp_path)]) == 2
    assert "it has no *.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()
    nothing = (tmp_path / "nothing").as_uri()
    listed.write_text(f"- {{name: tiny, source: '{nothing}'}}\n- {{name: up, source: '{other.as_uri()}'}}\n")
    assert main([str(listed), str(tmp_path)]) == 2
    assert "the folder is empty or does not exist" in capsys.readouterr().err
    assert (tmp_path / "up" / "model.safetensors").exists(), "one refused model keeps no other"


def test_the_hub_is_called_with_the_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def snapshot_download(repo: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        calls.append((repo, revision))
        (local_dir / ".cache").mkdir()
        (local_dir / "model.safetensors").write_text("weights")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    download(Model(name="t5", source="google/t5", revision="abc"), tmp_path)
    assert calls == [("google/t5", "abc")]
    assert sorted(file.name for file in (tmp_path / "t5").iterdir()) == [RECORD, "model.safetensors"]

    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=ConnectionError("no route to the hub")))
    (tmp_path / "list").write_text("[{name: other, source: google/t5}]")
    assert main([str(tmp_path / "list"), str(tmp_path)]) == 1, "the Job tries again"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- {name: ../up, source: a/b}", "0.name: String should match"),
        ("- {name: a, source: a/b}\n- {name: a, source: c/d}", "a: two models have this name"),
        ("- {name: a, source: 's3://b/a', revision: main}", "a: a URI has no revision"),
        ("- {name: a, source: a/b, sha256: abc}", "0.sha256: String should match"),
        ("models: [", "it is no YAML"),
    ],
)
def test_a_wrong_list_is_refused(text: str, match: str) -> None:
    with pytest.raises(UserError, match=f"models.yaml.*{match}"):
        read_list(text, "models.yaml")
