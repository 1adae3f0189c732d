"""Figures of how well an fMRI recording repeats: maps on the cortex, histograms, areas."""

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from common import cortex
from common.cortex import VISUAL_AREAS
from common.files import atomic_path, write_text
from common.workers import run_jobs
from Data_preprocess.cortex_maps import draw_cortex

BINS = 60


def by_area(values):
    """Mean of a vertex map (59412,) or longer over both sides of every MMP area, {area without side: float}."""
    areas = np.array([label[2:] for label in cortex.area_labels()])
    cortical = values[: cortex.N_CORTEX]
    return {str(area): float(np.nanmean(cortical[areas == area])) for area in np.unique(areas) if area}


def write_areas(path, name, values):
    """Write the means of `by_area` as a CSV table with the columns `area` and `name`."""
    table = io.StringIO()
    csv.writer(table).writerows([("area", name), *by_area(values).items()])
    write_text(path, table.getvalue())


def draw_figures(folder, who, maps, mask, *, repeats="correlation of the two repetitions, mean over training runs", note="", workers=1):
    """Write those of the figures for which there are maps, as FIGURES has them, `workers` at the same time.

    Parameters
    ----------
    who : str
        data set and subject, for the titles
    maps : dict of arrays, shape (V,)
        some of correlation, noise_ceiling, bad (number of series); cortex first, NaN where not known
    mask : array, shape (V,), bool
        the selected vertices
    repeats, note : str
        what the correlation is, and what each figure must say of the data
    """
    jobs = [(name, folder, who, maps, mask, repeats, note) for name, (_, needed) in FIGURES.items() if set(needed) <= maps.keys()]
    run_jobs(_draw, jobs, workers, "figures", "figure")


def _draw(job):
    name, folder, who, maps, mask, repeats, note = job
    titles = {
        "repetition_correlation": repeats,
        "noise_ceiling": "explainable variance of the test repetitions",
        "mask": f"the {mask.sum()} selected vertices",
        "vertices": "all and selected vertices",
        "noise_ceiling_by_area": "noise ceiling by MMP area, both sides",
        "bad_vertices": f"{(maps.get('bad', mask) > 0).sum()} bad vertices of {len(mask)}",
    }
    FIGURES[name][0](folder / f"{name}.png", f"{who}: {titles[name]}", maps, mask, note)


def _correlation_map(path, title, maps, mask, note):
    limit = _limit(np.abs(maps["correlation"]))
    draw_cortex(path, maps["correlation"], title, "Pearson r", cmap="RdBu_r", vmin=-limit, vmax=limit, note=note)


def _ceiling_map(path, title, maps, mask, note):
    ceiling = maps["noise_ceiling"]
    draw_cortex(path, np.maximum(ceiling, 0), title, "share of variance", vmin=0, vmax=_limit(ceiling), note=note)


def _mask_map(path, title, maps, mask, note):
    draw_cortex(path, np.where(mask, 1.0, np.nan), title, "selected", cmap="autumn", vmin=0, vmax=1, note=note)


def _limit(values):
    """End of a colour scale: nearly the largest value."""
    return max(0.1, float(np.nanpercentile(values[: cortex.N_CORTEX], 99.5)))


def _save(path, figure, note):
    if note:
        figure.text(0.5, -0.02, note, ha="center", va="top", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


def _histograms(path, title, maps, mask, note):
    figure = Figure(figsize=(11, 3.6))
    labels = {"correlation": "mean correlation of repetitions", "noise_ceiling": "explainable variance"}
    for axis, (key, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        finite = np.isfinite(maps[key])
        edges = np.histogram_bin_edges(maps[key][finite], BINS)
        axis.hist(maps[key][finite], edges, color="0.7", label="all vertices")
        axis.hist(maps[key][finite & mask], edges, color="C1", label="selected")
        axis.set(xlabel=label, ylabel="vertices", yscale="log")
        axis.legend()
    figure.suptitle(title)
    _save(path, figure, note)


def _area_bars(path, title, maps, mask, note):
    areas = by_area(maps["noise_ceiling"])
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.bar(VISUAL_AREAS, [areas[area] for area in VISUAL_AREAS], color="C0")
    axis.set(ylabel="explainable variance", title=title)
    axis.tick_params(axis="x", rotation=45)
    _save(path, figure, note)


def _bad_bars(path, title, maps, mask, note):
    counts = np.bincount(maps["bad"], minlength=2)[1:]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.bar(np.arange(1, len(counts) + 1), counts, width=1, color="C3")
    axis.set(xlabel="series in which a vertex is NaN or constant", ylabel="vertices", title=title)
    _save(path, figure, note)


FIGURES = {  # how each is drawn, and the maps that it needs
    "repetition_correlation": (_correlation_map, ("correlation",)),
    "noise_ceiling": (_ceiling_map, ("noise_ceiling",)),
    "mask": (_mask_map, ()),
    "vertices": (_histograms, ("correlation", "noise_ceiling")),
    "noise_ceiling_by_area": (_area_bars, ("noise_ceiling",)),
    "bad_vertices": (_bad_bars, ("bad",)),
}
