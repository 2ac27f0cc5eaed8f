from __future__ import annotations

import ast
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import COMPARED, QUICK, log_rows, opened
from PIL import Image

from pipeline.batch.deadline import Deadline
from pipeline.cli.eventlog import EventLog
from pipeline.storage.ledger import Ledger
from pipeline.transfer.headers import steps_of_checkpoint


def test_the_configuration_limits_the_pixels_of_pictures_and_results(cli, night, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored afterwards
    Path("config.yaml").write_text("max_megapixels: 1\n")
    Image.new("RGB", (1100, 1000)).save("a.png")
    code, out, _ = cli("run", night, "--set", "size=1300", "--dry-run")
    assert out.count("fail  ") == 2
    assert "the result would have 975 x 1,300 pixels" in out
    code, _, err = cli("run", night, "--set", "size=1300", "--set", "steps=1")
    assert code == 1
    assert "a.png: more than 1,000,000 pixels: it has 1,100 x 1,000. Make it smaller, or raise" in err
    assert "b.png: the result would have 975 x 1,300 pixels, more than 1 million. Lower size, or raise" in err


def test_run_makes_pictures_logs_records_and_a_summary(cli, night):
    code, out, err = cli("run", night)
    assert code == 0, err
    assert out.startswith("2 done")
    folder = Path("outbox/night")
    assert opened(folder / "a--s.png").size == (48, 36)
    rows = log_rows("a--s")
    assert [row["step"] for row in rows] == ["1", "2"]
    assert list(rows[0])[:6] == ["step", "size", "total", "content", "style", "tv"]
    assert list(rows[0])[-1] == "seconds"
    record = json.loads((folder / "logs/b--s.json").read_text())
    assert (record["status"], record["encoder"]["name"], record["device"]) == ("done", "vgg19-slim", "cpu")
    assert record["recipe"]["size"] == 48
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["done"], summary["cache_misses"], summary["cache_hits"]) == (2, 1, 1)


def test_a_second_run_does_nothing_and_says_so(cli, night):
    cli("run", night)
    before = {path: path.stat().st_mtime_ns for path in Path("outbox").rglob("*.png")}
    code, out, _ = cli("run", night)
    assert code == 0
    assert "Nothing to do" in out
    assert {path: path.stat().st_mtime_ns for path in Path("outbox").rglob("*.png")} == before


def test_a_run_that_brings_results_back_from_older_says_so(cli, night):
    cli("run", night)
    text = night.read_text()
    night.write_text(text.replace("size: 48", "size: 40"))
    assert cli("run", night)[1].startswith("2 done")
    night.write_text(text)
    code, out, err = cli("run", night)
    assert (code, out.startswith("2 came back from older/ in ")) == (0, True), out + err
    assert json.loads(Path("outbox/night/summary.json").read_text())["restored"] == 2
    assert "all 2 pictures are there already" in cli("run", night)[1]


def test_json_has_one_object_per_job_and_nothing_else(cli, night):
    Path("a.png").write_bytes(b"broken")
    code, out, _ = cli("run", night, "--json")
    assert code == 1
    objects = [json.loads(line) for line in out.splitlines()]
    assert {o["name"]: o["status"] for o in objects} == {"a--s": "failed", "b--s": "done"}
    assert "a.png" in objects[0]["error"]


