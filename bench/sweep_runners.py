"""Where a sweep's jobs run: in processes of this machine, or on a Dask cluster.

Each runner takes jobs and yields each with its rows as it ends, in any order. Jobs and rows are
plain data, so workers need GreenCache and the input files but not the folder of the results.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeAlias

from greencache.bench.sweep_jobs import Job, JobRows, run_job
from greencache.errors import InputError, SweepError

__all__ = ["JobResults", "Runner", "run_locally", "run_on_dask", "worker_pool"]

JobResults: TypeAlias = Generator[tuple[Job, JobRows], None, None]
"""Jobs as they end; closing it stops the others."""
Runner: TypeAlias = Callable[[Sequence[Job]], JobResults]

_CONNECT_S = 10.0


def _end_with_parent() -> None:
    """Leave no worker behind: end without a word on Ctrl-C, and when the parent is gone.

    A worker waits for work on a pipe that it holds both ends of, so it would not see its parent
    die.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def worker_pool(processes: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """A pool of processes that are each started afresh, and that no way out of the block outlives.

    Whatever interrupts the block, what they do is not waited for: they are ended.
    """
    before = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )
    finished = False
    try:
        yield pool
        finished = True
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)
        if not finished:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()


def run_locally(jobs: Sequence[Job], processes: int) -> JobResults:
    """Run jobs in so many processes, each started afresh.

    Raises
    ------
    SweepError
        If a process died, ran out of memory, or found other files than were there before.
    """
    try:
        with worker_pool(min(processes, len(jobs))) as pool:
            futures = {pool.submit(run_job, job): job for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                yield futures.pop(future), future.result()
    except BrokenProcessPool:
        raise SweepError("a worker process died: killed, or out of memory") from None
    except MemoryError:
        raise SweepError("a worker process ran out of memory") from None


def run_on_dask(jobs: Sequence[Job], address: str, *, connect_s: float = _CONNECT_S) -> JobResults:
    """Run jobs on the cluster whose scheduler is at an address; each takes one thread of a worker.

    Parameters
    ----------
    jobs, address:
        What to run and where.
    connect_s:
        How long to wait for the scheduler; for its workers there is no limit.

    Raises
    ------
    InputError
        If the package ``distributed`` is missing or the scheduler does not answer.
    SweepError
        If workers died over a job, the scheduler was lost, or workers are not as they must be.
    """
    try:
        import distributed
        from distributed.comm.core import CommClosedError
    except ImportError:
        raise InputError("--dask needs the package distributed: pip install distributed") from None
    if not re.fullmatch(r"(\w+://)?.+:\d+", address):
        raise InputError(f"--dask {address}: write HOST:PORT, as tcp://10.0.0.1:8786")
    # It tells of a lost scheduler in tracebacks; one line is enough.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=connect_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise InputError(f"--dask {address}: no scheduler answers there ({reason})") from None
    with client:
        try:
            futures = {
                client.submit(run_job, job, key=f"greencache-{job.key}"): job for job in jobs
            }
            for future in distributed.as_completed(list(futures), loop=client.loop):
                yield futures.pop(future), future.result()
        except distributed.KilledWorker:
            raise SweepError(
                "workers of the cluster died over a job, most likely of memory"
            ) from None
        except MemoryError:
            raise SweepError("a worker of the cluster ran out of memory") from None
        except ImportError as fault:
            raise SweepError(f"a worker of the cluster lacks GreenCache ({fault})") from None
        except (CommClosedError, concurrent.futures.CancelledError):
            raise SweepError(f"the scheduler at {address} was lost") from None
