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
    n_train=324,
    n_test=36,
    movies=("7T_MOVIE1_PH1_v2", "7T_MOVIE2_PH2_v2", "7T_MOVIE3_PH3_v2", "7T_MOVIE4_PH4_v2"),
    excerpts=(((72, 1152), (1296, 2376)), ((48, 1128), (1224, 2304)), ((96, 984), (1080, 1560), (1632, 2424)), ((72, 2232),)),
    run_volumes=(106, 103, 108, 100),
    uncropped_size=78,
    crop=64,
    arms=("full", "control"),
    left_out=("retrieve", "explain"),  # a short chain
    making=("Data_preprocess/Phantom/step1_make_hcp_movies.py", "Data_preprocess/Phantom/step2_make_hcp_fmri.py"),
)
