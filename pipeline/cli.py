"""The commands. The only module that prints or exits."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .errors import Interrupted, MachineError, PipelineError, UsageError
from .version import VERSION

# Everything else is imported by the command that needs it: `--help` stays quick.
if TYPE_CHECKING:
    from rich.console import Console

    from .config import Config
    from .display import LogLines
    from .executors import InProcessExecutor
    from .manifest import Batch
    from .runner import Runner

app = typer.Typer(
    name="style-pipeline",
    help="Neural style transfer as a batch pipeline: a manifest of pictures in, styled pictures out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
weights_app = typer.Typer(help="Show, download or import the weights of VGG-19.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; config.yaml in this folder if left out.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:N.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="A named recipe; see `presets`.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any field of the recipe; repeatable.")
]


def main() -> None:
    """Run the command line; every error ends here with its message and its exit code."""
    try:
        app()
    except PipelineError as error:
        typer.echo(f"Error: {error.message}", err=True)
        if error.next_step:
            typer.echo(error.next_step, err=True)
        sys.exit(error.exit_code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"style-pipeline {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    manifest: Annotated[Path, typer.Argument(help="YAML manifest of contents and styles.")],
    config: ConfigOption = None,
    outbox: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    device: DeviceOption = None,
    preset: PresetOption = None,
    assignments: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop after so many failures; 0: never.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make pictures again that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per job on stdout.")] = False,
) -> None:
    """Make every picture of a manifest that is not there yet."""
    from .manifest import read_manifest

    settings = _settings(config, outbox=outbox, device=device, max_failures=max_failures)
    batch = read_manifest(manifest, settings.recipe, _recipe_flags(preset, assignments))
    if dry_run:
        _dry_run(settings, batch, force, as_json)
    else:
        _run_batch(settings, batch, force, as_json)


def _run_batch(settings: Config, batch: Batch, force: bool, as_json: bool) -> None:
    from .display import summary_line

    with (
        _stop_signal() as stopped,
        _observer(len(batch), as_json) as observer,
        _runner(settings, batch, _executor(settings, stopped), observer, force, stopped) as runner,
        runner.folder.locked(),
    ):
        summary = runner.run(batch.jobs(), len(batch))
    typer.echo(summary_line(summary, str(runner.folder.folder)), err=as_json)
    if stopped and summary.remaining:
        raise Interrupted(stopped[0])
    if summary.failed:
        raise typer.Exit(1)


def _dry_run(settings: Config, batch: Batch, force: bool, as_json: bool) -> None:
    from .display import LogLines, duration
    from .estimate import Estimate

    executor = _executor(settings, [], allow_download=False)
    observer = LogLines(_console(), len(batch))
    with _runner(settings, batch, executor, observer, force, []) as runner:
        estimate, undecided = Estimate(runner.ledger), False
        for planned in runner.plan(batch.jobs()):
            if as_json:
                typer.echo(json.dumps({"name": planned.name, "run": planned.run, "reason": planned.reason}))
            else:
                typer.echo(f"{'run ' if planned.run else 'skip'}  {planned.name}  ({planned.reason})")
            if planned.run:
                encoder = planned.job.recipe.encoder
                undecided |= encoder == "auto"
                name = executor.encoder_info(encoder).name if encoder == "auto" else encoder
                estimate.add(planned.job.recipe, name)
    line = f"{estimate.jobs} of {len(batch)} pictures to make"
    if estimate.jobs:
        line += f" with {estimate.encoders}, roughly {duration(estimate.seconds)} ({estimate.basis})"
    typer.echo(f"{line}.", err=as_json)
    if undecided and executor.would_download("auto"):
        typer.echo("`auto` will try to download vgg19 first, which is slower.", err=True)


@app.command()
def stylize(
    content: Annotated[Path, typer.Argument(help="The picture to restyle.")],
    style: Annotated[Path, typer.Argument(help="The picture whose style to take.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Result; CONTENT--STYLE.png here if left out.")
    ] = None,
    config: ConfigOption = None,
    device: DeviceOption = None,
    preset: PresetOption = None,
    assignments: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the result if it exists.")] = False,
) -> None:
    """Make one picture."""
    from .single import run_single, single_job

    settings = _settings(config, device=device)
    job, path = single_job(content, style, out, settings.recipe, _recipe_flags(preset, assignments))
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already.", "Name another with -o, or replace it with --force.")
    with _stop_signal() as stopped, _observer(1, as_json=False) as observer:
        finished = run_single(job, path, _executor(settings, stopped), observer, lambda: bool(stopped))
    if finished.status == "stopped":
        raise Interrupted(stopped[0])
    typer.echo(path)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset's full recipe as YAML.")] = None,
) -> None:
    """List the named recipes, or print one to paste into a manifest."""
    import yaml

    from .recipe import PRESETS, preset_recipe

    if name is None:
        width = max(map(len, PRESETS))
        for label, preset in PRESETS.items():
            typer.echo(f"{label:<{width}}  {preset.summary}")
        return
    recipe = preset_recipe(name).model_dump(mode="json")
    typer.echo(yaml.safe_dump({"recipe": recipe}, sort_keys=False, default_flow_style=None), nl=False)


@app.command()
def schema(kind: Annotated[Literal["manifest", "config"], typer.Argument(help="Which file.")]) -> None:
    """Print the JSON schema of a manifest or of config.yaml, for editors."""
    from .config import Config
    from .manifest import Manifest

    model = Manifest if kind == "manifest" else Config
    typer.echo(json.dumps(model.model_json_schema(), indent=2))


@app.command()
def doctor(config: ConfigOption = None, device: DeviceOption = None) -> None:
    """Check this machine: Python, torch, devices, weights, folders, disk."""
    from .doctor import examine

    checks = examine(_settings(config, device=device))
    for check in checks:
        typer.echo(f"{'ok ' if check.ok else 'BAD'}  {check.label:<12} {check.text}")
    if not all(check.ok for check in checks):
        raise MachineError("Something above needs attention.")


@weights_app.command("show")
def weights_show(config: ConfigOption = None) -> None:
    """Show which weights are here and what `auto` takes."""
    from .doctor import weights_lines

    for line in weights_lines(_settings(config)):
        typer.echo(line)


@weights_app.command("fetch")
def weights_fetch(config: ConfigOption = None) -> None:
    """Download VGG-19's weights (548 MB) and keep the 80 MB that are needed."""
    from .display import download_lines
    from .executors import weights_dir
    from .neural.weights import resolve_encoder

    settings = _settings(config)
    report = download_lines(_console())
    found = resolve_encoder("vgg19", weights_dir(settings), settings.weights, on_progress=report)
    typer.echo(f"vgg19 {found.digest[:8]} is ready: {found.path}")


