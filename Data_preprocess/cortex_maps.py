"""Drawings of values on the inflated cortex, without a screen."""

import logging
import warnings
from functools import cache

import nibabel as nib
import numpy as np

from common.cortex import N_CORTEX, N_LEFT, N_MESH, area_labels, data_folder, mesh_vertices
from common.files import atomic_path

VIEWS = (("left", "lateral"), ("left", "medial"), ("right", "medial"), ("right", "lateral"))


@cache
def _surface(side):
    """Vertices and triangles of one inflated hemisphere, and the grey of its folds."""
    mesh = nib.load(data_folder() / f"S1200.{side[0].upper()}.inflated_MSMAll.32k_fs_LR.surf.gii")
    nib.imageglobals.logger.setLevel(logging.CRITICAL)  # it finds fault with the file's unused fields
    sulc = nib.load(data_folder() / "S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii").get_fdata()[0]
    folds = np.where(onto_mesh(sulc, fill=0)[side] < 0, 0.45, 0.25)  # sulci darker than gyri
    return [array.data for array in mesh.darrays], folds


def onto_mesh(values, fill=np.nan):
    """Cortical values on the whole meshes, {"left", "right": (32492,) float}, the medial wall of the value `fill`.

    What follows the 59412 cortical values is left out.
    """
    left, right = mesh_vertices()
    meshes = {side: np.full(N_MESH, fill, dtype=float) for side in ("left", "right")}
    meshes["left"][left], meshes["right"][right] = values[:N_LEFT], values[N_LEFT:N_CORTEX]
    return meshes


@cache
def _towards_viewer(side, view):
    """Triangles of a hemisphere that a view can show, (N, 3): the others are behind these, and half of the work."""
    (points, triangles), _ = _surface(side)
    corners = points[triangles].astype(float)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outwards = np.sign((normals * corners.mean(1)).sum())  # of a closed surface, six times its volume
    along = 1 if (side == "right") == (view == "lateral") else -1  # of x, to where the viewer is
    sideways = outwards * along * normals[:, 0] / np.linalg.norm(normals, axis=1)
    return triangles[sideways > -0.1]


def _draw_view(side, view, values, outlines, **shown):
    """One view of one hemisphere as a picture, (H, W, 4) uint8: drawn once for all the files that it goes into."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from nilearn.plotting import plot_surf_contours, plot_surf_stat_map

    (points, _), folds = _surface(side)
    mesh = [points, _towards_viewer(side, view)]
    figure, axis = plt.subplots(figsize=(3.2, 3.2), dpi=200, subplot_kw={"projection": "3d"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # of a hemisphere that is blank
        plot_surf_stat_map(
            mesh, values, bg_map=folds, hemi=side, view=view, engine="matplotlib", colorbar=False, symmetric_cbar=False, axes=axis,
            figure=figure, **shown,
        )  # fmt: skip
    if outlines:
        inside = [onto_mesh(area_labels() == f"{side[0].upper()}_{area}", fill=0)[side] for area in outlines]
        numbers = (np.array(inside) * np.arange(1, len(inside) + 1)[:, None]).sum(0)
        corners = numbers[mesh[1]]
        levels = [level for level in range(1, len(inside) + 1) if ((corners == level).sum(1) > 1).any()]  # those in sight
        plot_surf_contours(mesh, numbers, levels=levels, colors=["black"] * len(levels), axes=axis, figure=figure)
    figure.canvas.draw()
    picture = np.array(figure.canvas.buffer_rgba())
    plt.close(figure)
    rows, columns = (np.flatnonzero((picture[..., :3] != 255).any((axis, 2))) for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw_cortex(path, values, title, label, *, threshold=None, cmap="viridis", vmin=None, vmax=None, outlines=(), note=""):
    """Draw values on the inflated cortex: both hemispheres from both sides, with a colour bar.

    Parameters
    ----------
    path : str or Path, or list of them
        of the picture; its ending says which kind
    values : array, shape (59412,)
        NaN is left blank
    title, label : str
        above the figure and at the colour bar
    threshold : float, optional
        values whose size is below it are left blank
    vmin, vmax : float, optional
        ends of the colour map; the values' own by default
    outlines : sequence of str
        MMP areas that are outlined, without side
    note : str
        a line below the figure
    """
    from matplotlib import pyplot as plt

    values = np.asarray(values, dtype=float)
    vmin = float(np.nanmin(values)) if vmin is None else vmin
    vmax = float(np.nanmax(values)) if vmax is None else vmax
    meshes = onto_mesh(values)
    shown = {"cmap": cmap, "threshold": threshold, "vmin": vmin, "vmax": vmax}
    figure, axes = plt.subplots(2, 2, figsize=(7.6, 5.6))
    for axis, (side, view) in zip(axes.ravel(), VIEWS, strict=True):
        axis.imshow(_draw_view(side, view, meshes[side], outlines, **shown), interpolation="antialiased")
        axis.set_title(f"{side}, {view}", fontsize=10)
        axis.axis("off")
    scale = plt.cm.ScalarMappable(plt.Normalize(vmin, vmax), cmap)
    figure.colorbar(scale, ax=axes, fraction=0.025, pad=0.02, label=label)
    figure.suptitle(title)
    if note:
        figure.text(0.5, 0, note, ha="center", fontsize=8)
    for one in path if isinstance(path, list) else [path]:
        with atomic_path(one) as temporary:
            figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)
