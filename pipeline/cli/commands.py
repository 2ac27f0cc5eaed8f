"""The commands. The only module that prints or exits."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import (
    DeadlineError,
    DiskError,
    Interrupted,
    MachineError,
    PipelineError,
    Unexpected,
    UsageError,
)
from ..spec.text import counted, duration
from ..storage.files import one_line
from ..threads import sleep_while_waiting
from ..version import VERSION
from .streams import encoded, guarded, open_closed, refused

# Everything else is imported by the command that needs it: `--help` stays quick.
if TYPE_CHECKING:
    from rich.console import Console

    from ..batch.options import RunOptions
    from ..batch.runner import Runner
    from ..execution.executors import Executor, InProcessExecutor
    from ..spec.config import Config
    from ..spec.manifest import Batch
    from ..watch.claims import Quarantined
    from ..watch.status import Check
    from .display import LogLines

app = typer.Typer(
    name="style-pipeline",
    help="Neural style transfer as a batch pipeline and a watched folder: pictures in, styled pictures out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
weights_app = typer.Typer(help="Show, download or import the weights of VGG-19.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
service_app = typer.Typer(help="Run the watched folder as a service.", no_args_is_help=True)
app.add_typer(service_app, name="service")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; config.yaml in this folder if left out.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:N.")]
PresetOption = Annotated[str | None, typer.Option("--preset", help="A named recipe; see `presets`.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any field of the recipe; repeatable.")
]
ForOption = Annotated[
    str | None, typer.Option("--for", metavar="SPAN", help="Stop after this time, such as 90min or 2h30m.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="HH:MM", help="Stop at this time of day.")
]


# What typer raises for a wrong command line.
CommandLineError: type[Any] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def main() -> None:
    """Run the command line; every error ends here with its message and its exit code."""
    open_closed()
    sleep_while_waiting()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = guarded(sys.stdout, 1), guarded(sys.stderr, 2)
    try:
        sys.exit(_exit_code())
    finally:
        sys.stdout, sys.stderr = streams


def _exit_code() -> int:
    try:
        return app(standalone_mode=False) or 0
    except typer.Abort:
        return 128 + signal.SIGINT
    except CommandLineError as error:
        error.message = "\n".join(map(one_line, _in_plain_words(error).split("\n")))
        error.show()
        return int(error.exit_code)
    except PipelineError as error:
        return _complain(error)
    except Exception as error:
        details = "".join(traceback.format_exception(error))
        return _complain(Unexpected(f"unexpected {type(error).__name__}: {error}", details))


def _in_plain_words(error: Any) -> str:
    """Return what is wrong with a command line as config.yaml and manifests would say it."""
    from pydantic import ValidationError

    from ..spec.documents import explain_value

    cause = error.__cause__
    return explain_value(cause) if isinstance(cause, ValidationError) else str(error.message)


def _complain(error: PipelineError) -> int:
    """Say what went wrong, and return its exit code."""
    if isinstance(error, Unexpected):
        _say(*error.details.splitlines(), err=True)
    first, *others = error.lines
    _say(f"Error: {first}", *others, *filter(None, [error.next_step]), err=True)
    return error.exit_code


def _say(*lines: object, err: bool = False) -> None:
    """Print lines, each on one line whatever its names are made of."""
    for line in lines:
        typer.echo(one_line(str(line)), err=err)


def _answer(*lines: object) -> None:
    """Print what a command was asked for.

    Raises:
        DiskError: it cannot be written.
    """
    _say(*lines)
    _check_answered()


def _answer_document(text: str) -> None:
    """Print text of several lines as it is. Errors as in `_answer`."""
    typer.echo(text, nl=False)
    _check_answered()


def _check_answered() -> None:
    if error := refused(sys.stdout):
        raise DiskError(
            f"Standard output cannot be written ({error.strerror or error}).", "Send it elsewhere."
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        _answer(f"style-pipeline {VERSION}")
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made and why; write nothing.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop after this many failures; 0: never.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make again what is there already.")] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Make again what was made, then deleted or renamed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per job on stdout.")] = False,
    for_: ForOption = None,
    until: UntilOption = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes side by side; the quickest number if left out."),
    ] = None,
) -> None:
    """Make every picture of a manifest that is not there yet."""
    from ..batch.deadline import read_deadline
    from ..batch.options import RunOptions
    from ..spec.manifest import read_manifest, unwanted

    _check_is_no_picture(manifest)
    settings = _settings(config, outbox=outbox, device=device, max_failures=max_failures, workers=workers)
    flags = _recipe_flags(preset, assignments)
    batch = read_manifest(manifest, settings.recipe, flags, unwanted=unwanted(settings))
    options = RunOptions(force, settings.max_failures, settings.max_attempts, missing=missing)
    if dry_run:
        _dry_run(settings, batch, options, as_json)
        return
    options = replace(options, deadline=read_deadline(for_, until))
    _run_batch(settings, batch, options, as_json)


def _check_is_no_picture(manifest: Path) -> None:
    from ..spec.names import is_picture

    if is_picture(manifest.name) or manifest.is_dir():
        what = "a folder" if manifest.is_dir() else "a picture"
        raise UsageError(
            f"{manifest}: is {what}; `run` wants a manifest, a YAML file that names contents and styles.",
            "For one picture: `style-pipeline stylize CONTENT STYLE`. The README shows a manifest.",
        )


def _run_batch(settings: Config, batch: Batch, options: RunOptions, as_json: bool) -> None:
    from .display import failure_lines, summary_line
    from .signals import stop_signal

    with (
        _batch_display(settings, len(batch), as_json) as observer,
        stop_signal(observer.stopping, with_hang_up=True) as stopped,
        _runner(
            settings, batch, _batch_executor(settings, batch, options, stopped), observer, options, stopped
        ) as runner,
        runner.folder.locked(),
    ):
        summary = runner.run(batch.jobs, len(batch))
    if summary.failed > 1:
        _say(*failure_lines(summary), err=True)
    for text in runner.folder.left_alone:
        _say(text, err=True)
    _say(summary_line(summary, str(runner.folder.folder)), err=as_json)
    if stopped and summary.remaining:
        raise Interrupted(stopped[0])
    if summary.postponed or (summary.stopped and summary.remaining and options.deadline):
        raise DeadlineError(
            f"The time is over; {counted(summary.remaining, 'picture')} left.",
            "Run the same command again to go on where it stopped.",
        )
    if summary.failed:
        raise typer.Exit(1)


def _batch_executor(
    settings: Config, batch: Batch, options: RunOptions, stopped: list[int]
) -> InProcessExecutor:
    """Return what runs a batch; for one that is finished nothing is downloaded."""
    from ..batch.plan import is_finished
    from .display import LogLines

    executor = _executor(settings, stopped)
    if executor.would_download("auto"):
        offline = _executor(settings, stopped, allow_download=False)
        with _runner(settings, batch, offline, LogLines(_console(), 0), options, stopped) as runner:
            if is_finished(runner, batch.jobs):
                return offline
    return executor


def _dry_run(settings: Config, batch: Batch, options: RunOptions, as_json: bool) -> None:
    from ..batch.estimate import Estimate
    from ..batch.plan import plan_jobs
    from .display import LogLines

    executor = _executor(settings, [], allow_download=False)
    observer = LogLines(_console(), len(batch))
    with _runner(settings, batch, executor, observer, options, [], touch_nothing=True) as runner:
        estimate, undecided, failing = Estimate(runner.ledger), False, 0
        for planned in plan_jobs(runner, batch.jobs, executor.steps_taken()):
            failing += planned.fails
            if as_json:
                facts = ("name", "run", "reason", "fails", "steps_taken")
                _answer(json.dumps({fact: getattr(planned, fact) for fact in facts}))
            else:
                what = "run " if planned.run else "fail" if planned.fails else "skip"
                _answer(f"{what}  {planned.name}  ({planned.reason})")
            if planned.run:
                encoder = planned.job.recipe.encoder
                undecided |= encoder == "auto"
                name = executor.encoder_info(encoder).name if encoder == "auto" else encoder
                estimate.add(planned.job.recipe, name, planned.steps_taken)
    _say(*batch.passed_over, err=as_json)
    line = f"{estimate.jobs} of {counted(len(batch), 'picture')} to make"
    if estimate.jobs:
        line += (
            f" with {estimate.encoders}, roughly {duration(max(estimate.seconds, 0.1))} ({estimate.basis})"
        )
    if failing:
        line += f"; {failing} cannot be made"
    _say(f"{line}.", err=as_json)
    _check_answered()
    if undecided and executor.would_download("auto"):
        _say("`auto` will try to download vgg19 first, which is slower.", err=True)


@app.command()
def watch(
    once: Annotated[bool, typer.Option("--once", help="Take what has settled, then end; for cron.")] = False,
    config: ConfigOption = None,
    outbox: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    device: DeviceOption = None,
    preset: PresetOption = None,
    assignments: SetOption = None,
    for_: ForOption = None,
    until: UntilOption = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON objects.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="Log to this file, rotated at 10 MB, not to stderr.")
    ] = None,
) -> None:
    """Restyle every picture that is dropped into the inbox."""
    from ..batch.deadline import read_deadline
    from ..execution.pool import watch_executor
    from ..watch.daemon import WatchOptions, watch_inbox
    from ..watch.events import Waker, keep_watchdog_off_the_screen
    from ..watch.watcher import notify_mode
    from .display import first_time, watch_display
    from .signals import reload_signal, stop_signal

    def read() -> Config:
        return _settings(config, outbox=outbox, device=device)

    keep_watchdog_off_the_screen()
    settings = read()
    options = WatchOptions(once, read_deadline(for_, until), _recipe_flags(preset, assignments))
    waker = Waker(settings.watch.inbox, notify_mode(settings.watch))
    with (
        stop_signal(waker.set) as stopped,
        reload_signal(waker.set, read) as reread,
        watch_display(
            _console(), _write_to_stderr, log_json, log_file, first_time(settings.state_dir)
        ) as display,
    ):
        tally = watch_inbox(settings, options, display, watch_executor, waker, lambda: bool(stopped), reread)
    if stopped:
        raise typer.Exit(128 + stopped[0])
    if tally.out_of_time:
        raise DeadlineError(
            f"The time is over; {counted(tally.left, 'file')} left.", "The next run goes on from there."
        )
    if once and tally.quarantined:
        raise typer.Exit(1)


@app.command()
def status(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what the watched folder is doing."""
    from ..storage.ledger import Ledger
    from ..watch.status import read_status, status_lines

    settings = _settings(config)
    with closing(Ledger(settings.state_dir)) as ledger:
        found = read_status(settings, ledger)
    _answer(*([json.dumps(found)] if as_json else status_lines(found, duration)))


