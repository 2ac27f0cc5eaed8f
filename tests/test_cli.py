"""The commands as a user types them, with the bundled encoder on very small pictures."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.recipe import PRESETS
from pipeline.version import VERSION

QUICK = {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 2}


@pytest.fixture
def cli(monkeypatch, capsys):
    """Return a function that runs one command line: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["style-pipeline", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
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
    code = f"import sys, pipeline.cli; sys.exit({module!r} in sys.modules)"
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
    assert "download" not in err
    assert "`auto` will try to download" in cli("run", night, "--dry-run", "--set", "encoder=auto")[2]
    assert not Path("outbox").exists()
    cli("run", night)
    Path("outbox/night/a--s.png").unlink()
    _, out, _ = cli("run", night, "--dry-run")
    assert "run   a--s" in out
    assert "skip  b--s  (done already)" in out


def test_dry_run_needs_no_weights(cli, night):
    Path("config.yaml").write_text("allow_download: false\n")
    code, out, err = cli("run", night, "--preset", "thumbnail", "--set", "encoder=vgg19", "--dry-run")
    assert code == 0, err
    assert "2 of 2 pictures to make" in out


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


def test_a_device_that_is_not_there_is_exit_code_3(cli, night):
    code, _, err = cli("run", night, "--device", "cuda:77")
    assert code == 3
    assert "--device" in err


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
    assert cli("stylize", "a.png", "s.png", *flags)[0] == 2  # never replaced unasked
    assert cli("stylize", "a.png", "s.png", "-o", "there/x.jpg", *flags)[0] == 0
    assert opened("there/x.jpg").format == "JPEG"
    assert cli("stylize", "a.png", "s.png", "-o", "x.gif", *flags)[0] == 2


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
    from pipeline.neural.weights import SLIM_PATH, read_weights, resolve_encoder

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
from pipeline import cli, runner

def unmounted(jobs, window=1):
    shutil.rmtree("usb")
    yield from jobs

runner.group_jobs = unmounted
sys.argv[0] = "style-pipeline"
cli.main()
"""

INTERRUPTED = """
import signal, sys
from pipeline import cli, display

def interrupt(self, progress):
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
    arguments = ["run", str(night), "--set", "steps=12"]
    command = [sys.executable, "-c", INTERRUPTED, *arguments]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped a--s" in stopped.stderr
    assert not list(Path("outbox").rglob("*.png"))
    state = Path(os.environ["XDG_STATE_HOME"]) / "style-pipeline/checkpoints"
    assert len(list(state.iterdir())) == 1

    assert cli(*arguments)[0] == 0
    record = json.loads(Path("outbox/night/logs/a--s.json").read_text())
    assert record["resumed_from_step"] == 5
    assert record["step_seconds"] > 0
    assert [row["step"] for row in log_rows("a--s")] == [str(step) for step in range(1, 13)]
    assert not list(state.iterdir())
