"""What all figures share: panels that are readable on a phone, and files that are whole or absent."""

import numpy as np

from common.files import atomic_path

LEAST_WIDTH = 6.4  # inches, which a title needs


def panels(n, width, height, *, columns=2, above=0.0, **options):
    """A figure of n panels, few beside each other: on a phone the letters of a wide figure are too small to read.

    Parameters
    ----------
    width, height : float
        of a panel, inches
    columns : int
        panels beside each other, at most
    above : float
        inches for what is not in the panels
    **options
        of `Figure.subplots`, such as sharex

    Returns
    -------
    Figure, list of Axes
    """
    from matplotlib.figure import Figure

    columns = max(1, min(columns, n))
    rows = max(1, -(-n // columns))
    figure = Figure(figsize=(max(width * columns, LEAST_WIDTH), height * rows + above), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False, **options))
    for spare in axes[n:]:
        spare.remove()
    for lowest in axes[max(0, n - columns) : n]:  # a spare one had the numbers of a shared axis
        lowest.tick_params(labelbottom=True)
    return figure, list(axes[:n])


def save_figure(figure, path, *endings, **options):
    """Write a figure of matplotlib to `path`; with endings to a file for each, for which `path` has none."""
    for file in [path.with_suffix(f".{ending}") for ending in endings] or [path]:
        with atomic_path(file) as temporary:
            figure.savefig(temporary, **options)
