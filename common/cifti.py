"""CIFTI dense series (.dtseries.nii): the cortex columns of a run, checked; and the same written."""

import hashlib
import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.cifti2.parse_cifti2 import Cifti2Extension

from common.cortex import N_CORTEX, N_LEFT, N_MESH, N_RIGHT, mesh_vertices
from common.files import UserError, atomic_path, fingerprint, missing

N_GRAYORDINATES = 91282  # cortex and 31870 subcortical voxels, the HCP's standard
SPACES = {"cortex": N_CORTEX, "full": N_GRAYORDINATES}

_LEFT, _RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"
_INTENT = 3002  # NIFTI_INTENT_CONNECTIVITY_DENSE_SERIES
_EXTENSION = 32  # NIfTI extension code of a CIFTI description
_DIGEST = "SHA-256 of the values"  # entry of our files' description
_MAGIC = b"n+2\0\r\n\x1a\n"
_HEADER_BYTES, _EXTENSIONS_FROM = 540, 544
_OF_ONE_FILE = ("header vox_offset",)  # all other entries of a layout are alike in series of one origin
_WORDS = ("header descrip", "header aux_file", "header cal_max", "header cal_min", "header intent_name")  # for people and displays
_ADVICE = "copy or download the file again"


@dataclass(frozen=True)
class Series:
    """A dense series whose header has been read and checked.

    Attributes
    ----------
    path : Path
    n_volumes, n_columns : int
    tr : float, s between volumes; 0 where the file does not say
    cortex : (59412,) int, columns of the left, then the right cortical vertices
    digest : str, SHA-256 of the values that the file itself names; None in files that are not ours
    layout : dict, every field of the header and of the description, but for the number of volumes and free text
    image : nibabel Nifti2Image, its values still on disk
    """

    path: Path
    n_volumes: int
    n_columns: int
    tr: float
    cortex: np.ndarray
    digest: str | None
    layout: dict
    image: nib.Nifti2Image

    def check_values(self):
        """Raise a UserError unless the values are those whose SHA-256 the file names; files that are not ours name none."""
        if self.digest is None:
            return
        with open(self.path, "rb") as handle:
            handle.seek(self.image.dataobj.offset)
            if hashlib.file_digest(handle, "sha256").hexdigest() != self.digest:
                raise UserError(self.path, "the values that its description has the SHA-256 of", "other bytes", "make the file again")

    def check_tr(self, expected):
        """Raise a UserError when the file says another time between volumes, s; one that says 0 says nothing."""
        if self.tr and abs(self.tr - expected) > 1e-3:
            raise UserError(
                self.path,
                f"{expected:g} s between volumes",
                f"{self.tr:g} s in its header",
                f"{_ADVICE}, or --ignore_header_tr when the header is wrong",
            )

    def origin(self):
        """Short hash of what series of one origin have in common."""
        return fingerprint({name: value for name, value in self.layout.items() if name not in _OF_ONE_FILE})

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
            content = _parse(description.content)
            series, models = content.matrix.get_index_map(0), content.matrix.get_index_map(1)
            kinds = [axis.indices_map_to_data_type for axis in (series, models)]
            if kinds != ["CIFTI_INDEX_TYPE_SERIES", "CIFTI_INDEX_TYPE_BRAIN_MODELS"]:
                raise ValueError("not time by brain models")
            if float(content.version) != 2 or series.series_unit != "SECOND":
                raise ValueError(f"version {content.version}, series in {series.series_unit}")
            shape = (series.number_of_series_points, sum(model.index_count for model in models.brain_models))
            if image.shape != (1, 1, 1, 1, *shape):
                raise ValueError(f"{image.shape[4:]} values, {shape} in the description")
            if header.get_data_dtype().kind not in "fiu":
                raise ValueError(f"values of type {header.get_data_dtype()}")
            fields = _check_header(path)
            layout = {f"header {name}": value for name, value in fields.items()} | _describe(content.version, series, models)
            expected = int(image.dataobj.offset) + shape[0] * shape[1] * header.get_data_dtype().itemsize
            tr = float(series.series_step) * 10.0 ** int(series.series_exponent)
            digest = (content.matrix.metadata or {}).get(_DIGEST)
            opened = Series(path, *shape, tr, _cortex_columns(path, models), digest, layout, image)
    except UserError:
        raise
    except Exception as error:  # nibabel meets damaged bytes with exceptions of many kinds
        raise _damaged(path, error) from None
    if path.stat().st_size != expected:
        raise UserError(path, f"{expected} bytes for {shape[0]} volumes of {shape[1]} grayordinates", f"{path.stat().st_size}", _ADVICE)
    return opened


@lru_cache(maxsize=2)
def _parse(xml):
    """A description's content, which the series of a subject mostly share to the letter."""
    return Cifti2Extension.from_bytes(xml).get_content()


