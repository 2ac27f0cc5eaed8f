"""The commands as a user types them, with the bundled encoder on very small pictures."""

from __future__ import annotations

import ast
import csv
import getpass
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import fakes
import numpy as np
import pytest
import yaml
from fakes import FakeExecutor, picture_bytes
from PIL import Image

from pipeline.batch.deadline import Deadline
from pipeline.cli.commands import _settings, main
from pipeline.errors import UsageError
from pipeline.spec.recipe import PRESETS
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.transfer.headers import steps_of_checkpoint
from pipeline.version import VERSION
from pipeline.watch.events import Waker
from pipeline.watch.owner import Owner

QUICK = {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 2}


@pytest.fixture
def cli(monkeypatch, capfd):
    """Return a function that runs one command line: (exit code, stdout, stderr).

    Pictures are made in this process, unless `--workers` says otherwise.
    """
    monkeypatch.setattr("pipeline.execution.pool.CPU_WORKERS", 1)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["style-pipeline", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capfd.readouterr()
        code = exit_.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture
def night(make_picture, make_manifest) -> Path:
    """Two contents times one style."""
    make_picture("a.png", 0, (64, 48))
    make_picture("b.png", 1, (48, 64))
    make_picture("s.png", 2, (64, 64))
    return make_manifest({"recipe": QUICK, "contents": ["[ab].png"], "styles": ["s.png"]})


def opened(path: str | Path) -> Image.Image:
    """Read a picture and close its file."""
    with Image.open(path) as image:
        image.load()
        return image


def log_rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(f"outbox/night/logs/{name}.csv").read_text().splitlines()))


def test_version_and_help(cli):
    assert cli("--version") == (0, f"style-pipeline {VERSION}\n", "")
    code, out, _ = cli("--help")
    assert code == 0
    assert all(command in out for command in ("run", "stylize", "presets", "doctor", "weights", "schema"))


@pytest.mark.parametrize("module", ["torch", "pydantic", "numpy", "rich.progress"])
def test_help_imports_nothing_heavy(module):
    code = f"import sys, pipeline.cli.commands; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_python_m_pipeline():
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"style-pipeline {VERSION}\n"


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


FIRST_FRAME = "there are several frames or pages; the first is taken."


def animate(path: str) -> None:
    """Make an animation of a picture: itself first, then its negative."""
    first = opened(path).convert("RGB")
    second = Image.fromarray(255 - np.asarray(first))
    first.save(path, "PNG", save_all=True, append_images=[second])


def test_of_animations_the_first_frame_is_taken_and_said_so(cli, night):
    """In the record and on the console, for a content and a style alike; the picture is that of a still."""
    assert cli("run", night)[0] == 0
    still = np.asarray(opened("outbox/night/a--s.png"))
    for path in ("a.png", "s.png"):
        animate(path)
    code, _, err = cli("run", night)
    assert code == 0
    notes = {name: f"{name}: {FIRST_FRAME}" for name in ("a.png", "s.png")}
    assert all(f"note: {note}" in err for note in notes.values())
    records = [json.loads(path.read_text()) for path in Path("outbox/night/logs").glob("?--s.json")]
    assert {Path(record["content"]["path"]).name: record["notes"] for record in records} == {
        "a.png": list(notes.values()),
        "b.png": [notes["s.png"]],
    }
    again = opened("outbox/night/a--s.png")
    assert np.abs(np.asarray(again, int) - still).max() <= 1
    flags = [f"--set={key}={value}" for key, value in QUICK.items()]
    code, _, err = cli("stylize", "b.png", "s.png", "-o", "out.png", *flags)
    assert code == 0
    assert f"note: {notes['s.png']}" in err


def test_a_second_run_does_nothing_and_says_so(cli, night):
    cli("run", night)
    before = {path: path.stat().st_mtime_ns for path in Path("outbox").rglob("*.png")}
    code, out, _ = cli("run", night)
    assert code == 0
    assert "Nothing to do" in out
    assert {path: path.stat().st_mtime_ns for path in Path("outbox").rglob("*.png")} == before


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
    assert "2 of 2 pictures to make with vgg19-slim, roughly" in out
    assert "roughly 0.0 s" not in out
    assert "(a guess: no speed was measured here yet)" in out
    assert "download" not in err
    assert "`auto` will try to download" in cli("run", night, "--dry-run", "--set", "encoder=auto")[2]
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


