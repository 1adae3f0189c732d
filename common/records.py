"""The record that every run leaves: args.json, log.jsonl, metrics.json; and whether its work is already done."""

import importlib.metadata
import json
import logging
import os
import subprocess
import time
from pathlib import Path

from common.cli import PROJECT
from common.files import UserError, check_card, missing, naming, read_json, sha256, write_json

log = logging.getLogger(__name__)

# flags that say where and how a run works, not what comes out of it
_NEUTRAL = {"overwrite", "debug", "config", "workers", "num_workers", "device", "data_root", "out_root", "tensorboard", "resume"}
_PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "scipy", "nibabel", "av", "opencv-python-headless")


def versions():
    """Versions of the packages that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def git_revision():
    """Commit of the project, with '+' when files have changed since; None outside a checkout."""

    def git(*words):
        done = subprocess.run(["git", "-C", PROJECT, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        revision = git("rev-parse", "HEAD")
        return revision and revision + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except FileNotFoundError:
        return None


class RunRecord:
    """Record of one run of a script, in a folder beside its output.

    Parameters
    ----------
    folder : where args.json, log.jsonl and metrics.json go
    args : argparse.Namespace
    inputs : paths of the files that the run reads
    neutral : names of further flags that do not change the output
    """

    def __init__(self, folder, args, inputs=(), neutral=()):
        self.folder = Path(folder)
        self.neutral = _NEUTRAL | set(neutral)
        self.args = {key: _plain(value) for key, value in sorted(vars(args).items())}
        self.overwrite = args.overwrite
        self.inputs = [Path(path) for path in inputs]

    # -- is it done?

    def settings(self, args=None):
        """The arguments that decide what comes out."""
        return {key: value for key, value in (args or self.args).items() if key not in self.neutral}

    def is_done(self):
        """True, with a log line, when this very run is finished; a finished run of other settings is a UserError.

        With --overwrite it is never done. The run is finished when metrics.json is there, which `finish` writes last.
        """
        if self.overwrite or not (self.folder / "metrics.json").exists():
            return False
        self.check_same()
        log.info("%s: already done, --overwrite to redo", self.folder)
        return True

    def check_same(self):
        """Raise a UserError when the folder's record is of other arguments or other inputs."""
        if self.overwrite or not (self.folder / "args.json").exists():
            return
        old = read_json(self.folder / "args.json")
        before, now = self.settings(old["arguments"]), self.settings()
        changed = [
            f"{key} {before.get(key)} -> {now.get(key)}" for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)
        ]
        if changed:
            raise UserError(
                self.folder, "the settings that it was made with", "; ".join(changed), "--overwrite to make it anew, or name another folder"
            )
        known = {entry["file"]: entry for entry in old["inputs"]}
        for path in self.inputs:
            entry = known.get(path.as_posix())
            if entry is None or not path.exists():
                continue
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) != (entry["bytes"], entry["mtime_ns"]) and sha256(path) != entry["sha256"]:
                raise UserError(
                    path, "the content that the output in this run's folder was made from", "another one", "--overwrite to make it anew"
                )

    # -- writing

    def start(self):
        """Write args.json; with --overwrite the old log goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.check_same()
        if self.overwrite:
            for name in ("metrics.json", "log.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
        inputs = []
        for path in self.inputs:
            if not path.is_file():
                raise missing(path, "an input of this script")
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
        """Write metrics.json: the run is complete."""
        write_json(self.folder / "metrics.json", {**metrics, "seconds": round(time.time() - self.began, 2)})


def _plain(value):
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
