"""Work on several cores: processes that each compute on one.

A stream and a batch of streams are small. Threads that share one wait for one another more than
they compute, many times longer where other programs want the cores too, and how many there are
moves a result's last digits.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

Result = TypeVar("Result")

_JOBS: Sequence[Callable[[], Any]] = ()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, torch, BLAS and OpenMP compute on one thread."""
    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def in_processes(jobs: Sequence[Callable[[], Result]], processes: int) -> Iterator[Result]:
    """What each job gives, in their order, of at most `processes` at once. Those are forked, so
    that they share what the caller holds and only results travel: an encoder of the caller has no
    threads in them and must not be used. One alone runs in this process."""
    global _JOBS
    processes = min(processes, len(jobs))
    if processes <= 1:
        yield from (job() for job in jobs)
        return
    _JOBS = jobs
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _alone) as pool:
        yield from pool.map(_run, range(len(jobs)))


def _alone() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)


def _run(number: int) -> Any:
    return _JOBS[number]()
