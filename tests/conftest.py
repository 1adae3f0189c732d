"""Order of the files, and tiny models that several of them use."""

import os

import pytest
from tiny import make_clip, make_sd

FIRST = (  # longest first; the phantom's chain alone takes as long as half of all others
    "test_phantom.py", "test_hcp.py", "test_algonauts.py", "test_faults.py", "test_recons.py", "test_preprocess.py", "test_own_data.py",
    "test_evaluate.py", "test_training.py",
)  # fmt: skip


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # xdist would start the files with the most tests first


def pytest_runtest_setup(item):
    """Of several workers, that with the longest file has the processor first: the end of it, which keeps one core busy, is then not the last."""
    if not hasattr(item.session, "first"):
        item.session.first = item.path.name
        if item.session.first != FIRST[0] and "PYTEST_XDIST_WORKER" in os.environ:
            os.nice(10)


def pytest_collection_modifyitems(items):
    """Put long files first: none of them is then alone at the end."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of Stable Diffusion's VAE and text encoder, and of CLIP."""
    folder = tmp_path_factory.mktemp("models")
    return make_sd(folder / "sd"), make_clip(folder / "clip")
