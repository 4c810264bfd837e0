"""The page at `/` to try the student in a browser: one file, which loads nothing from other machines.

    page()                    -> "<!doctype html> ..."
    CONTENT_SECURITY_POLICY   -> "default-src 'none'; connect-src 'self'; ...", for the header of the same name

The policy allows only the file's own style and script, by their hashes. Data from the server can become text but never markup: browsers
enforce `require-trusted-types-for`. The page also carries the policy itself, without the rules that only a header may set.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

_FILE = files(__name__) / "index.html"
_FORBID_ALL = "content=\"default-src 'none'\""
"""The policy in the file itself."""


@cache
def page() -> str:
    """The page with its policy."""
    return _source().replace(_FORBID_ALL, f'content="{_policy()}"', 1)


@cache
def _source() -> str:
    return _FILE.read_text(encoding="utf-8")  # with \n, whatever the file has: browsers hash it so


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
    """`sha256-...` of the text in the file's only element with this tag."""
    (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _source(), re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()


CONTENT_SECURITY_POLICY = f"{_policy()}; frame-ancestors 'none'"