@app.command(short_help="Put quarantined files back into the inbox.")
def retry(
    job: Annotated[str | None, typer.Argument(help="The id or the name of a quarantined file.")] = None,
    everything: Annotated[bool, typer.Option("--all-quarantined", help="Every one of them.")] = False,
    config: ConfigOption = None,
) -> None:
    """Put quarantined files back into the inbox, to be tried again."""
    from ..storage.files import Disk
    from ..storage.ledger import Ledger
    from ..watch.claims import Claims

    settings = _settings(config)
    watch = settings.watch
    if (job is None) == (not everything):
        raise UsageError(
            "Name a quarantined file, or give --all-quarantined.", "See `style-pipeline status`."
        )
    claims = Claims(watch.inbox, watch.archive_dir, watch.quarantine_dir, Disk())
    found = claims.quarantined() if job is None else [_called(job, claims.quarantined())]
    if not found:
        _say("Nothing is quarantined.")
    stuck = 0
    with closing(Ledger(settings.state_dir)) as ledger:
        for one in found:
            try:
                home = claims.retry(one)
            except UsageError as error:
                if not everything:
                    raise
                stuck += 1
                _say(f"{one.id} stays: {error}", err=True)
                continue
            for key in one.report.get("keys", []):
                ledger.end(key)
            _say(f"{one.id} is back: {home}")
    if stuck:
        raise typer.Exit(1)


