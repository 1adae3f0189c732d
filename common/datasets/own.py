"""Data sets of your own: docs/own_data.md walks through an entry."""

from common.datasets.event_table import OwnDataset  # noqa: F401, for what you write below

OWN = ()  # OwnDataset(...), OwnDataset(...)
