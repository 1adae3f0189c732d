"""Maps of the cortex: values of vertices brought onto it, written for Workbench, tabulated by area, drawn."""

import gzip
from functools import cache

import nibabel as nib
import numpy as np

from common import cortex
from common.cortex import N_CORTEX, N_LEFT, N_MESH
from common.files import UserError, atomic_path, load_array, load_mask, missing
from Data_preprocess.cifti_writing import cortex_axis, write_series
from Evaluation_Metrics.results import write_rows
from Explainable_analysis.Cortical_visualization.weight_projection import roi_means

N_GREYORDINATES = 91282
AREAS = ("V1", "V2", "V3", "V4", "V3A", "V3B", "MT", "MST", "TPOJ1", "TPOJ2")  # of the paper's bar chart, on both sides
_FORMS = (
    f"give {N_CORTEX} (cortex), {2 * N_MESH} (both meshes, left first) or {N_GREYORDINATES} (with the subcortical structures) values, "
    "or those of a mask's vertices with --mask"
)

# ---------------------------------------------------------------------------------------------- areas


@cache
def area_numbers():
    """MMP area of every cortical vertex, (59412,) int, 0 for none, and the 360 names such as 'L_V1', in the order of the numbers."""
    names = cortex.area_labels()
    order = [name for side in "LR" for name in sorted({name for name in names if name.startswith(side)})]
    number = {name: place for place, name in enumerate(order, 1)} | {"": 0}
    return np.array([number[name] for name in names]), order


def area_means(values):
    """Mean over an area's vertices that are neither 0 nor NaN, {name: float}, of a map of the cortex (59412,)."""
    labels, names = area_numbers()
    return dict(zip(names, roi_means(np.nan_to_num(values), labels).tolist(), strict=True))


def write_area_table(path, maps):
    """Write the areas' means of maps {column: (59412,)} as CSV with the numbers of their vertices."""
    labels, names = area_numbers()
    counts = np.bincount(labels, minlength=len(names) + 1)[1:]
    used = {
        column: np.bincount(labels, weights=np.nan_to_num(values) != 0, minlength=len(names) + 1)[1:] for column, values in maps.items()
    }
    means = {column: area_means(values) for column, values in maps.items()}
    rows = [["area", "vertices", *(word for column in maps for word in (f"{column}, vertices not 0", column))]]
    for place, name in enumerate(names):
        cells = (cell for column in maps for cell in (int(used[column][place]), f"{means[column][name]:.6g}"))
        rows.append([name, int(counts[place]), *cells])
    write_rows(path, rows)


# ---------------------------------------------------------------------------------------------- onto the cortex


def onto_cortex(values, mask, fill=0.0):
    """Values (V,) of a mask's vertices, (59412,) bool, on the whole cortex, (59412,) float64, with `fill` elsewhere."""
    full = np.full(N_CORTEX, fill, dtype=np.float64)
    full[mask] = values
    return full


def read_map(path, mask_path=None):
    """A map of the cortex from a file, (59412,) float64, NaN where it has nothing.

    Parameters
    ----------
    path : Path
        .npy, .dscalar.nii or .dtseries.nii (its first row), or .gii (one hemisphere), the last three compressed (.gz) or not
    mask_path : Path, optional
        59412 zeros and ones: the vertices of `path`

    Raises
    ------
    UserError
        values of another number or kind, or all of them NaN
    """
    kind = path.with_name(path.name.removesuffix(".gz")).suffix
    if kind == ".nii":
        values = _read_cifti(path)
    elif kind == ".gii":
        values = _read_gifti(path)
    else:
        values = load_array(path, shape=None, finite=False, do=_FORMS)
    values = np.squeeze(np.asarray(values, np.float64))
    if values.ndim != 1:
        raise UserError(f"{path} has shape {values.shape}, not one value a vertex; {_FORMS}")
    if mask_path:
        mask = load_mask(mask_path, N_CORTEX)
        if mask.sum() != len(values):
            raise UserError(
                f"{path} has {len(values)} values and {mask_path} selects {mask.sum()} vertices; give the mask that belongs to them"
            )
        values = onto_cortex(values, mask, np.nan)
    elif len(values) == 2 * N_MESH:
        left, right = cortex.mesh_vertices()
        values = np.concatenate([values[left], values[N_MESH + right]])
    elif len(values) in (N_CORTEX, N_GREYORDINATES):
        values = values[:N_CORTEX]
    else:
        raise UserError(f"{path} has {len(values)} values; {_FORMS}")
    if not np.isfinite(values).any():
        raise UserError(f"{path} has no finite value on the cortex; check how it was made")
    return np.where(np.isfinite(values), values, np.nan)