def _called(name: str, found: Sequence[Quarantined]) -> Quarantined:
    """Return the one file that a name means; a whole id wins over all else."""
    named = [one for one in found if one.id == name] or [one for one in found if one.answers_to(name)]
    if not named:
        raise UsageError(f"No quarantined file is called '{name}'.", "See `style-pipeline status`.")
    if len(named) > 1:
        ids = ", ".join(one.id for one in named)
        raise UsageError(f"'{name}' means {len(named)} quarantined files: {ids}.", "Give a whole id.")
    return named[0]


@app.command(short_help="Check that the daemon runs and has room.")
def health(config: ConfigOption = None) -> None:
    """Check that the daemon runs, is awake, and has room on its disks. Exit code 0, or 3 if not."""
    from ..storage.ledger import Ledger
    from ..watch.status import examine_daemon

    settings = _settings(config)
    with closing(Ledger(settings.state_dir)) as ledger:
        _print_checks(examine_daemon(settings, ledger))


@service_app.command("systemd")
def service_systemd(
    config: ConfigOption = None,
    user: Annotated[bool, typer.Option("--user", help="For a user's own manager, not the system's.")] = False,
) -> None:
    """Print a unit file for systemd."""
    from ..watch.service import systemd_unit

    settings = _settings(config)
    command = [str(Path(sys.executable).with_name("style-pipeline")), "watch"]
    command += ["--config", str(config.resolve())] if config else []
    _answer_document(systemd_unit(settings, command, Path.cwd(), "" if user else _user_name()))


