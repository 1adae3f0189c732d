"""Flags of the scripts that make a phantom's raw data, which alone write into --data_root."""

import os
from pathlib import Path

from common.datasets import DATASETS


def add_phantom_flags(parser, kind):
    """Add --dataset, of the phantoms of a class, and --data_root; returns the group."""
    group, phantoms = parser.add_argument_group("data"), [name for name, entry in DATASETS.items() if isinstance(entry, kind)]
    group.add_argument("--dataset", choices=phantoms, default=phantoms[0], help="phantom to make, an entry of common/datasets")
    group.add_argument(
        "--data_root", type=Path, default=Path(os.environ.get("MINDANIMATOR_DATA", "data")), changes_result=False,
        help="folder for the raw data; $MINDANIMATOR_DATA sets the default",
    )  # fmt: skip
    return group
