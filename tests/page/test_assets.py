from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.page import assets
from pipeline.page.assets import joined_script

FOLDER = Path(assets.__file__).parent
SCRIPTS, PAGES = sorted(FOLDER.glob("*.js")), sorted(FOLDER.glob("*.html"))


def test_a_module_comes_after_what_it_imports_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "page.js": 'import { a } from "./a.js";\nimport {\n  b,\n} from "./b.js";\n\na(b);\n',
        "a.js": 'import { b } from "./b.js";\n\nexport function a() { return b; }\n',
        "b.js": "// Of b.\n\nexport const b = 1;\n",
    }
    monkeypatch.setattr(assets, "read_asset", files.__getitem__)
    assert joined_script("page.js") == "// Of b.\n\nconst b = 1;\nfunction a() { return b; }\na(b);"


def test_the_script_of_the_sheet_is_one_script_without_names_that_stand_twice() -> None:
    script = joined_script("sheet.js")
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|const|let) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names)) > 20


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_sets_markup_from_text(path: Path) -> None:
    script = path.read_text(encoding="utf-8")
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert risky not in script


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_load_nothing_from_elsewhere(path: Path) -> None:
    assert not re.findall(r'(?:src|href)="(?!/static/|data:)', path.read_text(encoding="utf-8"))


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = assets.read_asset("page.html")
    assert not re.search(r"<script(?![^>]*src=)|<style|style=|\bon\w+=", page)
    for name in re.findall(r'/static/([^"]+)"', page):
        assert assets.read_asset(name)