def test_dry_run_tells_a_checkpoint_from_a_new_job_and_a_broken_picture(cli, night):
    cli("run", night, "--set", "steps=5000", "--for", "1s")
    checkpoint = next(Path(os.environ["XDG_STATE_HOME"]).rglob("checkpoints/*"))
    steps = steps_of_checkpoint(checkpoint)
    assert 0 < steps < 5000
    Path("b.png").write_bytes(b"no picture")
    code, out, _ = cli("run", night, "--dry-run", "--set", "steps=5000")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"run   a--s  (goes on from step {steps} of 5000)"
    assert lines[1].startswith("fail  b--s  (will fail: ")
    assert lines[2].endswith("; 1 cannot be made.")
    told = [
        json.loads(line)
        for line in cli("run", night, "--dry-run", "--set", "steps=5000", "--json")[1].splitlines()
    ]
    assert [(one["run"], one["fails"], one["steps_taken"]) for one in told] == [
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


def test_a_finished_batch_loads_and_downloads_nothing(cli, night, monkeypatch):
    """With `auto`, which would otherwise try to download VGG-19."""
    make = ("run", night, "--set", "encoder=auto")
    Path("config.yaml").write_text("allow_download: false\n")
    assert cli(*make)[0] == 0
    Path("config.yaml").unlink()
    run = "from pipeline.cli.commands import app; app(standalone_mode=False)"
    code = f"import sys; {run}; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *map(str, make)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do: all 2 pictures are there already" in done.stdout
    assert done.stderr == ""
    assert not {"torch", "torchvision"} & set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_dry_run_needs_no_weights(cli, night):
    Path("config.yaml").write_text("allow_download: false\n")
    code, out, err = cli("run", night, "--preset", "thumbnail", "--set", "encoder=vgg19", "--dry-run")
    assert code == 0, err
    assert "2 of 2 pictures to make" in out


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
    Path("config.yaml").write_text("allow_download: false\n")
    manifest = yaml.safe_load(night.read_text())
    manifest["recipe"]["encoder"] = "auto"
    deep = {"content": "b.png", "style": "s.png", "recipe": {"content_layers": "conv5_2", "name": "deep"}}
    night.write_text(yaml.safe_dump({**manifest, "contents": ["a.png"], "pairs": [deep]}))
    code, _, err = cli("run", night)
    assert code == 1
    assert "b.png: the layer conv5_2 is not in vgg19-slim" in err
    assert Path("outbox/night/a--s.png").exists()


def test_contents_that_went_away_are_the_machines_fault(cli, night, make_picture):
    make_picture("usb/a.png", 0, (64, 48))
    night.write_text(yaml.safe_dump({"recipe": QUICK, "contents": ["usb/a.png"], "styles": ["s.png"]}))
    code = subprocess.run(
        [sys.executable, "-c", UNMOUNTED, "run", str(night)], capture_output=True, text=True, check=False
    )
    assert code.returncode == 3, code.stderr
    assert "the folder is gone" in code.stderr


def test_workers_make_what_one_process_makes(cli, night):
    assert cli("run", night, "--workers", 1)[0] == 0
    alone = {name: np.asarray(opened(f"outbox/night/{name}.png"), int) for name in ("a--s", "b--s")}
    code, _, err = cli("run", night, "--workers", 2, "--outbox", "there", "--json")
    assert code == 0, err
    for name, picture in alone.items():
        assert np.abs(np.asarray(opened(f"there/night/{name}.png"), int) - picture).max() <= 1
        assert json.loads(Path(f"there/night/logs/{name}.json").read_bytes())["micro_batch"] == 1


def test_a_signal_stops_every_worker_at_a_checkpoint(cli, night):
    command = [sys.executable, "-m", "pipeline", "run", str(night), "--workers", "2", "--set", "steps=100000"]
    command += ["--set", "snapshot_every=1"]  # so that each step is told of
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


def test_flags_win(cli, night):
    code, _, err = cli("run", night, "--outbox", "there", "--set", "size=44", "--set", "format=jpeg")
    assert code == 0, err
    assert opened("there/night/a--s.jpg").size == (44, 33)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "sise=3"], "did you mean 'size'"),
        (["--set", "size"], "KEY=VALUE"),
        (["--set", "size=[1"], "not a valid value"),
        (["--set", "alpha=1", "--set", "content_weight=1"], "given twice"),
        (["--preset", "nope"], "is not a preset"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--no-such-flag"], "No such option"),
        (["--device", "banana"], "cuda"),
        (["--set", "content_layers=conv5_2"], "ends at relu5_1"),
    ],
)
def test_wrong_usage_is_exit_code_2(cli, night, arguments, words):
    code, _, err = cli("run", night, *arguments)
    assert code == 2
    assert words in err
    assert not Path("outbox").exists()


@pytest.mark.parametrize("name", ["a.png", "photo.JPG", "folder"])
def test_run_says_that_it_wants_a_manifest(cli, night, name):
    Path("folder").mkdir()
    code, _, err = cli("run", name)
    assert code == 2
    assert f"Error: {name}: is a " in err
    assert "`run` wants a manifest" in err
    assert "stylize CONTENT STYLE" in err


def test_a_device_that_is_not_there_is_exit_code_3(cli, night):
    code, _, err = cli("run", night, "--device", "cuda:77")
    assert code == 3
    assert "--device" in err


