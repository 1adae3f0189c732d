"""CIFTI dense series (.dtseries.nii): the cortex columns of a run, checked; and the same written."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from common.cortex import N_CORTEX, N_LEFT, N_MESH, N_RIGHT, mesh_vertices
from common.files import UserError, atomic_path, missing

N_GRAYORDINATES = 91282  # cortex and 31870 subcortical voxels, the HCP's standard
SPACES = {"cortex": N_CORTEX, "full": N_GRAYORDINATES}

_LEFT, _RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"
_INTENT = 3002  # NIFTI_INTENT_CONNECTIVITY_DENSE_SERIES
_EXTENSION = 32  # NIfTI extension code of a CIFTI description
_ADVICE = "copy or download the file again"


@dataclass(frozen=True)
class Series:
    """A dense series whose header has been read and checked.

    Attributes
    ----------
    path : Path
    n_volumes, n_columns : int
    tr : float, s between volumes
    cortex : (59412,) int, columns of the left, then the right cortical vertices
    image : nibabel Nifti2Image, its values still on disk
    """

    path: Path
    n_volumes: int
    n_columns: int
    tr: float
    cortex: np.ndarray
    image: nib.Nifti2Image

    def read(self, first=0, n_volumes=None, space="cortex"):
        """Read volumes.

        Parameters
        ----------
        first : int, first volume wanted, counted from 0
        n_volumes : int, all from `first` on by default
        space : 'cortex' for the 59412 cortical vertices, 'full' for all 91282 grayordinates

        Returns
        -------
        (n_volumes, 59412 or 91282) float32, in the file's memory order: one vertex's series is contiguous

        Raises
        ------
        UserError : too few volumes, or no full set of grayordinates
        """
        last = self.n_volumes if n_volumes is None else first + n_volumes
        if self.n_volumes < last or last <= first:
            raise UserError(self.path, f"at least {max(last, first + 1)} volumes", str(self.n_volumes), _ADVICE)
        start = int(self.cortex[0])
        one_block = np.array_equal(self.cortex, np.arange(start, start + N_CORTEX))  # as in every standard file
        if space == "full" and (self.n_columns != N_GRAYORDINATES or not one_block or start):
            raise UserError(self.path, f"{N_GRAYORDINATES} grayordinates, cortex first", str(self.n_columns), "use --space cortex")
        columns = slice(start, start + N_CORTEX) if space == "cortex" and one_block else slice(None)
        try:
            values = np.asarray(self.image.dataobj[0, 0, 0, 0, :, columns], dtype=np.float32)[first:last]
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(self.path, error) from None
        return values if space == "full" or one_block else values[:, self.cortex]


def _damaged(path, error):
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(path, "a readable CIFTI series", f"'{reason}'", _ADVICE)


def open_series(path):
    """Read and check the header of a dense series.

    Parameters
    ----------
    path : path of a .dtseries.nii on the fs_LR 32k cortex, with or without subcortical voxels

    Returns
    -------
    Series

    Raises
    ------
    UserError : missing, damaged, truncated, or of another space
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "a CIFTI series (.dtseries.nii)", "check the path and --data_root")
    nib.imageglobals.logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # as NIfTI-2, which a CIFTI file is: nibabel's CIFTI image takes four times as long to open
            image = nib.Nifti2Image.from_filename(path)
            header = image.header
            description = next((item for item in header.extensions if item.get_code() == _EXTENSION), None)
            if description is None:
                raise ValueError("an ordinary NIfTI file")
            matrix = description.get_content().matrix
            series, models = matrix.get_axis(0), matrix.get_index_map(1)
            if not isinstance(series, nib.cifti2.SeriesAxis) or models.indices_map_to_data_type != "CIFTI_INDEX_TYPE_BRAIN_MODELS":
                raise ValueError("not time by brain models")
            shape = (series.size, sum(model.index_count for model in models.brain_models))
            if int(header["intent_code"]) != _INTENT:
                raise ValueError(f"intent code {int(header['intent_code'])}")
            if image.shape != (1, 1, 1, 1, *shape):
                raise ValueError(f"{image.shape[4:]} values, {shape} in the description")
            if float(header["scl_slope"]) not in (0, 1) and np.isfinite(header["scl_slope"]):
                raise ValueError(f"a scale of {float(header['scl_slope'])}")
            if header.get_data_dtype().kind not in "fiu":
                raise ValueError(f"values of type {header.get_data_dtype()}")
            expected = int(image.dataobj.offset) + shape[0] * shape[1] * header.get_data_dtype().itemsize
            opened = Series(path, *shape, float(series.step), _cortex_columns(path, models), image)
    except UserError:
        raise
    except Exception as error:  # nibabel meets damaged bytes with exceptions of many kinds
        raise _damaged(path, error) from None
    if path.stat().st_size != expected:
        raise UserError(path, f"{expected} bytes for {shape[0]} volumes of {shape[1]} grayordinates", f"{path.stat().st_size}", _ADVICE)
    return opened


def _cortex_columns(path, models):
    """Columns of the standard cortical vertices, left then right, (59412,) int."""
    models = list(models.brain_models)
    n_columns, end = sum(model.index_count for model in models), 0
    for model in models:  # a gap or an overlap would shift columns
        if model.index_offset != end:
            raise ValueError(f"{model.brain_structure} at column {model.index_offset}, {end} expected")
        end += model.index_count
    columns = []
    for name, n, standard in zip((_LEFT, _RIGHT), (N_LEFT, N_RIGHT), mesh_vertices(), strict=True):
        model = next((model for model in models if model.brain_structure == name), None)
        found, mesh = (model.index_count, model.surface_number_of_vertices) if model else (0, 0)
        if found != n or mesh != N_MESH:
            raise UserError(
                path,
                f"{n} vertices of {name} on a {N_MESH}-vertex mesh ({N_CORTEX} cortical grayordinates in all)",
                f"{found} on a mesh of {mesh} ({n_columns} grayordinates in all)",
                "resample the series to fs_LR 32k",
            )
        if not np.array_equal(np.asarray(model.vertex_indices), standard):
            raise UserError(path, f"the standard fs_LR 32k vertices of {name}", "other vertex numbers", _ADVICE)
        columns.append(np.arange(model.index_offset, model.index_offset + n))
    return np.concatenate(columns)


def read_series(path, first=0, n_volumes=None, space="cortex"):
    """Read volumes of a dense series: `open_series`, then `Series.read`, whose parameters these are."""
    return open_series(path).read(first, n_volumes, space)


def cortex_axis():
    """The brain models of the 59412 cortical vertices."""
    left, right = mesh_vertices()
    make = nib.cifti2.BrainModelAxis.from_surface
    return make(left, N_MESH, name="CortexLeft") + make(right, N_MESH, name="CortexRight")


def write_series(path, data, tr, other=None):
    """Write a dense series, atomically.

    Parameters
    ----------
    path : path of the .dtseries.nii
    data : (volumes, 59412 + columns of `other`) float
    tr : float, s between volumes
    other : nibabel BrainModelAxis of what follows the cortex, optional
    """
    models = cortex_axis() if other is None else cortex_axis() + other
    if np.ndim(data) != 2 or np.shape(data)[1] != len(models):
        raise ValueError(f"(volumes, {len(models)}) expected, {np.shape(data)} given")
    data = np.asarray(data, dtype=np.float32)
    image = nib.Cifti2Image(data, header=(nib.cifti2.SeriesAxis(0, tr, len(data)), models))
    image.nifti_header.set_intent("ConnDenseSeries")
    with atomic_path(path) as temporary:
        image.to_filename(temporary)
