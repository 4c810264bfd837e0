import json

from pipelines.label.output.counts import Counts
from tests.support.outcomes import accepted, content_of, reject, table


def test_content_depends_on_labels_and_not_on_their_order() -> None:
    one, two = accepted("a"), accepted("b")
    split = Counts()
    split.add(Counts.of(table(two)))
    split.add(Counts.of(table(one)))
    assert Counts.of(table(one, two)).content == split.content
    assert Counts.of(table(one, accepted("b", label="2"))).content != split.content
    before = Counts.of(table(one, reject("h", "engine_error", "heldout")))
    after = Counts.of(table(one, accepted("h", "heldout")))
    assert (before.content, before.heldout_content) == (after.content, 0)
    assert after.heldout_content == content_of("h", "1")


def test_counts_survive_their_record() -> None:
    """Agreement with gold leaves out the examples of the prompt."""
    right, quoted = accepted("a"), accepted("b", agreement=0.3, in_prompt=True)
    counts = Counts.of(table(right, quoted, accepted("c", agreement=0.7, gold="2", agrees=False), reject("d", "tie")))
    assert counts.agreements == {"9": 1, "3": 1, "7": 1}
    assert (counts.accepted, counts.with_gold, counts.agreeing) == (3, 2, 1)
    assert Counts.from_json(json.loads(json.dumps(counts.as_json()))) == counts


def test_a_row_counts_for_the_node_that_decided_it() -> None:
    failed, tie = reject("c", "engine_error"), reject("b", "tie")
    failed.node, tie.node = "x", "y"
    counts = Counts.of(table(accepted("a", node="x"), tie, failed, reject("d", "duplicate")))
    assert counts.nodes == {"x": 1, "y": 1}
    counts.add(Counts.of(table(accepted("c", node="y", dtype="float32"))))
    counts.add(Counts.of(table(accepted("d", node="z", dtype="bfloat16"))))
    assert (counts.nodes, counts.dtypes) == ({"x": 1, "y": 2, "z": 1}, {"float32": 1, "bfloat16": 1})
