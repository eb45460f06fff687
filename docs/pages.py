"""What the site shows besides docs/: README as its first page, and links as the site has them."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Files of the repository -> their pages. All others that lie outside of docs/ are named without a link.
PAGES = {
    "README.md": "index.md",
    "data/README.md": "data.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links lead from file to file of the repository, as its other readers follow them: here, from page to page."""
    sources = {name: source for source, name in PAGES.items()}
    source = ROOT / sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def linked(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = Path(os.path.normpath(source.parent / target))
        name = path.relative_to(ROOT).as_posix()
        if name not in PAGES and not name.startswith("docs/"):
            return text if path.exists() else match[0]  # --strict tells the second
        to = os.path.relpath(PAGES.get(name, name.removeprefix("docs/")), Path(page.file.src_uri).parent)
        return f"{image}[{text}]({to}{anchor or ''})"

    return LINK.sub(linked, markdown)
