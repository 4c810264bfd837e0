"""The page at `/`: try the student in a browser. One file, which asks nothing of any other machine.

    page()                    -> "<!doctype html> ..."
    CONTENT_SECURITY_POLICY   -> "default-src 'none'; connect-src 'self'; ...", for the header of the same name

Only the file's own style and script run, let in by their hashes, and what comes from the server can become text but never markup:
`require-trusted-types-for` has the browser refuse everything else. The page's own policy is the same without what only a header may say.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

_FILE = files(__name__) / "index.html"
_CLOSED = "content=\"default-src 'none'\""
"""The policy of the file as it lies: nothing runs."""


@cache
def page() -> str:
    """The page as it is served."""
    return _source().replace(_CLOSED, f'content="{_policy()}"', 1)


@cache
def _source() -> str:
    return _FILE.read_text(encoding="utf-8")  # with \n, whatever the file has: as a browser hashes it


@cache
def _policy() -> str:
    rules = [
        "default-src 'none'",
        "connect-src 'self'",
        f"script-src '{_hash_of('script')}'",
        f"style-src '{_hash_of('style')}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
    ]
    return "; ".join(rules)


def _hash_of(tag: str) -> str:
    """The one element's text as a policy names it: `sha256-...`."""
    (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _source(), re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()


CONTENT_SECURITY_POLICY = f"{_policy()}; frame-ancestors 'none'"
