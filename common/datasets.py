"""The registry: every fact about a data set stands here once, and scripts read it from here.

Times and indices count from 0, runs and clips from 1. Sources: the data sets' documentation and the paper's
supplement.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common import cortex
from common.files import UserError

VISUAL_AREAS = ("V1", "V2", "V3", "V4", "V3A", "V3B", "LO1", "LO2", "MST", "MT", "TPOJ1", "TPOJ2")


@dataclass(frozen=True)
class Dataset:
    """What every data set has.

    Attributes
    ----------
    subjects : subject numbers on the command line
    n_train, n_test : clips
    tr : s between volumes
    fps, clip_frames : rate and length of a clip on disk
    frame_indices : the eight frames of a clip that the models see
    middle_frame : the frame that stands for the clip (image target, caption choice)
    frame_size : pixels, height and width
    n_vertices : vertices that preprocessing keeps
    epochs : checkpoint that reconstruction takes, per decoder; 'last' is allowed
    """

    name: str
    subjects: tuple
    n_train: int
    n_test: int
    tr: float
    fps: int
    clip_frames: int
    frame_indices: tuple
    middle_frame: int
    frame_size: int
    n_vertices: int
    epochs: dict = field(default_factory=lambda: {"semantic": 30, "structure": 75, "CMG": 70, "retrieval": 40})
    is_phantom: bool = False

    def n_clips(self, split):
        return {"train": self.n_train, "test": self.n_test}[split]

    def check_subject(self, subject):
        """Raise a UserError unless the data set has this subject."""
        if subject not in self.subjects:
            raise UserError("--subj_ID", f"one of {', '.join(map(str, self.subjects))} ({self.name})", subject, "choose another subject")


# ---------------------------------------------------------------------------------------------- CC2017 and its likes


@dataclass(frozen=True)
class CC2017Like(Dataset):
    """Movies cut into clips of one TR, watched twice (training) or ten times (test); CIFTI series of the cortex."""

    folder: str = "CC2017_Purdue"  # below --data_root
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

        Volume 0 lies 2 s after the film's start in seg* and test1, at the film's start in test2...test5.
        """
        return 1 if run.startswith("seg") or run == "test1" else 2

    def movie_path(self, data_root, run):
        return Path(data_root) / self.folder / "Stimuli/video_fmri_dataset/stimuli" / f"{run}.mp4"

    def series_path(self, data_root, subject, run, rep):
        folder = Path(data_root) / self.folder / f"Subject{subject:02d}/video_fmri_dataset/subject{subject}/fmri/{run}/cifti"
        return folder / f"{run}_{rep}_Atlas.dtseries.nii"


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
)

PHANTOM = replace(
    CC2017,
    name="phantom",
    is_phantom=True,
    folder="phantom/CC2017_Purdue",
    frame_size=64,
    n_test_runs=2,
    clips_per_train_run=40,
    clips_per_test_run=30,
    n_train=18 * 40,
    n_test=2 * 30,
    epochs={"semantic": "last", "structure": "last", "CMG": "last", "retrieval": "last"},
)


# ---------------------------------------------------------------------------------------------- HCP 7T movie