def test_dry_run_writes_nothing(cli, night):
    code, out, err = cli("run", night, "--dry-run")
    assert code == 0, err
    assert out.count("run   ") == 2
    assert "2 pictures to make with vgg19-slim, roughly" in out
    assert "roughly 0.0 s" not in out
    assert "(a guess: no speed was measured here yet)" in out
    assert "to make with vgg19-slim" in cli("run", night, "--dry-run", "--set", "encoder=auto")[1]
    assert "to make with vgg19," in cli("run", night, "--dry-run", "--set", "encoder=vgg19")[1]
    assert not Path("outbox").exists()
    assert list(Path(os.environ["HOME"]).parent.rglob("*")) == []
    cli("run", night)
    Path("outbox/night/a--s.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in Path(os.environ["HOME"]).parent.rglob("*")}
    _, out, _ = cli("run", night, "--dry-run")
    assert "skip  a--s  (made before, and its picture is not there any more; --missing makes it again)" in out
    assert "skip  b--s  (done already)" in out
    _, out, _ = cli("run", night, "--dry-run", "--missing")
    assert "run   a--s  (its picture is not there any more)" in out
    assert {path: path.stat().st_mtime_ns for path in Path(os.environ["HOME"]).parent.rglob("*")} == before


def test_dry_run_distinguishes_checkpoints_new_jobs_and_broken_pictures(cli, night, monkeypatch):
    asked = itertools.count()
    monkeypatch.setattr(Deadline, "over", property(lambda self: next(asked) > 20))
    cli("run", night, "--set", "steps=5000", "--for", "1h")
    checkpoint = next(Path(os.environ["XDG_STATE_HOME"]).rglob("checkpoints/*"))
    steps = steps_of_checkpoint(checkpoint)
    assert 0 < steps < 5000
    Path("b.png").write_bytes(b"no picture")
    code, out, _ = cli("run", night, "--dry-run", "--set", "steps=5000")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"run   a--s  (resumes from step {steps} of 5000)"
    assert lines[1].startswith("fail  b--s  (will fail: ")
    assert lines[2].endswith("; 1 cannot be made.")
    planned = [
        json.loads(line)
        for line in cli("run", night, "--dry-run", "--set", "steps=5000", "--json")[1].splitlines()
    ]
    assert [(one["run"], one["fails"], one["steps_taken"]) for one in planned] == [
        (True, False, steps), (False, True, 0),
    ]  # fmt: skip


def test_pictures_that_were_deleted_are_made_again_with_missing(cli, night):
    cli("run", night)
    Path("outbox/night/a--s.png").rename("outbox/night/best.png")
    code, out, _ = cli("run", night)
    assert code == 0
    assert "1 there already, 1 deleted or renamed since (--missing makes it again)" in out
    code, out, _ = cli("run", night, "--missing")
    assert code == 0
    assert out.startswith("1 done, 1 there already")
    assert Path("outbox/night/a--s.png").exists()


def test_a_finished_batch_does_not_load_torch(cli, night):
    """With `auto`, which has to know the device."""
    make = ("run", night, "--set", "encoder=auto")
    assert cli(*make)[0] == 0
    run = "from pipeline.cli.main import app; app(standalone_mode=False)"
    code = f"import sys; {run}; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *map(str, make)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do: all 2 pictures are there already" in done.stdout
    assert done.stderr == ""
    assert not {"torch", "torchvision"} & set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_dry_run_says_what_globs_pass_over_and_leaves_results_alone(cli, night):
    Path("notes.txt").touch()
    Path("config.yaml").write_text("ignore: b.*\n")
    text = yaml.safe_dump({"recipe": QUICK, "contents": ["**/*"], "styles": ["s.png"]})
    night.write_text(text)
    assert cli("run", night)[0] == 0
    code, out, err = cli("run", night, "--dry-run")
    assert code == 0, err
    made = [line.split()[1] for line in out.splitlines() if line.startswith(("run", "skip"))]
    assert made == ["a--s", "s--s"]
    passed_over = "3 with other suffixes (.yaml 2 times, .txt), 1 with ignored names (b.png)"
    assert f"**/*: passed over: {passed_over}, 1 for results, originals, state or cache (outbox)" in out


def test_dry_run_as_json(cli, night):
    code, out, _ = cli("run", night, "--dry-run", "--json")
    assert code == 0
    assert [json.loads(line)["run"] for line in out.splitlines()] == [True, True]


def test_a_layer_that_auto_turns_out_to_lack_fails_its_job_only(cli, night):
    manifest = yaml.safe_load(night.read_text())
    manifest["recipe"]["encoder"] = "auto"
    deep = {"content": "b.png", "style": "s.png", "recipe": {"content_layers": "conv5_2", "name": "deep"}}
    night.write_text(yaml.safe_dump({**manifest, "contents": ["a.png"], "pairs": [deep]}))
    code, _, err = cli("run", night)
    assert code == 1
    assert "b.png: the layer conv5_2 is not in vgg19-slim" in err
    assert Path("outbox/night/a--s.png").exists()


def test_contents_that_went_away_are_the_machines_fault(cli, night, make_picture, monkeypatch):
    def unmounted(jobs):
        shutil.rmtree("usb")
        return jobs

    monkeypatch.setattr("pipeline.batch.runner.group_jobs", unmounted)
    make_picture("usb/a.png", 0, (64, 48))
    night.write_text(yaml.safe_dump({"recipe": QUICK, "contents": ["usb/a.png"], "styles": ["s.png"]}))
    code, _, err = cli("run", night)
    assert code == 3, err
    assert "the folder is gone" in err


def test_workers_make_what_one_process_makes(cli, night):
    assert cli("run", night, "--workers", 1, *COMPARED)[0] == 0
    alone = {name: np.asarray(opened(f"outbox/night/{name}.png"), int) for name in ("a--s", "b--s")}
    code, _, err = cli("run", night, "--workers", 2, "--outbox", "there", "--json", *COMPARED)
    assert code == 0, err
    for name, picture in alone.items():
        assert np.abs(np.asarray(opened(f"there/night/{name}.png"), int) - picture).max() <= 1
        assert json.loads(Path(f"there/night/logs/{name}.json").read_bytes())["micro_batch"] == 1


def test_a_signal_stops_every_worker_at_a_checkpoint(cli, night):
    command = [sys.executable, "-m", "pipeline", "run", str(night), "--workers", "2", "--set", "steps=100000"]
    command += ["--set", "snapshot_every=1"]  # so that each step is logged
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        lines = []
        for line in run.stderr:
            lines.append(line)
            if len({each.split(" of ")[1].split()[0] for each in lines if " step " in each}) == 2:
                run.send_signal(signal.SIGTERM)
                break
        lines += run.stderr.readlines()
    assert run.returncode == 143, lines
    assert sum("] stopped" in line for line in lines) == 2
    state = Path(os.environ["XDG_STATE_HOME"]) / "style-pipeline"
    assert len(list((state / "checkpoints").glob("*.safetensors"))) == 2
    with closing(Ledger(state)) as ledger:
        assert not ledger.any_attempts(1)


@pytest.mark.parametrize("name", ["a.png", "photo.JPG", "folder"])
def test_run_says_that_it_expects_a_manifest(cli, night, name):
    Path("folder").mkdir()
    code, _, err = cli("run", name)
    assert code == 2
    assert f"Error: {name}: is a " in err
    assert "`run` expects a manifest" in err
    assert "stylize CONTENT STYLE" in err


def test_vgg19_by_name_needs_nothing_but_the_package(cli, night):
    code, _, err = cli("run", night, "--set", "encoder=vgg19")
    assert code == 0, err
    assert json.loads(Path("outbox/night/logs/a--s.json").read_text())["encoder"]["name"] == "vgg19"


def test_auto_says_in_one_line_which_encoder_it_takes(cli, night):
    code, _, err = cli("run", night, "--set", "encoder=auto")
    assert code == 0, err
    assert err.count("Using vgg19-slim, as `auto` does on a CPU.") == err.count("`encoder: vgg19`") == 1
    assert json.loads(Path("outbox/night/logs/a--s.json").read_text())["encoder"]["name"] == "vgg19-slim"


def test_a_configuration_from_when_weights_were_downloaded_is_explained(cli, night):
    Path("config.yaml").write_text("device: cpu\nallow_download: false\n")
    code, _, err = cli("run", night)
    assert code == 2
    assert "config.yaml:2: allow_download: is no longer accepted: vgg19 comes with the package" in err
    assert "remove it" in err


def test_checkpoints_that_nobody_resumed_are_removed_in_time(cli, night):
    state = Path(os.environ["XDG_STATE_HOME"]) / "style-pipeline/checkpoints"
    state.mkdir(parents=True)
    (state / "old.safetensors").touch()
    (state / "new.safetensors").touch()
    os.utime(state / "old.safetensors", (1, 1))
    assert cli("run", night)[0] == 0
    assert [path.name for path in state.iterdir()] == ["new.safetensors"]


def test_interrupted_then_resumed(cli, night, monkeypatch):
    """INT stops the running job, keeps a checkpoint, exits 130; the next run resumes from there."""

    def interrupt(log, name, progress):
        if progress.step == 5:
            signal.raise_signal(signal.SIGINT)

    arguments = ["run", night, "--set", "steps=12"]
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "job_step", interrupt)
        code, _, err = cli(*arguments)
    assert code == 130, err
    assert "stopped a--s" in err
    assert "Stopping; what is done is kept." in err
    assert err.endswith("Run the same command again to resume where it stopped.\n")
    assert not list(Path("outbox").rglob("*.png"))
    state = Path(os.environ["XDG_STATE_HOME"]) / "style-pipeline/checkpoints"
    assert len(list(state.iterdir())) == 1

    assert cli(*arguments)[0] == 0
    record = json.loads(Path("outbox/night/logs/a--s.json").read_text())
    assert record["resumed_from_step"] == 5
    assert record["step_seconds"] > 0
    assert [row["step"] for row in log_rows("a--s")] == [str(step) for step in range(1, 13)]
    assert not list(state.iterdir())


