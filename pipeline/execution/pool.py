"""The processes that jobs run in: how many, on which devices, and with how many threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..spec.config import Config
from .executors import Executor, InProcessExecutor
from .worker import WorkerExecutor

# Processes on a CPU, at most: each has an encoder and feature maps of its own.
CPU_WORKERS = 4
GPU_WORKERS = 2


def batch_executors(settings: Config, jobs: int, executor: Executor) -> list[Executor]:
    """Return an executor for each process beside this one, or just `executor`, which works in this one."""
    if settings.workers == 1 or jobs == 1:
        return [executor]
    plans, watch = plan_workers(settings, jobs), settings.watch
    if len(plans) == 1:
        return [executor]
    return [
        WorkerExecutor(
            partial(
                InProcessExecutor,
                settings.model_copy(update={"device": plan.device}),
                threads=plan.threads,
                share_bytes=plan.share_bytes,
            ),
            watch.job_timeout_s,
            watch.worker_max_jobs,
            stop_s=watch.job_timeout_s,  # as long as a step may take; a second signal ends it at once
        )
        for plan in plans
    ]


def watch_executor(settings: Config, tick: Callable[[], None]) -> Executor:
    """Return an executor in a process of its own."""
    watch = settings.watch
    return WorkerExecutor(
        partial(InProcessExecutor, settings), watch.job_timeout_s, watch.worker_max_jobs, tick
    )


@dataclass(frozen=True)
class WorkerPlan:
    """The device of a process, its threads, and its part of the device's memory; None is all that is free."""

    device: str
    threads: int
    share_bytes: int | None = None


def plan_workers(config: Config, jobs: int) -> list[WorkerPlan]:
    """Plan the processes for a batch of so many jobs. A single one is this process itself.

    A GPU gets two: one reads, resizes and writes pictures while those of the other are computed. On a CPU,
    several processes of few threads make more pictures than one of many, because only matrix products divide
    well among threads.

    Raises:
        DeviceError: the configured device is not here.
    """
    from ..transfer.devices import plan_device, same_devices
    from ..transfer.memory import processes_that_fit, share_bytes

    cores = usable_cores()
    device = plan_device(config.device)
    devices = same_devices(device) if config.device in {"auto", "cuda"} else [device]
    if config.workers != "auto":
        count = config.workers
    elif device.device == "cpu":
        count = min(cores, CPU_WORKERS, processes_that_fit(config.memory_bytes) or cores)
    else:
        count = GPU_WORKERS * len(devices)
    count = max(1, min(count, jobs))
    threads = [max(1, cores // count + (i < cores % count)) for i in range(count)]
    placed = [devices[i % len(devices)] for i in range(count)]
    shares = {
        plan.device: share_bytes(plan, placed.count(plan), config.memory_bytes)
        for plan in dict.fromkeys(placed)
    }
    return [
        WorkerPlan(plan.device, each, shares[plan.device]) for plan, each in zip(placed, threads, strict=True)
    ]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
