"""YAML in an object's texts: runtimeEnvYAML, serveConfigV2, files of a ConfigMap.

for document in composed(text):      # raises yaml.YAMLError, and RecursionError where a text is nested too deep for Python
    for node in nodes(document): ...
config = loaded(text)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

_FEW, _MANY = 400_000, 4_000_000


def composed(text: str) -> Iterator[yaml.Node]:
    """In: a text. Out: its documents, one after the other, as nodes with tags; those that Go's reader refuses raise an error."""
    try:
        for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if _is_repetition(document):
                raise yaml.YAMLError("most of the document is repeated by aliases, or it contains itself")
            yield document
    except (ValueError, ArithmeticError) as error:  # an escape or a version that is no number of Python's
        raise yaml.YAMLError(str(error)) from error


def loaded(text: str) -> Any:
    """In: a text of one document. Out: its value."""
    for _ in composed(text):
        pass
    try:
        return yaml.safe_load(text)
    except (ValueError, ArithmeticError, LookupError, AttributeError) as error:  # a value that its tag does not fit
        raise yaml.YAMLError(str(error)) from error


def nodes(document: yaml.Node) -> Iterator[yaml.Node]:
    """A document's nodes, each once: an alias is the node that it stands for."""
    seen: set[int] = set()
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += _children(node)


def pairs(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """A mapping's values by their keys, keys that are no text left out; nothing for other nodes."""
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode))


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _is_repetition(document: yaml.Node) -> bool:
    """Whether too many of a document's nodes are copies, with every alias replaced by what it stands for.

    Go's reader allows 99 copies for each node of its own; the more nodes there are, the fewer. A document that contains itself is made
    of copies without end, so that it is found here as well.
    """
    seen: set[int] = set()
    waiting = [(document, False)]
    count = copies = 0
    while waiting:
        node, copied = waiting.pop()
        copied = copied or id(node) in seen
        seen.add(id(node))
        count, copies = count + 1, copies + copied
        share = 0.99 - 0.89 * (min(max(count, _FEW), _MANY) - _FEW) / (_MANY - _FEW)
        if copies > 100 and count > 1000 and copies / count > share:
            return True
        waiting += [(child, copied) for child in reversed(_children(node))]
    return False
