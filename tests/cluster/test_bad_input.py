"""What a user can get wrong: one message, its exit code, and no traceback; with --json the same as one object."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from cluster.cli import main
from cluster.commands.errors import CommandError
from tests.support.corpora import write_jsonl

RUN: dict[str, Any] = {
    "name": "a", "output": "out", "task": "classification", "task_options": {"labels": ["a", "b"], "instruction": "Which?"},
    "corpus": {"train": "c.jsonl"}, "teacher": {"engine": "echo"}, "student": {"model": "./m", "labels": "teacher"},
}  # fmt: skip
TASK = """from pipelines.tasks import *
class T(Task):
    name, version, shots = "t", "1", ()
    def read(self, row): return Example(str(row["id"]), row["input"], None)
    def parse(self, text, example): return Answer("a", "b")
    def normalise(self, label, example): return label
"""
QUESTION = "    def question(self, example): return 1 / 0\n"
CSV, JSONL, OWN = {"corpus": {"train": "c.csv"}}, {"corpus": {"train": "d.jsonl"}}, {"task": "t.py", "task_options": {}}
VLLM, OPENAI = {"engine": "vllm", "model": "./m"}, {"engine": "openai", "model": "m"}
HEADER = "id,input,label\n1,hoy,a\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound run in the shell's folder."""
    write_jsonl(tmp_path / "c.jsonl", [{"id": f"r{i}", "input": f"Text {i}", "label": "ab"[i % 2]} for i in range(9)])
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "t5"}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ({"corpus": {"train": "c.jsonl", "validation": 20}}, {}, "`corpus.validation`: must be a share from 0 to 1"),
        ({}, {"run.yaml": "name: a".encode("utf-16")}, "run.yaml: not UTF-8 (byte 0). Save it as UTF-8."),
        ({}, {"run.yaml": "- a"}, "a run file is a mapping of sections"),
        ({}, {"run.yaml": "a: ["}, "not readable as YAML"),
        ({}, {"run.yaml": "a: &a [*a]"}, "nested too deeply, or in itself"),
        ({}, {"run.yaml": "a: " + "[" * 5000}, "nested too deeply, or in itself"),
        ({}, {"run.yaml": "a: " + "9" * 5000}, "not readable as YAML (Exceeds the limit"),
        ({}, {"run.yaml": "a: !!python/object/apply:os.system [ls]"}, "could not determine a constructor for the tag"),
        ({}, {"run.yaml": "a: 1\na: 2\n"}, "the key `a` is given twice, in lines 1 and 2"),
        ({"corpus": {"train": "c.jsonl", "fields": {"label": "x"}}}, {}, "The label of a person is the field `gold`."),
        (JSONL, {"d.jsonl": '{"input": "x"}\n'.encode("utf-16")}, "Convert it: iconv -f utf-16 -t utf-8 d.jsonl > utf8-d.jsonl."),
        (JSONL, {"d.jsonl": '{"input": "x", "input": "y"}'}, "not JSON (an object has the same key twice)"),
        (CSV, {"c.csv": HEADER.replace("o", "ö").encode("latin-1")}, "Convert it: iconv -f cp1252 -t utf-8 c.csv"),
        (CSV, {"c.csv": "id,input,input\n"}, "two columns are called `input`"),
        (CSV, {"c.csv": '"id\n1\n'}, "its header is not CSV"),
        (CSV, {"c.csv": ""}, "the corpus is empty"),
        ({"corpus": {"train": "c.jsonl", "fields": {"gold": "answer"}}}, {}, "reads column `answer`"),
        ({"corpus": {"train": "c.jsonl", "fields": {"premise": "p"}}}, {}, "reads no such field"),
        (JSONL, {"d.jsonl": "[]"}, "none of its first 1 rows can be read (not a JSON object)"),
        (CSV, {"c.csv": "1,hey,a\n2,hoy,b\n"}, "reads column `input`, the first 1 rows have only: 1, a, hey"),
        (CSV, {"c.csv": HEADER + "2,hey,zz\n"}, "warning: 1 of 2 rows cannot be read: the gold label: 'zz' is not one of a, b"),
        (CSV, {"c.csv": HEADER + '2,"hey,b\n'}, "warning: 1 of 2 rows cannot be read: not CSV (unexpected end of data)"),
        (CSV, {"c.csv": HEADER + "2,hey\n"}, "warning: 1 of 2 rows cannot be read: fewer values than the header"),
        (CSV, {"c.csv": HEADER + "2,,a\n"}, "warning: 1 of 2 rows cannot be read: field `input` is missing or null"),
        (CSV, {"c.csv": HEADER + f"2,{'x' * 1_000_000},a\n"}, "warning: 1 of 2 rows cannot be read: field `input` has 1,000,000"),
        ({"task": "alchemy"}, {}, "unknown task"),
        ({"task": "gone.py"}, {}, "the file does not exist"),
        (OWN, {"t.py": "x = 1"}, "it defines 0 subclasses of Task, must be one"),
        (OWN, {"t.py": TASK + "class Other(T): pass"}, "it defines 2 subclasses of Task, must be one"),
        (OWN, {"t.py": TASK + "    def __init__(self, options): options['size']"}, "T does not accept its options (KeyError: 'size'"),
        (OWN, {"t.py": "1 / 0"}, "the file fails (ZeroDivisionError: division by zero (t.py, line 1, in <module>))"),
        (OWN, {"t.py": "class ("}, "the file fails (SyntaxError: invalid syntax (t.py, line 1)). Correct the file."),
        (OWN, {"t.py": "import beside"}, "No module named 'beside' (t.py, line 1, in <module>)). Install the module on all nodes."),
        (OWN, {"t.py": "raise SystemExit(3)"}, "the file fails (SystemExit: 3 (t.py, line 1, in <module>))"),
        (OWN, {"t.py": TASK.replace("name,", "title,")}, "`name` is missing. Set it: a text."),
        (OWN, {"t.py": TASK.replace("()\n", '(("q", "a"),)\n', 1)}, "`shots` is (('q', 'a'),), must be a tuple of Shot(question, answer)"),
        (OWN, {"t.py": TASK.replace("str(row", "int(1 or row")}, "read returned id 1, must be text"),
        (OWN, {"t.py": TASK.replace('row["input"]', 'row["x"]')}, "KeyError: 'x' (t.py, line 4, in read) (first: c.jsonl, row 1)"),
        (OWN, {"t.py": TASK + QUESTION}, "ZeroDivisionError: division by zero (t.py, line 7, in question) on row r0"),
        ({}, {"m/config.json": "{"}, "student.model DIR/m: its config.json is not JSON"),
        ({"teacher": VLLM}, {"m/config.json": "[]"}, "teacher.model DIR/m: its config.json is no object of settings"),
        ({"teacher": VLLM}, {"m/tokenizer.json": "{}"}, "DIR/m/tokenizer.json: it is no tokenizer (Model missing"),
        ({"teacher": {"engine": "replay", "outputs": "m"}}, {}, "DIR/m: a folder, must be a file."),
        ({"teacher": {**OPENAI, "remote": {"url": "http://h:99999"}}}, {}, "teacher.remote.url http://h:99999: not an http or https URL"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_message(folder: Path, changes: Any, files: dict[str, Any], message: str) -> None:
    for name, content in {"run.yaml": yaml.safe_dump(RUN | changes), **files}.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = CliRunner().invoke(main, ["plan", "run.yaml", "--prompts", "0"])
    assert message.replace("DIR", str(folder)) in done.output, done.output
    assert (done.exit_code, "Traceback" in done.output) == (0 if message.startswith("warning") else 2, False)


@pytest.mark.parametrize(
    ("raised", "kind", "code", "message"),
    [
        (None, "input", 2, "x.yaml: there is no such run file"),
        (KeyboardInterrupt(), "interrupted", 130, "Interrupted. Finished work is kept; run the same command to resume."),
        (KeyboardInterrupt("Step 3 is kept."), "interrupted", 130, "Interrupted. Step 3 is kept."),
        (OSError(errno.ENOSPC, "No space left on device", "/data/part"), "failed", 1, "/data/part: no space is left."),
        (RuntimeError("worker: OSError: [Errno 28] No space left on device"), "failed", 1, "a disk: no space is left."),
        (PermissionError(errno.EACCES, "Permission denied", "/data/part"), "input", 2, "/data/part: this user may not"),
        (KeyError("x"), "bug", 1, "KeyError: 'x'. This is a bug"),
    ],
)  # fmt: skip
def test_an_error_is_one_json_object(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException | None, kind: str, code: int, message: str
) -> None:
    def load(*_: object) -> None:
        if raised is not None:
            raise raised

    if raised is not None:
        monkeypatch.setattr("pipelines.config.load.load_run", load)
    done = CliRunner().invoke(main, ["label", "x.yaml", "--json"])
    error = CommandError.model_validate_json(done.stdout).error
    assert (error.type, error.exit_code, done.exit_code) == (kind, code, code)
    assert error.message.startswith(message)


@pytest.mark.parametrize("arguments", ["plan", "plan --nope x", "nope", "k8s nope"])
def test_wrong_arguments_are_json_too(arguments: str) -> None:
    done = CliRunner().invoke(main, [*arguments.split(), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["error"]["type"], "Usage: " in done.stderr) == (2, "input", True)
