from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from command_line import opened

from pipeline.cli.commands.sheet import write_at_the_end
from pipeline.spec.config import Config
from pipeline.storage.outbox import BatchFolder

PAGE = Path("outbox/night/index.html")


def shown(page: Path = PAGE) -> dict[str, str]:
    """Return the status of each picture on a sheet."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found
    return {picture["name"]: picture["status"] for picture in json.loads(found[1])["pictures"]}


def test_a_run_ends_with_its_sheet(cli, night):
    code, out, err = cli("run", night)
    assert (code, err.count("sheet")) == (0, 0)
    assert out.splitlines()[-1] == f"Look at them: {PAGE.resolve()}"
    assert shown() == {"a--s": "done", "b--s": "done"}
    assert len(list(Path("outbox/night/.thumbs").glob("*.jpg"))) == 5


def test_with_json_its_path_is_on_stderr(cli, night):
    _, out, err = cli("run", night, "--json")
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["done", "done"]
    assert err.splitlines()[-1] == f"Look at them: {PAGE.resolve()}"


def test_a_run_with_a_failure_has_it_on_its_sheet(cli, night):
    Path("a.png").write_bytes(b"broken")
    code, out, _ = cli("run", night)
    assert code == 1
    assert "Look at them" in out
    assert shown() == {"a--s": "failed", "b--s": "done"}


def test_a_run_that_was_stopped_has_a_sheet(cli, night, monkeypatch):
    def stop(self, job, name):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("pipeline.cli.eventlog.RunLog.job_started", stop)
    code, out, _ = cli("run", night, "--set", "steps=500")
    assert code == 128 + signal.SIGINT
    assert "Look at them" in out
    assert set(shown().values()) <= {"interrupted", "not_begun"}


def test_a_run_that_ends_with_a_fault_has_a_sheet(cli, night, monkeypatch):
    from pipeline.batch.publisher import Publisher
    from pipeline.errors import DiskError

    publish = Publisher.publish

    def fill_the_disk(self, decision, result):
        if decision.name == "b--s":
            raise DiskError("The disk is full.", "Free some space.")
        return publish(self, decision, result)

    monkeypatch.setattr(Publisher, "publish", fill_the_disk)
    code, _, err = cli("run", night)
    assert code == 3
    assert "Look at them" in err
    assert err.splitlines()[-2:] == ["Error: The disk is full.", "Free some space."]
    assert shown() == {"a--s": "done", "b--s": "not_begun"}


def test_jobs_that_were_not_begun_are_on_the_sheet(cli, night):
    code, _, _ = cli("run", night, "--for", "0.001s")
    assert code == 4
    assert shown() == {"a--s": "not_begun", "b--s": "not_begun"}


def test_where_there_is_nothing_no_sheet_is_written(environment, capsys):
    folder = BatchFolder(Path("outbox"), "night")
    folder.paths.logs.mkdir(parents=True)
    write_at_the_end(Config(), folder, in_a_hurry=False, err=False)
    assert capsys.readouterr() == ("", "")
    assert [path.name for path in folder.path.iterdir()] == ["logs"]


@pytest.mark.parametrize("problem", ["someone's file", "a bug"])
def test_a_sheet_that_cannot_be_written_is_a_warning(cli, night, monkeypatch, problem):
    if problem == "a bug":

        def fail(*arguments):
            raise ZeroDivisionError("oops")

        monkeypatch.setattr("pipeline.page.sheet.render_sheet", fail)
    else:
        PAGE.parent.mkdir(parents=True)
        PAGE.write_text("mine")
    code, out, err = cli("run", night)
    assert code == 0
    assert out.startswith("2 done")
    assert "Look at" not in out
    assert "Warning: the sheet was not written" in err
    if problem == "a bug":
        assert "unexpected ZeroDivisionError: oops" in err
    else:
        assert PAGE.read_text() == "mine"


def test_a_dry_run_writes_no_sheet(cli, night):
    cli("run", night)
    PAGE.unlink()
    cli("run", night, "--dry-run")
    assert not PAGE.exists()


def test_later_runs_find_nothing_strange_in_the_folder(cli, night):
    cli("run", night)
    before = PAGE.stat().st_mtime_ns
    code, out, err = cli("run", night)
    assert (code, err) == (0, "")
    assert out.startswith("Nothing to do")
    assert "Look at them" in out
    assert PAGE.stat().st_mtime_ns == before, "the sheet was written again"


@pytest.mark.parametrize("batch", ["night", "outbox/night"])
def test_sheet_takes_a_name_or_a_folder(cli, night, batch):
    cli("run", night)
    PAGE.unlink()
    code, out, _ = cli("sheet", batch)
    assert code == 0
    assert Path(out.strip()).samefile(PAGE)
    assert shown() == {"a--s": "done", "b--s": "done"}


def test_sheet_finds_an_outbox_that_is_named(cli, night, tmp_path):
    cli("run", night)
    Path("outbox").rename("elsewhere")
    assert cli("sheet", "night", "--outbox", "elsewhere")[0] == 0
    assert len(shown(Path("elsewhere/night/index.html"))) == 2


def test_a_batch_that_is_not_there_is_an_error_that_names_others(cli, night):
    code, _, err = cli("sheet", "nigth")
    assert code == 2
    assert "nigth: is no batch in" in err
    assert "no batches yet" in err
    cli("run", night)
    assert "Its batches: night." in cli("sheet", "nigth")[2]


def test_sheet_as_one_picture(cli, night):
    cli("run", night)
    PAGE.unlink()
    code, out, _ = cli("sheet", "night", "--image", "sheet.jpg")
    assert (code, out.strip()) == (0, "sheet.jpg")
    assert opened("sheet.jpg").format == "JPEG"
    assert not PAGE.exists()
    code, _, err = cli("sheet", "night", "--image", "sheet.gif")
    assert code == 2
    assert "sheet.gif: expected a name that ends in .jpg" in err


def test_the_sheet_of_a_watched_folder_has_the_archived_originals(studio):
    studio.drop("a.png")
    studio.once()
    assert shown(Path("outbox/inbox/index.html")) == {"a--s": "done"}
    code, out, err = studio.cli("sheet", "inbox")
    assert code == 0, err
    assert shown(Path(out.strip())) == {"a--s": "done"}
    names = {path.name.split("-")[0] for path in Path("outbox/inbox/.thumbs").iterdir()}
    assert names == {"result", "content", "style"}
