"""The train stage on Ray Train and real DeepSpeed, with dying workers, and its exported students."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.storage.store import MANIFEST, Store
from pipelines.train.data.token_table import Tokens
from pipelines.train.data.tokenise import tokenise
from tests.support.endpoints import wait_until
from tests.support.label_kills import title_of
from tests.support.tiny_runs import label_rows
from tests.support.trained_outputs import FAMILIES, make_outputs, run_of, tokens_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("one_thread"),
]
SETTINGS: dict[str, Any] = {"epochs": 4, "checkpoint_every_steps": 5, "zero_stage": 2}
VALIDATED: dict[str, Any] = {"precision": "bf16", "validate_every_steps": 3, "patience": 50}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_outputs(tmp_path_factory)


def test_ray_data_tokenises_what_this_process_would(ray_here, outputs, monkeypatch, tmp_path):
    from pipelines.train.checks import token_settings
    from pipelines.train.data import tokenise as tokenising

    monkeypatch.setattr(tokenising, "_LOCAL_ROWS", 0)
    output = outputs["decoder-only"]
    store = Store(str(tmp_path / "tokens"))
    counts = tokenise(Store(str(output / "labels")), token_settings(run_of(output)), store)
    here, there = tokens_of(output), Tokens(store, tmp_path)
    assert counts.train == len(here.train)
    assert there.train.tolist() == here.train.tolist()
    for sequence in range(len(here.lengths.prompt)):
        mine, theirs = here.sequence(sequence), there.sequence(sequence)
        assert (mine.prompt.tolist(), mine.target.tolist()) == (theirs.prompt.tolist(), theirs.target.tolist())


@pytest.fixture(scope="module")
def students(ray_here, outputs, tmp_path_factory):
    """One student per family: decoder-only undisturbed, encoder-decoder after the death of a worker."""
    from pipelines.train.stage import train

    manifests = {"decoder-only": train(run_of(outputs["decoder-only"], **SETTINGS, **VALIDATED))}
    output = outputs["encoder-decoder"]
    victim = threading.Thread(target=_kill_a_worker, args=(output,), daemon=True)
    victim.start()
    manifests["encoder-decoder"] = train(run_of(output, **SETTINGS))
    victim.join()
    return manifests


def _kill_a_worker(output: Path) -> None:
    """SIGKILL one of this process' training workers after the first checkpoint."""
    import psutil

    wait_until(lambda: any(output.glob("training/*/ray-*/checkpoint_manager_snapshot.json")), 240.0, 0.02)
    # By title: ended engines of other tests are zombies without one.
    workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in title_of(p)]
    workers[-1].kill()
    (output / "killed").touch()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_trained(family, students, outputs):
    manifest, folder = students[family], outputs[family] / "student"
    assert manifest.type == "student"
    assert json.loads((folder / MANIFEST).read_text())["fingerprint"] == manifest.fingerprint
    training = manifest.details["training"]
    assert manifest.details["family"] == family
    assert training["world_size"] == 2
    first, second = training["optimizer_bytes_per_rank"]
    assert first == second < 0.55 * 12 * manifest.details["parameters"]
    for part in ("label", "rationale"):
        assert training["loss"][part]["last"] < 0.7 * training["loss"][part]["first"]
        assert training["loss"]["validation"]["after"][part] < training["loss"]["validation"]["before"][part]
    history = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(training["steps"]))
    assert manifest.counts["train_examples"] + manifest.counts["validation_examples"] == 60
    assert manifest.provenance["labels"]["prompt_version"] == "arithmetic/1/abc"
    card = (folder / "README.md").read_text()
    assert "prompt version `arithmetic/1/abc`" in card
    assert str(outputs[family]) not in card, "the card names a path of this machine"
    assert not list((outputs[family] / "training").iterdir()), "temporary files remain"


def test_the_best_checkpoint_is_exported(students):
    """With this high learning rate, the last checkpoint is not always the best."""
    training = students["decoder-only"].details["training"]
    validation = training["loss"]["validation"]
    steps = training["steps"]
    assert [row["step"] for row in validation["during"]] == sorted({*range(3, steps, 3), steps})
    best = min(validation["during"], key=lambda row: row["objective"])
    assert (validation["best"]["step"], validation["best"]["objective"]) == (best["step"], best["objective"])
    for term in ("label", "rationale"):
        assert validation["after"][term] == best[term]
    assert students["encoder-decoder"].details["training"]["loss"]["validation"]["during"] == []


