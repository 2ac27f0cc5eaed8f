"""Gathers the results of tests marked with a case into the table of docs/reliability.md."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

BEGIN, END = "<!-- results: made by `make test-faults` -->", "<!-- end of results -->"
# What wakes the scanner; "any" where it plays no part.
ANY_MODE = "any"
MODES = ("native", "polling", "off", ANY_MODE)


@dataclass
class Row:
    """One case in one mode. A test may have gone through its case many times."""

    times: int = 0
    failed: int = 0


class Results:
    """A plugin for pytest. A test says `record_property("times", n)` if it went through its case n times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[int, str] = {}
        self.rows: dict[tuple[int, str], Row] = defaultdict(Row)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> object:
        report = yield
        mark = item.get_closest_marker("case")
        if mark is not None and (report.when == "call" or report.failed):
            number, what = mark.args
            parameters = getattr(getattr(item, "callspec", None), "params", {})
            row = self.rows[number, str(parameters.get("mode", ANY_MODE))]
            row.times += int(dict(item.user_properties).get("times", 1))
            row.failed += report.failed
            self.names[number] = what
        return report

    def pytest_sessionfinish(self) -> None:
        before, _, rest = self.path.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        self.path.write_text(f"{before}{BEGIN}\n{self.table()}{END}{after}", encoding="utf-8")

    def table(self) -> str:
        lines = [f"| case | | {' | '.join(MODES)} | result |", "| --- | --- |" + " --- |" * (len(MODES) + 1)]
        for number, name in sorted(self.names.items()):
            rows = [self.rows.get((number, mode), Row()) for mode in MODES]
            failed = sum(row.failed for row in rows)
            times = " | ".join(str(row.times or "") for row in rows)
            lines.append(f"| {number} | {name} | {times} | {f'{failed} failed' if failed else 'held'} |")
        return "\n".join(lines) + "\n"