@pytest.fixture
def homeless(monkeypatch):
    """A user who is a number: no entry in the system's list, no home, as in a container."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in (
        *(name for name in os.environ if name.startswith("XDG_")),
        "HOME",
        "LOGNAME",
        "USER",
        "LNAME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("USERNAME", raising=False)


def test_a_user_without_a_home_works_in_the_folders_of_the_configuration(cli, night, homeless):
    Path("config.yaml").write_text("outbox: o\nstate_dir: s\ncache_dir: c\nallow_download: false\n")
    code, _, err = cli("run", night)
    assert code == 0, err
    assert Path("o/night/a--s.png").exists()
    assert cli("status")[0] == 0
    code, out, _ = cli("service", "systemd")
    assert code == 0
    assert f"User={os.getuid()}\n" in out


def test_a_user_without_a_home_is_told_which_folder_has_no_place(cli, night, homeless):
    Path("config.yaml").write_text("state_dir: s\n")
    code, _, err = cli("run", night)
    assert code == 2
    assert err == (
        "Error: There is no place for cache_dir: this user has no home folder.\n"
        "Set cache_dir in config.yaml, or HOME.\n"
    )
    assert not Path("~").exists()


def test_flags_are_named_as_they_are_typed():
    with pytest.raises(UsageError, match=r"^--max-failures: "):
        _settings(None, max_failures=-1)
    with pytest.raises(UsageError, match=r"^--device: "):
        _settings(None, device="fast")


def test_vgg19_by_name_never_falls_back(cli, night):
    Path("config.yaml").write_text("allow_download: false\n")
    code, _, err = cli("run", night, "--set", "encoder=vgg19")
    assert code == 3
    assert "weights" in err
    assert not list(Path("outbox").rglob("*.png"))


def test_auto_falls_back_with_one_line_that_says_so(cli, night):
    Path("config.yaml").write_text("allow_download: false\n")
    code, _, err = cli("run", night, "--set", "encoder=auto")
    assert code == 0, err
    assert err.count("weights fetch") == 1
    assert json.loads(Path("outbox/night/logs/a--s.json").read_text())["encoder"]["name"] == "vgg19-slim"


def test_stylize_one_pair(cli, night):
    flags = [f"--set={key}={value}" for key, value in QUICK.items()]
    code, out, err = cli("stylize", "a.png", "s.png", *flags)
    assert code == 0, err
    assert opened("a--s.png").size == (48, 36)
    assert out == "a--s.png\n"
    assert "done a--s" in err
    before = Path("a--s.png").stat().st_mtime_ns
    code, out, err = cli("stylize", "a.png", "s.png", *flags)
    assert (code, out) == (0, "a--s.png\n")
    assert "a--s.png is there already; --force makes it again.\n" in err
    code, _, err = cli("stylize", "a.png", "s.png", *flags, "--set=steps=3")
    assert code == 2
    assert "a--s.png: exists already, and was made of other pictures or by another recipe." in err
    assert Path("a--s.png").stat().st_mtime_ns == before  # never replaced unasked
    assert cli("stylize", "a.png", "s.png", "-o", "b.png", *flags)[0] == 2
    assert cli("stylize", "a.png", "s.png", *flags, "--force")[0] == 0
    assert Path("a--s.png").stat().st_mtime_ns > before
    assert cli("stylize", "a.png", "s.png", "-o", "there/x.jpg", *flags)[0] == 0
    assert opened("there/x.jpg").format == "JPEG"
    assert cli("stylize", "a.png", "s.png", "-o", "x.gif", *flags)[0] == 2


def test_stylize_with_a_mask(cli, night):
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save("m.png")
    fields = {**QUICK, "style_layers": "[relu1_1]", "content_layers": "[relu1_1]"}
    flags = ["--mask", "m.png", *(f"--set={key}={value}" for key, value in fields.items())]
    code, out, err = cli("stylize", "a.png", "s.png=0", "b.png=#ffffff", *flags)
    assert code == 0, err
    assert out == "a--s+b.png\n"
    code, out, _ = cli("inspect", "a--s+b.png")
    assert yaml.safe_load(out)["pairs"][0]["masks"] == {
        "content": "m.png",
        "styles": {"s.png": 0, "b.png": 1},
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["s.png", "b.png"], "2 styles are given: s.png, b.png."),
        (
            ["s.png", "b.png"],
            "A blend is for `run` and a manifest, such as {contents: [me.jpg], styles: [{blend: ",
        ),
        (["s.png", "--mask", "m.png"], "s.png: with --mask each style has one colour"),
        (["s.png=0", "--mask", "m.png"], "--mask m.png: a mask is for two styles or more"),
        (["s.png=0", "./s.png=1", "--mask", "m.png"], "s.png=1: with --mask each style has one colour"),
        (["s.png=0", "b.png=0.0", "--mask", "m.png"], "b.png have the same colour"),
        (["s.png=0", "b.png=red", "--mask", "m.png"], "b.png=red: expected a grey level"),
        (["s.png=0", "b.png=nan", "--mask", "m.png"], "b.png=nan: expected a grey level"),
    ],
)
def test_stylize_with_styles_that_do_not_go_together(arguments, words, cli, night):
    code, _, err = cli("stylize", "a.png", *arguments)
    assert code == 2
    assert words in err


def test_stylize_names_the_picture_that_is_wrong(cli, night):
    Path("s.png").write_bytes(b"")
    code, _, err = cli("stylize", "a.png", "s.png", "--set", "encoder=vgg19-slim")
    assert code == 1
    assert "s.png: the file is empty" in err
    assert cli("stylize", "absent.png", "a.png")[0] == 1


def test_snapshots_and_the_names_of_source_001(cli, night):
    flags = [f"--set={k}={v}" for k, v in {**QUICK, "snapshot_every": 1}.items()]
    code, _, err = cli("run", night, "--preset", "gatys-lbfgs", *flags)
    assert code == 0, err
    folder = Path("outbox/night/1_1e+06_1")
    names = {path.stem for path in folder.glob("*.jpg")}
    assert {"generated_1", "generated_2"} < names
    # The second pair's carry its short id.
    first, second = sorted(names - {"generated_1", "generated_2"})
    assert first.replace("generated_1-", "") == second.replace("generated_2-", "")
    assert opened(folder / "generated_2.jpg").size == (48, 48)


def test_thumbnail_shows_input_style_and_result_and_scales_back(cli, night):
    fields = {"encoder": "vgg19-slim", "size": 32, "steps": 2, "snapshot_every": 2}
    flags = [f"--set={k}={v}" for k, v in fields.items()]
    code, _, err = cli("stylize", "a.png", "s.png", "--preset", "thumbnail", *flags)
    assert code == 0, err
    assert opened("a--s.png").size == (64, 48)
    look = opened("a--s-step00002.png")
    assert look.height == 32
    assert look.width > 3 * 32


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_preset_can_be_pasted_into_a_manifest(cli, night, name):
    code, out, _ = cli("presets", name)
    assert code == 0
    Path("pasted.yaml").write_text(out + "contents: [a.png]\nstyles: [s.png]\n")
    Path("config.yaml").write_text("allow_download: false\n")
    code, out, err = cli("run", "pasted.yaml", "--dry-run", "--set", "encoder=vgg19-slim")
    assert code == 0, err
    assert yaml.safe_load(cli("presets", name)[1])["recipe"]["preset"] == name


def test_presets_lists_them_all(cli):
    _, out, _ = cli("presets")
    assert [line.split()[0] for line in out.splitlines()] == list(PRESETS)


def test_the_bundled_weights_are_small_and_whole():
    from pipeline.vgg.weights import SLIM_PATH, read_weights, resolve_encoder

    assert SLIM_PATH.stat().st_size <= 4 << 20
    assert "conv5_1.weight" in read_weights(resolve_encoder("vgg19-slim", Path("unused")))


@pytest.mark.parametrize("kind", ["manifest", "config"])
def test_schema_is_json(cli, kind):
    code, out, _ = cli("schema", kind)
    assert code == 0
    schema = json.loads(out)
    assert schema["type"] == "object"
    assert "recipe" in schema["properties"]


def test_doctor_and_weights_show(cli):
    code, out, err = cli("doctor")
    assert code == 0, err
    for words in ("Python 3.", "torch", "device", "takes vgg19-slim", "outbox", "GiB free"):
        assert words in out
    assert "vgg19-slim" in cli("weights", "show")[1]
    code, out, _ = cli("doctor", "--device", "cuda:77")
    assert code == 3
    assert "BAD  chosen" in out


def test_a_folder_that_cannot_be_made_is_seen_by_the_doctor(cli):
    Path("file").write_text("")
    Path("config.yaml").write_text("outbox: file/outbox\n")
    code, out, _ = cli("doctor")
    assert code == 3
    assert "BAD  outbox" in out


UNMOUNTED = """
import shutil, sys
from pipeline.cli import commands as cli
from pipeline.batch import runner

