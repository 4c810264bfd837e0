"""The page at `/` in a real browser, with a server that answers from a table."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.responses import JSONResponse, Response

from tests.support.browser import NEEDS_BROWSER, Chromium, Tab
from tests.support.fake_endpoint import FakeEndpoint, model, predicted, problem

HOSTILE = "</p><img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>'\"`$(id)`\u202e"
KEY = "rs-0123456789abcdef"

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    started = Chromium(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    made = FakeEndpoint()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        running = uvicorn.Server(uvicorn.Config(made.app(), log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield made
        running.should_exit = True
        thread.join()


@pytest.fixture
def tab(browser: Chromium, server: FakeEndpoint) -> Iterator[Tab]:
    """A tab at the page. Each test ends without browser errors and requests to other hosts."""
    opened = Tab(browser, server.url)
    yield opened
    assert opened.complaints() == []
    assert {url for url in opened.requested() if not url.startswith((server.url, "data:,"))} == set()
    opened.close()


def test_a_question_is_answered(tab: Tab, server: FakeEndpoint) -> None:
    assert (
        tab.text("headline") == "svamp: a student of 248 million parameters for arithmetic, trained with step-by-step."
    )
    assert not any(map(tab.seen, ("models", "keyform", "keyused", "problem", "result", "why")))
    tab.click("example")
    tab.ask()
    tab.answered()
    assert server.questions == [
        {"model": "svamp", "inputs": [{"input": tab.js("document.getElementById('field-0').value")}], "rationale": True}
    ]
    assert tab.focus() == "result-title"
    assert (tab.text("label"), tab.text("confidence"), tab.text("tokens")) == ("9 - 4 = 5", "93.1%", "61 in, 34 out")
    assert tab.text("rationale-text") == "Anne gives away 4 of 9, so 9 - 4 are left."
    assert tab.text("time").endswith(" ms")
    assert tab.js("document.getElementById('live').textContent") == "Answer: 9 - 4 = 5. Confidence 93.1%."
    tab.until(
        "Math.abs(document.querySelector('#bar > span').offsetWidth / document.getElementById('bar').clientWidth - 0.93) < 0.02"
    )
    about = tab.js("document.getElementById('about').textContent")
    for text in (
        "247,577,856",
        "Qwen/Qwen3-8B, through vllm",
        "arithmetic/2/0123456789ab",
        "9f" * 32,
        "14 November 2023",
        "encoder-decoder",
    ):
        assert text in about


@pytest.mark.parametrize(("task", "fields"), [
    ("arithmetic", "input"), ("multiple-choice", "question choices*"), ("nli", "premise hypothesis"), ("grade-school-math", "question"),
    ("classification", "message"),
])  # fmt: skip
def test_each_built_in_task_has_its_fields_and_an_example(
    browser: Chromium, server: FakeEndpoint, task: str, fields: str
) -> None:
    server.models = [model(task=task, fields=fields)]
    tab = Tab(browser, server.url)
    tab.click("example")
    tab.ask()
    tab.answered()
    (sent,) = server.questions[0]["inputs"]
    assert [*sent] == fields.replace("*", "").split()
    assert all(sent.values())
    assert {name for name, value in sent.items() if isinstance(value, list)} == {
        one[:-1] for one in fields.split() if one.endswith("*")
    }
    tab.close()


def test_another_student_has_other_fields_and_no_rationale(browser: Chromium, server: FakeEndpoint) -> None:
    server.models = [
        model(),
        model("mine", "tasks/mine.py", "input notes? parts*", method="finetune", rationale=False, parameters=None),
    ]
    tab = Tab(browser, server.url)
    tab.write("field-0", "kept")
    tab.js(
        "(one => { one.value = '1'; one.dispatchEvent(new Event('change', { bubbles: true })); })(document.getElementById('model'))"
    )
    assert tab.text("headline") == "mine: a student for tasks/mine.py, trained with finetune."
    assert tab.js("document.getElementById('rationale').disabled")
    assert tab.text("why") == "mine was trained with finetune, which teaches no rationales."
    assert not tab.seen("example")
    tab.ask()
    assert tab.focus() == "field-2"
    assert tab.text("field-2-wrong") == "Enter one or more lines."
    tab.write("field-2", " one \n\n two\n")
    assert not tab.seen("field-2-wrong")
    tab.click("go")
    tab.answered()
    assert server.questions == [
        {"model": "mine", "inputs": [{"input": "kept", "parts": ["one", "two"]}], "rationale": False}
    ]
    assert not tab.seen("reasons")
    tab.js(
        "(one => { one.value = '0'; one.dispatchEvent(new Event('change', { bubbles: true })); })(document.getElementById('model'))"
    )
    assert tab.js("[document.getElementById('rationale').checked, document.getElementById('rationale').disabled]") == [
        True,
        False,
    ]
    tab.close()


def test_hostile_texts_stay_texts(browser: Chromium, server: FakeEndpoint) -> None:
    labels = {"fingerprint": HOSTILE, "prompt_version": [HOSTILE], "teacher": {"engine": HOSTILE, "model": HOSTILE}}
    server.models = [
        model(HOSTILE, HOSTILE, None, method=HOSTILE, family=HOSTILE, fingerprint=HOSTILE, engine=HOSTILE, created=HOSTILE,
              parameters=HOSTILE, rationale=False, provenance={"labels": labels}), model(),
    ]  # fmt: skip
    server.models[0]["fields"] = [
        {"name": name, "required": True, "list": name == HOSTILE} for name in (HOSTILE, "__proto__")
    ]
    server.answer = {
        "model": HOSTILE,
        "usage": None,
        "predictions": [{"label": HOSTILE, "value": HOSTILE + "2", "confidence": 7}],
    }
    tab = Tab(browser, server.url)
    shape = "JSON.stringify([document.images.length, document.scripts.length, document.title])"
    for name in ("field-0", "field-1"):
        tab.write(name, HOSTILE)
    tab.ask()
    tab.answered()
    assert tab.js("document.getElementById('label').textContent") == f"{HOSTILE} = {HOSTILE}2"
    assert [*server.questions[0]["inputs"][0]] == [HOSTILE, "__proto__"]
    server.answer = problem(422, HOSTILE, HOSTILE)
    tab.ask()
    tab.until("!document.getElementById('problem').hidden")
    assert tab.js("document.getElementById('problem-message').textContent") == HOSTILE
    assert tab.js(shape) == '[0,1,"Try the student - Raystill"]'
    assert tab.complaints() == []
    tab.close()


def test_markup_is_refused_by_the_policy(browser: Chromium, server: FakeEndpoint) -> None:
    tab = Tab(browser, server.url)
    assert tab.js("try { document.body.innerHTML = '<img src=x>'; 'let in' } catch (e) { e.name }") == "TypeError"
    tab.js(
        "document.body.append(Object.assign(document.createElement('img'), { src: 'http://raystill.invalid/x.png' }))"
    )
    tab.until("document.querySelector('img').complete")
    assert any("Content Security Policy" in message for message in tab.complaints())
    assert [one.get("blockedReason") for one in tab.events("Network.loadingFailed")] == ["csp"]
    tab.close()


def test_a_key_is_requested_and_kept_as_long_as_chosen(browser: Chromium, server: FakeEndpoint) -> None:
    server.key = KEY
    tab = Tab(browser, server.url)
    assert tab.focus() == "key"
    assert not tab.seen("ask")
    for given, title in (
        ("", "The key is empty"),
        ("two words", "This is not a key"),
        ("wrong", "The endpoint refuses this key"),
    ):
        tab.write("key", given)
        tab.js("document.querySelector('#keyform button').click()")
        tab.until(f"document.getElementById('keytitle').textContent === {json.dumps(title)}")
        assert tab.focus() == "key"
    assert tab.text("keytrace") == "HTTP 401, invalid_key, request req-12"
    for remember in (False, True):
        tab.js(f"document.getElementById('remember').checked = {json.dumps(remember)}")
        tab.write("key", KEY)
        tab.js("document.querySelector('#keyform button').click()")
        tab.until("!document.getElementById('ask').hidden")
        assert tab.focus() == "field-0"
        assert '-H "Authorization: Bearer $RAYSTILL_KEY"' in tab.text("curl")
        tab.open()
        assert tab.seen("ask") is remember
    assert KEY not in tab.js(
        "location.href + document.documentElement.outerHTML + JSON.stringify(localStorage) + document.cookie"
    )
    tab.click("example")
    server.key = "another"
    tab.ask()
    tab.until("!document.getElementById('keyform').hidden")
    assert (tab.focus(), tab.text("keytitle")) == ("key", "The endpoint refuses this key")
    tab.write("key", "another")
    tab.js("document.querySelector('#keyform button').click()")
    tab.until("document.getElementById('keyform').hidden")
    tab.click("go")
    tab.answered()
    assert tab.text("label") == "9 - 4 = 5"
    tab.click("keychange")
    assert (tab.focus(), tab.text("keytitle")) == ("key", "Another key")
    tab.js("document.querySelector('#keyform button').click()")
    tab.until("document.getElementById('keyform').hidden && !document.getElementById('keyused').hidden")
    tab.click("keyforget")
    tab.until("!document.getElementById('keyform').hidden")
    assert tab.js("sessionStorage.length") == 0
    assert not any(KEY in url for url in tab.requested())
    tab.close()


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
    tab.ask()
    tab.answered()
    assert (tab.focus(), tab.text("problem-title")) == ("problem-title", title)
    assert message in tab.text("problem-message")
    assert "inputs[0]" not in tab.text("problem")
    assert tab.text("problem-when").startswith(when)
    assert tab.text("problem-advice")
    assert f"HTTP {answer.status_code}" in tab.text("problem-trace")
    assert "request req-77" in tab.text("problem-trace")
    server.answer = None
    tab.click("again")
    tab.until("document.getElementById('problem').hidden")
    if answer.status_code == 404:
        assert (tab.focus(), len(server.questions)) == ("field-0", 1)
    else:
        tab.until("!document.getElementById('result').hidden")


def test_missing_network_list_or_student_has_a_message(browser: Chromium, server: FakeEndpoint) -> None:
    server.listing = problem(503, "starting", "the endpoint starts", retry_after="1")
    tab = Tab(browser, server.url)
    assert (tab.focus(), tab.text("problem-title"), tab.seen("ask")) == (
        "problem-title",
        "The endpoint is not ready",
        False,
    )
    tab.until("document.getElementById('problem-when').textContent === 'You can try again now.'")
    server.listing = JSONResponse({"object": "list", "data": []})
    tab.click("again")
    tab.until("document.getElementById('problem-title').textContent === 'This endpoint serves no student'")
    server.listing = None
    tab.click("again")
    tab.until("!document.getElementById('ask').hidden")
    assert tab.focus() == "field-0"
    tab.order("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    tab.click("example")
    tab.ask()
    tab.answered()
    assert tab.text("problem-title") == "The endpoint cannot be reached"
    tab.close()


def test_the_page_waits_for_a_sleeping_student(tab: Tab, server: FakeEndpoint) -> None:
    server.delay_s = 4.5
    tab.click("example")
    tab.ask()
    tab.until("document.getElementById('wait').textContent === 'Asking'")
    tab.ask()
    tab.until("document.getElementById('wait').textContent.startsWith('Waking the student: ')", timeout_s=4)
    assert tab.js("document.getElementById('live').textContent") == "Waking the student"
    tab.write("field-0", "Another question")
    tab.until("!document.getElementById('result').hidden")
    assert tab.focus() == "field-0"
    assert not tab.seen("stop")
    assert len(server.questions) == 1
    tab.ask()
    tab.click("stop")
    tab.until("document.getElementById('wait').textContent === 'Stopped.'")
    assert (tab.focus(), tab.seen("result"), tab.seen("problem")) == ("go", False, False)


def test_the_curl_command_sends_the_same_request(tab: Tab, server: FakeEndpoint, tmp_path: Path) -> None:
    tab.write("field-0", f"Anne's \"9\" $HOME `id` !! \\ ünd\n{HOSTILE}\t\\'\u2028")
    shell = 'curl() { printf "%s\\0" "$@"; }\n' + tab.text("curl")
    assert "\u202e" not in shell
    arguments = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.split("\0")[
        :-1
    ]
    assert arguments[:4] == ["-sS", f"{server.url}v1/predict", "-H", "Content-Type: application/json"]
    tab.ask()
    tab.answered()
    assert [arguments[4], json.loads(arguments[5])] == ["-d", server.questions[0]]
    tab.click("copy")
    tab.until("/Copied|Selected/.test(document.getElementById('shell-note').textContent)")


def test_keys_reach_everything_and_every_control_is_named(browser: Chromium, server: FakeEndpoint) -> None:
    server.models = [model(task="multiple-choice", fields="question choices* note?"), model("other")]
    tab = Tab(browser, server.url, width=360)
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
    named = {
        (node["role"]["value"], node["name"]["value"])
        for node in tree
        if not node["ignored"] and node["role"]["value"] in roles
    }
    assert {name for role, name in named if role == "textbox"} == {"Question", "Choices", "Note (optional)"}
    assert all(name for _, name in named)
    tab.close()


@pytest.mark.parametrize("wide", [False, True])
def test_nothing_is_wider_than_a_phone(browser: Chromium, server: FakeEndpoint, wide: bool) -> None:
    long = "9876543210" * 40 if wide else "word " * 80
    server.models = [model("m" * 63, fingerprint=long, fields=f"{'f' * 90} input"), model()]
    server.answer = predicted(long, rationale=long)
    tab = Tab(browser, server.url, width=360)
    tab.write("field-0", long)
    tab.write("field-1", long)
    tab.js("document.querySelector('details').open = true")
    tab.ask()
    tab.answered()
    assert tab.js("document.documentElement.scrollWidth") == 360
    server.answer = problem(500, long, long)
    tab.ask()
    tab.until("!document.getElementById('problem').hidden")
    assert tab.js("document.documentElement.scrollWidth") == 360
    tab.close()
