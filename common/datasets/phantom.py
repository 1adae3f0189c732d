"""The digital phantom: simulated fMRI of drawn movies in CC2017's tree and formats, with known ground truth.

Another phantom is another entry, of another name: every path goes through the entry.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from common.datasets.base import RELEASED_EPOCHS
from common.datasets.cc2017 import CC2017, CC2017Like
from common.files import UserError, missing, read_json

MODELS = Path(__file__).resolve().parents[2] / "phantom" / "models"


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
        content = read_json(path, dict.fromkeys(("train", "test"), [{"clip": str, "caption": str}]), f"run {self.making[0]} again")
        captions = {clip["clip"]: clip["caption"] for part in ("train", "test") for clip in content[part]}
        if len(captions) != self.n_train + self.n_test or not captions.keys() >= set(self.clip_names(split)):
            raise UserError(f"{path} has {len(captions)} captions, not those of {self.name}; run {self.making[0]} again")
        return path, [captions[name] for name in self.clip_names(split)]

    def oracle_path(self, data_root, split):
        return Path(data_root) / self.name / f"true_features_{split}.npy"


@dataclass(frozen=True)
class Phantom(KnownTruth, CC2017Like):
    """A simulated data set in CC2017's tree."""

    def tree(self, data_root):
        return Path(data_root) / self.name / self.folder


def phantom_of(kind, entry, name, **facts):
    """Entry of a class for a simulated data set in the tree of a real one's, with the phantom's models."""
    models = {model: str(MODELS / model) for model in ("sd", "clip", "image_classifier", "clip_classifier")} | {
        stand_in: str(MODELS / "clip") for stand_in in ("vifi", "clip_large", "dino")
    }
    common = {
        "epochs": dict.fromkeys(RELEASED_EPOCHS, "last"),
        "source": " and ".join(facts["making"]),
        "models": models,
        "config": f"{name}.yaml",
        "tables": (),
        "note": "Phantom. Made from the digital phantom: simulated fMRI of drawn movies. Nothing here is a result about brains.",
        "released_names": (),
    }
    return kind(**{fact.name: getattr(entry, fact.name) for fact in fields(entry)} | common | {"name": name, "frame_size": 64} | facts)


PHANTOM = phantom_of(
    Phantom,
    CC2017,
    "phantom",
    n_test_runs=2,
    clips_per_train_run=40,
    clips_per_test_run=60,  # detrending takes most of the first and last clips' signal from much shorter runs
    n_train=18 * 40,
    n_test=2 * 60,
    arms=("full", "control", "oracle"),
    making=("Data_preprocess/Phantom/step1_make_stimuli.py", "Data_preprocess/Phantom/step2_make_fmri.py"),
    checks=("phantom/phantom_checks.py",),
    distractors=("phantom:train",),
)
