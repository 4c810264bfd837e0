"""Hooks of MkDocs: links that leave docs/ lead to copies of their files in the site.

On a forge, `../CHANGELOG.md` in a page of docs/ is right as it is. MkDocs knows only docs/. So each file that a page links to outside of
docs/ gets a copy at `repository/PATH`: Markdown as a page, other files unchanged. Folders become plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PREFIX = "repository/"
LINKED = InclusionLevel.NOT_IN_NAV
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs/ that pages link to, and those that they link to."""
    texts = [("docs/" + file.src_uri, file.content_string) for file in files.documentation_pages()]
    added: set[str] = set()
    while texts:
        source, text = texts.pop()
        for target in _outside(source, text):
            if target not in added and (ROOT / target).is_file():
                added.add(target)
                files.append(File.generated(config, PREFIX + target, abs_src_path=str(ROOT / target), inclusion=LINKED))
                if target.endswith(".md"):
                    texts.append((target, (ROOT / target).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to the copies."""
    source = _source(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        target = _target(source, found[2])
        if not (ROOT / target).is_file():
            return found[1] if (ROOT / target).is_dir() else found[0]
        there = target.removeprefix("docs/") if target.startswith("docs/") else PREFIX + target
        path = posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{found[1]}]({path}{found[3] or ''})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def _source(uri: str) -> str:
    """Path in the repository of a page of the site."""
    return uri.removeprefix(PREFIX) if uri.startswith(PREFIX) else f"docs/{uri}"


def _target(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _outside(source: str, text: str) -> set[str]:
    found = {_target(source, path) for _, path, _ in LINK.findall(FENCE.sub("", text))}
    return {path for path in found if not path.startswith(("docs/", "../"))}