@pytest.mark.parametrize("flag", [["--for", "1h"], ["--until", "06:30"]])
def test_a_run_with_a_deadline_is_exit_code_4_when_work_is_left(studio, night, cli, flag):
    studio.configure()
    with closing(studio.ledger()) as ledger:
        ledger.note_speed("fake", "fake0", 1e12)
    code, _, err = cli("run", night, *flag)
    assert code == 4
    assert "2 pictures are left" in err
    assert studio.executor.ran == []
    with closing(studio.ledger()) as ledger:
        ledger.note_speed("fake", "fake0", 1e-12)
    assert cli("run", night, *flag)[0] == 0
    assert len(studio.executor.ran) == 2


@pytest.mark.parametrize("flag", [["--for", "soon"], ["--until", "noon"]])
def test_a_run_with_a_deadline_that_is_none_is_exit_code_2(studio, night, cli, flag):
    code, _, err = cli("run", night, *flag)
    assert code == 2
    assert " ".join(flag) in err


def test_a_file_in_the_place_of_the_outbox_is_not_called_a_full_disk(cli, night):
    code, _, err = cli("run", night, "--outbox", "a.png")
    assert code == 3
    assert "a.png/night: cannot be written" in err
    assert "Check that no file is where a folder should be" in err


# How much is shown


