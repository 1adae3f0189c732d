"""CIFTI dense series (.dtseries.nii) of the standard cortex, written."""

from functools import lru_cache

import nibabel as nib
import numpy as np

from common.cortex import N_MESH, mesh_vertices
from common.files import atomic_path

_EXTENSION = 32  # NIfTI extension code of a CIFTI description


def cortex_axis():
    """The brain models of the 59412 cortical vertices."""
    left, right = mesh_vertices()
    make = nib.cifti2.BrainModelAxis.from_surface
    return make(left, N_MESH, name="CortexLeft") + make(right, N_MESH, name="CortexRight")


def _xml(n_volumes, tr, models):
    """Description of a series, bytes, and its number of columns."""
    return nib.cifti2.Cifti2Header.from_axes((nib.cifti2.SeriesAxis(0, tr, n_volumes), models)).to_xml(), len(models)


@lru_cache(maxsize=4)
def _cortex_xml(n_volumes, tr):
    """The same of a series of the cortex: making it takes a second, and the series of a subject share it."""
    return _xml(n_volumes, tr, cortex_axis())


def write_series(path, data, tr, other=None):
    """Write a dense series, atomically.

    Parameters
    ----------
    path : str or Path
        a .dtseries.nii
    data : array, shape (volumes, 59412 + columns of `other`)
    tr : float
        s between volumes
    other : nibabel BrainModelAxis, optional
        what follows the cortex
    """
    n_volumes, n_columns = np.shape(data)
    xml, expected = _cortex_xml(n_volumes, tr) if other is None else _xml(n_volumes, tr, cortex_axis() + other)
    if n_columns != expected:
        raise ValueError(f"{expected} columns expected, {n_columns} given")
    header = nib.Nifti2Header()
    header["pixdim"][:4] = 1  # as nibabel's own CIFTI image has it
    header.set_intent("ConnDenseSeries", name="ConnDenseSeries")
    header.extensions.append(nib.nifti1.Nifti1Extension(_EXTENSION, xml))
    image = nib.Nifti2Image(np.asarray(data, dtype=np.float32)[None, None, None, None], None, header)
    with atomic_path(path) as temporary:
        image.to_filename(temporary)
