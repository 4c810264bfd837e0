"""What holds for any object: the checker never breaks down, and null, unknown fields and defaults are treated as a server treats them."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.k8s.cases.bases import APP, BASES, POD, changed
from tests.k8s.checker import Crds, check, verdicts
from tests.k8s.checker.operator.cronspec import schedule_error
from tests.k8s.checker.operator.durations import duration_s
from tests.k8s.checker.quantities import integer, quantity
from tests.k8s.checker.structure import defaulted

RAY = sorted(name for name, item in BASES.items() if item["apiVersion"].startswith("ray.io/"))
ACCEPTED = {"apiserver": "accepted", "operator": "ok", "pods": "ok"}
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.text(max_size=8)
)
DIGITS = "9" * 5000
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{level}: &a{level} [{f'*a{level - 1},' * 9}]\n" for level in range(1, 9))
HARD_TEXTS = {
    "digits": DIGITS,
    "exponent": f"1e{DIGITS}",
    "large exponent": "1e50",
    "duration": f"{DIGITS}h",
    "version": f"2.{DIGITS}",
    "share": f"{DIGITS}%",
    "zeros": f"{'0' * 5000}x",
    "schedule": f"{DIGITS} * * * *",
    "interval": f"@every {DIGITS}",
    "other digits": "١h",
    "no ASCII": "é",
    "half a pair": "\ud800",
    "long name": "a" * 300,
    "contains itself": "&a {b: *a}",
    "variables that contain themselves": "env_vars: &a {b: *a}",
    "many aliases": LAUGHS,
    "variables beside many aliases": f"env_vars: {{A: b}}\n{LAUGHS}",
    "deep": f"a: {'[' * 500}{']' * 500}",
    "no character": 'a: "\\UFFFFFFFF"',
    "no date": "a: 2026-02-31",
}
# Fields whose text is read: (base, field, key where the field is a mapping).
READ = [
    *(("RayJob", field, None) for field in ("spec.runtimeEnvYAML", "spec.entrypoint", "kind", "apiVersion")),
    ("RayService", "spec.serveConfigV2", None),
    ("RayService", "metadata.annotations", "ray.io/initializing-timeout"),
    ("RayCronJob", "spec.schedule", None),
    ("CronJob", "spec.schedule", None),
    ("RayCluster", "spec.authOptions.secretName", None),
    ("autoscaled RayCluster", "spec.rayVersion", None),
    *(("RayCluster", f"{APP}.resources.limits", name) for name in ("memory", "nvidia.com/gpu", "hugepages-2Mi")),
    ("RayCluster", f"{POD}.resources.limits", "memory"),
    ("RayCluster", f"{POD}.volumes[0].emptyDir.sizeLimit", None),
    ("RayCluster", f"{POD}.securityContext.windowsOptions.runAsUserName", None),
    (
        "RayCluster",
        "spec.workerGroupSpecs[0].template.metadata.annotations",
        "controller.kubernetes.io/pod-deletion-cost",
    ),
    ("Budget", "spec.minAvailable", None),
    *((base, "data", "a") for base in ("ConfigMap", "Secret")),
]
VALUES = st.recursive(
    SCALARS | st.sampled_from(sorted(HARD_TEXTS.values())),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)

# The fixtures are read-only, and examples have to be many rather than new with each run.
FEW = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values below a node."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(item: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a path."""
    result = copy.deepcopy(item)
    node: Any = result
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return result


