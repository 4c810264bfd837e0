"""A job's working directory: paths that mean the same on the cluster, and files that travel."""

from pathlib import Path
from typing import Any

import pytest

from cluster.jobs.package import write_package
from pipelines.config import RunConfig
from pipelines.config.load import load_run, parse_run
from pipelines.errors import UserError
from tests.support.run_files import TREE


def packed(run: RunConfig, folder: Path, *, shared: tuple[str, ...] = (), same_machine: bool = False) -> RunConfig:
    write_package(run, folder, shared=shared, same_machine=same_machine)
    return load_run(folder / "run.yaml")


def test_uris_and_hub_ids_stay(tmp_path: Path) -> None:
    run = parse_run({**TREE, "teacher": {**TREE["teacher"], "shots": "s3://bucket/shots.jsonl"}})
    assert packed(run, tmp_path) == run
    assert "dtype" not in (tmp_path / "run.yaml").read_text(), "an older image may not know the key"
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("section", "value", "key"),
    [
        ("output", "runs/try", "output runs/try"),
        ("output", "file:///runs/try", "output file:///runs/try"),
        ("corpus", {"train": ["s3://bucket/a.jsonl", "/data/b.jsonl"]}, "corpus.train /data/b.jsonl"),
        ("corpus", {"train": "s3://bucket/a.jsonl", "validation": "held.jsonl"}, "corpus.validation held.jsonl"),
        ("teacher", {"engine": "replay", "outputs": "outputs.jsonl"}, "teacher.outputs outputs.jsonl"),
        ("student", {"model": "./student"}, r"student.model \./student"),
        ("student", {"model": "local/model"}, "student.model local/model"),  # a folder here, so no hub id
        ("serving", {"keys": {"file": "/etc/keys"}}, "serving.keys.file /etc/keys"),
    ],
)
def test_a_path_that_only_this_machine_has_is_refused(
    section: str, value: Any, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=f"only this machine has {key}.*--shared FOLDER"):
        packed(parse_run({**TREE, section: value}), tmp_path)


def test_shared_folders_and_one_machine_keep_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {**TREE, "output": "/mnt/runs/try", "corpus": {"train": "/mnt/data/*.jsonl"}}
    assert packed(parse_run(tree), tmp_path, shared=("/mnt",)) == parse_run(tree)
    with pytest.raises(UserError, match="output /mnt/runs/try"):
        packed(parse_run(tree), tmp_path, shared=("/mnt/data", "/mn"))
    monkeypatch.chdir(tmp_path)
    run = packed(parse_run({**TREE, "output": "runs/try"}), tmp_path, same_machine=True)
    assert run.output == str(tmp_path / "runs" / "try")
    assert run.student.model == TREE["student"]["model"]


def test_the_task_file_and_the_shots_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, shots = tmp_path / "mine.py", tmp_path / "shots.jsonl"
    task.write_text("TASK = 1\n")
    shots.write_text('{"question": "a", "answer": "b"}\n')
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.chdir(package)  # where the job runs
    run = packed(parse_run({**TREE, "task": str(task), "teacher": {**TREE["teacher"], "shots": str(shots)}}), package)
    assert (run.task, run.teacher.shots) == (f"{package}/files/mine.py", f"{package}/files/shots.jsonl")
    assert Path(run.task).read_text() == "TASK = 1\n"
    with pytest.raises(UserError, match="there is no such file"):
        packed(parse_run({**TREE, "task": str(tmp_path / "gone.py")}), package)
