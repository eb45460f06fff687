"""The pages of docs/ that are made from something else are as it makes them."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def settings() -> dict:
    """docs/settings.py, which writes settings.md from the comments of configs/."""
    return runpy.run_path(str(DOCS / "settings.py"))


def test_the_page_of_settings_is_what_configs_say(settings):
    written = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert written == settings["page"](), "run python docs/settings.py"


def test_every_setting_has_a_line_that_says_what_it_does(settings):
    files = [settings["read"](name) for name in settings["everything"]()]
    told = {one.name for file in files for one in file.settings if one.text}
    assert {one.name for file in files for one in file.settings} - told == set()
    openings = [name for group in settings["RECIPES"] for name in settings["files_of"](group)]
    assert [name for name in openings if not settings["read"](name).opening] == []


def test_the_page_of_own_parts_includes_the_files_that_are_tested():
    page = (DOCS / "extend.md").read_text(encoding="utf-8")
    included = set(re.findall('^--8<-- "(.+)"$', page, re.MULTILINE))
    parts = [path for folder in ("new_head", "new_parts") for path in (DOCS.parent / "tests" / folder).rglob("*.*")]
    assert included == {path.relative_to(DOCS.parent).as_posix() for path in parts if path.suffix in (".py", ".yaml")}
