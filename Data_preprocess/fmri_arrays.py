"""The end that every fMRI step shares: masks, standardised arrays with their statistics, report, figures, summary."""

import resource

import numpy as np

from common import cortex, fmri
from common.cortex import N_CORTEX
from common.files import UserError, card_path, load_mask, read_json, save_array
from common.workers import add_workers_flag
from Data_preprocess import fmri_runs

CORTEX_ROWS = f"{N_CORTEX} cortical vertices, left then right"
NORMS = ("own", "train")


def add_norm_flag(group):
    group.add_argument("--test_norm", choices=NORMS, default="own", help="rows whose mean and std scale the test rows")


def add_run_flags(group, parser):
    """Add the flags of steps that read series of runs: --ignore_header_tr, --no_figures and --workers."""
    group.add_argument(
        "--ignore_header_tr", action="store_true", changes_result=False, help="TR of the registry, whatever the CIFTI headers say"
    )
    group.add_argument("--no_figures", action="store_true", changes_result=False, help="work without figures")
    add_workers_flag(parser, "runs")


# ---------------------------------------------------------------------------------------------- from series to arrays


def file_facts(path):
    """Name, size and time of a file, by which it is known again, dict."""
    stat = path.stat()
    return {"file": path.name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def is_made(path, how):
    """True when an array is there and its data card has all entries of `how`, as JSON holds them."""
    if not (path.exists() and card_path(path).exists()):
        return False
    card = read_json(card_path(path))
    return {key: card.get(key) for key in how} == how


def check_signal(path, not_finite, constant, what):
    """Raise a UserError for a series without a signal in any vertex or voxel, `what`; the masks are (V,) bool."""
    if (not_finite | constant).all():
        found = "NaN or infinite values" if not_finite.any() else "constant values"
        raise UserError(f"{path} has {found} in every {what}; copy or download the file again")


# ---------------------------------------------------------------------------------------------- masks


def mask_of_file(path, n):
    """A mask that a file holds, (n,) bool, and in words what it is."""
    return load_mask(path, n), f"taken from {path.name}"


def mask_of_areas(areas, n):
    """Mask of MMP areas of both sides, (n,) bool with the cortex first, and in words what it is."""
    mask = np.zeros(n, bool)
    try:
        mask[cortex.area_vertices(areas)] = True
    except ValueError as error:
        raise UserError(f"--roi: {error}; use names of MMP areas, such as V1 or MT") from None
    return mask, f"MMP areas {' '.join(areas)}, both sides"


# ---------------------------------------------------------------------------------------------- writing


def output_paths(layout, subject, numbers):
    """Files that a finished fMRI step leaves for the decoders, list of Path; `numbers` of vertices as the files' names have them."""
    of_numbers = [path for n in numbers for path in row_paths(layout, subject, n)]
    return [*of_numbers, layout.mask(subject), layout.fmri_report(subject)]


def row_paths(layout, subject, n):
    """Rows of both splits and what scaled them, list of Path; n = 0 stands for the number of vertices that is there."""
    return [*(layout.masked_fmri(subject, split, n) for split in ("train", "test")), layout.statistics(subject, n)]


def save_maps(layout, subject, maps, units, *, rows, made_by):
    """Write one array per vertex map beside the masks, {name: (V,)}; those without a unit, {name: unit}, are not written."""
    for key in units.keys() & maps.keys():
        save_array(layout.mask(subject).parent / f"{key}.npy", maps[key], rows=rows, units=units[key], made_by=made_by)


def save_mask(path, mask, *, rows, how, made_by):
    """Write a mask (V,) bool as zeros and ones; `how` its vertices were chosen goes to the data card."""
    save_array(path, mask.astype(np.uint8), rows=rows, units="1 where selected", made_by=made_by, selection=how)


def save_rows(layout, dataset, subject, rows, scales, *, n_vertices, units, made_by, **facts):
    """Scale the rows of both splits and write them, with what scaled them; returns {name of a file: shape}.

    Parameters
    ----------
    rows : dict
        split -> (clips, V) array, not yet scaled
    scales : dict
        split -> what is subtracted and what is divided by, each (V,)
    n_vertices : int
        for the files' names
    units : str
        of the scaled rows
    **facts
        more entries of the data cards: selection, vertices, ...
    """
    shapes, facts = {}, {"made_by": made_by, "dataset": dataset.name, "subject": subject, **facts}
    if not dataset.n_vertices:  # rows of another number of voxels would be found instead
        for old in layout.fmri_report(subject).parent.glob("**/masked*.npy*"):
            old.unlink()
    for split, values in rows.items():
        path, names = layout.masked_fmri(subject, split, n_vertices), dataset.clip_names(split)
        save_array(
            path, fmri.scale(values, *scales[split]), rows=f"clips in the data set's order, {names[0]} to {names[-1]}", units=units, **facts
        )
        shapes[path.name] = list(values.shape)
    save_array(
        layout.statistics(subject, n_vertices), np.stack([*scales["train"], *scales["test"]]),
        rows="mean and std that scaled the training rows, mean and std that scaled the test rows", units="of the rows before they were scaled", **facts,
    )  # fmt: skip
    return shapes


def save_standardised(layout, dataset, subject, train, test, test_norm, **facts):
    """Standardise the rows (clips, V) of both splits per vertex and write them; `facts` are the named arguments of `save_rows`.

    `test_norm` "own" scales the test rows by their own mean and std, "train" by those of the training rows.
    """
    units = f"z per vertex, by the mean and std of the {'training' if test_norm == 'train' else 'own'} rows"
    rows, scales = {"train": train, "test": test}, fmri_runs.scales(train, test, test_norm)
    return save_rows(layout, dataset, subject, rows, scales, units=units, test_norm=test_norm, **facts)


# ---------------------------------------------------------------------------------------------- report


def describe_arrays(dataset, subject, shapes, *, n_vertices, selected, how, what="vertices"):
    """What the report of every fMRI step says, dict; `selected` are the vertices of each mask, `how` they were chosen, `what` they are."""
    return {
        "dataset": dataset.name,
        "phantom": dataset.simulated,
        "subject": subject,
        "vertices": {"all": n_vertices, "selected": selected, "what": what},
        "shapes": shapes,
        "expected": {split: dataset.n_clips(split) for split in ("train", "test")},
        "selection": {"how": how},
    }


def summarise_map(values, mask):
    """Mean and quartiles of a vertex map over all and over the selected vertices, dict."""
    return {"all": fmri_runs.summarise(values), "selected": fmri_runs.summarise(values[mask])}


def print_arrays(report):
    """Print the shapes of the arrays and the clips expected."""
    for name, shape in report["shapes"].items():
        expected = report["expected"]["train" if "trn" in name else "test"]
        print(f"  {name}: {shape[0]} clips x {shape[1]} {report['vertices']['what']}, {expected} clips expected")


def peak_memory():
    """Largest memory of this process or one of its workers, GB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20
