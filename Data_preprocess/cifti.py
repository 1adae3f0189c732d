"""CIFTI dense series (.dtseries.nii): the cortex columns of a run, checked."""

import logging
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.cifti2.parse_cifti2 import Cifti2Extension

from common.cli import one_line
from common.cortex import N_CORTEX, N_LEFT, N_MESH, N_RIGHT, mesh_vertices
from common.files import UserError, missing

N_GRAYORDINATES = 91282  # cortex and 31870 subcortical voxels, the HCP's standard
SPACES = {"cortex": N_CORTEX, "full": N_GRAYORDINATES}

_EXTENSION = 32  # NIfTI extension code of a CIFTI description
_VOXELS = re.compile(rb"<VoxelIndicesIJK>.*?</VoxelIndicesIJK>", re.DOTALL)
_SIDES = (("left", "CIFTI_STRUCTURE_CORTEX_LEFT", N_LEFT), ("right", "CIFTI_STRUCTURE_CORTEX_RIGHT", N_RIGHT))
_KINDS = {  # what the rows and columns of a CIFTI file are, and its ending
    ("SCALARS", "BRAIN_MODELS"): "a map of values (dscalar)",
    ("LABELS", "BRAIN_MODELS"): "a map of labels (dlabel)",
    ("BRAIN_MODELS", "BRAIN_MODELS"): "a connectivity matrix (dconn)",
    ("SERIES", "PARCELS"): "a series of parcels (ptseries)",
}
_ADVICE = "copy or download the file again"


@dataclass(frozen=True)
class Series:
    """A dense series whose header has been read and checked."""

    path: Path
    n_volumes: int
    n_columns: int
    tr: float  # s between volumes; 0 where the file does not say
    cortex: np.ndarray  # (59412,) int, columns of the left, then the right cortical vertices
    image: nib.Nifti2Image  # its values still on disk

    def check_tr(self, expected):
        """Raise a UserError when the file says another time between volumes, s; one that says 0 says nothing."""
        if self.tr and abs(self.tr - expected) > 1e-3:
            raise UserError(
                f"{self.path} has {self.tr:g} s between volumes in its header, not {expected:g} s; "
                f"{_ADVICE}, or use --ignore_header_tr if the header is wrong"
            )

    def read(self, first=0, n_volumes=None, space="cortex"):
        """Read volumes; a UserError for too few of them, or no full set of grayordinates.

        Parameters
        ----------
        first : int
            first volume wanted, counted from 0
        n_volumes : int, optional
            all from `first` on by default
        space : str
            "cortex" for the 59412 cortical vertices, "full" for all 91282 grayordinates

        Returns
        -------
        array, shape (n_volumes, 59412 or 91282), float32
            in the file's memory order: one vertex's series is contiguous
        """
        last = self.n_volumes if n_volumes is None else first + n_volumes
        if self.n_volumes < last or last <= first:
            raise UserError(f"{self.path} has {self.n_volumes} volumes, and at least {max(last, first + 1)} are needed; {_ADVICE}")
        start = int(self.cortex[0])
        one_block = np.array_equal(self.cortex, np.arange(start, start + N_CORTEX))  # as in every standard file
        if space == "full" and (self.n_columns != N_GRAYORDINATES or not one_block or start):
            raise UserError(
                f"{self.path} has {self.n_columns} grayordinates, not the standard {N_GRAYORDINATES} with the cortex first; use --space cortex"
            )
        columns = slice(start, start + N_CORTEX) if space == "cortex" and one_block else slice(None)
        try:
            values = np.asarray(self.image.dataobj[0, 0, 0, 0, :, columns], dtype=np.float32)[first:last]
        except (OSError, ValueError, EOFError) as error:
            raise _unreadable(self.path, error) from None
        return values if space == "full" or one_block else values[:, self.cortex]

    def read_vertices(self, vertices):
        """Whole series of cortical vertices in 0..59411, (len(vertices), n_volumes) float64; of a plain file only these are read."""
        try:
            values = np.asanyarray(self.image.dataobj)  # a plain file is mapped
            return values[0, 0, 0, 0].T[self.cortex[vertices]].astype(np.float64)
        except (OSError, ValueError, EOFError) as error:
            raise _unreadable(self.path, error) from None


def _unreadable(path, reason):
    return UserError(f"{path} is not a readable CIFTI series ({one_line(reason)}); {_ADVICE}")


def plain_and_compressed(path):
    """Two forms of a series' path or pattern, as it is and compressed (.gz)."""
    return path, path.with_name(f"{path.name}.gz")