def unmounted(jobs, window=1):
    shutil.rmtree("usb")
    yield from jobs

runner.group_jobs = unmounted
sys.argv[0] = "style-pipeline"
cli.main()
"""

INTERRUPTED = """
import signal, sys
from pipeline.cli import commands as cli
from pipeline.cli import display

def interrupt(self, name, progress):
    if progress.step == 5:
        signal.raise_signal(signal.SIGINT)

display.LogLines.job_step = interrupt
sys.argv[0] = "style-pipeline"
cli.main()
"""


def test_checkpoints_that_nobody_resumed_are_removed_in_time(cli, night):
    state = Path(os.environ["XDG_STATE_HOME"]) / "style-pipeline/checkpoints"
    state.mkdir(parents=True)
    (state / "old.safetensors").touch()
    (state / "new.safetensors").touch()
    os.utime(state / "old.safetensors", (1, 1))
    assert cli("run", night)[0] == 0
    assert [path.name for path in state.iterdir()] == ["new.safetensors"]


def test_interrupted_then_resumed(cli, night):
    """INT ends the running step, keeps a checkpoint, exits 130; the next run goes on from there."""
    arguments = ["run", str(night), "--set", "steps=12", "--workers", "1"]
    command = [sys.executable, "-c", INTERRUPTED, *arguments]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped a--s" in stopped.stderr
    assert "Stopping after the current step" in stopped.stderr
    assert stopped.stderr.endswith("Run the same command again to go on where it stopped.\n")
    assert not list(Path("outbox").rglob("*.png"))
    state = Path(os.environ["XDG_STATE_HOME"]) / "style-pipeline/checkpoints"
    assert len(list(state.iterdir())) == 1

    assert cli(*arguments)[0] == 0
    record = json.loads(Path("outbox/night/logs/a--s.json").read_text())
    assert record["resumed_from_step"] == 5
    assert record["step_seconds"] > 0
    assert [row["step"] for row in log_rows("a--s")] == [str(step) for step in range(1, 13)]
    assert not list(state.iterdir())


# The watched folder, with an engine that costs nothing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["run night.yaml", "stylize a.png s.png", "watch --once"])
def test_the_first_signal_ends_the_reading_of_inputs(studio, night, cli, command, number, monkeypatch):
    def read_for_ever(path, tick):
        signal.raise_signal(number)
        for _ in range(10):
            tick()
        pytest.fail("it goes on reading")

    studio.drop("c.png")
    monkeypatch.setattr("pipeline.batch.runner.sha256_of", read_for_ever)
    code, _, err = cli(*command.split())
    assert code == 128 + number, err
    assert not list(Path().rglob("*--s.png"))


class Studio:
    """An inbox with one style in the current folder, and the command line."""

    def __init__(self, folder: Path, cli) -> None:
        self.cli = cli
        self.inbox = folder / "inbox"
        self.executor = FakeExecutor()
        (self.inbox / "styles").mkdir(parents=True)
        (self.inbox / "styles/s.png").write_bytes(picture_bytes("style"))
        self.configure()

    def configure(self, **keys) -> None:
        watch = {"settle_s": 0.03, "settle_max_s": 0.1, "rescan_s": 0.03, "notify": "off", "min_free_mb": 0}
        config = {"state_dir": "state", "cache_dir": "cache", "recipe": fakes.QUICK, "watch": watch, **keys}
        Path("config.yaml").write_text(yaml.safe_dump(config))

    def drop(self, name: str, data: bytes | None = None) -> None:
        path = self.inbox / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture_bytes(ascii(name)) if data is None else data)
        os.utime(path, (1, 1))

    def once(self, *flags) -> tuple[int, str]:
        """Run `watch --once`; return its exit code and what it logged."""
        code, out, err = self.cli("watch", "--once", *flags)
        assert out == ""
        return code, err

    def ledger(self) -> Ledger:
        return Ledger(Path("state"))

    def quarantined(self, *names: str) -> list[str]:
        """Let pictures be quarantined; return their ids."""
        for name in names:
            self.drop(name)
            self.executor.faults = {**self.executor.faults, Path(name).stem: "fail"}
        assert self.once()[0] == 1
        self.executor.faults = {}
        return [one["id"] for one in json.loads(self.cli("status", "--json")[1])["quarantined"]]


@pytest.fixture
def studio(environment, cli, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("pipeline.watch.owner.PATIENCE_S", 0.05)
    made = Studio(environment, cli)
    monkeypatch.setattr("pipeline.execution.pool.watch_executor", lambda settings, tick: made.executor)
    monkeypatch.setattr("pipeline.cli.commands._executor", lambda settings, stopped, **more: made.executor)
    return made


def test_watch_once_makes_what_is_there(studio):
    studio.drop("a.png")
    studio.drop("s/b.png")
    code, err = studio.once()
    assert code == 0, err
    assert {path.name for path in Path("outbox/inbox").glob("*.png")} == {"a--s.png"}
    assert Path("outbox/inbox/s/b--s.png").is_file()
    assert Path("archive/a.png").is_file()
    assert Path("archive/s/b.png").is_file()
    for words in ("watching", "encoder fake", "settled a.png", "started a--s", "done a--s in 0.5 s: "):
        assert words in err
    assert studio.once()[0] == 0  # nothing to do is fine
    assert len(studio.executor.ran) == 2


def test_watch_once_with_a_failure_is_exit_code_1(studio):
    studio.drop("a.png")
    studio.drop("b.png")
    studio.executor.faults = {"a": "fail"}
    code, err = studio.once()
    assert code == 1
    assert "quarantined a.png" in err
    assert "told to fail" in err
    assert Path("outbox/inbox/b--s.png").is_file()
    assert len(list(Path("quarantine").glob("*/a.png"))) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--for", "soon"], "--for soon"),
        (["--until", "25:00"], "--until 25:00"),
        (["--outbox", "inbox/out"], "lie in one another"),
        (["--set", "sise=3"], "did you mean 'size'"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--device", "banana"], "cuda"),
    ],
)
def test_watch_with_wrong_usage_is_exit_code_2(studio, flags, words):
    studio.drop("a.png")
    code, err = studio.once(*flags)
    assert code == 2
    assert words in err
    assert sorted(path.name for path in studio.inbox.iterdir()) == ["a.png", "styles"]


def test_watch_once_on_a_bad_machine_is_exit_code_3(studio):
    studio.drop("a.png")
    studio.executor.faults = {"a": "machine"}
    code, err = studio.once()
    assert code == 3
    assert "The device is gone." in err
    studio.executor.faults = {}
    assert studio.once()[0] == 0  # what was claimed is gone on with
    assert Path("outbox/inbox/a--s.png").is_file()


def test_a_deadline_in_the_middle_of_a_job_is_exit_code_4(studio, monkeypatch):
    studio.drop("a.png")
    with monkeypatch.context() as patch:
        studio.executor.after_step = lambda job, step: patch.setattr(Deadline, "left_s", -1.0)
        code, err = studio.once("--for", "1h")
        assert code == 4
        assert "1 file left" in err
    studio.executor.after_step = lambda job, step: None
    assert studio.once("--for", "1h")[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()


def test_what_would_overrun_the_deadline_is_not_begun_and_exit_code_4(studio):
    studio.drop("a.png")
    with closing(studio.ledger()) as ledger:
        ledger.note_speed("fake", "fake0", 1e12)
    code, err = studio.once("--for", "1h")
    assert code == 4
    assert "not begun a--s" in err
    assert studio.executor.ran == []


@pytest.mark.parametrize("flag", [["--for", "1h"], ["--until", "06:30"]])
def test_a_run_with_a_deadline_is_exit_code_4_when_work_is_left(studio, night, cli, flag):
    studio.configure()
    with closing(studio.ledger()) as ledger:
        ledger.note_speed("fake", "fake0", 1e12)
    code, _, err = cli("run", night, *flag)
    assert code == 4
    assert "2 pictures left" in err
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


def test_a_second_watch_is_exit_code_5_with_one_line_that_names_the_holder(studio):
    studio.drop("a.png")
    with Owner(studio.inbox, Disk()).held():
        code, err = studio.once()
    assert code == 5
    assert f"process {os.getpid()} on" in err.splitlines()[0]
    assert (studio.inbox / "a.png").is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_watch_and_is_its_exit_code(studio, number):
    studio.drop("a.png")
    before = signal.getsignal(number)
    studio.executor.after_step = lambda job, step: signal.raise_signal(number) if step == 2 else None
    code, out, err = studio.cli("watch", "--log-json")  # without --once: it would go on for ever
    assert code == 128 + number
    assert out == ""
    events = [json.loads(line) for line in err.splitlines()]  # and nothing else, such as an error
    assert "stopped" in {event["event"] for event in events}
    assert signal.getsignal(number) == before
    studio.executor.after_step = lambda job, step: None
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()


def test_hup_reads_the_configuration_again(studio):
    studio.drop("a.png")

    def change(job, step):
        if step == 1:
            studio.configure(outbox="there")
            studio.drop("b.png")
            signal.raise_signal(signal.SIGHUP)

    studio.executor.after_step = change
    code, err = studio.once()
    assert code == 0, err
    assert "the configuration was read again" in err
    studio.executor.after_step = lambda job, step: None
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()
    assert Path("there/inbox/b--s.png").is_file()


def test_hup_with_a_wrong_configuration_keeps_the_old_one(studio):
    studio.drop("a.png")

    def change(job, step):
        if step == 1:
            studio.configure(outbx="there")
            signal.raise_signal(signal.SIGHUP)

    studio.executor.after_step = change
    code, err = studio.once()
    assert code == 0, err
    assert "the old configuration stays" in err
    assert "outbx" in err
    assert Path("outbox/inbox/a--s.png").is_file()


def test_flags_win_over_routes(studio):
    studio.drop("s/a.png")
    code, err = studio.once("--outbox", "there", "--set", "size=20", "--preset", "draft")
    assert code == 0, err
    record = json.loads(Path("there/inbox/logs/s/a--s.json").read_text())
    assert (record["recipe"]["size"], record["recipe"]["preset"]) == (20, "draft")


def test_log_json_is_one_object_a_line(studio):
    studio.drop("a.png")
    studio.drop("b\udce9\n.png")
    code, err = studio.once("--log-json")
    assert code == 0
    events = [json.loads(line) for line in err.splitlines()]
    assert [e["event"] for e in events if e["event"] in {"watching", "started", "done"}] == [
        "watching", "started", "done", "started", "done",
    ]  # fmt: skip
    assert [event["name"] for event in events if event["event"] == "done"] == ["a--s", "b__--s"]


def test_a_log_in_a_file_is_rotated(studio, monkeypatch):
    monkeypatch.setattr("pipeline.cli.logfile.LOG_BYTES", 1500)
    monkeypatch.setattr("pipeline.cli.logfile.LOG_FILES", 2)
    for name in "abcdef":
        studio.drop(f"{name}.png")
    code, err = studio.once("--log-json", "--log-file", "there/watch.log")
    assert (code, err) == (0, "")
    logs = sorted(Path("there").iterdir())
    assert [path.name for path in logs] == ["watch.log", "watch.log.1", "watch.log.2"]
    assert all(0 < path.stat().st_size <= 1500 for path in logs)
    lines = [line for path in logs[::-1] for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines]
    assert [Path(e["content"]).name for e in events if e["event"] == "done"][-1] == "f.png"


def test_a_log_file_is_appended_to(studio):
    for _ in range(2):
        assert studio.once("--log-file", "watch.log") == (0, "")
    assert Path("watch.log").read_text().count("watching ") == 2


def test_a_log_file_that_cannot_be_written_is_exit_code_3(studio):
    Path("file").touch()
    code, err = studio.once("--log-file", "file/watch.log")
    assert code == 3
    assert "file/watch.log: cannot be written" in err
    assert "--log-file" in err


if Path("/dev/full").exists():

    def test_a_full_disk_under_the_log_ends_no_watch(studio):
        studio.drop("a.png")
        code, err = studio.once("--log-file", "/dev/full")
        assert code == 0, err
        assert Path("outbox/inbox/a--s.png").is_file()
        assert err == ""

    def test_a_disk_that_was_full_for_a_while_is_told_of_in_the_log(studio):
        log = Path("watch.log")
        log.symlink_to("/dev/full")
        studio.executor.after_step = lambda job, step: (
            log.unlink() if job.name == "b--s" and step == 1 else None
        )
        studio.drop("a.png")
        studio.drop("b.png")
        assert studio.once("--log-json", "--log-file", "watch.log") == (0, "")
        events = [json.loads(line) for line in log.read_text().splitlines()]
        assert [event["event"] for event in events][:2] == ["lost", "done"]
        assert events[0]["lines"] >= 4  # at least that both began, a is done, and which encoder there is
        assert events[1]["name"] == "b--s"


# status, retry, health, service


def test_status_of_a_folder_that_nobody_watches(studio):
    (id,) = studio.quarantined("a.png")
    studio.drop("b.png")
    assert studio.once()[0] == 0
    code, out, err = studio.cli("status", "--json")
    assert (code, err) == (0, "")
    status = json.loads(out)
    assert (status["alive"], status["done"], status["throughput_per_hour"]) == (False, 1, 1)
    assert [(one["id"], one["path"]) for one in status["quarantined"]] == [(id, "a.png")]
    code, out, _ = studio.cli("status")
    assert code == 0
    assert out.startswith(f"inbox    {studio.inbox}\ndaemon   not running")
    assert f"{id}  a.png: " in out


def test_status_while_a_job_runs(studio):
    studio.drop("a.png")
    seen = []

    def look(job, step):
        if step == 3:
            done = subprocess.run(
                [sys.executable, "-m", "pipeline", "status", "--json"], capture_output=True, check=True
            )
            seen.append(json.loads(done.stdout))

    studio.executor.after_step = look
    assert studio.once()[0] == 0
    (status,) = seen
    assert status["alive"] is True
    assert status["holder"]["pid"] == os.getpid()
    assert status["claimed"] == 1


def test_names_of_any_kind_can_be_shown_and_retried(studio):
    studio.quarantined("b\udce9\n.png")
    code, out, err = studio.cli("status")
    assert (code, err) == (0, "")
    assert "b\\udce9\\n.png: " in out
    code, out, err = studio.cli("retry", "--all-quarantined")
    assert (code, err) == (0, "")
    assert out.endswith("b\\udce9\\n.png\n")
    assert (studio.inbox / "b\udce9\n.png").is_file()


@pytest.mark.parametrize("by", ["id", "start of the id", "name", "path"])
def test_retry_one(studio, by):
    ids = studio.quarantined("sub/a.png", "b.png")
    found = json.loads(studio.cli("status", "--json")[1])["quarantined"]
    id = next(one["id"] for one in found if one["path"] == "sub/a.png")
    # The other's id may well begin with the same second.
    word = {"id": id, "start of the id": id[:-1], "name": "a.png", "path": "sub/a.png"}[by]
    code, out, err = studio.cli("retry", word)
    assert (code, err) == (0, "")
    assert out == f"{id} is back: {studio.inbox}/sub/a.png\n"
    assert (studio.inbox / "sub/a.png").is_file()
    assert not (studio.inbox / "b.png").exists()
    assert [path.name for path in Path("quarantine").iterdir()] == [one for one in ids if one != id]
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/sub/a--s.png").is_file()


def test_retry_all(studio):
    ids = studio.quarantined("a.png", "b.png")
    code, out, _ = studio.cli("retry", "--all-quarantined")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ids
    assert list(Path("quarantine").iterdir()) == []
    assert studio.cli("retry", "--all-quarantined") == (0, "Nothing is quarantined.\n", "")
    assert studio.once()[0] == 0


def test_retry_all_goes_on_after_one_that_cannot_go_back(studio):
    studio.quarantined("a.png", "b.png")
    ids = {one["path"]: one["id"] for one in json.loads(studio.cli("status", "--json")[1])["quarantined"]}
    first, second = ids["a.png"], ids["b.png"]
    studio.drop("a.png", b"newer")
    code, out, err = studio.cli("retry", "--all-quarantined")
    assert code == 1
    assert out == f"{second} is back: {studio.inbox}/b.png\n"
    assert err.startswith(f"{first} stays: ")
    assert "a.png: exists already. Move it elsewhere" in err
    assert (studio.inbox / "a.png").read_bytes() == b"newer"
    assert [path.name for path in Path("quarantine").iterdir()] == [first]


def test_retry_of_a_name_that_several_have_lists_their_ids(studio):
    ids = studio.quarantined("a.png", "sub/a.png")
    for word in ("a.png", ids[0][:2]):
        code, out, err = studio.cli("retry", word)
        assert (code, out) == (2, "")
        assert f"'{word}' means 2 quarantined files" in err
        assert all(id in err for id in ids)
    assert studio.cli("retry", "sub/a.png")[0] == 0  # a path is but one's
    assert not (studio.inbox / "a.png").exists()


def test_retry_of_a_whole_id_means_that_one(studio):
    """Though another's id begins so, and a third is called so."""
    (id,) = studio.quarantined("a.png")
    longer = Path("quarantine", f"{id}0")
    longer.mkdir()
    report = json.loads(Path("quarantine", id, "error.json").read_text())
    (longer / "error.json").write_text(json.dumps({**report, "path": "b.png", "file": id}))
    (longer / id).write_bytes(b"")
    assert studio.cli("retry", id)[:2] == (0, f"{id} is back: {studio.inbox}/a.png\n")


