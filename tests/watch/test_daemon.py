"""The daemon in this process; whole processes are in test_faults_*."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
from disks import HookedDisk, failing
from fakes import FakeExecutor, picture_bytes
from heartbeats import Shown
from watching import Watched, put

from pipeline.errors import DiskError, MachineError
from pipeline.spec.config import Config, read_config
from pipeline.spec.jobs import EncoderInfo, Job
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder
from pipeline.watch import daemon
from pipeline.watch.daemon import Tally, watch_inbox
from pipeline.watch.events import Waker
from pipeline.watch.folders import Folders
from pipeline.watch.setup import WatchOptions
from pipeline.watch.status import read_status, status_lines


def run_once(
    watched: Watched, after_step: Callable[[Job, int], None] = lambda job, step: None
) -> tuple[Tally, Shown]:
    """What `watch --once` does, in this process."""
    shown, config = Shown(), read_config(watched.folder / "config.yaml")
    executor = FakeExecutor(after_step=after_step)
    tally = watch_inbox(
        config, WatchOptions(once=True), shown, lambda config, tick: executor, Waker(watched.inbox, "off")
    )
    return tally, shown


def run_until(
    watched: Watched, shown: Shown, should_stop: Callable[[], bool], reread: Callable[[], Config | None]
) -> None:
    """What `watch` does, in this process, with a configuration that is asked for again at every turn."""
    config, waker = read_config(watched.folder / "config.yaml"), Waker(watched.inbox, "off")
    watch_inbox(
        config, WatchOptions(), shown, lambda config, tick: FakeExecutor(), waker, should_stop, reread
    )


def test_a_style_that_is_replaced_while_jobs_run_is_waited_for(tmp_path: Path) -> None:
    """Its half-written file is no fault of the picture."""
    watched = Watched(tmp_path)
    late = watched.inbox / "styles" / "t.png"
    late.write_bytes(picture_bytes("t"))
    watched.drop("a.png")

    def replace(job: Job, step: int) -> None:
        if job.style.name == "s":
            late.write_bytes(picture_bytes("another t")[:30])

    tally, shown = run_once(watched, replace)
    assert shown.statuses["a--s"] == "done"
    assert (tally.done, tally.quarantined, tally.left) == (0, 0, 1)
    assert any("'t'" in text for text in shown.texts("waits"))
    late.write_bytes(picture_bytes("another t"))
    tally, shown = run_once(watched)
    assert shown.statuses == {"a--s": "skipped", "a--t": "done"}
    assert (tally.done, tally.quarantined, tally.left) == (1, 0, 0)
    watched.assert_promises()


@pytest.mark.parametrize("fault", [None, MachineError("the port is in use")])
def test_what_runs_beside_the_work_begins_when_drops_can_be_taken_and_ends_with_it(
    tmp_path: Path, fault: MachineError | None
) -> None:
    watched, shown = Watched(tmp_path), Shown()
    watched.drop("a.png")

    @contextmanager
    def beside() -> Iterator[None]:
        assert watched.claimed.is_dir()
        if fault:
            raise fault
        yield
        assert shown.statuses == {"a--s": "done"}
        shown.notify("beside", "ended")

    def watch() -> Tally:
        config, waker = read_config(watched.folder / "config.yaml"), Waker(watched.inbox, "off")
        return watch_inbox(
            config, WatchOptions(once=True), shown, lambda config, tick: FakeExecutor(), waker, beside=beside
        )

    if fault:
        with pytest.raises(MachineError, match="in use"):
            watch()
        assert watched.images() == []
    else:
        watch()
        assert shown.texts("beside") == ["ended"]


@pytest.mark.parametrize("pausing", [False, True])
def test_a_new_configuration_on_a_stale_mount_waits_until_it_can_be_checked(
    pausing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the daemon works or pauses just then, it lives on, and nobody has to ask again."""
    watched, shown, stopped = Watched(tmp_path), Shown(), []
    config = read_config(watched.folder / "config.yaml")
    answers = iter([config])
    faults = iter([None, OSError(errno.ESTALE, "Stale file handle")])
    real_check, real_there = daemon.check_apart, Folders.check_there
    rooms = iter([OSError(errno.ESTALE, "Stale file handle")] if pausing else [])

    def check_apart(config: Config) -> None:
        if fault := next(faults, None):
            raise fault
        real_check(config)

    def check_there(folders: Folders) -> None:
        if fault := next(rooms, None):
            raise fault
        real_there(folders)

    def reread() -> Config | None:
        if pausing and not shown.texts("paused"):
            return None
        if "the configuration was read again" in shown.texts("reload"):
            stopped.append(1)
        return next(answers, None)

    monkeypatch.setattr(daemon, "check_apart", check_apart)
    monkeypatch.setattr(Folders, "check_there", check_there)
    monkeypatch.setattr(daemon, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(daemon, "BEAT_S", 0.01)
    run_until(watched, shown, lambda: bool(stopped), reread)
    first, second = shown.texts("reload")
    assert "stays for now" in first
    assert "Stale file handle" in first
    assert second == "the configuration was read again"


@pytest.mark.parametrize("which", ["inbox", "outbox"])
def test_a_new_configuration_makes_nothing_in_a_folder_that_was_unmounted(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, shown, stopped = Watched(tmp_path, "off"), Shown(), []
    config, folder = read_config(watched.folder / "config.yaml"), tmp_path / which

    def unmount() -> None:
        folder.rename(tmp_path / "away")
        folder.mkdir()

    actions = iter([unmount, lambda: config, lambda: None, lambda: stopped.append(1)])
    monkeypatch.setattr(daemon, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(daemon, "BEAT_S", 0.01)
    run_until(watched, shown, lambda: bool(stopped), lambda: next(actions)())
    assert shown.texts("reload") == ["the configuration was read again"]
    (text,) = shown.texts("paused")
    assert f"{folder}: is not the folder used before" in text
    assert list(folder.iterdir()) == []


def test_a_new_configuration_may_name_an_outbox_that_was_never_used(tmp_path: Path) -> None:
    watched, shown, other = Watched(tmp_path, "off"), Shown(), tmp_path / "other"
    config = read_config(watched.folder / "config.yaml")
    answers = iter([config.model_copy(update={"outbox": other})])
    watched.drop("a.png")
    run_until(watched, shown, lambda: bool(shown.statuses), lambda: next(answers, None))
    assert shown.texts("paused") == []
    assert (other / "inbox" / "a--s.png").is_file()
    with closing(Ledger(config.state_dir)) as ledger:
        assert ledger.read_daemon(watched.inbox)["outbox"] == str(other)


def test_a_stale_mount_at_the_start_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path)

    def stale(*_: object) -> NoReturn:
        raise OSError(errno.ESTALE, "Stale file handle", str(watched.inbox))

    for place in ("pipeline.watch.daemon.check_apart", "pipeline.watch.folders.Folders.check_known"):
        with monkeypatch.context() as patch:
            patch.setattr(place, stale)
            with pytest.raises(DiskError, match=r"inbox: cannot be used \(Stale file handle\)"):
                run_once(watched)


def test_an_empty_inbox_wakes_no_engine_and_waits_for_nothing(tmp_path: Path) -> None:
    watched, shown = Watched(tmp_path, settle_s=60), Shown()
    asked: list[str] = []

    class Untouched(FakeExecutor):
        def encoder_info(self, name: str) -> EncoderInfo:
            asked.append("encoder")
            return super().encoder_info(name)

        def device_name(self) -> str:
            asked.append("device")
            return super().device_name()

        def check(self, path: Path) -> None:
            asked.append("check")

    config = read_config(watched.folder / "config.yaml")
    waker = Waker(watched.inbox, "off")
    tally = watch_inbox(config, WatchOptions(once=True), shown, lambda config, tick: Untouched(), waker)
    assert tally == Tally()
    assert asked == []


def test_the_start_repairs_every_batch_that_nobody_works_on(tmp_path: Path) -> None:
    """Also where nothing in the inbox asks for it; and it makes nothing of what is no batch."""
    watched = Watched(tmp_path)
    files = {}
    for batch in ("dead", "living", "no batch"):
        files[batch] = watched.outbox / batch / "logs" / ".unfinished-0"
        files[batch].parent.mkdir(parents=True)
    for batch in ("dead", "living"):
        with BatchFolder(watched.outbox, batch).locked():
            pass
    for file in files.values():
        file.touch()
    with BatchFolder(watched.outbox, "living").locked(sweep=False):
        run_once(watched)
    assert [batch for batch, file in files.items() if file.exists()] == ["living", "no batch"]


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EACCES, errno.ENOSPC])
def test_a_batch_that_cannot_be_used_keeps_no_daemon_from_starting(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a disk that is full does."""
    watched, theirs = Watched(tmp_path), tmp_path / "outbox" / "theirs"
    watched.drop("a.png")
    put(theirs / ".lock")
    if number == errno.ENOTDIR:
        put(theirs / "logs", b"a note")
    else:
        disk = HookedDisk(failing("mkdir", number, lambda path: theirs in path.parents))
        monkeypatch.setattr(daemon, "Disk", lambda: disk)
    if number == errno.ENOSPC:
        with pytest.raises(DiskError, match="No space left"):
            run_once(watched)
        return
    tally, shown = run_once(watched)
    assert tally.done == 1
    (text,) = shown.texts("ignored")
    assert text.startswith(f"the batch theirs is left as it is: {theirs}")


def test_styles_of_one_name_are_reported(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    (watched.inbox / "styles" / "s.jpg").write_bytes(picture_bytes("another", "jpeg"))
    watched.drop("a.png")
    tally, shown = run_once(watched)
    assert tally.done == 1
    assert [text for text in shown.texts("ignored") if "not used" in text] == [
        "styles/s.png: not used, as s.jpg has the same name but for its suffix; rename one of them"
    ]


def test_the_end_message_counts_what_was_done(tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle_max_s=0.01)
    watched.drop("a.png")
    watched.drop("bad.png", b"no picture")
    tally, shown = run_once(watched)
    assert tally == Tally(done=1, quarantined=1, left=0)
    assert shown.texts("ended") == ["ended: 1 done, 1 quarantined, 0 left for the next time"]


@dataclass
class Reading(FakeExecutor):
    """Notes what it reads for the daemon, and calls `before` each time."""

    before: Callable[[], None] = lambda: None
    read: list[Path] = field(default_factory=list)

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        self.read += [path for path in arguments if isinstance(path, Path) and path.is_absolute()]
        self.before()
        return super().call(function, *arguments)


@pytest.mark.parametrize("originals", ["archive", "leave"])
def test_results_can_have_the_times_of_what_was_dropped(originals: str, tmp_path: Path) -> None:
    watched = Watched(tmp_path, "off", settle_s=0.01, originals=originals)
    watched.configure(keep_times=True)
    os.utime(watched.drop("a.png"), ns=(0, 1_234_567_890_123_456_789))
    tally, _ = run_once(watched)
    assert tally.done == 1
    (image,) = watched.images()
    assert image.stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_a_manifest_with_a_mistake_is_read_once(tmp_path: Path) -> None:
    watched, executor = Watched(tmp_path), Reading()
    watched.drop("bad.yaml", b"contnets: [a.png]\n")
    config, waker = read_config(watched.folder / "config.yaml"), Waker(watched.inbox, "off")
    tally = watch_inbox(config, WatchOptions(once=True), Shown(), lambda config, tick: executor, waker)
    assert tally.quarantined == 1
    assert executor.read == [watched.inbox / "bad.yaml"]


def test_what_was_claimed_when_a_stop_came_is_counted_as_left(tmp_path: Path) -> None:
    watched, shown, reads = Watched(tmp_path), Shown(), []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a", "s"):
        (elsewhere / f"{name}.png").write_bytes(picture_bytes(name))
    watched.drop("night.yaml", f"contents: [{elsewhere}/a.png]\nstyles: [{elsewhere}/s.png]\n".encode())

    def make(config: Config, tick: Callable[[], None]) -> Reading:
        def stop_at_the_second() -> None:  # the first is before it is claimed
            reads.append(1)
            if len(reads) == 2:
                tick()

        return Reading(before=stop_at_the_second)

    config, waker = read_config(watched.folder / "config.yaml"), Waker(watched.inbox, "off")
    options = WatchOptions(once=True)
    tally = watch_inbox(config, options, shown, make, waker, should_stop=lambda: len(reads) >= 2)
    assert tally == Tally(left=1)
    watched.assert_promises()


def test_what_was_claimed_when_a_stop_came_is_counted_though_the_worker_had_not_started(
    tmp_path: Path,
) -> None:
    watched, stopped = Watched(tmp_path), []
    watched.drop("styles/s.png", picture_bytes("s"))
    watched.drop("a.png", picture_bytes("a"))

    class Starting(FakeExecutor):
        def encoder_info(self, name: str) -> EncoderInfo:
            stopped.append(1)
            ticks[0]()
            return super().encoder_info(name)

    ticks: list[Callable[[], None]] = []

    def make(config: Config, tick: Callable[[], None]) -> FakeExecutor:
        ticks.append(tick)
        return Starting()

    config, waker = read_config(watched.folder / "config.yaml"), Waker(watched.inbox, "off")
    options = WatchOptions(once=True)
    tally = watch_inbox(config, options, Shown(), make, waker, should_stop=lambda: bool(stopped))
    assert tally == Tally(left=1)


def test_pictures_that_are_not_whole_are_left_for_the_next_time_and_status_knows(tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle_max_s=100)
    watched.drop("a.png")
    for name in ("b.png", "z.png"):
        watched.drop(name, b"no picture")
    tally, _ = run_once(watched)
    assert (tally.done, tally.quarantined, tally.left) == (1, 0, 2)
    config = read_config(watched.folder / "config.yaml")
    with closing(Ledger(config.state_dir)) as ledger:
        lines = status_lines(read_status(config, ledger))
    assert "daemon       not running" in lines
    waits = [line.strip() for line in lines if "to become a whole picture" in line]
    assert [line.split(":")[0] for line in waits] == ["b.png", "z.png"]
    assert not any(str(watched.inbox) in line for line in waits)


class Asked(Waker):
    """Keeps for how long it was asked to wait, and has events as far as one can tell."""

    has_events = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "off")
        self.seconds = 0.0

    def wait(self, timeout_s: float) -> bool:
        self.seconds += timeout_s
        return super().wait(timeout_s)


@pytest.mark.parametrize("name", ["bad.png", "bad.yaml"])
def test_once_ends_at_once_when_everything_was_quarantined(name: str, tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle_max_s=0.01, rescan_s=5)
    watched.drop(name, b"- no picture and no manifest")
    config, waker = read_config(watched.folder / "config.yaml"), Asked(watched.inbox)
    options = WatchOptions(once=True)
    tally = watch_inbox(config, options, Shown(), lambda config, tick: FakeExecutor(), waker)
    assert tally == Tally(quarantined=1)
    assert waker.seconds < 0.5


def test_what_is_quarantined_is_named_once(tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle_max_s=0.01)
    watched.drop("bad.png", b"no picture")
    _, shown = run_once(watched)
    (text,) = shown.texts("quarantined")
    assert text.startswith("quarantined bad.png: no whole picture.")
    config = read_config(watched.folder / "config.yaml")
    with closing(Ledger(config.state_dir)) as ledger:
        *_, line = status_lines(read_status(config, ledger))
    assert line.partition("  ")[2].lstrip().partition("  ")[2].startswith("bad.png: no whole picture.")


def test_several_mistakes_of_a_manifest_are_reported_in_one_line(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("night.yaml", b"contents: x.png\nstyls: y.png\n")
    _, shown = run_once(watched)
    (text,) = shown.texts("quarantined")
    assert "\\n" not in text
    assert "no such file; " in text


def test_a_name_that_is_long_only_when_written_out_does_not_stop_the_start(tmp_path: Path) -> None:
    """A crash between the intent and the claim leaves a row for a file that is in the inbox still."""
    watched = Watched(tmp_path)
    path = watched.drop(b"\xff" * 200 + b".png")
    config = read_config(watched.folder / "config.yaml")
    ledger = Ledger(config.state_dir)
    ledger.claim("20260101-000000-abcdef12", watched.inbox, path.relative_to(watched.inbox), 1.0)
    ledger.claim("20260101-000000-abcdef13", watched.inbox, Path("gone.png"), 1.0)
    ledger.close()
    tally, _ = run_once(watched)
    assert tally.done == 1
    watched.assert_promises()


def test_files_beside_pictures_are_no_failure_and_reported_once(tmp_path: Path) -> None:
    """A card of a camera dropped whole: the JPEG is made, the others stay, and no run fails for them."""
    watched = Watched(tmp_path, settle_max_s=0.01)
    watched.configure(ignore="*_preview.*")
    kept = [
        watched.drop(name, name.encode()) for name in ("a.CR3", "a.xmp", "#recycle/x.png", "a_Preview.jpg")
    ]
    watched.drop("a.png")
    tally, shown = run_once(watched)
    assert tally == Tally(done=1, quarantined=0, left=0)
    assert all(path.exists() for path in kept)
    assert sorted(text.partition(":")[0] for text in shown.texts("ignored")) == [
        "#recycle", "a.CR3", "a.xmp", "a_Preview.jpg",
    ]  # fmt: skip
    watched.assert_promises()
