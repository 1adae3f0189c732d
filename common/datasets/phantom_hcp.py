"""The digital phantom in the tree and formats of HCP's 7T movies: drawn movies of 24 frames a second, one scene a second."""

from dataclasses import dataclass

from common.datasets.hcp import HCP, HCPMovie
from common.datasets.phantom import KnownTruth, phantom_of


@dataclass(frozen=True)
class PhantomHCP(KnownTruth, HCPMovie):
    """A simulated data set in HCP's tree."""

    def tree(self, data_root):
        return super().tree(data_root) / self.name


PHANTOM_HCP = phantom_of(
    PhantomHCP,
    HCP,
    "phantom-hcp",
    subjects=(1, 2, 3),
    n_train=240,
    n_test=36,
    movies=("7T_MOVIE1_PH1_v2", "7T_MOVIE2_PH2_v2", "7T_MOVIE3_PH3_v2", "7T_MOVIE4_PH4_v2"),
    excerpts=(((72, 888), (1032, 1872)), ((48, 864), (960, 1800)), ((96, 696), (792, 1128), (1200, 1920)), ((72, 1728),)),
    run_volumes=(85, 82, 87, 79),
    uncropped_size=78,
    crop=64,
    arms=("full", "control"),
    left_out=("retrieve", "explain"),  # a short chain
    making=("Data_preprocess/Phantom/step1_make_hcp_movies.py", "Data_preprocess/Phantom/step2_make_hcp_fmri.py"),
)
