"""The digital phantom: simulated fMRI of drawn movies in CC2017's tree and formats, with known ground truth.

Another phantom is another entry, of another name: every path goes through the entry.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from common.datasets.base import RELEASED_EPOCHS
from common.datasets.cc2017 import CC2017, CC2017Like
from common.files import UserError, missing, read_json

MODELS = Path(__file__).resolve().parents[2] / "phantom" / "models"
MAKING = ("Data_preprocess/Phantom/step1_make_stimuli.py", "Data_preprocess/Phantom/step2_make_fmri.py")


class KnownTruth:
    """What simulated data of any tree know: what their clips show and what their vertices answer to."""

    def truth_path(self, data_root):
        """JSON file with the scenes of both splits."""
        return Path(data_root) / self.name / "phantom_truth.json"

    def vertices_path(self, data_root, subject):
        """JSON file with a subject's planted vertices."""
        return Path(data_root) / self.name / f"phantom_vertices_sub{subject}.json"

    def known_captions(self, data_root, split):
        path = self.truth_path(data_root)
        if not path.is_file():
            raise missing(path, f"run {self.making[0]} first, or check --data_root")
        captions = [clip["caption"] for clip in read_json(path)[split]]
        if len(captions) != self.n_clips(split):
            raise UserError(f"{path} has {len(captions)} {split} captions, not {self.n_clips(split)}; run {self.making[0]} again")
        return path, captions

    def oracle_path(self, data_root, split):
        return Path(data_root) / self.name / f"true_features_{split}.npy"


@dataclass(frozen=True)
class Phantom(KnownTruth, CC2017Like):
    """A simulated data set in CC2017's tree."""

    def tree(self, data_root):
        return Path(data_root) / self.name / self.folder


PHANTOM = Phantom(
    **{fact.name: getattr(CC2017, fact.name) for fact in fields(CC2017)}
    | {
        "name": "phantom",
        "frame_size": 64,
        "n_test_runs": 2,
        "clips_per_train_run": 40,
        "clips_per_test_run": 60,  # detrending takes most of the first and last clips' signal from much shorter runs
        "n_train": 18 * 40,
        "n_test": 2 * 60,
        "epochs": dict.fromkeys(RELEASED_EPOCHS, "last"),
        "source": "Data_preprocess/Phantom/step1_make_stimuli.py and step2_make_fmri.py",
        "models": {name: str(MODELS / name) for name in ("sd", "clip", "image_classifier", "clip_classifier")}
        | {"vifi": str(MODELS / "clip")},
        "arms": ("full", "control", "oracle"),
        "config": "phantom.yaml",
        "making": MAKING,
        "checks": ("phantom/phantom_checks.py",),
        "tables": (),
        "distractors": ("phantom:train",),
        "note": "Phantom. Made from the digital phantom: simulated fMRI of drawn movies. Nothing here is a result about brains.",
        "released_names": (),
    }
)