def test_a_lost_worker_changes_no_loss(students, outputs):
    """The killed training resumes from its checkpoint, and each step equals that of an undisturbed one."""
    from pipelines.students.init import initial_student
    from pipelines.train.engine.deepspeed_engine import learning_rate
    from pipelines.train.engine.worker import make_plan
    from tests.support.reference_training import reference_training

    output = outputs["encoder-decoder"]
    assert (output / "killed").exists()
    start, resumed = students["encoder-decoder"].details["training"]["started_at_steps"]
    assert start == 0
    assert resumed > 0, "it must resume from a checkpoint"
    assert students["decoder-only"].details["training"]["started_at_steps"] == [0]
    history = [json.loads(line) for line in (output / "student" / "training.jsonl").read_text().splitlines()]
    run, token_table = run_of(output, epochs=4), tokens_of(output)
    model, _ = initial_student(run.student, 0)
    plan = make_plan(token_table, run, "encoder-decoder", 2)
    # The first checkpoint is at step 5: the steps after it were lost and repeated.
    rates = [learning_rate(s, plan.steps, run.training.learning_rate, run.training.warmup) for s in range(9)]
    assert len(history) == plan.steps > 9
    wanted = reference_training(model, token_table, plan, rates, clip=run.training.gradient_clipping, decay=0.0)
    for mine, theirs in zip(history, wanted, strict=False):
        assert mine["label"] == pytest.approx(theirs["label"], rel=1e-3)
        assert mine["rationale"] == pytest.approx(theirs["rationale"], rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_holds_the_weights_that_were_measured(family, students, outputs):
    """Losses of the exported folder in plain transformers, one sequence at a time, equal the manifest's."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from tests.support.reference_training import part_losses

    kind = AutoModelForSeq2SeqLM if family == "encoder-decoder" else AutoModelForCausalLM
    model = kind.from_pretrained(outputs[family] / "student", dtype="float32").eval()
    token_table = tokens_of(outputs[family])
    measured = students[family].details["training"]["loss"]["validation"]["after"]
    near = 2e-2 if family == "decoder-only" else 1e-5  # trained in bf16, in fp32
    for part, loss in zip(("label", "rationale"), part_losses(model, token_table, token_table.validation), strict=True):
        assert loss.item() == pytest.approx(measured[part], rel=near)


def test_a_finished_student_is_reused_and_never_mixed(students, outputs):
    from pipelines.train.stage import train

    output = outputs["decoder-only"]
    settings = SETTINGS | VALIDATED
    began = time.monotonic()
    assert train(run_of(output, **settings)) == students["decoder-only"]
    assert time.monotonic() - began < 5
    with pytest.raises(UserError, match=r"training.seed: 0 -> 1"):
        train(run_of(output, **settings, seed=1))
    with pytest.raises(UserError, match="tokens_per_batch"):
        train(run_of(output, **settings, tokens_per_batch=16), replace=True)
    assert train(run_of(output, **settings)) == students["decoder-only"], "a refused training replaced the student"


PLAIN = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
torch.set_num_threads(1)
folders, inputs = json.load(sys.stdin)
result = {}
for family, folder in folders.items():
    seq2seq = family == "encoder-decoder"
    kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    model, loading = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    dtype, model = str(model.dtype), model.float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right" if seq2seq else "left")
    labels, confidences, eos = [], [], tokenizer.eos_token_id
    for start in range(0, len(inputs), 50):
        prompts = ["[label] " + text + ("" if seq2seq else "\\n") for text in inputs[start : start + 50]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, output_logits=True, return_dict_in_generate=True)
        new = out.sequences[:, -len(out.logits) :]
        chosen = torch.stack([step.log_softmax(dim=-1).amax(dim=-1) for step in out.logits], dim=1)
        labels += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
        for row, log_probs in zip(new.tolist(), chosen):
            length = row.index(eos) + 1 if eos in row else len(row)
            confidences.append(float(log_probs[:length].sum().exp()))
    keys = sorted([*loading["missing_keys"], *loading["unexpected_keys"]])
    result[family] = {"keys": keys, "labels": labels, "confidences": confidences, "dtype": dtype}
print(json.dumps([result, [m for m in sys.modules if m.split(".")[0] in ("pipelines", "cluster", "serving")]]))
"""


def test_students_open_without_this_project_and_answer_the_same(students, outputs):
    """In a fresh process with transformers alone, the folder gives the labels of `Student`, in float32."""
    from pipelines.students.decoding import Student

    inputs = [row["input"] for row in label_rows(200, seed=9)]
    folders = {family: str(outputs[family] / "student") for family in FAMILIES}
    run = subprocess.run(
        [sys.executable, "-c", PLAIN], input=json.dumps([folders, inputs]), capture_output=True, text=True, check=True
    )
    answers, ours = json.loads(run.stdout.strip().splitlines()[-1])
    assert ours == []
    assert {answers[family]["dtype"] for family in FAMILIES} == {"torch.float32"}, "also after bf16 on a CPU"
    for family in FAMILIES:
        assert answers[family]["keys"] == []
        here = Student.load(folders[family]).answer(inputs, "label", 8)
        labels = [decoded.text for decoded in here]
        assert sum(a == b for a, b in zip(labels, answers[family]["labels"], strict=True)) >= 199, family
        # Tiny students give similar answers to all inputs; only their confidence differs.
        confidences = [decoded.confidence for decoded in here]
        assert len({f"{confidence:.3e}" for confidence in confidences}) > 50, family
        near = [
            a == pytest.approx(b, rel=1e-3) for a, b in zip(confidences, answers[family]["confidences"], strict=True)
        ]
        assert sum(near) >= 199, family
