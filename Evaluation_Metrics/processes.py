"""The processes that a launcher (accelerate launch, torchrun) has started on one piece of work."""

import contextlib
import os

from common.cli import choose_device


def join_processes():
    """accelerate's state of these processes; None where this is the only one, which then needs no torch."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    from accelerate import PartialState

    return PartialState(cpu=choose_device("auto").type == "cpu")


@contextlib.contextmanager
def first_before_others():
    """Let the first process through, then the others; gives whether this is the first."""
    state = join_processes()
    with state.main_process_first() if state else contextlib.nullcontext():
        yield state is None or state.is_main_process
