"""The page at `/` in a real browser, with a server that answers from a table."""

from collections.abc import Callable, Iterator

import pytest
from starlette.responses import JSONResponse, Response

from tests.support.asgi import served
from tests.support.browser import NEEDS_BROWSER, Chromium, Tab
from tests.support.fake_endpoint import FakeEndpoint, model, predicted, problem

HOSTILE = "</p><img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>'\"`$(id)`\u202e"
KEY = "rs-0123456789abcdef"
SEND_KEY = "document.querySelector('#keyform button').click()"

pytestmark = NEEDS_BROWSER
Opened = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    started = Chromium(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    made = FakeEndpoint()
    with served(made.app()) as url:
        made.url = f"{url}/"
        yield made


@pytest.fixture
def opened(browser: Chromium, server: FakeEndpoint) -> Iterator[Opened]:
    """Opens a tab at the page, once the server is as the test needs it."""
    tabs: list[Tab] = []

    def open_tab(width: int = 900) -> Tab:
        tabs.append(Tab(browser, server.url, width))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.close()


@pytest.fixture
def tab(opened: Opened, server: FakeEndpoint) -> Iterator[Tab]:
    """A tab whose test ends without browser errors and requests to other hosts."""
    tab = opened()
    yield tab
    assert tab.complaints() == []
    assert {url for url in tab.requested() if not url.startswith((server.url, "data:,"))} == set()


def test_a_question_is_answered(tab: Tab, server: FakeEndpoint) -> None:
    assert tab.text("headline") == "svamp: a student for arithmetic, trained with step-by-step."
    assert not any(map(tab.seen, ("models", "keyform", "problem", "result", "why")))
    tab.click("example")
    tab.answer()
    question = {"model": "svamp", "inputs": [{"input": tab.of("field-0", "value")}], "rationale": True}
    assert server.questions == [question]
    assert tab.focus() == "result-title"
    assert (tab.text("label"), tab.text("confidence"), tab.text("tokens")) == ("9 - 4 = 5", "93.1%", "61 in, 34 out")
    assert tab.text("rationale-text") == "Anne gives away 4 of 9, so 9 - 4 are left."
    assert tab.text("time").endswith(" ms")
    assert tab.of("live", "textContent") == "Answer: 9 - 4 = 5. Confidence 93.1%."
    share = "document.querySelector('#bar > span').offsetWidth / document.getElementById('bar').clientWidth"
    tab.until(f"Math.abs({share} - 0.93) < 0.02")


@pytest.mark.parametrize(("task", "fields"), [
    ("arithmetic", "input"), ("multiple-choice", "question choices*"), ("nli", "premise hypothesis"), ("grade-school-math", "question"),
    ("classification", "message"),
])  # fmt: skip
def test_each_built_in_task_has_its_fields_and_an_example(
    opened: Opened, server: FakeEndpoint, task: str, fields: str
) -> None:
    server.models = [model(task=task, fields=fields)]
    tab = opened()
    tab.click("example")
    tab.answer()
    (sent,) = server.questions[0]["inputs"]
    assert [*sent] == fields.replace("*", "").split()
    assert all(sent.values())
    lists = {one[:-1] for one in fields.split() if one.endswith("*")}
    assert {name for name, value in sent.items() if isinstance(value, list)} == lists


def test_another_student_has_other_fields_and_no_rationale(opened: Opened, server: FakeEndpoint) -> None:
    own = model("mine", "tasks/mine.py", "input notes? parts*", method="finetune", rationale=False)
    server.models = [model(), own]
    tab = opened()
    tab.write("field-0", "kept")
    tab.choose("model", "1")
    assert tab.text("headline") == "mine: a student for tasks/mine.py, trained with finetune."
    assert tab.of("rationale", "disabled")
    assert tab.text("why") == "mine was trained with finetune, which teaches no rationales."
    assert not tab.seen("example")
    tab.ask()
    assert (tab.focus(), server.questions) == ("field-2", []), "a required field is empty"
    tab.write("field-2", " one \n\n two\n")
    tab.click("go")
    tab.answered()
    inputs = [{"input": "kept", "parts": ["one", "two"]}]
    assert server.questions == [{"model": "mine", "inputs": inputs, "rationale": False}]
    assert not tab.seen("reasons")
    tab.choose("model", "0")
    assert (tab.of("rationale", "checked"), tab.of("rationale", "disabled")) == (True, False)


def test_hostile_texts_stay_texts(opened: Opened, server: FakeEndpoint) -> None:
    server.models = [model(HOSTILE, HOSTILE, None, method=HOSTILE, rationale=False), model()]
    names = (HOSTILE, "__proto__")
    server.models[0]["fields"] = [{"name": name, "required": True, "list": name == HOSTILE} for name in names]
    prediction = {"label": HOSTILE, "value": HOSTILE + "2", "confidence": 7}
    server.answer = {"model": HOSTILE, "usage": None, "predictions": [prediction]}
    tab = opened()
    shape = "JSON.stringify([document.images.length, document.scripts.length, document.title])"
    for name in ("field-0", "field-1"):
        tab.write(name, HOSTILE)
    tab.answer()
    assert tab.of("label", "textContent") == f"{HOSTILE} = {HOSTILE}2"
    assert [*server.questions[0]["inputs"][0]] == [HOSTILE, "__proto__"]
    server.answer = problem(422, HOSTILE, HOSTILE)
    tab.ask()
    tab.shown("problem")
    assert tab.of("problem-message", "textContent") == HOSTILE
    assert tab.js(shape) == '[0,1,"Try the student - Raystill"]'
    assert tab.complaints() == []


def test_markup_is_refused_by_the_policy(opened: Opened, server: FakeEndpoint) -> None:
    tab = opened()
    assert tab.js("try { document.body.innerHTML = '<img src=x>'; 'let in' } catch (e) { e.name }") == "TypeError"
    image = "Object.assign(document.createElement('img'), { src: 'http://raystill.invalid/x.png' })"
    tab.js(f"document.body.append({image})")
    tab.until("document.querySelector('img').complete")
    assert any("Content Security Policy" in message for message in tab.complaints())
    assert [one.get("blockedReason") for one in tab.events("Network.loadingFailed")] == ["csp"]


def test_a_key_is_requested_and_kept_in_memory(opened: Opened, server: FakeEndpoint) -> None:
    server.key = KEY
    tab = opened()
    assert tab.focus() == "key"
    assert not tab.seen("ask")
    for given in ("", "two words", "wrong"):
        tab.write("key", given)
        tab.js(SEND_KEY)
        assert tab.focus() == "key"
    tab.says("problem-message", "no valid key")
    assert tab.text("problem-trace") == "HTTP 401, invalid_key, request req-12"
    tab.write("key", KEY)
    tab.js(SEND_KEY)
    tab.shown("ask")
    assert (tab.focus(), tab.seen("keyform"), tab.seen("problem")) == ("field-0", False, False)
    stored = "location.href + document.documentElement.outerHTML + JSON.stringify([localStorage, sessionStorage]) + document.cookie"
    assert KEY not in tab.js(stored)
    tab.click("example")
    server.key = "another"
    tab.ask()
    tab.shown("keyform")
    tab.until("document.activeElement.id === 'key'")
    tab.write("key", "another")
    tab.js(SEND_KEY)
    tab.shown("keyform", hidden=True)
    tab.click("go")
    tab.answered()
    assert tab.text("label") == "9 - 4 = 5"
    tab.open()
    assert (tab.focus(), tab.seen("ask")) == ("key", False)
    assert not any(KEY in url for url in tab.requested())


@pytest.mark.parametrize(("answer", "message"), [
    (problem(422, "invalid_field", "inputs[0]: field `input` is bad"), "field `input` is bad"),
    (problem(503, "model_away", "not now", retry_after="5"), "not now\nTry again in 5 s."),
    (problem(404, "model_not_found", "unknown model"), "unknown model"),
    (Response("<h1>Bad gateway</h1>", 502, media_type="text/html"), "The response is not readable."),
    (Response("<h1>Hello</h1>", media_type="text/html"), "The response is not readable."),
    (JSONResponse({"error": "text"}, 500), "The response is not readable."),
])  # fmt: skip
def test_each_problem_has_a_message(tab: Tab, server: FakeEndpoint, answer: Response, message: str) -> None:
    tab.click("example")
    server.answer = answer
    tab.answer()
    assert (tab.focus(), tab.of("problem-message", "textContent")) == ("problem-title", message)
    assert tab.of("live", "textContent") == f"No answer. {message}"
    assert f"HTTP {answer.status_code}" in tab.text("problem-trace")
    assert "request req-77" in tab.text("problem-trace")
    server.answer = None
    tab.click("again")
    tab.shown("problem", hidden=True)
    if answer.status_code == 404:
        tab.until("document.activeElement.id === 'field-0'")
        assert len(server.questions) == 1
    else:
        tab.shown("result")


def test_missing_network_list_or_student_has_a_message(opened: Opened, server: FakeEndpoint) -> None:
    server.listing = problem(503, "starting", "the endpoint starts", retry_after="1")
    tab = opened()
    assert (tab.focus(), tab.of("problem-message", "textContent")) == (
        "problem-title",
        "the endpoint starts\nTry again in 1 s.",
    )
    assert not tab.seen("ask")
    server.listing = JSONResponse({"object": "list", "data": []})
    tab.click("again")
    tab.says("headline", "This endpoint serves no student yet.")
    server.listing = None
    tab.open()
    tab.order("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.click("example")
    tab.answer()
    assert tab.text("problem-message") == "The endpoint cannot be reached."


def test_a_question_is_sent_once_and_typing_keeps_the_focus(tab: Tab, server: FakeEndpoint) -> None:
    server.delay_s = 2.0
    tab.click("example")
    tab.ask()
    tab.says("live", "Asking. A student without a replica starts first.")
    tab.ask()
    tab.write("field-0", "Another question")
    tab.shown("result")
    assert (tab.focus(), len(server.questions)) == ("field-0", 1)


def test_keys_reach_everything_and_every_control_is_named(opened: Opened, server: FakeEndpoint) -> None:
    server.models = [model(task="multiple-choice", fields="question choices* note?"), model("other")]
    tab = opened(360)
    reached = []
    for _ in range(30):
        tab.press("Tab", 9)
        reached.append(tab.js("document.activeElement.id || document.activeElement.tagName"))
        if len(set(reached)) < len(reached):
            break
    assert [*dict.fromkeys(reached)][:7] == ["model", "field-0", "field-1", "field-2", "rationale", "go", "example"]
    tree = tab.order("Accessibility.getFullAXTree")["nodes"]
    roles = {"textbox", "button", "checkbox", "combobox", "region", "meter"}
    seen = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    named = {(node["role"]["value"], node["name"]["value"]) for node in seen}
    assert {name for role, name in named if role == "textbox"} == {"Question", "Choices", "Note (optional)"}
    assert all(name for _, name in named)


@pytest.mark.parametrize("wide", [False, True])
def test_nothing_is_wider_than_a_phone(opened: Opened, server: FakeEndpoint, wide: bool) -> None:
    long = "9876543210" * 40 if wide else "word " * 80
    server.models = [model("m" * 63, fields=f"{'f' * 90} input"), model()]
    server.answer = predicted(long, rationale=long)
    tab = opened(360)
    tab.write("field-0", long)
    tab.write("field-1", long)
    tab.answer()
    assert tab.js("document.documentElement.scrollWidth") == 360
    server.answer = problem(500, long, long)
    tab.ask()
    tab.shown("problem")
    assert tab.js("document.documentElement.scrollWidth") == 360
