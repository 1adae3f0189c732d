"""Algonauts 2021: short videos, nine ROIs per participant. Source: the challenge's documentation."""

from dataclasses import dataclass
from pathlib import Path

from common.datasets.base import Dataset, RawFile


@dataclass(frozen=True)
class Algonauts(Dataset):
    """Short videos, three repetitions; ROIs, or the whole brain, of which each participant has another number of voxels."""

    rois: tuple = ("V1", "V2", "V3", "V4", "LOC", "EBA", "FFA", "STS", "PPA")  # in the order of their columns
    whole_brain: tuple = ("WB",)
    repetitions: int = 3

    @property
    def tracks(self):
        """Names of the responses' files, by the folder that they lie in."""
        return {"mini_track": self.rois, "full_track": self.whole_brain}

    def tree(self, data_root):
        """Folder below which videos and participants lie, at any depth."""
        return Path(data_root)

    def video_pattern(self, data_root, number="[0-9]*"):
        return self.tree(data_root) / "**" / f"{number}_*.mp4"

    def response_pattern(self, data_root, track, subject, roi):
        return self.tree(data_root) / "**" / track / f"sub{subject:02d}" / f"{roi}.pkl"

    def raw_files(self, data_root, subjects):
        n_videos = self.n_train + self.n_test
        for number in range(1, n_videos + 1):
            yield RawFile("videos", self.video_pattern(data_root, f"{number:04d}"), "video", max(self.frame_indices) + 1)
        for subject in subjects:
            for roi in self.rois:
                path = self.response_pattern(data_root, "mini_track", subject, roi)
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
    source="algonauts.csail.mit.edu/2021 (docs/algonauts.md)",
    left_out=("explain",),  # where on the cortex the voxels lie is not known
    preparation=(
        "Data_preprocess/Algonauts2021/step1_cut_video_clips.py",
        "Data_preprocess/Algonauts2021/step2_get_video_frames.py",
        "Data_preprocess/Algonauts2021/step3_video_captioning.py",
        "Data_preprocess/Algonauts2021/step4_fMRI_preparation.py",
    ),
    tables=("algonauts",),
    released_names=("algonauts",),
)
