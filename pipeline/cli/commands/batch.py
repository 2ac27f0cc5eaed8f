"""`run`: the pictures of a manifest."""

from __future__ import annotations

import json
import logging
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import DeadlineError, Interrupted, UsageError
from ...spec.text import are, counted
from . import flags
from .help import LIMITS, MAKE, WHAT, Commands
from .hooks import telling_hooks
from .optional_address import WithOptionalAddress
from .output import check_printed, print_result, say
from .sheet import write_at_the_end
from .showing import show_lines, show_run

if TYPE_CHECKING:
    from ...batch.planner import RunOptions
    from ...batch.summary import Summary
    from ...spec.batches import Batch
    from ...spec.config import Config
    from ...storage.outbox import BatchFolder
    from ..display import Display

app = Commands(MAKE)
logger = logging.getLogger(__name__)


@app.command(
    examples=[
        "style-pipeline run overnight.yaml --dry-run",
        "style-pipeline run overnight.yaml --until 06:30",
        "style-pipeline run overnight.yaml --shard 1/8",
    ],
    cls=WithOptionalAddress,
)
@flags.with_batch_flags
def run(
    context: typer.Context,
    manifest: Annotated[Path, typer.Argument(help="YAML manifest of contents and styles.")],
    given: flags.BatchFlags,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make the I-th of N parts, beside N - 1 other processes; auto: as the scheduler says.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Stop after this many failures; 0 for no limit.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    ray: flags.Ray = None,
    ray_ship: flags.RayShip = False,
) -> None:
    """Make the pictures of a manifest that do not exist yet."""
    from ...spec.manifest import read_manifest
    from ...spec.shards import read_shard

    _check_is_no_picture(manifest)
    settings = flags.on_ray(batch_settings(given, max_failures=max_failures), ray, ray_ship)
    fields = flags.recipe_fields(given.preset, given.assignments)
    batch = read_manifest(manifest, settings.recipe, fields, exclusions=settings.exclusions())
    if shard is not None:
        batch = replace(batch, shard=read_shard(shard, os.environ))
    make(context, settings, batch, given)


def _check_is_no_picture(manifest: Path) -> None:
    from ...spec.names import is_picture

    is_folder = os.path.isdir(manifest)
    if is_picture(manifest.name) or is_folder:
        what = "a folder" if is_folder else "a picture"
        raise UsageError(
            f"{manifest}: is {what}; `run` expects a manifest, a YAML file that names contents and styles.",
            "For one picture: `style-pipeline stylize CONTENT STYLE`. The README shows a manifest.",
        )


def batch_settings(given: flags.BatchFlags, **more: Any) -> Config:
    """Read the configuration; `more` are flags that only one command has. Errors as in `read_settings`."""
    return flags.read_settings(
        given.config, outbox=given.outbox, device=given.device, workers=given.workers, **more
    )


def make(context: typer.Context, settings: Config, batch: Batch, given: flags.BatchFlags) -> None:
    """Make a batch, or with --dry-run say what would be made."""
    from ...batch.deadline import read_deadline
    from ...batch.planner import RunOptions

    deadline = read_deadline(given.for_, given.until)
    options = RunOptions.of(settings, force=given.force, missing=given.missing, deadline=deadline)
    if given.dry_run:
        _plan_batch(settings, batch, options, given.as_json)
    else:
        level = flags.log_level(context, given.verbose, given.quiet)
        _run_batch(settings, batch, options, level, given.as_json)


def _folder_of(batch: Batch, settings: Config) -> BatchFolder:
    from ...storage.outbox import BatchFolder

    return BatchFolder(settings.outbox, batch.name, shard=batch.shard.label if batch.shard else "")


def _run_batch(settings: Config, batch: Batch, options: RunOptions, level: int, as_json: bool) -> None:
    """Run a batch, show its progress, write its sheet, tell its hooks, and set the exit code."""
    from ..display import Display
    from ..sentences import failure_lines, shard_line, summary_line

    folder = _folder_of(batch, settings)
    with show_lines(level), telling_hooks(settings, is_run=True) as hooks:
        if batch.shard is not None:
            logger.info(shard_line(batch))
        with show_run(settings, len(batch), level, as_json) as display:
            summary, stopped = _run_jobs(settings, folder, batch, options, Display(display, hooks))
        if summary.failed > 1:
            say(*failure_lines(summary), err=True)
        say(summary_line(summary, str(folder.path)), err=as_json)
        write_at_the_end(settings, folder, in_a_hurry=summary.stopped, err=as_json)
    _end(summary, stopped, options)


def _run_jobs(
    settings: Config, folder: BatchFolder, batch: Batch, options: RunOptions, display: Display
) -> tuple[Summary, list[int]]:
    """Run a batch; return its summary, and the signal that stopped it if there was one."""
    from ...batch.merge import Merge
    from ...batch.runner import Runner
    from ...execution.backend import open_backend
    from ...storage.ledger import Ledger
    from ..signals import stop_signal

    merge = {"merge": Merge(folder, batch)} if batch.shard else {}
    with (
        open_backend(settings) as backend,  # before the handlers of signals: Ray has some of its own
        stop_signal(display.stopping, with_hang_up=True) as stopped,
        closing(Ledger(settings.state_dir)) as ledger,
        folder.locked(),
    ):
        runner = Runner(
            folder,
            ledger,
            backend.executor,
            display,
            options,
            lambda: bool(stopped),
            backend.lanes(len(batch)),
            **merge,
        )
        try:
            summary = runner.run(batch.jobs, len(batch))
        except BaseException:
            write_at_the_end(settings, folder, in_a_hurry=True, err=True)
            raise
        for text in folder.left_alone:
            display.notify("ignored", text)
    return summary, stopped


def _end(summary: Summary, stopped: list[int], options: RunOptions) -> None:
    """Raise what sets the exit code of a run."""
    if stopped and summary.remaining:
        raise Interrupted(stopped[0])
    if summary.postponed or (summary.stopped and summary.remaining and options.deadline):
        raise DeadlineError(
            f"The time is over; {counted(summary.remaining, 'picture')} {are(summary.remaining)} left.",
            "Run the same command again to resume where it stopped.",
        )
    if summary.failed:
        raise typer.Exit(1)


def _plan_batch(settings: Config, batch: Batch, options: RunOptions, as_json: bool) -> None:
    """Print what a run would do, without writing anything."""
    from ...batch.digests import Digests
    from ...batch.estimate import Estimate
    from ...batch.planner import Planner, plan_jobs
    from ...execution.backend import open_backend
    from ...storage.ledger import LedgerCopy
    from ..sentences import decision_line, decision_object, estimate_line, shard_line

    failing = 0
    folder, digests = _folder_of(batch, settings), Digests(lambda: False)
    with open_backend(settings) as backend, closing(LedgerCopy(settings.state_dir)) as ledger:
        executor = backend.executor
        planner, estimate = Planner(folder, ledger, executor, digests, options, batch.jobs), Estimate(ledger)
        for decision in plan_jobs(planner, batch.jobs, executor.any_checkpoints(), settings.max_megapixels):
            print_result(json.dumps(decision_object(decision)) if as_json else decision_line(decision))
            failing += decision.fails
            if decision.run:
                recipe = decision.job.recipe
                encoder = recipe.encoder
                name = executor.encoder_info(encoder).name if encoder == "auto" else encoder
                estimate.add(recipe, name, decision.steps_taken, executor.work_factor(recipe))
    lines = [shard_line(batch)] if batch.shard else []
    say(*batch.notes, *lines, estimate_line(estimate, len(batch), failing), err=as_json)
    check_printed()
