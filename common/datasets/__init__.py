"""The registry: every fact about a data set stands in its file here, and scripts read it from there.

A new data set is one file in this folder that defines an entry: an object of `Dataset` or of one of its kinds, or a tuple of
them. Nothing else names it.
"""

import importlib
import pkgutil

from common.datasets.algonauts2021 import ALGONAUTS, Algonauts
from common.datasets.base import Dataset
from common.datasets.cc2017 import CC2017, CC2017Like
from common.datasets.hcp import HCP, HCPMovie
from common.datasets.own import OwnDataset
from common.datasets.phantom import PHANTOM, Phantom
from common.files import UserError, read_json

__all__ = [
    "ALGONAUTS", "CC2017", "DATASETS", "HCP", "PHANTOM", "Algonauts", "CC2017Like", "Dataset", "HCPMovie", "OwnDataset", "Phantom",
    "get_dataset", "other_names", "use_split",
]  # fmt: skip


def _find_entries():
    """Entries that the files of this folder define, {name: Dataset}."""
    entries = {}
    for found in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(importlib.import_module(found.name)).values():
            for entry in value if isinstance(value, tuple) else (value,):
                if isinstance(entry, Dataset):
                    entries[entry.name] = entry
    return entries


DATASETS = _find_entries()
_SPLITS = {}  # data set -> test clips that the output folder at hand has


def use_split(name, path):
    """Let a data set have the test clips that a file names, Layout.split of its output folder; its own where there is none."""
    _SPLITS[name] = read_json(path).get("test_clips") if path.is_file() else None


def get_dataset(name, kind=Dataset):
    """Registry entry by name.

    Parameters
    ----------
    name : str
    kind : type
        class that the entry must be of

    Raises
    ------
    UserError
        no such entry, or one of another kind
    """
    if name not in DATASETS:
        raise UserError(f"there is no data set {name!r}; choose from {', '.join(DATASETS)}, or add a file to common/datasets")
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
