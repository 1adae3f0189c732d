"""CC2017 (Wen et al. 2018): three subjects, 23 movies of 8 minutes, TR 2 s. Source: its documentation on PURR."""

import filecmp
from dataclasses import dataclass
from pathlib import Path

from common.datasets.base import RELEASED_EPOCHS, Dataset, RawFile
from common.files import UserError


@dataclass(frozen=True)
class CC2017Like(Dataset):
    """Movies cut into clips of one TR, watched twice (training) or ten times (test); CIFTI series of the cortex."""

    folder: str = "CC2017_Purdue"
    n_train_runs: int = 18
    n_test_runs: int = 5
    clips_per_train_run: int = 240
    clips_per_test_run: int = 240
    train_repetitions: int = 2
    test_repetitions: int = 10
    excluded: frozenset = frozenset({(3, "test2", 9)})  # (subject, run, repetition) that is left out
    clip_seconds: float = 2.0

    def runs(self, split):
        """Run names of a split in clip order."""
        prefix, n = {"train": ("seg", self.n_train_runs), "test": ("test", self.n_test_runs)}[split]
        return [f"{prefix}{i}" for i in range(1, n + 1)]

    def clips_per_run(self, split):
        return {"train": self.clips_per_train_run, "test": self.clips_per_test_run}[split]

    def clip_names(self, split):
        """Clip names in the order of every array's rows: run outer, clip inner, e.g. 'seg1_1'."""
        return [f"{run}_{j}" for run in self.runs(split) for j in range(1, self.clips_per_run(split) + 1)]

    def repetitions(self, subject, run):
        """Repetition numbers that exist and are used."""
        n = self.train_repetitions if run.startswith("seg") else self.test_repetitions
        return [rep for rep in range(1, n + 1) if (subject, run, rep) not in self.excluded]

    def volume_offset(self, run):
        """First volume that belongs to a clip: the haemodynamic delay of 4 s, less the scanner's own start.

        Volume 0 lies 2 s after the movie's start in seg* and test1, at the movie's start in test2...test5.
        """
        return 1 if run.startswith("seg") or run == "test1" else 2

    def tree(self, data_root):
        """Folder with Stimuli and the subjects."""
        return Path(data_root) / self.folder

    def _find(self, data_root, archive, path):
        """A file of an archive that was unpacked into a folder of its own, or into one with the others."""
        tree, name = self.tree(data_root), Path("video_fmri_dataset") / path
        paths = [folder / name for folder in (tree / archive, tree, tree.parent)]
        there = [path for path in paths if path.exists() or path.with_name(f"{path.name}.gz").exists()]
        for other in there[1:]:
            if other.exists() and there[0].exists() and not filecmp.cmp(there[0], other, shallow=False):
                raise UserError(f"{there[0]} and {other} are of one name and differ; delete the wrong one")
        return (there or paths)[0]

    def movie_path(self, data_root, run):
        return self._find(data_root, "Stimuli", f"stimuli/{run}.mp4")

    def series_path(self, data_root, subject, run, rep):
        return self._find(data_root, f"Subject{subject:02d}", f"subject{subject}/fmri/{run}/cifti/{run}_{rep}_Atlas.dtseries.nii")

    def raw_files(self, data_root, subjects):
        for split in ("train", "test"):
            for run in self.runs(split):
                yield RawFile("movies", self.movie_path(data_root, run), "movie", self.clips_per_run(split) * self.clip_seconds)
        for subject in subjects:
            for split in ("train", "test"):
                for run in self.runs(split):
                    volumes = self.volume_offset(run) + self.clips_per_run(split)
                    for rep in self.repetitions(subject, run):
                        path = self.series_path(data_root, subject, run, rep)
                        yield RawFile(f"subject {subject}", path, "series", volumes, self.tr)


CC2017 = CC2017Like(
    name="CC2017",
    subjects=(1, 2, 3),
    n_train=4320,
    n_test=1200,
    tr=2.0,
    fps=30,
    clip_frames=60,
    frame_indices=tuple(range(0, 64, 8)),
    middle_frame=24,
    frame_size=512,
    n_vertices=4500,
    source="the Purdue University Research Repository, purr.purdue.edu/publications/2809",
    preparation=(
        "Data_preprocess/CC2017/step1_cut_video_clips.py",
        "Data_preprocess/CC2017/step2_get_video_frames.py",
        "Data_preprocess/CC2017/step3_video_captioning.py",
        "Data_preprocess/CC2017/step4_fMRI_preparation.py",
    ),
    epochs=RELEASED_EPOCHS | {("retrieval", 2): 20},
    tables=("reconstruction", "retrieval"),
    distractors=("HCP",),
    released_names=("cc2017",),
)
