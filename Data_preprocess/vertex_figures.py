"""Figures of how well an fMRI recording repeats: maps on the cortex, histograms, areas."""

import numpy as np

from common import cortex
from common.cortex_maps import draw_cortex
from common.cortex import VISUAL_AREAS
from common.files import atomic_path
from common.workers import run_jobs

BINS = 60


def by_area(values):
    """Mean of a vertex map over both sides of every MMP area.

    Parameters
    ----------
    values : (59412,) float, or longer

    Returns
    -------
    dict area without side -> float
    """
    areas = np.array([label[2:] for label in cortex.area_labels()])
    cortical = values[: cortex.N_CORTEX]
    return {str(area): float(np.nanmean(cortical[areas == area])) for area in np.unique(areas) if area}


def draw_figures(folder, who, maps, mask, workers=1):
    """Write repetition_correlation, noise_ceiling, mask, vertices, noise_ceiling_by_area and bad_vertices, all .png.

    Parameters
    ----------
    folder : where they go
    who : str, data set and subject, for the titles
    maps : dict of (V,) arrays: correlation, noise_ceiling, bad (number of series)
    mask : (V,) bool, the selected vertices
    workers : int, figures drawn at the same time
    """
    run_jobs(_draw, [(name, folder, who, maps, mask) for name in FIGURES], workers, "figures", "figure")


def _draw(job):
    name, folder, who, maps, mask = job
    FIGURES[name](folder / f"{name}.png", who, maps, mask)


def _correlation_map(path, who, maps, mask):
    limit = _limit(np.abs(maps["correlation"]))
    title = f"{who}: correlation of the two repetitions, mean over training runs"
    draw_cortex(path, maps["correlation"], title, "Pearson r", cmap="RdBu_r", vmin=-limit, vmax=limit)


def _ceiling_map(path, who, maps, mask):
    title = f"{who}: explainable variance of the test repetitions"
    draw_cortex(path, np.maximum(maps["noise_ceiling"], 0), title, "share of variance", vmin=0, vmax=_limit(maps["noise_ceiling"]))


def _mask_map(path, who, maps, mask):
    title = f"{who}: the {mask.sum()} selected vertices"
    draw_cortex(path, np.where(mask, 1.0, np.nan), title, "selected", cmap="autumn", vmin=0, vmax=1)


def _limit(values):
    """End of a colour scale: nearly the largest value."""
    return max(0.1, float(np.nanpercentile(values[: cortex.N_CORTEX], 99.5)))


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(path, figure):
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    _pyplot().close(figure)


def _histograms(path, who, maps, mask):
    figure, axes = _pyplot().subplots(1, 2, figsize=(11, 3.6))
    labels = {"correlation": "mean correlation of repetitions", "noise_ceiling": "explainable variance"}
    for axis, (key, label) in zip(axes, labels.items(), strict=True):
        finite = np.isfinite(maps[key])
        edges = np.histogram_bin_edges(maps[key][finite], BINS)
        axis.hist(maps[key][finite], edges, color="0.7", label="all vertices")
        axis.hist(maps[key][finite & mask], edges, color="C1", label="selected")
        axis.set(xlabel=label, ylabel="vertices", yscale="log")
        axis.legend()
    figure.suptitle(who)
    _save(path, figure)


def _area_bars(path, who, maps, mask):
    areas = by_area(maps["noise_ceiling"])
    figure, axis = _pyplot().subplots(figsize=(8, 3.2))
    axis.bar(VISUAL_AREAS, [areas[area] for area in VISUAL_AREAS], color="C0")
    axis.set(ylabel="explainable variance", title=f"{who}: noise ceiling by MMP area, both sides")
    axis.tick_params(axis="x", rotation=45)
    _save(path, figure)


def _bad_bars(path, who, maps, mask):
    counts = np.bincount(maps["bad"], minlength=2)[1:]
    figure, axis = _pyplot().subplots(figsize=(7, 3.2))
    axis.bar(np.arange(1, len(counts) + 1), counts, width=1, color="C3")
    title = f"{who}: {counts.sum()} bad vertices of {len(mask)}"
    axis.set(xlabel="series in which a vertex is NaN or constant", ylabel="vertices", title=title)
    _save(path, figure)


FIGURES = {
    "repetition_correlation": _correlation_map,
    "noise_ceiling": _ceiling_map,
    "mask": _mask_map,
    "vertices": _histograms,
    "noise_ceiling_by_area": _area_bars,
    "bad_vertices": _bad_bars,
}
