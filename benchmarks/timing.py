"""What the scripts here share: two forms of one computation, timed in turn, and the ratio of their times with its spread."""

import time

import numpy as np


def timed(function, *args):
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - began, result


def compare(what, plain, ours, *, repeats=5, scale=1.0):
    """Time two functions in turn and print the ratio: its median, least and most.

    Parameters
    ----------
    what : str
        name of the work, for the line that is printed
    plain, ours : functions without arguments
        the plain form, and ours
    repeats : int
    scale : float
        how much more work ours does than the plain form, whose times are multiplied by it

    Returns
    -------
    what both of them returned at last
    """
    times = []
    for _ in range(repeats):
        (plain_seconds, expected), (seconds, found) = timed(plain), timed(ours)
        times.append((plain_seconds * scale, seconds))
    tell(what, *np.array(times).T, extrapolated=scale != 1)
    return expected, found


def tell(what, plain, ours, extrapolated=False):
    """Print the ratio of times that were taken in turn, two arrays of s."""
    ratios, note = np.array(plain) / np.array(ours), " (extrapolated)" if extrapolated else ""
    print(
        f"{what}: plain {np.median(plain):.3g} s{note}, ours {np.median(ours):.3g} s: {np.median(ratios):.3g} times as fast "
        f"({ratios.min():.3g} to {ratios.max():.3g} in {len(ratios)} repetitions)",
        flush=True,
    )
