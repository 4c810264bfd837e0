"""A finished grid of two methods and two seeds on ten examples: the input of a comparison's report."""

from pathlib import Path

from pipelines.compare.grid import Cell, cells, without_search
from pipelines.compare.results import GridResults, references
from pipelines.data.heldout import heldout_examples
from pipelines.storage.manifest import Manifest, manifest_of, require_manifest
from pipelines.storage.store import Store
from pipelines.tasks.arithmetic import Arithmetic
from tests.support.artifacts import label_row, make_run, write_corpus, write_labels

NUM = 10
RIGHT = {
    ("finetune", 0): [True] * 3 + [False] * 7,
    ("finetune", 1): [True] * 5 + [False] * 5,
    ("step-by-step", 0): [True] * 8 + [False] * 2,
    ("step-by-step", 1): [True] * 9 + [False],
}
TRAINED = [label_row("a", "3", "4"), label_row("b", "4", "4")]


def scores(cell: Cell, right: list[bool]) -> Manifest:
    details = {
        "training": {"steps": 7, "world_size": 2}, "parameters": 1000, "train_examples": 40 + cell.seed, "tokens": 900,
        "train_s": 1800.0, "student": f"{cell.method}{cell.seed}", "seconds_per_example": 0.5,
    }  # fmt: skip
    counts = {"correct": sum(right), "total": NUM, "unanswered": 1, "too_long": 0}
    config = {"training": {"gpus_per_worker": 0}}
    return manifest_of("scores", {}, config=config, counts=counts, timings_s={}, details=details, provenance={})


def grid_results(tmp_path: Path) -> GridResults:
    compare = {"fractions": [1.0], "seeds": [0, 1], "students": ["a/small"], "price_per_worker_hour": 2.0, "arms": []}
    run = make_run(tmp_path, compare=compare, training={"workers": 2})
    write_corpus(tmp_path / "test.jsonl", [{"id": f"h{i}", "input": f"q {i}", "label": "3"} for i in range(NUM)])
    heldout_answers = [label_row(f"h{i}", "3" if i < 9 else "4", text=f"q {i}") for i in range(NUM)]
    write_labels(tmp_path / "out" / "labels", TRAINED, heldout_answers)
    heldout = heldout_examples(run, Arithmetic())
    labels = require_manifest(Store(str(tmp_path / "out" / "labels")), "labels", "")
    found = references(run, Arithmetic(), heldout, heldout.examples, None)
    made = GridResults(run, Arithmetic(), labels, heldout, heldout.examples, found)
    for cell in cells(run, without_search(run)):
        made.cells[cell] = scores(cell, RIGHT[cell.method, cell.seed])
        made.rights[cell] = RIGHT[cell.method, cell.seed]
    return made