def _check_header(path):
    """Fields of the NIfTI-2 header as they are on disk, as JSON holds them; a ValueError names one that contradicts the rest.

    nibabel mends or passes over some of these.
    """
    with open(path, "rb") as handle:
        raw = handle.read(_HEADER_BYTES)
        header = nib.Nifti2Header(raw, check=False)
        fields = {name: np.asarray(header[name]) for name in header.template_dtype.names}
        fields |= {name: header.structarr[name] for name in ("vox_offset", "scl_slope", "scl_inter")}
        order = "little" if header.endianness == "<" else "big"
        extender, end = handle.read(4), _EXTENSIONS_FROM
        while end < fields["vox_offset"]:
            size = int.from_bytes(handle.read(4), order)
            if size < 16 or size % 16:
                break
            end += size
            handle.seek(end)
    dim, dtype = fields["dim"].tolist(), header.get_data_dtype()
    wrong = {
        "sizeof_hdr": fields["sizeof_hdr"] != _HEADER_BYTES,
        "magic": raw[4:12] != _MAGIC,
        "extender": extender != b"\1\0\0\0",
        "bitpix": fields["bitpix"] != 8 * dtype.itemsize,
        "dim": dim[:5] != [6, 1, 1, 1, 1] or dim[7] not in (0, 1),
        "intent_code": fields["intent_code"] != _INTENT,
        "intent_name": bytes(fields["intent_name"].item()) not in (b"", b"ConnDenseSeries"),
        "pixdim": not np.isfinite(fields["pixdim"]).all(),
        "vox_offset": fields["vox_offset"] != end,
        # 0 and NaN mean no scaling
        "scl_slope": not (fields["scl_slope"] in (0, 1) or np.isnan(fields["scl_slope"])),
        "scl_inter": not (fields["scl_inter"] == 0 or np.isnan(fields["scl_inter"])),
    }
    if any(wrong.values()):
        raise ValueError(", ".join(f"{name} {fields.get(name, extender)}" for name, bad in wrong.items() if bad))
    fields["dim"][5] = 0
    return {name: value.item().decode("latin-1") if value.dtype.kind == "S" else value.tolist() for name, value in fields.items()}


def _describe(version, series, models):
    """What the XML says of time and space, but for the number of volumes and free text; as JSON holds it."""
    about = {"version": version}
    about |= {f"series {name}": getattr(series, f"series_{name}") for name in ("start", "step", "exponent", "unit")}
    if models.volume is not None:
        matrix = models.volume.transformation_matrix_voxel_indices_ijk_to_xyz
        about |= {"volume": list(models.volume.volume_dimensions), "affine": [matrix.meter_exponent, np.asarray(matrix.matrix).tolist()]}
    for model in models.brain_models:
        voxels = model.voxel_indices_ijk
        about[model.brain_structure] = [
            model.model_type, model.index_offset, model.index_count, model.surface_number_of_vertices,
            None if voxels is None else hashlib.sha256(np.array(list(voxels), dtype="<i4").tobytes()).hexdigest()[:16],
        ]  # fmt: skip
    return about


def odd_series(paths, origins):
    """Find series of a subject whose header or description is another than most others'.

    A damaged byte in a field that nobody reads shows in this way alone.

    Parameters
    ----------
    paths : list of paths
    origins : list of str, Series.origin of each

    Yields
    ------
    error : UserError that names the series and the fields
    serious : bool, False where the fields are free text or for displays
    """
    usual, model = Counter(origins).most_common(1)[0][0], None
    for path, origin in zip(paths, origins, strict=True):
        if origin == usual:
            continue
        model = model or open_series(paths[origins.index(usual)]).layout
        other = open_series(path).layout
        names = [name for name in model | other if name not in _OF_ONE_FILE and str(model.get(name)) != str(other.get(name))]
        expected, found = (", ".join(f"{name} {fields.get(name)}" for name in names) for fields in (model, other))
        error = UserError(path, f"{expected}, as in most of the subject's series", found, f"{_ADVICE}, or --ignore_header_fields")
        yield error, not set(names) <= set(_WORDS)


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


def write_series(path, data, tr, other=None, digest=True):
    """Write a dense series, atomically.

    Parameters
    ----------
    path : path of the .dtseries.nii
    data : (volumes, 59412 + columns of `other`) float
    tr : float, s between volumes
    other : nibabel BrainModelAxis of what follows the cortex, optional
    digest : bool, note the SHA-256 of the values in the description
    """
    models = cortex_axis() if other is None else cortex_axis() + other
    if np.ndim(data) != 2 or np.shape(data)[1] != len(models):
        raise ValueError(f"(volumes, {len(models)}) expected, {np.shape(data)} given")
    data = np.asarray(data, dtype=np.float32)
    image = nib.Cifti2Image(data, header=(nib.cifti2.SeriesAxis(0, tr, len(data)), models))
    if digest:
        image.header.matrix.metadata = nib.cifti2.Cifti2MetaData({_DIGEST: hashlib.sha256(data.T.tobytes()).hexdigest()})
    image.nifti_header.set_intent("ConnDenseSeries", name="ConnDenseSeries")
    with atomic_path(path) as temporary:
        image.to_filename(temporary)