@pytest.mark.parametrize("flags", [("--quiet", "run"), ("run", "--quiet")])
def test_a_quiet_run_says_what_failed_and_how_it_ended(cli, night, flags):
    Path("a.png").write_bytes(b"broken")
    code, out, err = cli(*flags, night)
    assert code == 1
    (line,) = err.splitlines()
    assert " [1/2] failed a--s: " in line
    assert out.startswith("1 done, 1 failed")


@pytest.mark.parametrize("flags", [("--verbose", "run"), ("run", "--verbose")])
def test_a_verbose_run_says_every_step(cli, night, flags):
    code, _, err = cli(*flags, night)
    assert code == 0
    assert [f"step {step}/2 of {name}--s  loss " in err for step in (1, 2) for name in "ab"] == [True] * 4
    assert " step " not in cli("run", night, "--force")[2]


@pytest.mark.parametrize("flag", ["--verbose", "--quiet"])
def test_objects_are_the_same_however_much_is_said(cli, night, flag):
    code, out, _ = cli("run", night, "--json", flag)
    assert code == 0
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["done", "done"]


@pytest.mark.parametrize("flags", [("--quiet", "run", "--verbose"), ("run", "--verbose", "--quiet")])
def test_a_run_is_not_quiet_and_verbose_at_once(cli, night, flags):
    code, _, err = cli(*flags, night)
    assert code == 2
    assert "--verbose and --quiet exclude each other" in err
    assert not Path("outbox").exists()
