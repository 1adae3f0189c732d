"""Reading files whose libraries may hang, crash or ask for all memory on damaged bytes: in a process of its own, with limits."""

import importlib
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from common.files import UserError, one_line

_SECONDS, _BYTES = 60, 8 * 2**30
_WRONG = 3  # exit status of a child that has said what is wrong


def read_apart(function, path, do, seconds=_SECONDS):
    """Call a function of a file in a child process with a limit of time and memory; returns its dict of arrays of numbers.

    The function is at the top level of a module that is quick to import. A UserError for what it raises, and for a file that it
    cannot read; `do` is the advice in it.
    """
    words = [sys.executable, "-c", "from common.apart import _serve; _serve()", function.__module__, function.__qualname__, str(path)]
    search = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        raise UserError(f"{path} cannot be read within {seconds} s, which damaged files do; {do}") from None
    if done.returncode == _WRONG:
        raise UserError(done.stdout.decode(errors="replace"))
    try:
        if done.returncode:
            raise ValueError(f"its reader ended with status {done.returncode}")
        with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); {do}") from None


def _serve():
    """The child: module, function and path from the command line, arrays to stdout."""
    module, name, path = sys.argv[1:]
    function = getattr(importlib.import_module(module), name)
    for limit, most in ((resource.RLIMIT_AS, _BYTES), (resource.RLIMIT_CPU, _SECONDS), (resource.RLIMIT_CORE, 0)):
        allowed = resource.getrlimit(limit)[1]  # by a cluster, say, or ulimit
        resource.setrlimit(limit, (most if allowed == resource.RLIM_INFINITY else min(most, allowed),) * 2)
    try:
        content = io.BytesIO()
        np.savez(content, **function(path))
        sys.stdout.buffer.write(content.getvalue())
    except UserError as error:
        print(error, end="")
        sys.exit(_WRONG)
