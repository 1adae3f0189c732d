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
    """Cortical values on the whole meshes.

    Parameters
    ----------
    values : array, shape (59412,) or longer
        what follows the cortex is left out
    fill : float
        for the medial wall

    Returns
    -------
    dict
        "left" and "right" -> (32492,) float
    """
    left, right = mesh_vertices()
    meshes = {side: np.full(N_MESH, fill, dtype=float) for side in ("left", "right")}
    meshes["left"][left], meshes["right"][right] = values[:N_LEFT], values[N_LEFT:N_CORTEX]
    return meshes


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
    cmap : str
        matplotlib colour map
    vmin, vmax : float, optional
        ends of the colour map; the values' own by default
    outlines : sequence of str
        MMP areas that are outlined, without side
    note : str
        a line below the figure
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from nilearn.plotting import plot_surf_contours, plot_surf_stat_map

    values = np.asarray(values, dtype=float)
    vmin = float(np.nanmin(values)) if vmin is None else vmin
    vmax = float(np.nanmax(values)) if vmax is None else vmax
    meshes = onto_mesh(values)
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), subplot_kw={"projection": "3d"})
    for axis, (side, view) in zip(axes, VIEWS, strict=True):
        mesh, folds = _surface(side)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # of a hemisphere that is blank
            plot_surf_stat_map(
                mesh, meshes[side], bg_map=folds, hemi=side, view=view, engine="matplotlib", cmap=cmap, colorbar=False,
                threshold=threshold, vmin=vmin, vmax=vmax, symmetric_cbar=False, axes=axis, figure=figure,
            )  # fmt: skip
        if outlines:
            inside = [onto_mesh(area_labels() == f"{side[0].upper()}_{area}", fill=0)[side] for area in outlines]
            numbers = (np.array(inside) * np.arange(1, len(inside) + 1)[:, None]).sum(0)
            levels = list(range(1, len(inside) + 1))
            plot_surf_contours(mesh, numbers, levels=levels, colors=["black"] * len(levels), axes=axis, figure=figure)
        for drawn in axis.collections:
            drawn.set_rasterized(True)  # 65,000 triangles would be an SVG of 50 MB
        axis.set_title(f"{side}, {view}", fontsize=10)
    scale = plt.cm.ScalarMappable(plt.Normalize(vmin, vmax), cmap)
    figure.colorbar(scale, ax=axes, fraction=0.012, pad=0.01, label=label)
    figure.suptitle(title)
    if note:
        figure.text(0.5, 0, note, ha="center", fontsize=8)
    for one in path if isinstance(path, list) else [path]:
        with atomic_path(one) as temporary:
            figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)
