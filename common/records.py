"""The record that a script leaves beside its results, and the one way in which work is started, resumed and finished.

    with working(folder, args, inputs=paths, outputs=files) as record:
        if record is None:  # done already
            return
        ...
        record.finish(clips=n)

A record is args.json (arguments, versions, inputs with their SHA-256), log.jsonl and, written last, metrics.json.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common.cli import PROJECT
from common.files import UserError, check_card, naming, read_json, sha256, write_json
from common.layout import missing_input
from common.workers import remove_partial

log = logging.getLogger(__name__)

_RECORD = {"arguments": dict, "inputs": [{"file": str, "bytes": int, "mtime_ns": int, "sha256": str}]}
_PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "scipy", "nibabel", "av", "opencv-python-headless")


def versions():
    """Versions of the packages that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def git_revision():
    """Commit of the project, with '+' when files have changed since; None outside a checkout."""

    def git(*words):
        done = subprocess.run(["git", "--no-optional-locks", "-C", PROJECT, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        revision = git("rev-parse", "HEAD")
        return revision and revision + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except FileNotFoundError:
        return None


class Record:
    """Record of one script's work, in a folder beside its results.

    Parameters
    ----------
    args : argparse.Namespace
        of a parser of common.cli, which knows the flags' defaults and which of them change results
    inputs, outputs : iterable of paths
        files that are read, and that are there when the work is done
    facts : dict, optional
        further settings that results depend on
    """

    def __init__(self, folder, args, inputs=(), outputs=(), facts=None):
        self.folder = Path(folder)
        self.flags = getattr(args, "_flags", {})
        given = {key: value for key, value in vars(args).items() if not key.startswith("_")} | (facts or {})
        self.args = {key: _plain(value) for key, value in sorted(given.items())}
        self.overwrite = args.overwrite
        self.inputs, self.outputs = [Path(path) for path in inputs], [Path(path) for path in outputs]

    # -- is it done?

    def settings(self):
        """The arguments that decide what the results are, dict."""
        return {key: value for key, value in self.args.items() if self.flags.get(key, (None, True))[1]}

    def has_results(self):
        """True when anything has come of earlier work."""
        return any((self.folder / name).exists() for name in ("metrics.json", "log.jsonl")) or any(path.exists() for path in self.outputs)

    def is_done(self):
        """True, with a log line, when this very work is finished; finished work of other settings is a UserError.

        With --overwrite it is never done. It is finished when the outputs and metrics.json are there.
        """
        if self.overwrite or not (self.folder / "metrics.json").exists():
            return False
        self.check_same()
        if not all(path.exists() for path in self.outputs):
            return False
        log.info("%s: already done, --overwrite to redo", self.folder)
        return True

    def check_same(self):
        """Raise a UserError when the folder has results of other arguments or other inputs.

        A flag that the old record lacks had its default; one that the script no longer has does not count.
        """
        path = self.folder / "args.json"
        if self.overwrite or not path.exists() or not self.has_results():
            return
        old = read_json(path, _RECORD, "use --overwrite to recompute the results")
        now = self.settings()
        before = {key: old["arguments"].get(key, _plain(self.flags[key][0]) if key in self.flags else None) for key in now}
        changed = [f"{key} {before[key]} -> {now[key]}" for key in now if before[key] != now[key]]
        if changed:
            raise UserError(f"{self.folder} holds results of other settings ({'; '.join(changed)}); {self.ways_out(old['arguments'], before)}")
        known = {entry["file"]: entry for entry in old["inputs"]}
        for path in self.inputs:
            entry = known.get(path.as_posix())
            if entry is None or not path.exists():
                continue
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) != (entry["bytes"], entry["mtime_ns"]) and sha256(path) != entry["sha256"]:
                raise UserError(f"{path} has changed since the results in {self.folder} were computed; use --overwrite to recompute them")

    def ways_out(self, recorded, before):
        """What a user can do who finds results of the arguments `recorded`, settings `before`, in the folder, in words."""
        elsewhere = next((f"--{name}" for name in ("model_dir", "out", "out_root") if name in self.flags), None)
        kept = f"{elsewhere} for another folder" if elsewhere else "another folder"
        config, now = recorded.get("config"), self.settings()
        left_out = [key for key in now if now[key] is None and isinstance(before[key], (str, int, float))]
        again = [f"--config {config}"] if config and config != self.args.get("config") else [f"--{key} {before[key]}" for key in left_out]
        again = f"{' '.join(again)} as they were made with, " if again else ""
        return f"give {again}{kept}, or --overwrite to recompute them"

    # -- writing

    def start(self):
        """Write args.json; with --overwrite the old log goes."""
        self.check_same()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.overwrite:
            for name in ("metrics.json", "log.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
        inputs = []
        for path in self.inputs:
            if not path.is_file():
                raise missing_input(path)
            stat, digest = path.stat(), sha256(path)
            check_card(path, digest)
            inputs.append({"file": path.as_posix(), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest})
        write_json(self.folder / "args.json", {"arguments": self.args, "git": git_revision(), "versions": versions(), "inputs": inputs})
        self.began = time.time()
        return self

    def log(self, **entry):
        """Append one line to log.jsonl, on a line of its own even if the one before was cut off."""
        path = self.folder / "log.jsonl"
        with naming(path), open(path, "ab+") as handle:
            end = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, end - 1))
            cut_off = handle.read(1) not in (b"", b"\n")
            handle.write(b"\n" * cut_off + (json.dumps(entry) + "\n").encode())

    def finish(self, **metrics):
        """Write metrics.json: the work is complete."""
        write_json(self.folder / "metrics.json", {**metrics, "seconds": round(time.time() - self.began, 2)})


@contextlib.contextmanager
def working(folder, args, *, inputs=(), outputs=(), facts=None, clear=(), complete=True):
    """Start work on some results, or find them done.

    Parameters
    ----------
    folder, args, inputs, outputs, facts
        as for Record
    clear : iterable of paths
        files and folders of earlier results that --overwrite deletes
    complete : bool
        False where the caller knows of a part that is to be done again

    Yields
    ------
    Record or None
        None when the results are there already; else call its `finish` at the end of the work

    Raises
    ------
    UserError
        an input is missing or has been damaged, the folder holds results of other settings or inputs, or another process works in it
    """
    record = Record(folder, args, inputs, outputs, facts)
    if complete and record.is_done():
        yield None
        return
    record.check_same()
    if not complete and not args.overwrite:
        log.info("%s: what these results were made from has changed, computing them again", folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(record.folder))
        if args.overwrite:
            for path in map(Path, clear):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            if not record.folder.exists():
                stack.enter_context(_locked(record.folder))
        remove_partial(record.folder)
        yield record.start()


def _rank():
    """Number of this process among those that one launcher has started."""
    distributed = sys.modules.get("torch.distributed")  # a script without torch need not wait for it
    started = distributed and distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if started else int(os.environ.get("RANK", 0))


@contextlib.contextmanager
def _locked(folder):
    """Hold a folder against other processes; those that one launcher has started (accelerate, torchrun) share it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _rank() == 0:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is at work in {folder}; wait for its end, stop it, or choose another folder") from None
            except OSError as error:  # a file system without locks
                log.warning("%s cannot be locked (%s): do not run the same command twice at once", folder, error.strerror)
        yield
    finally:
        os.close(handle)


def _plain(value):
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
