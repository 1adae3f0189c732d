"""HCP's movie runs: which file of each, the responses of the visual vertices to all clips, arrays that somebody has made."""

import gzip

import nibabel as nib
import numpy as np

from common.cortex import N_CORTEX, N_MESH, mesh_vertices
from common.files import UserError, load_array, one_line
from Data_preprocess.cifti import open_series, plain_and_compressed
from Data_preprocess.fmri_arrays import check_signal

ENDINGS = (".dtseries.nii", ".dtseries.nii.gz")
MMP = "the MMP parcellation of the fs_LR 32k mesh"

# ---------------------------------------------------------------------------------------------- which files


def kinds_of(run, paths):
    """Series of one run by kind, {'_Atlas': Path, ...}; a UserError for two files of one kind."""
    kinds = {}
    for path in sorted(paths, key=lambda path: path.name.endswith(".gz")):  # a plain file goes before a compressed one
        kind = next(path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)).removeprefix(run)
        other = kinds.setdefault(kind, path)
        if other.parent != path.parent:
            raise UserError(f"{path.name} lies in {other.parent} and in {path.parent}; keep one of them below --data_root")
    return kinds


def choose_kind(dataset, run, kinds, wanted):
    """The kind of series that is taken of a run; a UserError where that cannot be told."""
    folder, there = next(iter(kinds.values())).parent, ", ".join(kinds)
    if wanted:
        if wanted not in kinds:
            raise UserError(f"{folder} has no series {run}{wanted}{ENDINGS[0]}, only of {there}; choose another --series")
        return wanted
    kind = next((kind for kind in dataset.series if kind in kinds), None) or (next(iter(kinds)) if len(kinds) == 1 else None)
    if kind is None:
        raise UserError(f"{folder} has series of several kinds ({there}); choose one with --series")
    return kind


def find_runs(dataset, data_root, subject, finder, series=None):
    """A participant's series of the movie runs, all of one kind: `series`, such as '_Atlas_MSMAll', or the first of the registry's.

    Returns their paths in the order of the movies, the kind, and the kinds that all runs have as well. A UserError for no such
    participant, a run that is missing, or runs of different kinds.
    """
    found, root = {}, dataset.tree(data_root)
    for number, run in enumerate(dataset.runs, 1):
        forms = plain_and_compressed(dataset.series_pattern(data_root, subject, number))
        found[run] = kinds_of(run, [path for form in forms for path in finder.all(form)])
    lacking = [run for run, kinds in found.items() if not kinds]
    if len(lacking) == len(found):
        example = f"MNINonLinear/Results/{lacking[0]}/{lacking[0]}{dataset.series[0]}{ENDINGS[0]}"
        raise UserError(
            f"no series of participant {subject} below {root}, such as {subject}/{example}; "
            "docs/hcp.md says what to download, or check --data_root"
        )
    if lacking:
        run = lacking[0]
        raise UserError(
            f"no series of run {run} of participant {subject} below {root}; copy or download {run}{dataset.series[0]}{ENDINGS[0]}"
        )
    chosen = {run: choose_kind(dataset, run, kinds, series) for run, kinds in found.items()}
    paths, (kind, *others) = [found[run][kind] for run, kind in chosen.items()], dict.fromkeys(chosen.values())
    if others:
        odd = next(path for path, other in zip(paths, chosen.values(), strict=True) if other != kind)
        raise UserError(
            f"{paths[0]} and {odd.name} are of different kinds of series; copy the missing one, or name one kind that all runs have with --series"
        )
    first, *rest = found.values()
    return paths, kind, [other for other in first if other != kind and all(other in kinds for kinds in rest)]


# ---------------------------------------------------------------------------------------------- which vertices


