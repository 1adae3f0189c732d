"""The digital phantom in the tree and formats of Algonauts 2021: drawn videos, pickled responses of simulated ROIs."""

from dataclasses import dataclass

from common.datasets.algonauts2021 import ALGONAUTS, Algonauts
from common.datasets.phantom import KnownTruth, phantom_of


@dataclass(frozen=True)
class PhantomAlgonauts(KnownTruth, Algonauts):
    """A simulated data set in Algonauts 2021's tree."""

    def tree(self, data_root):
        return super().tree(data_root) / self.name


PHANTOM_ALGONAUTS = phantom_of(
    PhantomAlgonauts,
    ALGONAUTS,
    "phantom-algonauts",
    subjects=(1, 2, 3),
    n_train=240,
    n_test=32,
    arms=("full", "control"),
    left_out=("retrieve", "explain"),  # a short chain
    making=("Data_preprocess/Phantom/step1_make_algonauts_videos.py", "Data_preprocess/Phantom/step2_make_algonauts_fmri.py"),
)
