"""One pair from the command line: no batch, no outbox, one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ImageError, JobError, PipelineError, Unexpected, UsageError
from ..execution.executors import Executor
from ..spec.jobs import Job, JobResult, Masks, StepProgress, Style, Task, job_key
from ..spec.output_names import safe_name
from ..spec.problems import explain
from ..spec.recipe import SUFFIXES, Recipe, merged_recipe
from ..spec.regions import Color, check_regions, region_color
from ..storage.files import Disk
from ..storage.stage import NO_TIME
from ..storage.temporary import check_writable, write_file
from .digests import Digests, ReadingStopped
from .summary import Finished, Observer


def single_style(styles: Sequence[str], mask: Path | None) -> tuple[Style, Masks | None]:
    """Return the style of a command line: one picture; with a mask several, each as PATH=COLOUR.

    Raises:
        UsageError: they do not go together.
    """
    if mask is None:
        if len(styles) > 1:
            raise UsageError(
                f"{len(styles)} styles are given: {', '.join(styles)}.",
                "Give one, or say with --mask where each goes; -o names the result. For a blend, use `run` "
                "and a manifest such as {contents: [me.jpg], styles: [{blend: {a.jpg: 0.7, b.jpg: 0.3}}]}.",
            )
        return Style(Path(styles[0]).stem, ((Path(styles[0]).resolve(), 1.0),)), None
    colors: dict[Path, Color] = {}
    for text in styles:
        name, _, color = text.rpartition("=")
        path = Path(name).resolve()
        try:
            if not name or path in colors:
                raise ValueError("with --mask each style has one colour, such as a.jpg=0 or a.jpg=#3366cc")
            colors[path] = region_color(_number(color))
        except ValueError as error:
            raise UsageError(f"{text}: {error}.") from error
    try:
        check_regions({str(path): color for path, color in colors.items()})
    except ValueError as error:
        raise UsageError(f"--mask {mask}: {error}.") from error
    style = Style("+".join(path.stem for path in colors), tuple((path, 1.0) for path in colors))
    return style, Masks(mask.resolve(), tuple(colors.values()))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def single_job(
    content: Path,
    styles: tuple[Style, Masks | None],
    out: Path | None,
    config_fields: Mapping[str, Any],
    flag_fields: Mapping[str, Any],
) -> tuple[Job, Path]:
    """Return the job of one picture, and its path: `out`, whose suffix decides the format.

    `styles` is what `single_style` returns.

    Raises:
        UsageError: the suffix stands for no format of results, or the fields do not go together.
    """
    style, masks = styles
    suffix = {} if out is None else {"format": _format_of(out)}
    try:
        recipe = merged_recipe(config_fields, flag_fields, suffix)
    except ValidationError as error:
        raise UsageError.of_lines(explain(error, Recipe), "See config.yaml, --set and -o.") from error
    name = safe_name(f"{content.stem}--{style.name}")
    return Job("", content.resolve(), style, recipe, name, masks=masks), out or Path(f"{name}{recipe.suffix}")


def _format_of(path: Path) -> str:
    formats = {**{suffix: name for name, suffix in SUFFIXES.items()}, ".jpeg": "jpeg", ".tiff": "tiff"}
    if os.path.isdir(path):
        raise UsageError(f"{path}: is a folder.", f"Name a file in it, such as {path / 'result.png'}.")
    if path.suffix.lower() not in formats:
        raise UsageError(
            f"{path}: results are PNG, JPEG, WebP or TIFF.",
            f"Give it a name that ends in {', '.join(SUFFIXES.values())}.",
        )
    return formats[path.suffix.lower()]


def run_single(
    job: Job,
    path: Path,
    executor: Executor,
    observer: Observer,
    should_stop: Callable[[], bool],
    force: bool = False,
    keep_times: bool = False,
) -> Finished:
    """Run one job and write its picture to `path`, snapshots beside it; with `force`, over what is there.

    A picture that says it was made by this very job is not made again: `skipped`. With `keep_times` it gets
    the modification time of its content.

    Raises:
        UsageError: there is something else at `path`, or an input.
        JobError: the job failed.
        Unexpected: it met a bug in this program or in a library.
        DiskError: the picture cannot be written.
    """
    if _is_one_of(path, job.input_paths):
        raise UsageError(f"{path}: is one of the input pictures.", "Name another file with -o.")
    made_by = "" if force or not os.path.lexists(path) else _key_of_result(path)
    digests, encoder = Digests(should_stop), executor.encoder_info(job.recipe.encoder)
    try:
        key = job_key(job, digests, encoder)
    except ReadingStopped:
        return Finished(job, job.name, "stopped")
    if made_by == key:
        return Finished(job, job.name, "skipped", key, path)
    if made_by:
        raise _in_the_way(path, "was made from other pictures or with another recipe")
    check_writable(path)
    observer.encoder_chosen(encoder)
    observer.job_started(job, job.name)

    def on_step(progress: StepProgress) -> None:
        if progress.snapshot is not None:
            write_file(path.with_stem(f"{path.stem}-step{progress.step:05d}"), progress.snapshot)
        observer.job_step(job.name, progress)

    (result,) = executor.run([Task(job, key, digests)], on_step, should_stop)
    if result.status == "failed":
        raise _error_of(result)
    notes = result.notes
    if result.status == "done":
        write_file(path, result.image)
        executor.forget(key)
        if keep_times:
            notes += _set_modified(path, digests.modified_ns[job.content])
    finished = Finished(job, job.name, result.status, key, path, result.seconds, notes=notes)
    observer.job_finished(finished)
    return finished


def _set_modified(path: Path, modified_ns: int) -> tuple[str, ...]:
    """Set when a result was last modified; return a note if its disk refuses."""
    try:
        Disk().set_modified(path, modified_ns)
    except OSError as error:
        return (NO_TIME.format(error.strerror or error),)
    return ()


def _error_of(result: JobResult) -> PipelineError:
    """Return the error of a job that failed; only unexpected ones have details."""
    if result.details:
        return Unexpected(result.error, result.details)
    return JobError(result.error, result.next_step)


def _is_one_of(path: Path, inputs: Sequence[Path]) -> bool:
    """Tell whether a result would replace an input, which may be the only copy."""
    return os.path.exists(path) and any(os.path.exists(one) and path.samefile(one) for one in inputs)


def _in_the_way(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path}: exists already, and {why}.", "Name another file with -o, or replace it with --force."
    )


def _key_of_result(path: Path) -> str:
    """Return the key of the job that a picture says it was made by.

    Raises:
        UsageError: it says none.
    """
    from ..images.reading import read_bytes
    from ..images.writing import read_provenance

    try:
        key = (read_provenance(read_bytes(path), str(path)) or {}).get("key")
    except ImageError:
        key = None
    if not key or not isinstance(key, str):
        raise _in_the_way(path, "is no result of style-pipeline")
    return key
