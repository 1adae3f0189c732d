"""The digital phantom: simulated fMRI of drawn movies in CC2017's tree and formats, with known ground truth."""

from dataclasses import dataclass, fields
from pathlib import Path

from common.datasets.cc2017 import CC2017, CC2017Like
from common.files import UserError, missing, read_json

MODELS = Path(__file__).resolve().parents[2] / "phantom" / "models"
MAKE = "run Data_preprocess/Phantom/step1_make_stimuli.py and step2_make_fmri.py"


@dataclass(frozen=True)
class Phantom(CC2017Like):
    """A simulated data set that knows what its clips show and what its vertices answer to."""

    def truth_path(self, data_root):
        """JSON file with the scenes of both splits and the planted vertices."""
        return Path(data_root) / self.name / "phantom_truth.json"

    def known_captions(self, data_root, split):
        path = self.truth_path(data_root)
        if not path.is_file():
            raise missing(path, MAKE)
        captions = [clip["caption"] for clip in read_json(path)[split]]
        if len(captions) != self.n_clips(split):
            raise UserError(f"{path} has {len(captions)} {split} captions, not {self.n_clips(split)}; make the phantom again")
        return path, captions

    def oracle_path(self, data_root, split):
        return Path(data_root) / self.name / f"true_features_{split}.npy"


def _likes(entry, **changes):
    """Facts of an entry of CC2017Like, with changes."""
    return {fact.name: getattr(entry, fact.name) for fact in fields(entry)} | changes


PHANTOM = Phantom(
    **_likes(
        CC2017,
        name="phantom",
        folder="phantom/CC2017_Purdue",
        frame_size=64,
        n_test_runs=2,
        clips_per_train_run=40,
        clips_per_test_run=30,
        n_train=18 * 40,
        n_test=2 * 30,
        epochs=dict.fromkeys(("semantic", "structure", "CMG", "retrieval"), "last"),
        source="Data_preprocess/Phantom/step1_make_stimuli.py and step2_make_fmri.py",
        models={name: str(MODELS / name) for name in ("sd", "clip", "image_classifier", "clip_classifier")},
        arms=("full", "control", "oracle"),
        config="phantom.yaml",
        making=("Data_preprocess/Phantom/step1_make_stimuli.py", "Data_preprocess/Phantom/step2_make_fmri.py"),
        checks=("phantom/phantom_checks.py",),
        tables=(),
        note="Phantom. Made from the digital phantom: simulated fMRI of drawn movies. Nothing here is a result about brains.",
        released_names=(),
    )
)