def read_parcellation(path):
    """MMP area of every cortical vertex, (59412,) of names such as 'L_V1', from the first map of a .dlabel.nii or .dlabel.nii.gz.

    Areas go by name, as numberings differ. A UserError for one that is missing, of another kind, mesh or number of vertices.
    """
    if not path.is_file():
        raise UserError(f"file not found: {path}; give a .dlabel.nii of {MMP}, or leave out --parcellation")
    try:
        image = nib.Cifti2Image.from_bytes(gzip.decompress(path.read_bytes())) if path.suffix == ".gz" else nib.load(path)
        labels, models = (image.header.get_axis(axis) for axis in (0, 1))
        values, names = np.asarray(image.dataobj[0]).astype(int), labels.label[0]
    except Exception as error:  # nibabel meets other files with errors of many kinds
        raise UserError(f"{path} is not a readable CIFTI label file ({one_line(error)}); give a .dlabel.nii of {MMP}") from None
    sides = []
    for side, standard in zip(("LEFT", "RIGHT"), mesh_vertices(), strict=True):
        name = f"CIFTI_STRUCTURE_CORTEX_{side}"
        model = {structure: (part, model) for structure, part, model in models.iter_structures()}.get(name)
        n, mesh = (len(model[1]), model[1].nvertices[name]) if model else (0, 0)
        on_mesh = np.full(mesh, -1)
        if model:
            on_mesh[model[1].vertex] = values[model[0]]
        if mesh != N_MESH or (on_mesh[standard] < 0).any():
            raise UserError(
                f"{path} has labels of {n} vertices of the {side.lower()} cortex, on a mesh of {mesh}, where fs_LR 32k has "
                f"{len(standard)} on a mesh of {N_MESH}; give {MMP}"
            )
        sides.append(on_mesh[standard])
    return np.array([names.get(int(key), ("",))[0].removesuffix("_ROI") for key in np.concatenate(sides)])


# ---------------------------------------------------------------------------------------------- the responses


def open_runs(dataset, paths, check_tr):
    """Open and check the series of a participant's runs before any is read, list of Series.

    A UserError for another TR in a header, and for runs that end before their last clip's volume, all of them named.
    """
    opened = [open_series(path) for path in paths]
    for series in opened if check_tr else ():
        series.check_tr(dataset.tr)
    needed = [int(dataset.volume_indices(number)[-1]) + 1 for number in range(1, len(paths) + 1)]
    short = [(series, n) for series, n in zip(opened, needed, strict=True) if series.n_volumes < n]
    if short:
        words = " and ".join(f"{series.path} has {series.n_volumes} volumes of {n} that are needed" for series, n in short)
        raise UserError(f"{words}; copy or download {'it' if len(short) == 1 else 'them'} again")
    return opened


def read_run(job):
    """Responses of some vertices to the clips of one movie, (clips, V) float64; the job is (path, vertices, volumes)."""
    path, vertices, volumes = job
    rows = open_series(path).read_vertices(vertices)[:, volumes].T
    check_signal(path, *find_bad(rows), "visual vertex")
    return rows


def read_ready(dataset, path, vertices):
    """Responses out of an array that somebody has made, (clips, V) float64; a UserError for one of another shape.

    Parameters
    ----------
    path : Path
        .npy of all clips, or all volumes of the runs one after another (whole runs, or cut after the last clip's volume), by
        the visual vertices, ascending, or all 59412
    vertices : array, shape (V,), int
    """
    do = "give an array of numbers"
    array = load_array(path, shape=(None, None), finite=False, mmap=True, do=do)
    volumes = [dataset.volume_indices(number) for number in range(1, len(dataset.runs) + 1)]
    n_clips, needed = sum(map(len, volumes)), [int(of_run[-1]) + 1 for of_run in volumes]
    lengths = {sum(of_runs): of_runs for of_runs in (needed, dataset.run_volumes)}
    if len(array) not in (n_clips, *lengths) or array.shape[1] not in (len(vertices), N_CORTEX):
        raise UserError(
            f"{path} has shape {array.shape}; give {n_clips} rows (clips) or {' or '.join(map(str, lengths))} (all volumes of the runs), "
            f"and {len(vertices)} or {N_CORTEX} columns (vertices)"
        )
    rows = np.arange(n_clips)
    if len(array) != n_clips:
        starts = np.cumsum([0, *lengths[len(array)][:-1]])
        rows = np.concatenate([start + of_run for start, of_run in zip(starts, volumes, strict=True)])
    columns = vertices if array.shape[1] == N_CORTEX else slice(None)
    responses = np.stack([array[row][columns] for row in rows]).astype(np.float64)
    check_signal(path, *find_bad(responses), "visual vertex")
    return responses


def find_bad(rows):
    """Vertices with a NaN or infinite value, and vertices of one value, each (V,) bool."""
    not_finite = ~np.isfinite(rows).all(axis=0)
    return not_finite, ~not_finite & (rows == rows[:1]).all(axis=0)


def min_max(rows):
    """What brings every vertex of rows (clips, V) to 0...1 over all of them: what is subtracted, what is divided by, each (V,) float64.

    The columns of bad vertices become 0, in place, and their divisor is 0. Also `find_bad`'s two masks.
    """
    not_finite, constant = find_bad(rows)
    rows[:, not_finite | constant] = 0
    lowest = rows.min(axis=0)
    return lowest, rows.max(axis=0) - lowest, not_finite, constant
