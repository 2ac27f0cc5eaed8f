from __future__ import annotations

import re

import pytest

from pipeline.page import assets
from pipeline.page.assets import joined_script


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