def test_retry_forgets_the_attempts(studio):
    """Else what was quarantined for ending the worker would be quarantined again at once."""
    studio.quarantined("a.png")
    (report,) = Path("quarantine").glob("*/error.json")
    (key,) = json.loads(report.read_text())["keys"]
    with closing(studio.ledger()) as ledger:
        for _ in range(3):
            ledger.begin(key)
    studio.cli("retry", "a.png")
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--all-quarantined"),
        (["a.png", "--all-quarantined"], "--all-quarantined"),
        (["unknown.png"], "called 'unknown.png'"),
        ([""], "called ''"),
    ],
)
def test_retry_of_both_neither_or_nothing_known_is_exit_code_2(studio, arguments, words):
    studio.quarantined("a.png")
    code, out, err = studio.cli("retry", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "status" in err
    assert not (studio.inbox / "a.png").exists()


def test_retry_replaces_nothing(studio):
    studio.quarantined("a.png")
    studio.drop("a.png", b"newer")
    code, _, err = studio.cli("retry", "a.png")
    assert code == 2
    assert "a.png: exists already" in err
    assert (studio.inbox / "a.png").read_bytes() == b"newer"
    assert len(list(Path("quarantine").glob("*/a.png"))) == 1


def test_health_without_a_daemon_is_exit_code_3(studio):
    Path("outbox").mkdir()
    code, out, err = studio.cli("health")
    assert code == 3
    assert "BAD  daemon       nobody watches the inbox" in out
    assert "BAD  heartbeat    none yet" in out
    assert "ok   pause        none" in out
    assert "needs attention" in err
    assert studio.once()[0] == 0
    assert "BAD  daemon" in studio.cli("health")[1]


def test_health_with_a_daemon_is_exit_code_0(studio):
    studio.drop("a.png")
    seen = []

    def look(job, step):
        if step == 1:
            command = [sys.executable, "-m", "pipeline", "health"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seen.append((done.returncode, done.stdout))

    studio.executor.after_step = look
    assert studio.once()[0] == 0
    ((code, out),) = seen
    assert code == 0, out
    assert "BAD" not in out
    assert "ok   daemon       is running" in out


def test_the_unit_starts_this_program_with_this_configuration(studio, cli):
    code, out, err = cli("service", "systemd", "--config", "config.yaml")
    assert (code, err) == (0, "")
    (start,) = [line for line in out.splitlines() if line.startswith("ExecStart=")]
    assert start.endswith(f"style-pipeline watch --config {Path('config.yaml').resolve()}")
    assert f"WorkingDirectory={Path.cwd()}" in out
    assert "WantedBy=multi-user.target" in out
    assert f"\nUser={getpass.getuser()}\n" in out
    own = cli("service", "systemd", "--user")[1]
    assert "WantedBy=default.target" in own
    assert "User=" not in own
    for folder in ("inbox", "outbox", "archive", "quarantine", "state", "cache"):
        assert str(Path(folder).resolve()) in out


@pytest.mark.parametrize(
    ("mode", "network", "chosen"),
    [("auto", False, "native"), ("auto", True, "polling"), ("native", True, "native"), ("off", True, "off")],
)
def test_how_the_inbox_is_watched(studio, mode, network, chosen, monkeypatch):
    modes = []

    def waker(inbox, mode):
        modes.append(mode)
        return Waker(inbox, "off")

    monkeypatch.setattr("pipeline.watch.watcher.is_network_file_system", lambda path: network)
    monkeypatch.setattr("pipeline.watch.events.Waker", waker)
    studio.configure(watch={"notify": mode, "settle_s": 0.03, "rescan_s": 0.03, "min_free_mb": 0})
    assert studio.once()[0] == 0
    assert modes == [chosen]


HELP = """
import contextlib, io, sys
from pipeline.cli.commands import app

for words in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        app([*words.split(), "--help"])
    assert "Usage: " in out.getvalue(), words
    heavy = {"torch", "numpy", "watchdog", "filelock"} & set(sys.modules)
    assert not heavy, (words, heavy)
"""


def test_help_of_every_command_of_the_watch_is_quick():
    commands = ["watch", "status", "retry", "health", "service", "service systemd", "run"]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *commands], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("--max-failures", "x", "expected a whole number, found 'x'"),
        ("--max-failures", "-1", "must be at least 0, found"),
        ("--workers", "65", "must be at most 64, found"),
    ],
)
def test_a_flag_that_is_typed_wrongly_is_told_of_in_plain_words(cli, night, flag, value, text):
    code, _, err = cli("run", night, flag, value)
    assert code == 2
    assert f"Invalid value for '{flag}': {text}" in err
    assert "Input should be" not in err


def test_every_command_has_a_help_that_fits(cli):
    for command in ((), ("weights",), ("service",)):
        code, out, _ = cli(*command, "--help")
        assert code == 0
        assert "..." not in out.partition("Commands:")[2]


def test_a_folder_is_no_name_for_a_result(cli, night):
    code, _, err = cli("stylize", "a.png", "s.png", "-o", ".")
    assert code == 2
    assert ".: is a folder.\nName a file in it, such as result.png." in err


def test_a_result_never_replaces_a_picture_it_is_made_of(cli, night):
    before = Path("a.png").read_bytes()
    code, _, err = cli("stylize", "a.png", "s.png", "-o", "a.png", "--force")
    assert code == 2
    assert "a.png: is one of the pictures that go in.\nName another with -o." in err
    assert Path("a.png").read_bytes() == before


def test_a_file_in_the_place_of_the_outbox_is_not_told_of_as_a_full_disk(cli, night):
    code, _, err = cli("run", night, "--outbox", "a.png")
    assert code == 3
    assert "a.png/night: cannot be written" in err
    assert "Check that no file is where a folder should be" in err