def _user_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # this user id has no name; a unit accepts the number
        return str(os.getuid())


@app.command()
def stylize(
    content: Annotated[Path, typer.Argument(help="The picture to restyle.")],
    style: Annotated[
        list[str],
        typer.Argument(
            metavar="STYLE...", help="The picture whose style to take; with --mask several, STYLE=COLOUR."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Result; CONTENT--STYLE.png here if left out.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="A picture whose colours say which style goes where in the content."),
    ] = None,
    config: ConfigOption = None,
    device: DeviceOption = None,
    preset: PresetOption = None,
    assignments: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the result if it exists.")] = False,
) -> None:
    """Make one picture."""
    from ..batch.single import run_single, single_job, single_style
    from .signals import stop_signal

    settings = _settings(config, device=device)
    job, path = single_job(
        content, single_style(style, mask), out, settings.recipe, _recipe_flags(preset, assignments)
    )
    with (
        _batch_display(settings, 1) as observer,
        stop_signal(observer.stopping, with_hang_up=True) as stopped,
    ):
        finished = run_single(job, path, _executor(settings, stopped), observer, lambda: bool(stopped), force)
    if finished.status == "skipped":
        _say(f"{path} is there already; --force makes it again.", err=True)
    if finished.status == "stopped":
        raise Interrupted(stopped[0])
    _say(path)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset's full recipe as YAML.")] = None,
) -> None:
    """List the named recipes, or print one to paste into a manifest."""
    from ..spec.documents import dump_yaml
    from ..spec.recipe import PRESETS, preset_recipe

    if name is None:
        width = max(map(len, PRESETS))
        _answer(*(f"{label:<{width}}  {preset.summary}" for label, preset in PRESETS.items()))
        return
    recipe = preset_recipe(name).model_dump(mode="json")
    _answer_document(dump_yaml({"recipe": recipe}))


