"""The authors' published folder as a source: test fMRI, clips, checkpoints, Stable Diffusion, result zips."""

import logging
from dataclasses import dataclass
from pathlib import Path

from common.files import UserError, missing
from models.released import find_released

log = logging.getLogger(__name__)

_KINDS = {  # folder of a decoder's checkpoints, and its classes, the one to be taken first
    "semantic": ("Reconstruction_task", ("SemanticDecoder",)),
    "structure": ("Reconstruction_task", ("StructureDecoder",)),
    "CMG": ("Reconstruction_task", ("ConsistencyMotionGenerator", "PatchCMG")),
    "retrieval": ("Retrieval_task", ("RetrievalDecoder",)),
}
_DATASETS = ("cc2017", "hcp", "algonauts")


@dataclass(frozen=True)
class ReleasedTree:
    """Paths below the authors' folder.

    Parameters
    ----------
    root : Path of Mind_Animator_data
    dataset : entry of common/datasets.py
    subject : int
    """

    root: Path
    dataset: object
    subject: int

    def __post_init__(self):
        if not Path(self.root).is_dir():
            raise missing(self.root, "the authors' folder Mind_Animator_data", "check --released_root")

    @property
    def test_set(self):
        return Path(self.root) / "Testset_of_Preprocessed_datasets" / self.dataset.name

    def clip(self, name):
        return self.test_set / "stimuli_clips" / "Test" / f"{name}.mp4"

    @property
    def test_fmri(self):
        return self.test_set / "fMRI_data" / f"sub{self.subject}" / "Test" / f"masked{self.dataset.n_vertices}_test_data.npy"

    @property
    def mask(self):
        return self.test_set / "fMRI_data" / f"sub{self.subject}" / "activated_mask" / "mask_correct.npy"

    @property
    def stable_diffusion(self):
        return Path(self.root) / "Model_checkpoints" / "Stable_diffusion_ckpt"

    @property
    def results(self):
        return Path(self.root) / "Reconstruction_results" / self.dataset.name / f"reconstruction_results_sub{self.subject}.zip"

    def checkpoint(self, decoder, epoch, token_dim=768):
        """Find the .pth of a decoder by its entries and its path, and log which it is.

        A path that speaks of another subject or data set is out; one that names the subject goes before one that
        names none, and the epoch decides between those that are left.

        Parameters
        ----------
        decoder : "semantic", "structure", "CMG" or "retrieval"
        epoch : int or str
        token_dim : int, width of the text encoder's tokens

        Returns
        -------
        Path

        Raises
        ------
        UserError : no file fits, or more than one
        """
        task, kinds = _KINDS[decoder]
        folder = Path(self.root) / "Model_checkpoints" / task
        fitting = [item for item in find_released(folder, token_dim=token_dim) if item.kind in kinds and self._is_ours(item, folder)]
        for better in (lambda item: item.subject is not None, lambda item: item.kind == kinds[0], lambda item: item.epoch == epoch):
            fitting = [item for item in fitting if better(item)] or fitting
        if len(fitting) != 1:
            found = ", ".join(item.path.relative_to(folder).as_posix() for item in fitting) or "none"
            raise UserError(folder, f"one {decoder} decoder of subject {self.subject}", found, f"name it by --{decoder}_model_path")
        log.info("%s decoder of subject %d: %s", decoder, self.subject, fitting[0].path.relative_to(self.root))
        return fitting[0].path

    def _is_ours(self, item, folder):
        subjects = (None, self.subject, *getattr(self.dataset, "participants", ())[self.subject - 1 : self.subject])
        path = item.path.relative_to(folder).as_posix().lower()
        named = [name for name in _DATASETS if name in path]
        return item.subject in subjects and (not named or self.dataset.name.lower().startswith(tuple(named)))