@dataclass(frozen=True)
class HCPMovie(Dataset):
    """Film excerpts of four movie runs, one clip per second."""

    participants: tuple = (100610, 102816, 104416)
    movies: tuple = ("7T_MOVIE1_CC1_v2", "7T_MOVIE2_HO1_v2", "7T_MOVIE3_CC2_v2", "7T_MOVIE4_HO2_v2")
    runs: tuple = ("tfMRI_MOVIE1_7T_AP", "tfMRI_MOVIE2_7T_PA", "tfMRI_MOVIE3_7T_PA", "tfMRI_MOVIE4_7T_AP")
    excerpts: tuple = (  # film frames at 24 fps, [start, end), per movie
        ((624, 5544), (6936, 12120), (12744, 16920), (17760, 19128), (19776, 21600)),
        ((624, 5904), (6528, 12600), (13224, 19056), (19704, 21528)),
        ((624, 4776), (5448, 9672), (10344, 14760), (15720, 18984), (19632, 21456)),
        ((624, 6048), (6672, 12048), (12672, 18648), (19296, 21120)),
    )
    lag_seconds: int = 4
    crop: int = 420  # centre crop of the 512 frame

    def clip_start_seconds(self, movie):
        """Start of every clip in whole seconds of a movie, (clips,) int; movies count from 1."""
        if not 1 <= movie <= len(self.movies):
            raise ValueError(f"movie 1 to {len(self.movies)} expected, {movie} given")
        seconds = [np.arange(start // self.fps, end // self.fps) for start, end in self.excerpts[movie - 1]]
        return np.concatenate(seconds)

    def volume_indices(self, movie):
        """Volume that answers to each clip of a movie: 4 s after the clip's second, TR 1 s, (clips,) int."""
        return self.clip_start_seconds(movie) + self.lag_seconds

    def roi_vertices(self):
        """Cortical vertices of the twelve visual areas, both sides, (5820,) int, ascending."""
        return cortex.area_vertices(VISUAL_AREAS)


HCP = HCPMovie(
    name="HCP",
    subjects=(1, 2, 3),
    n_train=2736,
    n_test=304,
    tr=1.0,
    fps=24,
    clip_frames=24,
    frame_indices=tuple(range(0, 24, 3)),
    middle_frame=12,
    frame_size=512,
    n_vertices=5820,
)

# ---------------------------------------------------------------------------------------------- Algonauts 2021


@dataclass(frozen=True)
class Algonauts(Dataset):
    """Short videos, three repetitions, nine ROIs per participant; the number of voxels differs by participant."""

    rois: tuple = ("V1", "V2", "V3", "V4", "LOC", "EBA", "FFA", "STS", "PPA")
    video_folder: str = "AlgonautsVideos268_All_30fpsmax"
    repetitions: int = 3


ALGONAUTS = Algonauts(
    name="Algonauts2021",
    subjects=tuple(range(1, 11)),
    n_train=900,
    n_test=100,
    tr=1.75,
    fps=30,
    clip_frames=90,
    frame_indices=tuple(range(8)),
    middle_frame=4,
    frame_size=512,
    n_vertices=0,
)

# ---------------------------------------------------------------------------------------------- bring your own


@dataclass(frozen=True)
class OwnDataset(Dataset):
    """A data set of your own: films or ready clips, an event table, one series per run; see docs/own_data.md.

    Everything lies in {data_root}/{name}/. A clip is called train_{i} or test_{i}, in the order in which the clips of
    its split first appear in the event table. n_vertices = 0 keeps all voxels, however many a subject has.

    Attributes
    ----------
    events : event table, .csv or .tsv
    series : series of one run, a CIFTI .dtseries.nii or a .npy (volumes, voxels), with {subject} and {run} in its name
    lag_seconds : s from a clip's onset to the first volume that answers to it
    """

    events: str = "events.csv"
    series: str = "sub{subject}/{run}.npy"
    lag_seconds: float = 4.0

    def __post_init__(self):
        if len(self.frame_indices) != 8 or max(self.frame_indices) >= self.clip_frames or self.middle_frame not in self.frame_indices:
            raise ValueError(f"{self.name}: eight frame_indices below clip_frames expected, and a middle_frame among them")

    @property
    def clip_seconds(self):
        return self.clip_frames / self.fps

    def clip_names(self, split):
        """Clip names in the order of every array's rows: 'train_1', 'train_2', ..."""
        return [f"{split}_{i}" for i in range(1, self.n_clips(split) + 1)]

    def events_path(self, data_root):
        return Path(data_root) / self.name / self.events

    def film_path(self, data_root, film):
        return Path(data_root) / self.name / film

    def series_path(self, data_root, subject, run):
        return Path(data_root) / self.name / self.series.format(subject=subject, run=run)


OWN = ()  # your own data sets: OwnDataset(...), OwnDataset(...)

DATASETS = {entry.name: entry for entry in (CC2017, HCP, ALGONAUTS, PHANTOM, *OWN)}


def get_dataset(name, kind=Dataset):
    """Registry entry by name.

    Parameters
    ----------
    name : str
    kind : class that the entry must be of

    Raises
    ------
    UserError : no such entry, or one of another kind
    """
    if name not in DATASETS:
        raise UserError("--dataset", f"one of {', '.join(DATASETS)}", repr(name), "see common/datasets.py to add one")
    if not isinstance(DATASETS[name], kind):
        fitting = [known for known, entry in DATASETS.items() if isinstance(entry, kind)]
        do = "use the script in the data set's own folder of Data_preprocess"
        raise UserError("--dataset", f"a data set that this script is for ({', '.join(fitting) or 'none yet'})", name, do)
    return DATASETS[name]
