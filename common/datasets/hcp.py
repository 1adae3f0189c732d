"""HCP 7T movie: excerpts of four movie runs, one clip per second, TR 1 s. Source: the HCP's documentation, the paper's supplement."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import cortex
from common.cortex import VISUAL_AREAS
from common.datasets.base import Dataset, RawFile


@dataclass(frozen=True)
class HCPMovie(Dataset):
    """Excerpts of four movie runs, one clip per second."""

    movies: tuple = ("7T_MOVIE1_CC1_v2", "7T_MOVIE2_HO1_v2", "7T_MOVIE3_CC2_v2", "7T_MOVIE4_HO2_v2")
    runs: tuple = ("tfMRI_MOVIE1_7T_AP", "tfMRI_MOVIE2_7T_PA", "tfMRI_MOVIE3_7T_PA", "tfMRI_MOVIE4_7T_AP")
    run_volumes: tuple = (921, 918, 915, 901)  # as scanned; fewer will do
    series: tuple = ("_Atlas_hp2000_clean", "_Atlas_MSMAll_hp2000_clean", "_Atlas")  # kinds of one run's series, the first goes before
    excerpts: tuple = (  # frames at 24 fps, [start, end), per movie
        ((624, 5544), (6936, 12120), (12744, 16920), (17760, 19128), (19776, 21600)),
        ((624, 5904), (6528, 12600), (13224, 19056), (19704, 21528)),
        ((624, 4776), (5448, 9672), (10344, 14760), (15720, 18984), (19632, 21456)),
        ((624, 6048), (6672, 12048), (12672, 18648), (19296, 21120)),
    )
    lag_seconds: int = 4
    uncropped_size: int = 512  # pixels to which a frame is stretched
    crop: int = 420  # pixels of its centre, which become frame_size

    def clip_start_seconds(self, movie):
        """Start of every clip in whole seconds of a movie, (clips,) int; movies count from 1."""
        if not 1 <= movie <= len(self.movies):
            raise ValueError(f"there is no movie {movie}; use 1 to {len(self.movies)}")
        seconds = [np.arange(start // self.fps, end // self.fps) for start, end in self.excerpts[movie - 1]]
        return np.concatenate(seconds)

    def volume_indices(self, movie):
        """Volume that answers to each clip of a movie: 4 s after the clip's second, TR 1 s, (clips,) int."""
        return self.clip_start_seconds(movie) + self.lag_seconds

    def roi_vertices(self):
        """Cortical vertices of the twelve visual areas, both sides, (5820,) int, ascending."""
        return cortex.area_vertices(VISUAL_AREAS)

    def released_numbers(self, subject):
        return subject, self.subjects.index(subject) + 1

    def tree(self, data_root):
        """Folder below which movies and participants lie, at any depth."""
        return Path(data_root)

    def movie_pattern(self, data_root, number):
        return self.tree(data_root) / "**" / f"{self.movies[number - 1]}.mp4"

    def series_pattern(self, data_root, subject, number, kind="_Atlas*"):
        run = self.runs[number - 1]
        return self.tree(data_root) / "**" / str(subject) / "**" / f"{run}{kind}.dtseries.nii"

    def raw_files(self, data_root, subjects):
        numbers = range(1, len(self.movies) + 1)
        for number in numbers:
            seconds = int(self.clip_start_seconds(number)[-1]) + 1
            yield RawFile("movies", self.movie_pattern(data_root, number), "movie", seconds, rate=self.fps)
        for subject in subjects:
            for number in numbers:
                kinds = tuple(self.series_pattern(data_root, subject, number, kind) for kind in self.series)
                volumes = int(self.volume_indices(number)[-1]) + 1
                path = self.series_pattern(data_root, subject, number)
                yield RawFile(f"subject {subject}", path, "series", volumes, self.tr, preferred=kinds)


HCP = HCPMovie(
    name="HCP",
    subjects=(100610, 102816, 104416),
    n_train=2736,
    n_test=304,
    tr=1.0,
    fps=24,
    clip_frames=24,
    frame_indices=tuple(range(0, 24, 3)),
    middle_frame=12,
    frame_size=512,
    n_vertices=5820,
    source="db.humanconnectome.org, HCP Young Adult 7T movie data (docs/hcp.md)",
    preparation=(
        "Data_preprocess/HCP/step1_cut_video_clips.py",
        "Data_preprocess/HCP/step2_get_video_frames.py",
        "Data_preprocess/HCP/step3_center_crop.py",
        "Data_preprocess/HCP/step4_video_captioning.py",
        "Data_preprocess/HCP/step5_fMRI_preparation.py",
    ),
    tables=("hcp",),
    released_names=("hcp",),
)
