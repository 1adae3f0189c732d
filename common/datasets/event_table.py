"""What a data set of your own is; the entries stand in own.py."""

from dataclasses import dataclass, field
from pathlib import Path

from common.datasets.base import Dataset, RawFile


@dataclass(frozen=True)
class OwnDataset(Dataset):
    """A data set of your own: movies or ready clips, an event table, one series per run; see docs/own_data.md.

    Everything lies in {data_root}/{name}/. A clip is called train_{i} or test_{i}, in the order in which the clips of
    its split first appear in the event table. n_vertices = 0 keeps all voxels, however many a subject has.

    Attributes
    ----------
    events : str
        event table, .csv or .tsv; a .tsv of the same name is taken where there is no .csv
    series : str
        series of one run, a CIFTI .dtseries.nii or a .npy (volumes, voxels), with {subject} and {run} in its name
    lag_seconds : float
        from a clip's onset to the first volume that answers to it
    """

    events: str = "events.csv"
    series: str = "sub{subject}/{run}.npy"
    lag_seconds: float = 4.0
    epochs: dict = field(default_factory=lambda: dict.fromkeys(("semantic", "structure", "CMG", "retrieval"), "last"))
    preparation: tuple = (
        "Data_preprocess/Own/step1_cut_event_clips.py",
        "Data_preprocess/CC2017/step2_get_video_frames.py",
        "Data_preprocess/CC2017/step3_video_captioning.py",
        "Data_preprocess/Own/step4_convert_event_fMRI.py",
    )

    def problem(self):
        if not super().problem():
            try:
                paths = {self.series.format(subject=subject, run=run) for subject in self.subjects for run in "ab"}
            except (KeyError, IndexError, ValueError):
                paths = ()
            if len(paths) < 2 * len(self.subjects):
                return f"series is {self.series!r}, and must have {{run}} and, with several subjects, {{subject}} in it"
            if not -60 <= self.lag_seconds <= 60:
                return f"lag_seconds is {self.lag_seconds}, and must be from -60 to 60"
        return super().problem()

    @property
    def on_cortex(self):
        return not self.series.endswith(".npy")

    @property
    def clip_seconds(self):
        return self.clip_frames / self.fps

    def clip_names(self, split):
        """Clip names in the order of every array's rows: 'train_1', 'train_2', ..."""
        return [f"{split}_{i}" for i in range(1, self.n_clips(split) + 1)]

    def events_path(self, data_root):
        path = Path(data_root) / self.name / self.events
        other = path.with_suffix(".tsv")
        return other if other.is_file() and not path.exists() else path

    def film_path(self, data_root, film):
        return Path(data_root) / self.name / film

    def series_path(self, data_root, subject, run):
        return Path(data_root) / self.name / self.series.format(subject=subject, run=run)

    def raw_files(self, data_root, subjects):
        yield RawFile("event table", self.events_path(data_root), "events")  # check_data finds in it what else there must be
