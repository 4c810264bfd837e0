"""Label selectors and node selectors."""

from __future__ import annotations

from typing import Any

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, get, join, mapping
from tests.k8s.checker.pods.fields import OBJECT_NAME, each_written, written
from tests.k8s.checker.problem import Findings, rule

LABEL = rule("pod/selector-label", "write keys and values as labels are written")
OPERATOR = rule("pod/selector-operator", "take In, NotIn, Exists or DoesNotExist (for nodes also Gt and Lt)")
VALUES = rule("pod/selector-values", "give In and NotIn values, Gt and Lt one, Exists and DoesNotExist none")

_WITH_VALUES = ("In", "NotIn")
_WITHOUT_VALUES = ("Exists", "DoesNotExist")


def label_selector_findings(node: Any, path: str) -> Findings:
    """In: a LabelSelector or None. Out: what is wrong with its labels and expressions."""
    yield from label_map_findings(mapping(node, "matchLabels"), f"{path}.matchLabels")
    yield from expression_findings(node, "matchExpressions", path, (*_WITH_VALUES, *_WITHOUT_VALUES))


def label_map_findings(labels: Node, path: str) -> Findings:
    """Labels to match, as a map."""
    for key, value in labels.items():
        for wrong in (syntax.qualified_name(str(key)), syntax.label_value(str(value))):
            if wrong:
                yield LABEL.at(join(path, str(key)), wrong)


def node_selector_findings(node: Any, path: str, *, free_values: bool = False) -> Findings:
    """A NodeSelectorTerm: expressions over labels, and fields, of which only metadata.name exists."""
    operators = (*_WITH_VALUES, *_WITHOUT_VALUES, "Gt", "Lt")
    yield from expression_findings(node, "matchExpressions", path, operators, free_values=free_values)
    for place, field in elements(node, "matchFields", path):
        values = field.get("values") or []
        if field.get("key") != "metadata.name" or field.get("operator") not in _WITH_VALUES or len(values) != 1:
            yield OPERATOR.at(
                place, f"{field.get('key')} {field.get('operator')}: only metadata.name In one name is known"
            )
        yield from each_written(OBJECT_NAME, field, "values", syntax.dns_subdomain, place)


def expression_findings(
    node: Any, key: str, path: str, operators: tuple[str, ...], *, free_values: bool = False
) -> Findings:
    """Expressions of key, operator and values; `free_values` are not held against the grammar of labels."""
    for place, entry in elements(node, key, path):
        operator, values = entry.get("operator"), entry.get("values") or []
        yield from written(LABEL, entry, "key", syntax.qualified_name, place, required=True)
        if operator not in operators:
            yield OPERATOR.at(f"{place}.operator", f"{operator!r}")
        elif (
            (operator in _WITH_VALUES and not values)
            or (operator in _WITHOUT_VALUES and values)
            or (operator in ("Gt", "Lt") and len(values) != 1)
        ):
            yield VALUES.at(f"{place}.values", f"{len(values)} values for {operator}")
        if not free_values:
            yield from each_written(LABEL, entry, "values", syntax.label_value, place)


def matches(selector: Node, labels: Node) -> bool:
    """Whether a LabelSelector takes these labels; an empty one takes everything.

    >>> matches({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["b"]}]}, {"app": "a"})
    True
    """
    if any(labels.get(key) != value for key, value in mapping(selector, "matchLabels").items()):
        return False
    for expression in get(selector, "matchExpressions") or []:
        value, values = labels.get(expression["key"]), expression.get("values") or []
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }.get(expression["operator"], False)
        if not fits:
            return False
    return True
