"""Figures of cortical maps: four inflated views, a flat map, bars of areas, and an interactive page."""

from functools import cache

import nibabel as nib
import numpy as np
from matplotlib import cm, tri
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from common import cortex
from common.cortex import N_MESH, VISUAL_AREAS, data_folder
from common.figures import save_figure
from common.files import atomic_path
from Data_preprocess.cortex_maps import draw_cortex, onto_mesh
from Explainable_analysis.Cortical_visualization.maps import area_numbers

SIDES = ("left", "right")


def choose_colours(values, threshold=None):
    """Colour map and its ends for a map, dict cmap, vmin, vmax, threshold: sequential, or symmetric about 0 where both signs occur.

    Both are readable for the colour-blind.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0 < high:
        limit = max(-low, high)
        return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "threshold": threshold}
    return {"cmap": "viridis" if high > 0 else "viridis_r", "vmin": min(low, 0.0), "vmax": max(high, 0.0), "threshold": threshold}


def draw_views(path, values, title, label, *, areas=VISUAL_AREAS, threshold=None, note=""):
    """Draw a map (59412,) on four inflated views with outlined areas, as PNG and SVG; `path` without ending."""
    colours = choose_colours(values, threshold)
    draw_cortex([path.with_suffix(".png"), path.with_suffix(".svg")], values, title, label, outlines=areas, note=note, **colours)


# ---------------------------------------------------------------------------------------------- flat


@cache
def _flat(side):
    """Flat map of a hemisphere as a matplotlib triangulation of cortical triangles."""
    mesh = nib.load(data_folder() / f"S1200.{side[0].upper()}.flat.32k_fs_LR.surf.gii")
    points, triangles = mesh.darrays[0].data, mesh.darrays[1].data
    there = np.zeros(N_MESH, bool)
    there[cortex.mesh_vertices()[SIDES.index(side)]] = True
    return tri.Triangulation(points[:, 0], points[:, 1], triangles[there[triangles].all(1)])


def draw_flat(path, values, title, label, *, areas=VISUAL_AREAS, threshold=None, note=""):
    """Draw a map (59412,) on both flat hemispheres, with outlined and named areas, as PNG and SVG; `path` without ending."""
    colours = choose_colours(values, threshold)
    figure = Figure(figsize=(13, 6), layout="constrained")
    labels, names = area_numbers()
    of_mesh = onto_mesh(labels, fill=0)
    meshes = onto_mesh(values)
    scale = Normalize(colours["vmin"], colours["vmax"])
    for axis, side in zip(figure.subplots(1, 2), SIDES, strict=True):
        flat, here = _flat(side), meshes[side]
        shown = np.isfinite(here) & (np.abs(here) >= (threshold or 0))
        axis.tripcolor(flat, np.full(len(flat.x), 0.12), cmap="Greys", vmin=0, vmax=1, shading="gouraud", rasterized=True)
        triangles = flat.triangles[shown[flat.triangles].all(1)]
        if len(triangles):  # single vertices make none
            visible = tri.Triangulation(flat.x, flat.y, triangles)
            axis.tripcolor(visible, np.nan_to_num(here), cmap=colours["cmap"], norm=scale, shading="gouraud", rasterized=True)
        for area in areas:
            inside = of_mesh[side] == 1 + names.index(f"{side[0].upper()}_{area}")
            axis.tricontour(flat, inside.astype(float), levels=[0.5], colors="black", linewidths=0.8)
            middle = np.hypot(flat.x - np.median(flat.x[inside]), flat.y - np.median(flat.y[inside]))
            place = np.flatnonzero(inside)[middle[inside].argmin()]  # areas are bent: their mean may lie outside
            halo = [withStroke(linewidth=2, foreground="white")]  # readable on dark colours, too
            axis.text(flat.x[place], flat.y[place], area, fontsize=7, ha="center", va="center", path_effects=halo)
        axis.set(title=side, aspect="equal")
        axis.axis("off")
    figure.colorbar(cm.ScalarMappable(scale, colours["cmap"]), ax=figure.axes, fraction=0.02, pad=0.01, label=label)
    figure.suptitle(f"{title}\n{note}" if note else title)
    save_figure(figure, path, "png", "svg", dpi=130)


# ---------------------------------------------------------------------------------------------- bars and page


def draw_bars(path, means, title, control=None):
    """Bars of areas {name: mean}, highest first; `control` {name: mean} as points beside them."""
    order = sorted(means, key=lambda name: -means[name])
    figure = Figure(figsize=(0.42 * len(order) + 1.5, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.bar(order, [means[name] for name in order], color=["#2457a6" if name.startswith("L") else "#d98c2b" for name in order])
    if control:
        axis.plot(order, [control[name] for name in order], "o", color="black", ms=4, label="control: trained on permuted clips")
        axis.legend(frameon=False)
    axis.set(title=title, ylabel="mean importance of vertices that carry any")
    axis.tick_params(axis="x", rotation=60)
    save_figure(figure, path, "png", "svg", dpi=130)


def write_interactive(path, values, title, threshold=None):
    """Write a map (59412,) as one self-contained page with both inflated hemispheres: they turn, and name the area under the pointer."""
    from plotly import graph_objects as go

    colours, meshes, names = choose_colours(values, threshold), onto_mesh(values), cortex.area_labels()
    scale = "RdBu_r" if colours["cmap"] == "RdBu_r" else "Viridis" if colours["cmap"] == "viridis" else "Viridis_r"
    areas = onto_mesh(np.arange(cortex.N_CORTEX), fill=-1)
    figure = go.Figure()
    for side in SIDES:
        mesh = nib.load(data_folder() / f"S1200.{side[0].upper()}.inflated_MSMAll.32k_fs_LR.surf.gii")
        points, triangles = mesh.darrays[0].data.copy(), mesh.darrays[1].data
        points[:, 0] -= points[:, 0].max() + 5 if side == "left" else points[:, 0].min() - 5  # side by side
        shown = meshes[side].copy()
        shown[np.abs(np.nan_to_num(shown)) < (threshold or 0)] = np.nan
        words = [names[int(vertex)] if vertex >= 0 else "medial wall" for vertex in areas[side]]
        text = [
            f"{word or 'no area'}<br>{value:.4g}" if np.isfinite(value) else word for word, value in zip(words, meshes[side], strict=True)
        ]
        text = np.array(text)  # a list would be looked at word by word
        corners = dict(zip("ijk", triangles.T, strict=True)) | dict(zip("xyz", points.T, strict=True))
        painted = np.isfinite(shown[triangles]).all(1)
        figure.add_mesh3d(**corners | {key: corners[key][~painted] for key in "ijk"}, color="lightgrey", text=text, hoverinfo="text")
        figure.add_mesh3d(
            **corners | {key: corners[key][painted] for key in "ijk"}, intensity=np.nan_to_num(shown), colorscale=scale,
            cmin=colours["vmin"], cmax=colours["vmax"], text=text, hoverinfo="text", showscale=side == "right",
        )  # fmt: skip
    hidden = dict(visible=False)
    figure.update_layout(
        title=title,
        scene=dict(xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="data", camera=dict(eye=dict(x=0, y=-2, z=0.4))),
        margin=dict(l=0, r=0, b=0, t=50),
    )
    with atomic_path(path) as temporary:
        figure.write_html(temporary, include_plotlyjs=True)
