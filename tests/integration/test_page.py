"""The page at `/` in a real browser, with a server that answers from a table."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

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
    headline = "svamp: a student of 248 million parameters for arithmetic, trained with step-by-step."
    assert tab.text("headline") == headline
    assert not any(map(tab.seen, ("models", "keyform", "keyused", "problem", "result", "why")))
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
    about = tab.of("about", "textContent")
    facts = "247,577,856|Qwen/Qwen3-8B, through vllm|arithmetic/2/0123456789ab|14 November 2023|encoder-decoder"
    assert all(text in about for text in (*facts.split("|"), "9f" * 32)), about


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
    own = model("mine", "tasks/mine.py", "input notes? parts*", method="finetune", rationale=False, parameters=None)
    server.models = [model(), own]
    tab = opened()
    tab.write("field-0", "kept")
    tab.choose("model", "1")
    assert tab.text("headline") == "mine: a student for tasks/mine.py, trained with finetune."
    assert tab.of("rationale", "disabled")
    assert tab.text("why") == "mine was trained with finetune, which teaches no rationales."
    assert not tab.seen("example")
    tab.ask()
    assert tab.focus() == "field-2"
    assert tab.text("field-2-wrong") == "Enter one or more lines."
    tab.write("field-2", " one \n\n two\n")
    assert not tab.seen("field-2-wrong")
    tab.click("go")
    tab.answered()
    inputs = [{"input": "kept", "parts": ["one", "two"]}]
    assert server.questions == [{"model": "mine", "inputs": inputs, "rationale": False}]
    assert not tab.seen("reasons")
    tab.choose("model", "0")
    assert (tab.of("rationale", "checked"), tab.of("rationale", "disabled")) == (True, False)


def test_hostile_texts_stay_texts(opened: Opened, server: FakeEndpoint) -> None:
    labels = {"fingerprint": HOSTILE, "prompt_version": [HOSTILE], "teacher": {"engine": HOSTILE, "model": HOSTILE}}
    server.models = [
        model(HOSTILE, HOSTILE, None, method=HOSTILE, family=HOSTILE, fingerprint=HOSTILE, engine=HOSTILE, created=HOSTILE,
              parameters=HOSTILE, rationale=False, provenance={"labels": labels}), model(),
    ]  # fmt: skip
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


def test_a_key_is_requested_and_kept_as_long_as_chosen(opened: Opened, server: FakeEndpoint) -> None:
    server.key = KEY
    tab = opened()
    assert tab.focus() == "key"
    assert not tab.seen("ask")
    titles = {"": "The key is empty", "two words": "This is not a key", "wrong": "The endpoint refuses this key"}
    for given, title in titles.items():
        tab.write("key", given)
        tab.js(SEND_KEY)
        tab.says("keytitle", title)
        assert tab.focus() == "key"
    assert tab.text("keytrace") == "HTTP 401, invalid_key, request req-12"
    for remember in (False, True):
        tab.js(f"document.getElementById('remember').checked = {json.dumps(remember)}")
        tab.write("key", KEY)
        tab.js(SEND_KEY)
        tab.shown("ask")
        assert tab.focus() == "field-0"
        assert '-H "Authorization: Bearer $RAYSTILL_KEY"' in tab.text("curl")
        tab.open()
        assert tab.seen("ask") is remember
    stored = "location.href + document.documentElement.outerHTML + JSON.stringify(localStorage) + document.cookie"
    assert KEY not in tab.js(stored)
    tab.click("example")
    server.key = "another"
    tab.ask()
    tab.shown("keyform")
    assert (tab.focus(), tab.text("keytitle")) == ("key", "The endpoint refuses this key")
    tab.write("key", "another")
    tab.js(SEND_KEY)
    tab.shown("keyform", hidden=True)
    tab.click("go")
    tab.answered()
    assert tab.text("label") == "9 - 4 = 5"
    tab.click("keychange")
    assert (tab.focus(), tab.text("keytitle")) == ("key", "Another key")
    tab.js(SEND_KEY)
    tab.until("document.getElementById('keyform').hidden && !document.getElementById('keyused').hidden")
    tab.click("keyforget")
    tab.shown("keyform")
    assert tab.js("sessionStorage.length") == 0
    assert not any(KEY in url for url in tab.requested())


@pytest.mark.parametrize(("answer", "title", "message", "when"), [
    (problem(422, "invalid_field", "inputs[0]: field `input` is bad"), "The student cannot take this question", "field `input` is bad", ""),
    (problem(503, "model_away", "not now", retry_after="5"), "The student is not ready", "not now", "Try again in 5 seconds, at "),
    (problem(429, "limit", "60 only", retry_after="600"), "Too many questions with this key", "60 only", "Try again in 10 minutes, at "),
    (problem(404, "model_not_found", "unknown model"), "This student is no longer available", "unknown model", ""),
    (Response("<h1>Bad gateway</h1>", 502, media_type="text/html"), "The student did not answer in time", "", ""),
    (Response("<h1>Hello</h1>", media_type="text/html"), "The response is not readable", "", ""),
    (JSONResponse({"error": "text"}, 500), "The endpoint failed", "", ""),
])  # fmt: skip
def test_each_problem_has_a_message(
    tab: Tab, server: FakeEndpoint, answer: Response, title: str, message: str, when: str
) -> None:
    tab.click("example")
    server.answer = answer
    tab.answer()
    assert (tab.focus(), tab.text("problem-title")) == ("problem-title", title)
    assert message in tab.text("problem-message")
    assert "inputs[0]" not in tab.text("problem")
    assert tab.text("problem-when").startswith(when)
    assert tab.text("problem-advice")
    assert f"HTTP {answer.status_code}" in tab.text("problem-trace")
    assert "request req-77" in tab.text("problem-trace")
    server.answer = None
    tab.click("again")
    tab.shown("problem", hidden=True)
    if answer.status_code == 404:
        assert (tab.focus(), len(server.questions)) == ("field-0", 1)
    else:
        tab.shown("result")


def test_missing_network_list_or_student_has_a_message(opened: Opened, server: FakeEndpoint) -> None:
    server.listing = problem(503, "starting", "the endpoint starts", retry_after="1")
    tab = opened()
    assert (tab.focus(), tab.text("problem-title")) == ("problem-title", "The endpoint is not ready")
    assert not tab.seen("ask")
    tab.says("problem-when", "You can try again now.")
    server.listing = JSONResponse({"object": "list", "data": []})
    tab.click("again")
    tab.says("problem-title", "This endpoint serves no student")
    server.listing = None
    tab.click("again")
    tab.shown("ask")
    assert tab.focus() == "field-0"
    tab.order("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.click("example")
    tab.answer()
    assert tab.text("problem-title") == "The endpoint cannot be reached"


def test_the_page_waits_for_a_sleeping_student(tab: Tab, server: FakeEndpoint) -> None:
    server.delay_s = 4.5
    tab.click("example")
    tab.ask()
    tab.says("wait", "Asking")
    tab.ask()
    tab.until("document.getElementById('wait').textContent.startsWith('Waking the student: ')", timeout_s=4)
    assert tab.of("live", "textContent") == "Waking the student"
    tab.write("field-0", "Another question")
    tab.shown("result")
    assert tab.focus() == "field-0"
    assert not tab.seen("stop")
    assert len(server.questions) == 1
    tab.ask()
    tab.click("stop")
    tab.says("wait", "Stopped.")
    assert (tab.focus(), tab.seen("result"), tab.seen("problem")) == ("go", False, False)


def test_the_curl_command_sends_the_same_request(tab: Tab, server: FakeEndpoint, tmp_path: Path) -> None:
    tab.write("field-0", f"Anne's \"9\" $HOME `id` !! \\ ünd\n{HOSTILE}\t\\'\u2028")
    shell = 'curl() { printf "%s\\0" "$@"; }\n' + tab.text("curl")
    assert "\u202e" not in shell
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    arguments = done.stdout.split("\0")[:-1]
    assert arguments[:4] == ["-sS", f"{server.url}v1/predict", "-H", "Content-Type: application/json"]
    tab.answer()
    assert [arguments[4], json.loads(arguments[5])] == ["-d", server.questions[0]]
    tab.click("copy")
    tab.until("/Copied|Selected/.test(document.getElementById('shell-note').textContent)")


def test_keys_reach_everything_and_every_control_is_named(opened: Opened, server: FakeEndpoint) -> None:
    server.models = [model(task="multiple-choice", fields="question choices* note?"), model("other")]
    tab = opened(360)
    reached = []
    for _ in range(30):
        tab.press("Tab", 9)
        reached.append(tab.js("document.activeElement.id || document.activeElement.tagName"))
        if len(set(reached)) < len(reached):
            break
    assert [*dict.fromkeys(reached)][:10] == [
        "model", "field-0", "field-1", "field-2", "rationale", "go", "example", "curl", "copy", "SUMMARY",
    ]  # fmt: skip
    tree = tab.order("Accessibility.getFullAXTree")["nodes"]
    roles = {"textbox", "button", "checkbox", "combobox", "region", "meter", "DisclosureTriangle"}
    seen = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    named = {(node["role"]["value"], node["name"]["value"]) for node in seen}
    assert {name for role, name in named if role == "textbox"} == {"Question", "Choices", "Note (optional)"}
    assert all(name for _, name in named)


@pytest.mark.parametrize("wide", [False, True])
def test_nothing_is_wider_than_a_phone(opened: Opened, server: FakeEndpoint, wide: bool) -> None:
    long = "9876543210" * 40 if wide else "word " * 80
    server.models = [model("m" * 63, fingerprint=long, fields=f"{'f' * 90} input"), model()]
    server.answer = predicted(long, rationale=long)
    tab = opened(360)
    tab.write("field-0", long)
    tab.write("field-1", long)
    tab.js("document.querySelector('details').open = true")
    tab.answer()
    assert tab.js("document.documentElement.scrollWidth") == 360
    server.answer = problem(500, long, long)
    tab.ask()
    tab.shown("problem")
    assert tab.js("document.documentElement.scrollWidth") == 360