@weights_app.command("import")
def weights_import(
    path: Annotated[Path, typer.Argument(help="A VGG-19 checkpoint in torchvision's format.")],
    config: ConfigOption = None,
) -> None:
    """Take VGG-19's weights from a file that was downloaded elsewhere."""
    from .executors import weights_dir
    from .neural.weights import import_weights

    found = import_weights(path, weights_dir(_settings(config)))
    typer.echo(f"vgg19 {found.digest[:8]} is ready: {found.path}")


def _settings(path: Path | None, **flags: Any) -> Config:
    """Read the configuration and lay the flags that were given over it."""
    from pydantic import ValidationError

    from .config import Config, read_config
    from .documents import explain

    given = {name: value for name, value in flags.items() if value is not None}
    if "outbox" in given:
        given["outbox"] = given["outbox"].expanduser().resolve()
    try:
        Config.model_validate(given)
    except ValidationError as error:
        raise UsageError("--" + "\n--".join(explain(error, Config))) from error
    return read_config(path).model_copy(update=given)


def _recipe_flags(preset: str | None, assignments: list[str] | None) -> dict[str, Any]:
    """Turn `--preset` and `--set` into fields of a recipe, each checked."""
    from pydantic import ValidationError

    from .config import anchor_init
    from .documents import explain, parse_value
    from .recipe import Recipe, canonical_keys

    fields: dict[str, Any] = {} if preset is None else {"preset": preset}
    for assignment in assignments or []:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected KEY=VALUE, such as --set size=1024.")
        try:
            fields[key.strip()] = parse_value(text)
        except ValueError as error:
            raise UsageError(f"--set {assignment}: {error}.") from error
    try:
        fields = canonical_keys(fields)
        Recipe.model_validate(fields)
    except ValidationError as error:
        lines = "\n".join(explain(error, Recipe))
        raise UsageError(f"--preset or --set: {lines}", "See `style-pipeline presets default`.") from error
    except ValueError as error:
        raise UsageError(f"--set: {error}.") from error
    return anchor_init(fields, Path.cwd())


def _executor(settings: Config, stopped: list[int], allow_download: bool = True) -> InProcessExecutor:
    from .display import download_lines
    from .executors import InProcessExecutor

    report = download_lines(_console())

    def on_download(done: int, total: int | None) -> None:
        if stopped:
            raise Interrupted(stopped[0])
        report(done, total)

    return InProcessExecutor(settings, on_download, allow_download)


@contextmanager
def _runner(
    settings: Config,
    batch: Batch,
    executor: InProcessExecutor,
    observer: LogLines,
    force: bool,
    stopped: list[int],
) -> Iterator[Runner]:
    from .ledger import Ledger
    from .outbox import BatchFolder
    from .runner import Runner, RunOptions

    options = RunOptions(force, settings.max_failures, settings.max_attempts)
    folder = BatchFolder(settings.outbox, batch.name)
    with closing(Ledger(settings.state_dir)) as ledger:
        yield Runner(folder, ledger, executor, observer, options, lambda: bool(stopped))


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _observer(total: int, as_json: bool) -> Iterator[LogLines]:
    """Choose how a run is shown: JSON lines, live on a terminal, or plain lines."""
    from .display import JsonLines, LiveDisplay, LogLines

    console = _console()
    if as_json:
        yield JsonLines(console, total, sys.stdout)
    elif console.is_terminal:
        with LiveDisplay(console, total) as live:
            yield live
    else:
        yield LogLines(console, total)


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Collect the first INT or TERM, so that the running step can end; a second one kills at once."""
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        received.append(number)
        typer.echo("Finishing the current step; once more to stop at once.", err=True)
        for again in previous:
            signal.signal(again, signal.SIG_DFL)

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