def find_series(path):
    """A series' path, or that of the same compressed; a UserError where neither is there."""
    found = next(filter(Path.is_file, plain_and_compressed(path)), None)
    if found is None:
        raise missing(path, "copy it, or check --data_root with Data_preprocess/check_data.py")
    return found


def open_series(path):
    """Read and check the header of a dense series, Series.

    It is a .dtseries.nii or .dtseries.nii.gz on the fs_LR 32k cortex, with or without subcortical voxels, its values of any type,
    scaled or not. A UserError for one that is missing, damaged, truncated, another kind of file, or of another space.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "check --data_root")
    nib.imageglobals.logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # as NIfTI-2, which a CIFTI file is: nibabel's CIFTI image takes four times as long to open
            image = nib.Nifti2Image.from_filename(path)
            matrix = _description(path, image)
            _check_kind(path, matrix)
            series, models = matrix.get_index_map(0), matrix.get_index_map(1)
            shape = (series.number_of_series_points, sum(model.index_count for model in models.brain_models))
            if image.shape != (1, 1, 1, 1, *shape):
                raise ValueError(f"{image.shape[4:]} values where its description says {shape}")
            tr = float(series.series_step) * 10.0 ** int(series.series_exponent)
            opened = Series(path, *shape, tr, _cortex_columns(path, models), image)
            end = int(image.dataobj.offset) + shape[0] * shape[1] * image.get_data_dtype().itemsize
    except UserError:
        raise
    except Exception as error:  # nibabel meets damaged bytes with exceptions of many kinds
        raise _what_it_is(path) or _unreadable(path, error) from None
    if path.suffix != ".gz" and path.stat().st_size < end:
        raise UserError(f"{path} is truncated: {path.stat().st_size} bytes of {end}; {_ADVICE}")
    return opened


def _description(path, image):
    """The matrix that a CIFTI file's XML describes; a UserError for an ordinary NIfTI file."""
    extension = next((item for item in image.header.extensions if item.get_code() == _EXTENSION), None)
    if extension is None:
        raise _is_volume(path, image.shape)
    return _parse(_VOXELS.sub(b"", extension.content)).matrix


@lru_cache(maxsize=8)
def _parse(xml):
    """A description's content, which the series of a subject mostly share to the letter; without voxels' places, which take seconds."""
    return Cifti2Extension.from_bytes(xml).get_content()


def _check_kind(path, matrix):
    kinds = tuple(matrix.get_index_map(axis).indices_map_to_data_type.removeprefix("CIFTI_INDEX_TYPE_") for axis in (0, 1))
    if kinds != ("SERIES", "BRAIN_MODELS"):
        what = _KINDS.get(kinds, f"a CIFTI file of {' by '.join(kinds).lower().replace('_', ' ')}")
        raise UserError(f"{path} is {what}, not a dense series (dtseries); give the run's .dtseries.nii")
    unit = matrix.get_index_map(0).series_unit
    if unit != "SECOND":
        raise UserError(f"{path} is a series in {unit.lower()}, not in seconds; give the run's .dtseries.nii")


def _is_volume(path, shape):
    return UserError(f"{path} is a NIfTI volume of {' x '.join(map(str, shape))}, not a CIFTI series; give the run's .dtseries.nii")


def _what_it_is(path):
    """UserError for a file of another kind that nibabel reads; None for one that it does not."""
    try:
        image = nib.load(path)
    except Exception:
        return None
    if isinstance(image, nib.Nifti1Image) and not isinstance(image, nib.Nifti2Image):
        return _is_volume(path, image.shape)
    return None


def _cortex_columns(path, models):
    """Columns of the standard cortical vertices, left then right, (59412,) int."""
    models = {model.brain_structure: model for model in models.brain_models}
    columns = []
    for (side, name, n), standard in zip(_SIDES, mesh_vertices(), strict=True):
        model = models.get(name)
        if model is None:
            raise UserError(f"{path} has no {side} cortex; give a series of both hemispheres")
        if (model.index_count, model.surface_number_of_vertices) != (n, N_MESH):
            raise UserError(
                f"{path} has {model.index_count} vertices of the {side} cortex, on a mesh of {model.surface_number_of_vertices}, "
                f"where fs_LR 32k has {n} on a mesh of {N_MESH}; resample it to fs_LR 32k"
            )
        if not np.array_equal(np.asarray(model.vertex_indices), standard):
            raise UserError(f"{path} has other vertices of the {side} cortex than fs_LR 32k's standard {n}; resample it to fs_LR 32k")
        columns.append(np.arange(model.index_offset, model.index_offset + n))
    return np.concatenate(columns)