@app.command(short_help="Print how a picture was made.")
def inspect(
    picture: Annotated[Path, typer.Argument(help="A result of style-pipeline.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print how a picture was made, as a manifest that makes it again."""
    from ..batch.inspection import manifest_of, manifest_text, read_origin

    found = read_origin(picture)
    if as_json:
        _answer(json.dumps({**found, "manifest": manifest_of(found)}))
    else:
        _answer_document(manifest_text(picture, found))


@app.command(short_help="Print a JSON schema for editors.")
def schema(kind: Annotated[Literal["manifest", "config"], typer.Argument(help="Which file.")]) -> None:
    """Print the JSON schema of a manifest or of config.yaml, for editors."""
    from ..spec.config import Config
    from ..spec.manifest import Manifest

    model = Manifest if kind == "manifest" else Config
    _answer_document(json.dumps(model.model_json_schema(), indent=2) + "\n")


@app.command(short_help="Check this machine: torch, devices, weights, folders.")
def doctor(config: ConfigOption = None, device: DeviceOption = None) -> None:
    """Check this machine: Python, torch, devices, weights, folders, disk."""
    from .doctor import examine

    _print_checks(examine(_settings(config, device=device)))


def _print_checks(checks: Sequence[Check]) -> None:
    _answer(*(f"{'ok ' if check.ok else 'BAD'}  {check.label:<12} {check.text}" for check in checks))
    if not all(check.ok for check in checks):
        raise MachineError("Something above needs attention.")


@weights_app.command("show")
def weights_show(config: ConfigOption = None) -> None:
    """Show which weights are here and what `auto` takes."""
    from .doctor import weights_lines

    _answer(*weights_lines(_settings(config)))


@weights_app.command("fetch", short_help="Download VGG-19's weights (548 MB).")
def weights_fetch(config: ConfigOption = None) -> None:
    """Download VGG-19's weights (548 MB) and keep the 80 MB that are needed."""
    from ..execution.executors import weights_dir
    from ..vgg.weights import resolve_encoder
    from .display import download_lines

    settings = _settings(config)
    report = download_lines(_console())
    found = resolve_encoder("vgg19", weights_dir(settings), settings.weights, on_progress=report)
    _say(f"vgg19 {found.digest[:8]} is ready: {found.path}")


@weights_app.command("import", short_help="Take VGG-19's weights from a file.")
def weights_import(
    path: Annotated[Path, typer.Argument(help="A VGG-19 checkpoint in torchvision's format.")],
    config: ConfigOption = None,
) -> None:
    """Take VGG-19's weights from a file that was downloaded elsewhere."""
    from ..execution.executors import weights_dir
    from ..vgg.weights import import_weights

    found = import_weights(path, weights_dir(_settings(config)))
    _say(f"vgg19 {found.digest[:8]} is ready: {found.path}")


def _settings(path: Path | None, **flags: Any) -> Config:
    """Read the configuration and lay the flags that were given over it."""
    from pydantic import ValidationError

    from ..spec.config import Config, read_config
    from ..spec.documents import explain

    given = {name: value for name, value in flags.items() if value is not None}
    if "outbox" in given:
        given["outbox"] = given["outbox"].expanduser().resolve()
    settings = read_config(path)
    try:
        return Config.model_validate({**dict(settings), **given})
    except ValidationError as error:
        raise UsageError.of_lines([_as_option(problem) for problem in explain(error, Config)]) from error


def _as_option(problem: str) -> str:
    """Return `key: text` with the key as a flag."""
    key, colon, text = problem.partition(":")
    return f"--{key.replace('_', '-')}{colon}{text}"


def _recipe_flags(preset: str | None, assignments: list[str] | None) -> dict[str, Any]:
    """Turn `--preset` and `--set` into fields of a recipe, each checked."""
    from pydantic import ValidationError

    from ..spec.config import anchor_init
    from ..spec.documents import explain, parse_value
    from ..spec.recipe import Recipe, canonical_keys

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
        problems = [f"--preset or --set: {problem}" for problem in explain(error, Recipe)]
        raise UsageError.of_lines(problems, "See `style-pipeline presets default`.") from error
    except ValueError as error:
        raise UsageError(f"--set: {error}.") from error
    return anchor_init(fields, Path.cwd())


def _executor(settings: Config, stopped: list[int], allow_download: bool = True) -> InProcessExecutor:
    from ..execution.executors import InProcessExecutor
    from .display import download_lines

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
    options: RunOptions,
    stopped: list[int],
    touch_nothing: bool = False,
) -> Iterator[Runner]:
    from ..batch.runner import Runner
    from ..storage.ledger import Ledger, LedgerCopy
    from ..storage.outbox import BatchFolder

    def workers() -> list[Executor]:
        from ..execution.pool import batch_executors

        return batch_executors(settings, len(batch), executor)

    folder = BatchFolder(settings.outbox, batch.name)
    with closing((LedgerCopy if touch_nothing else Ledger)(settings.state_dir)) as ledger:
        yield Runner(folder, ledger, executor, observer, options, lambda: bool(stopped), workers)


@contextmanager
def _batch_display(settings: Config, total: int, as_json: bool = False) -> Iterator[LogLines]:
    from ..batch.estimate import expected_seconds, unknown_seconds
    from ..storage.ledger import LedgerCopy
    from .display import batch_display, first_time

    try:
        with closing(LedgerCopy(settings.state_dir)) as ledger:
            expected = expected_seconds(ledger)
    except MachineError:  # whatever needs the ledger will report this; an estimate does not need it
        expected = unknown_seconds
    json_to, is_news = sys.stdout if as_json else None, first_time(settings.state_dir)
    with batch_display(_console(), _write_to_stderr, total, json_to, expected, is_news) as observer:
        yield observer


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _write_to_stderr(line: str) -> None:
    """Write a line past the stream's buffer, so that it is written now or raises OSError."""
    data = encoded(f"{line}\n", sys.stderr)
    while data:
        data = data[os.write(2, data) :]
