"""A pool of processes for jobs that do not depend on each other: one job a movie, a clip or a run."""

import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import traceback
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common.cli import one_or_more
from common.files import UserError


def n_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def add_workers_flag(parser, what):
    parser.add_argument("--workers", type=one_or_more, default=n_cores(), help=f"{what} worked on at the same time, one core each")


def _work(function, connection, parent):
    """The life of a worker: take a job, send back (True, result) or (False, error)."""
    # the parent alone answers to Ctrl-C and kill; it ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with threadpool_limits(1):
        while True:
            while not connection.poll(5):
                if os.getppid() != parent:  # it was killed
                    return
            try:
                answer = (True, function(connection.recv()))
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = (False, error)
            connection.send(answer)


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
    with tqdm(total=len(jobs), desc=what, unit=unit, disable=not jobs) as bar:
        if workers > 1 and len(jobs) > 1:
            return _run_in_processes(function, jobs, min(workers, len(jobs)), bar)
        results = []
        with threadpool_limits(1):
            for job in jobs:
                results.append(function(job))
                bar.update()
        return results


def _run_in_processes(function, jobs, workers, bar):
    """One pipe a worker and no shared queue, so that workers can be killed at any moment and a dead one is noticed."""
    # forked processes have the calling script's functions even where it was loaded by path
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    results, waiting, at_work, processes = [None] * len(jobs), iter(enumerate(jobs)), {}, []

    def give(connection):
        index, job = next(waiting, (None, None))
        if index is not None:
            connection.send(job)
            at_work[connection] = index

    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(function, theirs, os.getpid()), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
            give(ours)
        while at_work:
            for connection in multiprocessing.connection.wait(list(at_work)):
                index = at_work.pop(connection)
                try:
                    good, result = connection.recv()
                except (EOFError, ConnectionError):
                    raise UserError("--workers", f"memory for {workers} processes", "one that the system has killed", "use fewer") from None
                if not good:
                    raise result
                results[index] = result
                bar.update()
                give(connection)
        return results
    finally:
        for process in processes:
            process.kill()  # a worker that has just been forked may swallow a gentler signal
        for process in processes:
            process.join()


def remove_partial(folder):
    """Delete what killed processes left half-written below a folder."""
    for leftover in Path(folder).rglob(".partial-*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
