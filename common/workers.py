"""A pool of processes for jobs that do not depend on each other: one job a movie, a clip or a run."""

import contextlib
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm


def n_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def add_workers_flag(parser, what):
    parser.add_argument("--workers", type=int, default=n_cores(), help=f"{what} worked on at the same time, one core each")


def _quiet_worker():
    # the parent alone answers to Ctrl-C and kill; it ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threadpool_limits(1)


def run_jobs(function, jobs, workers, what, unit="job"):
    """Call a function with every job, several at a time, each on one thread.

    Parameters
    ----------
    function : of one job, at a module's top level
    jobs : list
    workers : int, processes; 1 works in this process
    what : str, for the progress bar
    unit : str, what the progress bar counts

    Returns
    -------
    list of results in the order of `jobs`

    Raises
    ------
    what a job raises; the others are stopped then
    """
    jobs = list(jobs)
    bar = tqdm(total=len(jobs), desc=what, unit=unit, disable=not jobs)
    if workers <= 1 or len(jobs) <= 1:
        with bar, threadpool_limits(1):
            results = []
            for job in jobs:
                results.append(function(job))
                bar.update()
        return results
    # forked processes have the calling script's functions even where it was loaded by path
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context(method), initializer=_quiet_worker)
    try:
        futures = [pool.submit(function, job) for job in jobs]
        with bar:
            for future in as_completed(futures):
                future.result()
                bar.update()
        return [future.result() for future in futures]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        with contextlib.suppress(Exception):
            pool.shutdown(wait=True, cancel_futures=True)


def remove_partial(folder):
    """Delete what killed processes left half-written below a folder."""
    for leftover in Path(folder).rglob(".partial-*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
