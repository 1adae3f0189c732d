"""Processes for jobs that do not depend on each other: one job a movie, a clip or a scanner run."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common.cli import processes
from common.files import UserError, held_signals

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def n_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def add_workers_flag(parser, what):
    """Add --workers; `what` names the jobs in its help, as in "movies"."""
    parser.add_argument(
        "--workers", type=processes, default=n_cores(), changes_result=False, help=f"{what} processed in parallel, one core each"
    )


def end_with_parent(number):
    """Have a signal sent to this process when the one that forked it ends, which Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, number)


def _start_worker(setup, arguments):
    """First thing in a worker: a kill ends it, and it ends with its parent; it has held Ctrl-C, the parent's to answer, since the fork."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)
    threadpool_limits(1)
    if "cv2" in sys.modules and sys.modules["cv2"].getNumThreads() > 1:  # where processes are spawned instead of forked
        sys.modules["cv2"].setNumThreads(1)
    if setup:
        setup(*arguments)


@contextlib.contextmanager
def _forking(first):
    """Hold SIGINT and SIGTERM, which would be lost in mid-fork, and keep a child from waiting forever for threads that it lacks.

    OpenCV's end before. PyAV's belong to its frames, of which a child would clear away what is garbage here: the `first` call, which
    forks, hides from it whatever there is.
    """
    cv2 = sys.modules.get("cv2")
    with held_signals():
        threads = cv2.getNumThreads() if cv2 else 0
        if cv2:
            cv2.setNumThreads(1)
        if first:
            gc.freeze()
        try:
            yield
        finally:
            if first:
                gc.unfreeze()
            if cv2:
                cv2.setNumThreads(threads)


def pool_map(function, items, workers=None, in_flight=None, setup=None, arguments=()):
    """Apply a function to items in a pool of processes, few at a time so that memory is bounded.

    Parameters
    ----------
    function : of one item, at a module's top level
    items : iterable
        drawn from as work goes on
    workers : int, optional
        processes, one a core by default; 1 works in this process
    in_flight : int, optional
        items whose result has not been taken yet; twice the workers by default
    setup : function, optional
        called once in every process, with `arguments`

    Yields
    ------
    results in the order of the items; the processes are killed when a call raises
    """
    workers = workers or n_cores()
    if workers == 1:
        with threadpool_limits(1):
            if setup:
                setup(*arguments)
            yield from map(function, items)
        return
    others = set(multiprocessing.active_children())
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"  # a forked worker has what is imported here
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start_worker, (setup, arguments))
    waiting, in_flight, started = deque(), in_flight or 2 * workers, False
    try:
        for item in items:
            with _forking(first=not started):
                waiting.append(pool.submit(function, item))
            started = True
            if len(waiting) >= in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(f"one of {workers} workers was killed, probably for lack of memory; use --workers {workers // 2}") from None
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_jobs(function, jobs, workers, what, unit="job"):
    """Call a function, at a module's top level, with every job; results in the order of the jobs, list.

    So many `workers` processes at a time, each on one thread; 1 works in this process. `what` and `unit` are of the progress bar.
    """
    jobs = list(jobs)
    results = pool_map(function, jobs, min(workers, max(1, len(jobs))))
    return list(tqdm(results, total=len(jobs), desc=what, unit=unit, disable=not jobs))


def remove_partial(folder):
    """Delete what processes that are gone left half-written below a folder."""
    for leftover in Path(folder).rglob(".partial-*"):
        owner = re.match(r"\.partial-(\d+)-", leftover.name)
        if owner and (int(owner[1]) == os.getpid() or not psutil.pid_exists(int(owner[1]))):  # a number that this process has again
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
