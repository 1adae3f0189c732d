"""Figures of the phantom's claims, one a claim."""

import numpy as np
from matplotlib.figure import Figure

from common.figures import panels, save_figure
from Evaluation_Metrics.n_way import chance_level
from phantom.checks import LEGIBLE, standard_error
from phantom.world import DIRECTIONS, IMAGE_FACTORS

FORM = {"dpi": 130, "bbox_inches": "tight"}
ARM_COLOURS = {
    "full": "#2457a6",
    "control": "#b0b7c0",
    "oracle": "#1a7f47",
    "still": "#d98c2b",
    "mean frame": "#8a6fb0",
    "truth": "#444444",
}


def bars(ax, values, ylabel, chance=None):
    """Bars of means over clips with their standard errors; `values` {arm: (N,)}."""
    names = list(values)
    ax.bar(
        names,
        [np.mean(values[name]) for name in names],
        yerr=[standard_error(values[name]) for name in names],
        color=[ARM_COLOURS[name] for name in names],
        capsize=3,
    )
    ax.set_ylabel(ylabel)
    ax.tick_params(axis="x", rotation=20)
    if chance is not None:
        ax.axhline(chance, color="grey", ls="--")


def draw_alignment(path, rows):
    """Share of factors right over lags; `rows` of phantom.checks.alignment."""
    figure = Figure(figsize=(5, 3))
    ax = figure.subplots()
    for row in rows:
        ax.plot(row["lags"], row["accuracy"], "o-", label=row["statement"].split(":")[0])
    ax.axhline(rows[0]["chance"], color="grey", ls="--", label="chance")
    ax.set(xlabel="volumes from the documented offset", ylabel="share of factors right", title="phantom: alignment", xticks=rows[0]["lags"])
    ax.legend(frameon=False)
    save_figure(figure, path, **FORM)


def draw_bars(path, title, parts):
    """Panels of bars, each ({arm: (N,)}, label of the axis, chance or None)."""
    figure, axes = panels(len(parts), 3.1, 2.9, above=0.2)
    for ax, (values, label, chance) in zip(axes, parts, strict=True):
        bars(ax, values, label, chance)
    figure.suptitle(f"phantom: {title}")
    save_figure(figure, path, **FORM)


def draw_pairs(path, title, rows, names, labels, ylabel, top=None):
    """Bars of what `rows` of phantom.checks measured, beside what that is compared with; `names` and `labels` of both bars."""
    figure, places = Figure(figsize=(1.8 * len(rows) + 1.2, 3.2), layout="constrained"), np.arange(len(rows))
    ax = figure.subplots()
    for shift, key, arm, label in zip((-0.2, 0.2), ("value", "control"), ("full", "control"), labels, strict=True):
        ax.bar(places + shift, [row[key] for row in rows], 0.38, color=ARM_COLOURS[arm], label=label)
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xticks(places, names)
    ax.set(ylabel=ylabel, ylim=(None, top), title=f"phantom: {title}")
    ax.legend(frameon=False, ncols=2)
    save_figure(figure, path, **FORM)


def draw_localisation(path, rows):
    """Importance inside less outside the planted areas, full beside control; `rows` of phantom.checks.localisation."""
    names = [row["statement"].split(" map:")[0].replace(" decoder, ", "\n") + "\n(no bar)" * (row["held"] is None) for row in rows]
    draw_pairs(path, "planted areas of each decoder", rows, names, ("full", "control"), "importance inside less outside")


def draw_bands(path, rows):
    """Pearson r by the band that was planted in an area, beside the next best; `rows` of phantom.checks.bands, an area each."""
    names = [row["statement"].rpartition("; ")[2].removesuffix(" shown") for row in rows]
    draw_pairs(path, "bands of the encoding model", rows, names, ("planted band", "next best band"), "r / root of the noise ceiling", 1)


def draw_means(path, title, rows):
    """Means of the arms, a panel a row of phantom.checks that has them, with its chance."""
    figure, axes = panels(len(rows), 3.1, 2.9, above=0.2)
    for ax, row in zip(axes, rows, strict=True):
        ax.bar(list(row["arms"]), list(row["arms"].values()), color=[ARM_COLOURS[name] for name in row["arms"]])
        ax.set_ylabel(row["statement"].split(":")[0])
        ax.tick_params(axis="x", rotation=20)
        if row["chance"] is not None:
            ax.axhline(row["chance"], color="grey", ls="--")
    figure.suptitle(f"phantom: {title}")
    save_figure(figure, path, **FORM)


def draw(folder, rows, measured=None, found=None):
    """One figure a claim, of rows of phantom.checks; `measured` is a Measured, `found` as phantom.checks.retrieval takes it."""
    draw_alignment(folder / "alignment.png", [row for row in rows if row["claim"] == "alignment"])
    located = [row for row in rows if row["claim"] == "localisation"]
    if located:
        draw_localisation(folder / "localisation.png", located)
    for claim, title in (("neighbours", "metrics of neighbouring fields"), ("brain-side score", "brain-side score")):
        if these := [row for row in rows if row["claim"] == claim and row.get("arms")]:
            draw_means(folder / f"{claim.replace(' ', '_')}.png", title, these)
    if banded := [row for row in rows if row["claim"] == "bands"]:
        draw_bands(folder / "bands.png", banded)
    if found:
        searched = [
            ({arm: ranks <= 10 for arm, ranks in arms.items()}, f"{words}\ntop 10", chance) for words, (arms, chance) in found.items()
        ]
        draw_bars(folder / "retrieval.png", "retrieval", searched)
    if measured is None:
        return
    hits = {arm: ranks <= 10 for arm, ranks in measured.ranks.items()}
    parts = {
        "semantics": [(hits, "own caption in the top 10", 10 / measured.n_gallery), (measured.two_way, "2-way-I", chance_level(2))],
        "structure": [
            (values, f"{metric} of the first frame{' (dB)' * (metric == 'PSNR')}", None) for metric, values in measured.structure.items()
        ],
        "motion": [
            (measured.before, "EPE before stage 2 (pixels)", None),
            (measured.after, "EPE after stage 2 (pixels)", None),
            (measured.right, "direction right", 1 / len(DIRECTIONS)),
        ],
        "legible": [(measured.read[factor], f"{factor} read right", 1 / len(IMAGE_FACTORS[factor])) for factor in LEGIBLE],
    }
    where = {"structure": ", before stage 2", "legible": ", after stage 2"}
    for name, these in parts.items():
        draw_bars(folder / f"{name}.png", f"{name}{where.get(name, '')}", [panel for panel in these if panel[0]])
