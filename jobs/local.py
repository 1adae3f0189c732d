"""Running jobs on this machine, side by side, each in a process of its own that starts with everything imported."""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common import cli
from common.files import UserError, full_disk, read_json, write_json
from common.workers import end_with_parent

# Libraries ask, as they are imported, whether there is a GPU; asked through CUDA, it would be of no use to forked children.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
FULL_DISK = 28  # exit status of a script whose log the disk has no room for
_TIMINGS = {...: {"stage": str, "seconds": (float, int)}}


def gpus_here():
    """GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them, list of str."""
    n, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(n)] if named is None else named.split(",")[:n]


def gpu_is_lost():
    """Whether a forked process can't use the GPU that is there, because its parent has asked CUDA something."""
    return torch.cuda._is_in_bad_fork() and torch.cuda.is_available()


def start(job, log_path, one_thread, gpu=None):
    """Run a script's main in a child process; its output goes to a log file. Returns the process number."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    module = job.task.module
    sys.stdout.flush()
    pid = os.fork()  # everything heavy is already imported here, so that a child starts at once
    if pid:
        return pid
    status = 1
    try:
        end_with_parent(signal.SIGTERM)
        handle = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True, stream=sys.stderr)
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        if one_thread:
            threadpool_limits(1)
        if gpu_is_lost():
            os.environ |= {"OMP_NUM_THREADS": "1"} if one_thread else {}
            os.execv(sys.executable, [sys.executable, module.__file__, *job.argv])
        cli.run(module.main, module.get_parser, job.argv)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as error:
        import traceback

        status = FULL_DISK if full_disk(error) else 1
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            status = FULL_DISK
        finally:
            os._exit(status)


def said_lines(log_path):
    """Lines of a log, progress bars included, list of str."""
    text = log_path.read_text(errors="replace") if log_path.exists() else ""
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def end_of_log(log_path, width=60):
    """The end of a log's last line, for the progress bar."""
    line = "".join(said_lines(log_path)[-1:])
    return line if len(line) <= width else f"…{line[1 - width:]}"


def failure(job, code, log_path):
    """The error of a script that failed, as a UserError of one sentence."""
    lines = said_lines(log_path) or ["it said nothing"]
    words = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), lines[-1])
    if code < 0:
        words = f"the process was ended by {signal.Signals(-code).name}{', probably for lack of memory' * (-code == signal.SIGKILL)}"
    return UserError(f"{Path(job.task.script).stem} failed: {words} (log: {log_path})")


def run_here(waves, layout, subjects, workers, words, gpus=()):
    """Run waves of jobs, those of a wave side by side; stop all at the first failure. `words` are of the progress bar.

    So many `workers` at once, unless a job of the wave uses all cores. Of those that can use a GPU, each has one of `gpus` to
    itself, and waits for it; a GPU that is named twice takes two.

    Returns
    -------
    dict
        participant -> timings, those of earlier runs included: {name: {"stage": str, "seconds": float, "core_seconds": float, "peak_GB": float}}
    """
    timings = {}
    for subject in subjects:
        path = layout.timings(subject)
        timings[subject] = read_json(path, _TIMINGS, "delete it, which loses no results") if path.exists() else {}
    with tqdm(total=sum(map(len, waves)), unit="script", desc=words) as bar:
        for wave in waves:
            _run_wave(wave, layout, workers, list(gpus), timings, bar)
        bar.set_postfix_str("")
    return timings


def _take(waiting, free, no_gpus):
    """Take the first job that can start now, with a GPU of `free` if it uses one: (job, GPU or None); None where all must wait."""
    for i, job in enumerate(waiting):
        uses_gpu = not no_gpus and "--device" in job.task.options
        if free or not uses_gpu:
            return waiting.pop(i), free.pop(0) if uses_gpu else None


def _run_wave(wave, layout, workers, free, timings, bar):
    waiting, running, no_gpus = list(wave), {}, not free
    limit = 1 if any(job.task.alone for job in wave) else workers
    try:
        while waiting or running:
            while len(running) < limit and (taken := _take(waiting, free, no_gpus)):
                job, gpu = taken
                log_path = layout.logs(job.subject) / job.log
                running[start(job, log_path, limit > 1, gpu)] = (job, log_path, time.time(), gpu)
            shown = [f"{Path(job.task.script).stem}: {end_of_log(log_path)}" for job, log_path, *_ in running.values()]
            bar.set_postfix_str(" | ".join(shown), refresh=sys.stderr.isatty())
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                time.sleep(0.2)
                continue
            job, log_path, began, gpu = running.pop(pid)
            free += [] if gpu is None else [gpu]
            code = os.waitstatus_to_exitcode(status)
            if code == FULL_DISK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log_path))
            if code:
                raise failure(job, code, log_path)
            of_subject = timings[job.subject]
            if job.name not in of_subject or not any("already done" in line for line in said_lines(log_path)):
                of_subject[job.name] = {
                    "stage": job.task.stage,
                    "seconds": round(time.time() - began, 1),
                    "core_seconds": round(usage.ru_utime + usage.ru_stime, 1),
                    "peak_GB": round(usage.ru_maxrss * 1024 / 1e9, 2),
                }
                write_json(layout.timings(job.subject), of_subject)
            bar.update()
    finally:
        for act in (lambda pid: os.kill(pid, signal.SIGTERM), lambda pid: os.waitpid(pid, 0)):
            list(map(act, running))
