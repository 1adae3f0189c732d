"""Where everything lies below --out_root: one place for all paths that pass between scripts."""

from dataclasses import dataclass
from pathlib import Path

from common.files import UserError, missing

DEFAULT_SEED = 42
DECODERS = ("semantic", "structure", "CMG", "retrieval")
_WRITERS = {  # what writes into a folder of Layout
    "stimuli_clips": "step 1 of Data_preprocess/", "stimuli_frames": "step 2 of Data_preprocess/", "captions": "the caption step of Data_preprocess/",
    "fMRI_in_fslr": "the fMRI step of Data_preprocess/", "features": "the scripts of Feature_extraction/",
    "checkpoints": "the training script", "recons": "Reconstruction/video_recons.py",
}  # fmt: skip


def missing_input(path):
    """MissingFile for an input that is not there, with what to run for it."""
    writers = [_WRITERS[name] for name in path.parts if name in _WRITERS] or ["the script that writes it"]
    return missing(path, f"run {writers[-1]}, or check the path")


def part(split):
    """'train' -> 'Train', as folders and files spell it."""
    return split.capitalize()


def arm_name(arm, seed=DEFAULT_SEED):
    """Folder of an arm's checkpoints, with the training seed where it is not the default: 'full', 'full_seed1'."""
    return arm if seed == DEFAULT_SEED else f"{arm}_seed{seed}"


def reconstruction_name(arm, ablate=None, seed=DEFAULT_SEED, split="test"):
    """Name that tells a reconstruction from the others of its subject, such as 'full_ablate_motion_seed1'."""
    parts = [arm, ablate and f"ablate_{ablate}", split != "test" and split, seed != DEFAULT_SEED and f"seed{seed}"]
    return "_".join(part for part in parts if part)


def _only(folder, n_vertices, ending):
    """File of n_vertices; for 0, the file of any number."""
    found = [] if n_vertices else sorted(folder.glob(f"masked*_{ending}"))
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1].name} are of different numbers of voxels; delete one of them")
    return found[0] if found else folder / f"masked{n_vertices}_{ending}"


@dataclass(frozen=True)
class Layout:
    """Paths below {out_root}/{dataset}/."""

    root: Path

    @classmethod
    def of(cls, args):
        return cls(Path(args.out_root) / args.dataset)

    @property
    def split(self):
        """File with the test clips of a data set whose split --test_clips has changed (common.datasets.use_split)."""
        return self.root / "split.json"

    # stimuli
    def clip(self, split, name):
        return self.root / "stimuli_clips" / part(split) / f"{name}.mp4"

    def frames(self, split, name):
        """Folder of a clip's frames, {frame:07d}.jpg or .png inside."""
        return self.root / "stimuli_frames" / part(split) / name

    def uncropped_frames(self, split, name):
        return self.root / "stimuli_frames_uncropped" / part(split) / name

    def captions(self, split):
        return self.root / "captions" / f"{part(split)}_captions_new.h5"

    # fMRI
    def fmri(self, subject, split):
        return self.root / "fMRI_in_fslr" / f"sub{subject}" / part(split)

    def fmri_report(self, subject):
        return self.root / "fMRI_in_fslr" / f"sub{subject}" / "report.json"

    def mask(self, subject):
        return self.root / "fMRI_in_fslr" / f"sub{subject}" / "activated_mask" / "mask_correct.npy"

    def masked_fmri(self, subject, split, n_vertices):
        """Rows of a split; n_vertices 0 stands for the number that is there."""
        return _only(self.fmri(subject, split), n_vertices, f"{'trn' if split == 'train' else 'test'}_data.npy")

    def statistics(self, subject, n_vertices):
        """Mean and standard deviation that standardised both splits' masked fMRI (common.fmri.load_statistics)."""
        return _only(self.root / "fMRI_in_fslr" / f"sub{subject}", n_vertices, "statistics.npy")

    def roi_columns(self, subject):
        """JSON file with the columns of every ROI, first and end, of a data set of ROIs."""
        return self.root / "fMRI_in_fslr" / f"sub{subject}" / "roi_columns.json"

    # features
    @property
    def features(self):
        return self.root / "features"

    def text_embeddings_sd(self, split):
        return self.features / f"{part(split)}_text_embeddings_SD.npy"

    def text_embeddings_clip(self, split):
        return self.features / f"{part(split)}_text_embeddings_CLIP_512.npy"

    def image_embeddings_clip(self, split):
        return self.features / f"{part(split)}_img_embeddings_CLIP_512.npy"

    def contents(self, split):
        return self.features / f"{part(split)}_contents.npy"

    @property
    def ground_truth(self):
        return self.features / "test_groundtruth.npy"

    # training, reconstruction and after
    def checkpoints(self, subject, arm, decoder):
        return self.root / "checkpoints" / f"sub{subject}" / arm / decoder

    def recons(self, subject, name):
        """Folder of one reconstruction: results_recons, results_recons_with_gt, stage1, manifest.json, gallery.html."""
        return self.root / "recons" / f"sub{subject}" / name

    def retrieval(self, subject):
        return self.root / "retrieval" / f"sub{subject}"

    def metrics(self, subject, name):
        return self.root / "metrics" / f"sub{subject}" / name

    def explain(self, subject):
        return self.root / "explain" / f"sub{subject}"

    @property
    def report(self):
        """Overview of all subjects' reports."""
        return self.root / "report.html"

    def subject_report(self, subject):
        return self.root / f"report_sub{subject}.html"

    def timings(self, subject):
        return self.root / f"timings_sub{subject}.json"

    def logs(self, subject):
        """Folder of what the scripts that run_pipeline.py called have said."""
        return self.root / "logs" / f"sub{subject}"
