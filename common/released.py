"""The authors' published folder as a source: where its test fMRI, clips, checkpoints, Stable Diffusion and result zips lie."""

from dataclasses import dataclass
from pathlib import Path

from common.datasets import other_names
from common.files import missing


@dataclass(frozen=True)
class ReleasedTree:
    """Paths below the authors' folder Mind_Animator_data, `root`."""

    root: Path
    dataset: object
    subject: int | str

    def __post_init__(self):
        if not Path(self.root).is_dir():
            raise missing(self.root, "give the authors' folder Mind_Animator_data with --released_root")

    @property
    def test_set(self):
        return Path(self.root) / "Testset_of_Preprocessed_datasets" / self.dataset.name

    def clip(self, name):
        return self.test_set / "stimuli_clips" / "Test" / f"{name}.mp4"

    def _of_subject(self, folder, ending=""):
        """A path that ends in the subject's number, with the first of its numbers that is there."""
        paths = [folder.with_name(f"{folder.name}{number}{ending}") for number in self.dataset.released_numbers(self.subject)]
        return next((path for path in paths if path.exists()), paths[0])

    @property
    def fmri(self):
        return self._of_subject(self.test_set / "fMRI_data" / "sub")

    @property
    def test_fmri(self):
        return self.fmri / "Test" / f"masked{self.dataset.n_vertices}_test_data.npy"

    @property
    def mask(self):
        return self.fmri / "activated_mask" / "mask_correct.npy"

    @property
    def stable_diffusion(self):
        return Path(self.root) / "Model_checkpoints" / "Stable_diffusion_ckpt"

    @property
    def results(self):
        return self._of_subject(Path(self.root) / "Reconstruction_results" / self.dataset.name / "reconstruction_results_sub", ".zip")

    def checkpoints(self, decoder):
        """Arguments of models.released.find_checkpoint for a decoder, dict, but for the epoch and the width of a token."""
        task = "Retrieval_task" if decoder == "retrieval" else "Reconstruction_task"
        return {
            "folder": Path(self.root) / "Model_checkpoints" / task,
            "decoder": decoder,
            "subjects": self.dataset.released_numbers(self.subject),
            "names": self.dataset.released_names,
            "others": other_names(self.dataset),
        }
