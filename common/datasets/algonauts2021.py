"""Algonauts 2021: short videos, nine ROIs per participant. Source: the challenge's documentation."""

from dataclasses import dataclass

from common.datasets.base import Dataset, RawFile


@dataclass(frozen=True)
class Algonauts(Dataset):
    """Short videos, three repetitions, nine ROIs per participant; the number of voxels differs by participant."""

    rois: tuple = ("V1", "V2", "V3", "V4", "LOC", "EBA", "FFA", "STS", "PPA")
    video_folder: str = "AlgonautsVideos268_All_30fpsmax"
    repetitions: int = 3

    def raw_files(self, data_root, subjects):
        n_videos = self.n_train + self.n_test
        for number in range(1, n_videos + 1):
            yield RawFile("videos", data_root / "**" / self.video_folder / f"{number:04d}_*.mp4", "movie", 1)
        for subject in subjects:
            for roi in self.rois:
                path = data_root / "**" / "participants_data_v2021" / "mini_track" / f"sub{subject:02d}" / f"{roi}.pkl"
                yield RawFile(f"subject {subject}", path, "responses", shape=(n_videos, self.repetitions, None))


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
    source="algonauts.csail.mit.edu/2021",
    tables=("algonauts",),
    released_names=("algonauts",),
)