def _read_cifti(path):
    """First row of a CIFTI file on the cortex, (59412,)."""
    try:  # nibabel takes a compressed one for a volume
        image = nib.Cifti2Image.from_bytes(gzip.decompress(path.read_bytes())) if path.suffix == ".gz" else nib.load(path)
        axis = image.header.get_axis(1)
        structures = {name: (columns, part.vertex) for name, columns, part in axis.iter_structures()}
        row = np.asarray(image.dataobj[0], np.float64)
    except Exception as error:
        raise UserError(f"{path} is not a readable CIFTI file of scalars or a series ({type(error).__name__}); give another") from None
    values = []
    for name, wanted in zip(("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"), cortex.mesh_vertices(), strict=True):
        if name not in structures:
            raise UserError(f"{path} has no {name}; give a file with both hemispheres of the cortex")
        columns, vertices = structures[name]
        mesh = np.full(N_MESH, np.nan)
        if vertices.max() >= N_MESH:
            raise UserError(f"{path} is on a mesh of more than {N_MESH} vertices; resample it to fs_LR 32k")
        mesh[vertices] = row[columns]
        values.append(mesh[wanted])
    return np.concatenate(values)


def _read_gifti(path):
    """First array of a GIFTI file of one hemisphere, on both meshes (64984,); the other is NaN."""
    try:
        image = nib.load(path)
        values = np.asarray(image.darrays[0].data, np.float64).ravel()
        structure = dict(image.meta).get("AnatomicalStructurePrimary", "") + dict(image.darrays[0].meta).get(
            "AnatomicalStructurePrimary", ""
        )
    except Exception as error:
        raise UserError(f"{path} is not a readable GIFTI file ({type(error).__name__}); give another") from None
    if len(values) != N_MESH:
        raise UserError(f"{path} has {len(values)} values, not the {N_MESH} of an fs_LR 32k hemisphere; resample it")
    is_right = "right" in structure.lower() or any(word in path.name for word in (".R.", "_R.", "rh.", "hemi-R"))
    blank = np.full(N_MESH, np.nan)
    return np.concatenate([blank, values] if is_right else [values, blank])


def is_newer(path, *sources):
    """Whether a file was made after those that it is made from."""
    return path.exists() and all(path.stat().st_mtime >= source.stat().st_mtime for source in sources)


def find_maps(folder, names=None):
    """Files importance.npy of all maps, or of those named, by name."""
    paths = {path.parent.name: path for path in sorted(folder.glob("*/importance.npy"))}
    for name in names or ():
        if name not in paths:
            raise missing(folder / name / "importance.npy", "run step1_weight_projection.py first")
    if not paths:
        raise missing(folder / "semantic" / "importance.npy", "run step1_weight_projection.py first")
    return {name: path for name, path in paths.items() if not names or name in names}


# ---------------------------------------------------------------------------------------------- written


def write_maps(folder, name, values):
    """Write a map as {name}.npy's neighbours {name}.dscalar.nii, .dtseries.nii and {name}.{L,R}.func.gii; NaN becomes 0."""
    filled = np.nan_to_num(values).astype(np.float32)
    header = nib.cifti2.Cifti2Header.from_axes((nib.cifti2.ScalarAxis([name]), cortex_axis()))
    with atomic_path(folder / f"{name}.dscalar.nii") as temporary:
        nib.save(nib.Cifti2Image(filled[None], header), temporary)
    write_series(folder / f"{name}.dtseries.nii", filled[None], 1.0)
    for side, vertices, part in zip("LR", cortex.mesh_vertices(), (filled[:N_LEFT], filled[N_LEFT:]), strict=True):
        mesh = np.zeros(N_MESH, np.float32)
        mesh[vertices] = part
        meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{'Left' if side == 'L' else 'Right'}"})
        array = nib.gifti.GiftiDataArray(mesh, intent="NIFTI_INTENT_SHAPE", datatype="NIFTI_TYPE_FLOAT32")
        with atomic_path(folder / f"{name}.{side}.func.gii") as temporary:
            nib.save(nib.GiftiImage(darrays=[array], meta=meta), temporary)
