"""The registry: every fact about a data set stands in its file here, and scripts read it from there.

A new data set is one file in this folder that defines an entry: an object of `Dataset` or of one of its kinds, or a tuple of
them. Nothing else names it.
"""

import importlib
import pkgutil

from common.datasets.algonauts2021 import ALGONAUTS, Algonauts
from common.datasets.base import Dataset
from common.datasets.cc2017 import CC2017, CC2017Like
from common.datasets.event_table import OwnDataset
from common.datasets.hcp import HCP, HCPMovie
from common.datasets.phantom import PHANTOM, Phantom
from common.files import UserError, one_line, read_json

__all__ = [
    "ALGONAUTS", "BROKEN", "CC2017", "DATASETS", "HCP", "PHANTOM", "Algonauts", "CC2017Like", "Dataset", "HCPMovie", "OwnDataset", "Phantom",
    "get_dataset", "other_names", "use_split",
]  # fmt: skip


BROKEN = {}  # file of this folder, or an entry in it -> why it is left out


def _find_entries():
    """Entries that the files of this folder define, {name: Dataset}; what cannot be used goes to BROKEN."""
    entries = {}
    for found in pkgutil.iter_modules(__path__, f"{__name__}."):
        file = f"{found.name.replace('.', '/')}.py"
        try:
            values = list(vars(importlib.import_module(found.name)).values())
        except (Exception, SystemExit) as error:
            BROKEN[file] = f"{type(error).__name__}: {one_line(error)}"
            continue
        for entry in (entry for value in values for entry in (value if isinstance(value, (tuple, list)) else (value,))):
            if isinstance(entry, Dataset) and entry is not entries.get(entry.name):
                why = "another entry has this name" if entry.name in entries else entry.problem()
                if why:
                    BROKEN[f"{file}, {entry.name!r}"] = why
                else:
                    entries[entry.name] = entry
    return entries


DATASETS = _find_entries()
_SPLITS = {}  # data set -> test clips that the output folder at hand has


def use_split(name, path):
    """Let a data set have the test clips that a file names, Layout.split of its output folder; its own where there is none."""
    _SPLITS[name] = read_json(path, {"test_clips": [int]})["test_clips"] if path.is_file() else None


def get_dataset(name, kind=Dataset):
    """Registry entry by name; a UserError where there is none, or one that is not of the class `kind`."""
    if name not in DATASETS:
        left_out = "".join(f", or correct {file} ({why})" for file, why in BROKEN.items())
        raise UserError(f"there is no data set {name!r}; choose from {', '.join(DATASETS)}, or add a file to common/datasets{left_out}")
    if not isinstance(DATASETS[name], kind):
        fitting = [known for known, entry in DATASETS.items() if isinstance(entry, kind)]
        raise UserError(
            f"this script is not for {name} (only for {', '.join(fitting) or 'data sets that you add'}); "
            "use the one in the data set's own folder of Data_preprocess"
        )
    return DATASETS[name].with_test_clips(_SPLITS[name]) if _SPLITS.get(name) else DATASETS[name]


def other_names(dataset):
    """Words by which paths in the authors' folder name other data sets than this one, list of str."""
    return [word for entry in DATASETS.values() for word in entry.released_names if word not in dataset.released_names]