def at(item: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        item = item[key]
    return item


@FEW
@given(data=st.data(), base=st.sampled_from(sorted(BASES)), value=VALUES)
def test_any_value_anywhere_gives_problems_and_no_exception(
    crds: Crds, data: st.DataObject, base: str, value: Any
) -> None:
    item = BASES[base]
    path = data.draw(st.sampled_from(sorted(places(item), key=str)))
    problems = check([put(item, path, value)], crds=crds, imports=False)
    assert all(problem.rule and problem.todo for problem in problems)


@pytest.mark.parametrize("name", HARD_TEXTS)
def test_no_text_breaks_the_checker_down_or_holds_it_up(name: str, crds: Crds) -> None:
    started = time.process_time()
    for base, field, key in READ:
        value = HARD_TEXTS[name] if key is None else {key: HARD_TEXTS[name]}
        check([changed(BASES[base], {field: value})], crds=crds, imports=False)
    assert time.process_time() - started < 20


@pytest.mark.parametrize("value", ["2026-02-31", "!!timestamp a", "!!int a", "!!int ''", "!!bool a", DIGITS])
def test_a_serve_config_with_a_value_that_its_tag_does_not_fit_is_no_yaml(value: str, crds: Crds) -> None:
    config = f"applications: [{{name: app, import_path: 'json:dumps', args: {{a: {value}}}}}]"
    problems = check([changed(BASES["RayService"], {"spec.serveConfigV2": config})], crds=crds, imports=False)
    assert [problem.rule for problem in problems] == ["serve/yaml"]


@FEW
@given(data=st.data(), base=st.sampled_from(RAY))
def test_an_unknown_field_is_refused_in_every_object_of_the_schema(crds: Crds, data: st.DataObject, base: str) -> None:
    item = BASES[base]
    # Labels, rayStartParams and amounts of resources take any key.
    free = {"labels", "matchLabels", "rayStartParams", "limits", "requests", "clusterSelector"}
    objects = [path for path in places(item) if isinstance(at(item, path), dict) and path[-1] not in free]
    path = data.draw(st.sampled_from(sorted(objects, key=str)))
    assert verdicts(put(item, (*path, "enableIntreeAutoscaling"), True), crds) == {"apiserver": "rejected"}


@FEW
@given(data=st.data(), base=st.sampled_from(RAY))
def test_null_is_as_good_as_leaving_a_field_out(crds: Crds, data: st.DataObject, base: str) -> None:
    item = BASES[base]
    fields = [path for path in places(item) if path[0] == "spec" and isinstance(path[-1], str)]
    path = data.draw(st.sampled_from(sorted(fields, key=str)))
    without = copy.deepcopy(item)
    del at(without, path[:-1])[path[-1]]
    assert verdicts(put(item, path, None), crds) == verdicts(without, crds)


@pytest.mark.parametrize("base", RAY)
def test_defaults_are_applied_once(crds: Crds, base: str) -> None:
    definition = crds.of(BASES[base])
    assert definition is not None
    once = definition.defaulted(BASES[base])
    assert defaulted(once, definition.schema) == once
    assert verdicts(once, crds) == ACCEPTED


@given(number=st.integers(0, 10**9), suffix=st.sampled_from(["", "m", "k", "M", "Gi", "Ki", "e3"]))
def test_quantities_are_the_numbers_they_stand_for(number: int, suffix: str) -> None:
    factors = {"": "1", "m": "0.001", "k": "1e3", "M": "1e6", "Gi": "1073741824", "Ki": "1024", "e3": "1e3"}
    assert quantity(f"{number}{suffix}") == number * Decimal(factors[suffix])


def test_a_quantity_may_be_of_any_size() -> None:
    huge, tiny = quantity("1e999999999"), quantity("1e-999999999")
    assert huge is not None
    assert tiny is not None
    assert huge > 2**200 > 1 > tiny > 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("7", 7), ("+7", 7), ("-007", -7), ("0" * 5000 + "7", 7), (str(2**63 - 1), 2**63 - 1)],
        *[(str(2**63), None), (DIGITS, None), ("", None), ("-", None), ("7.0", None), ("٧", None)],
    ],
)
def test_integers_are_those_of_64_bits(text: str, number: int | None) -> None:
    assert integer(text) == number


@given(text=st.text(alphabet="0123456789.eEmkGi+- ", max_size=8))
def test_what_is_no_quantity_has_no_number(text: str) -> None:
    assume(text.count(".") > 1 or " " in text or not any(character.isdigit() for character in text))
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("1h30m", 5400), ("-1.5s", -1.5), ("0", 0), ("100ms", 0.1), (".5h1.m", 1860), ("0" * 5000 + "1s", 1)],
        *[("90", None), ("1d", None), ("", None), ("h", None), ("1h ", None), (DIGITS, None), ("١h", None)],
    ],
)
def test_durations_are_those_of_go(text: str, seconds: float | None) -> None:
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("schedule", "good"),
    [
        ("0 0 1 1 0", True),
        ("*/15 9-17 * * mon-fri", True),
        ("5/10 * ? * *", True),
        ("0,, * * * *", True),
        ("@hourly", True),
        ("@every 90s", True),
        ("", False),
        ("@reboot", False),
        ("60 * * * *", False),
        ("*/0 * * * *", False),
        ("5-1 * * * *", False),
        ("1-2-3 * * * *", False),
        ("1/2/3 * * * *", False),
        ("* * 0 * *", False),
        ("* * * foo *", False),
        ("-1 * * * *", False),
    ],
)
def test_schedules_are_those_of_robfig_cron(schedule: str, good: bool) -> None:
    assert (schedule_error(schedule) is None) is good
