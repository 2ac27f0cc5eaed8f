from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from fakes import FakeExecutor, Workshop
from sample_events import ODD_NAMES, console, logged, make_finished, make_job, watch_everything

from pipeline.batch.runner import Runner
from pipeline.cli.display import Display, JsonLines
from pipeline.cli.eventlog import RunLog
from pipeline.cli.live import Forecast, LiveRows
from pipeline.cli.sentences import summary_line
from pipeline.spec.jobs import EncoderInfo, StepProgress
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder


def test_every_event_is_passed_on() -> None:
    seen: set[str] = set()

    class Recording(Display):
        def __getattribute__(self, name: str) -> object:
            seen.add(name)
            return super().__getattribute__(name)

    display = Display(Recording())
    watch_everything(display)
    assert {name for name in vars(Display) if not name.startswith("_")} - {"stopping"} <= seen


def test_a_stop_is_a_notification() -> None:
    stopped: list[str] = []

    class Recording(Display):
        def notify(self, kind: str, text: str, **facts: object) -> None:
            stopped.append(kind)

    Display(Recording(), Recording()).stopping()
    assert stopped == ["stopping", "stopping"]


def test_every_display_follows_a_run(workshop: Workshop) -> None:
    batch, stream = workshop.read(), io.StringIO()
    forecast = Forecast(len(batch))
    rows = LiveRows(console(width=200, terminal=True)[0], forecast)
    display = Display(RunLog(len(batch)), rows, JsonLines(stream))
    folder = BatchFolder(workshop.outbox, batch.name)
    with closing(Ledger(workshop.state)) as ledger, logged() as lines:
        summary = Runner(folder, ledger, FakeExecutor({"a": "fail"}), display).run(batch.jobs, len(batch))
    assert sum("told to fail" in line for line in lines) == 2
    assert sum("] done b--" in line for line in lines) == 2
    assert "a note" in lines
    assert lines[-1].startswith("[4/4] ")
    assert forecast.remaining_seconds() == 0
    assert len(stream.getvalue().splitlines()) == 4
    assert "2 failed" in summary_line(summary, str(workshop.batch_folder))


# JSON


def test_one_object_per_finished_job_and_nothing_else() -> None:
    stream = io.StringIO()
    shown = JsonLines(stream)
    shown.encoder_chosen(EncoderInfo("vgg19", "0123456789abcdef", "a note"))
    shown.job_started(make_job(), "a--s")
    shown.job_step("a--s", StepProgress(1, 7, 64, 48, 0.5, 0.2, 0.3))
    assert stream.getvalue() == ""
    shown.job_finished(make_finished("done", path=Path("/out/a--s.png"), seconds=1.23456))
    shown.job_finished(make_finished("failed", error="It broke.", next_step="Fix it."))
    shown.job_finished(make_finished("stopped"))
    done, failed, stopped = map(json.loads, stream.getvalue().splitlines())
    assert done == {
        "status": "done",
        "missing": False,
        "name": "a--s",
        "key": "k" * 64,
        "content": "/in/a.png",
        "style": "s",
        "path": "/out/a--s.png",
        "seconds": 1.235,
        "error": "",
        "next_step": "",
        "notes": [],
    }
    assert (failed["status"], failed["error"], failed["next_step"]) == ("failed", "It broke.", "Fix it.")
    assert failed["path"] is None
    assert stopped["status"] == "stopped"


@pytest.mark.parametrize("name", [*ODD_NAMES, "caf\udce9", "a\nb"])
def test_objects_hold_any_name_on_one_line(name: str) -> None:
    stream = io.StringIO()
    job = make_job(content=f"/in/{name}.png", style=name)
    JsonLines(stream).job_finished(make_finished("skipped", name, job=job))
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().isascii()
    read = json.loads(stream.getvalue())
    assert (read["name"], read["content"], read["style"]) == (name, f"/in/{name}.png", name)


def test_an_object_is_written_at_once() -> None:
    """Whoever reads the pipe sees a job when it is finished, not when the batch is."""

    class Pipe(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    pipe = Pipe()
    JsonLines(pipe).job_finished(make_finished("skipped"))
    assert pipe.flushed >= 1
