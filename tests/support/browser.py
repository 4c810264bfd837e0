"""Headless Chromium for tests, driven through the DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoints import wait_until

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_BROWSER = [
    pytest.mark.full,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is in PATH"),
]


class Chromium:
    """One headless browser, controlled by the DevTools protocol over two pipes."""

    def __init__(self, profile: Path) -> None:
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        command = [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}",
            "--remote-debugging-pipe", "--remote-debugging-io-pipes", "about:blank",
        ]  # fmt: skip
        # The browser reads commands from file descriptor 3 and writes to 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "-", *command]
        self._process = subprocess.Popen(shell, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._ids, self._read = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []

    def order(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return the result. Events that arrive meanwhile are kept."""
        number = next(self._ids)
        order = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(order).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            assert select.select([self._in], [], [], 60)[0], "no answer from the browser"
            came = os.read(self._in, 1 << 20)
            assert came, "the browser exited"
            self._read += came
        one, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(one))

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.order("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._in)
        os.close(self._out)


class Tab:
    """A tab with its own storage."""

    def __init__(self, browser: Chromium, url: str, width: int = 900) -> None:
        self._browser, self._url = browser, url
        self._context = browser.order("Target.createBrowserContext")["browserContextId"]
        target = browser.order("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.order(f"{domain}.enable")
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.order("Emulation.setDeviceMetricsOverride", **screen)
        self.open()

    def order(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.order(method, self._session, **params)

    def open(self) -> None:
        self.order("Page.navigate", url=self._url)
        self.until("document.readyState === 'complete'")
        self.until("document.getElementById('headline').textContent.indexOf('Looking') < 0")

    def js(self, code: str) -> Any:
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        result = self.order("Runtime.evaluate", expression=code, **options)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, code: str, timeout_s: float = 20.0) -> None:
        shown = lambda: f"{code}; the page shows: {self.js('document.body.innerText')}"  # noqa: E731
        wait_until(lambda: bool(self.js(f"Boolean({code})")), timeout_s, 0.03, of=shown)

    def text(self, name: str) -> str:
        return str(self.of(name, "innerText"))

    def of(self, name: str, what: str) -> Any:
        """A property of an element."""
        return self.js(f"document.getElementById({json.dumps(name)}).{what}")

    def seen(self, name: str) -> bool:
        return bool(self.of(name, "getClientRects().length > 0"))

    def shown(self, name: str, *, hidden: bool = False) -> None:
        self.until(f"document.getElementById({json.dumps(name)}).hidden === {json.dumps(hidden)}")

    def says(self, name: str, text: str) -> None:
        """Wait for the text of an element."""
        self.until(f"document.getElementById({json.dumps(name)}).textContent === {json.dumps(text)}")

    def choose(self, name: str, value: str) -> None:
        self.of(name, f"value = {json.dumps(value)}")
        self.of(name, "dispatchEvent(new Event('change', { bubbles: true }))")

    def focus(self) -> str:
        return str(self.js("document.activeElement.id"))

    def click(self, name: str) -> None:
        self.js(f"(one => {{ one.focus(); one.click(); }})(document.getElementById({json.dumps(name)}))")

    def write(self, name: str, text: str) -> None:
        self.js(f"(one => {{ one.focus(); one.select(); }})(document.getElementById({json.dumps(name)}))")
        self.order("Input.insertText", text=text)

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            keys = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
            self.order("Input.dispatchKeyEvent", type=kind, **keys)

    def ask(self) -> None:
        """Submit with Ctrl and Enter from the first field."""
        self.js("document.querySelector('#fields textarea').focus()")
        self.press("Enter", 13, modifiers=2)

    def answer(self) -> None:
        """Ask, and wait for the answer."""
        self.ask()
        self.answered()

    def answered(self) -> None:
        self.until("['result', 'problem'].some(id => !document.getElementById(id).hidden)")

    def picture(self, file: Path) -> None:
        answer = self.order("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def events(self, method: str) -> list[dict[str, Any]]:
        self.order("Runtime.evaluate", expression="0")
        own = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"] for event in own if event["method"] == method]

    def complaints(self) -> list[str]:
        """Console messages, without failed requests."""
        entries = [one["entry"] for one in self.events("Log.entryAdded")]
        messages = [e["text"] for e in entries if e["level"] in ("warning", "error") and e["source"] != "network"]
        kinds = ("exceptionThrown", "consoleAPICalled")
        return messages + [str(event) for kind in kinds for event in self.events(f"Runtime.{kind}")]

    def requested(self) -> set[str]:
        return {one["request"]["url"] for one in self.events("Network.requestWillBeSent")}

    def close(self) -> None:
        self._browser.order("Target.disposeBrowserContext", browserContextId=self._context)
