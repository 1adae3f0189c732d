"""What every data set says of itself: a registry entry is all that scripts know of a data set.

Times and indices count from 0, scanner runs and clips from 1.
"""

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from common.files import UserError

MODELS = {"sd": "stable-diffusion-v1-5/stable-diffusion-v1-5", "clip": "ViT-B-32:openai", "caption_model": "Salesforce/blip2-flan-t5-xxl"}
RELEASED_EPOCHS = {"semantic": 30, "structure": 75, "CMG": 70, "retrieval": 40}


@dataclass(frozen=True)
class RawFile:
    """One file that a raw data set must have, for Data_preprocess/check_data.py."""

    group: str  # heading under which it is counted, such as "subject 1"
    path: Path  # or a pattern of which the first match is taken; "**" stands for any depth
    kind: str  # movie, series, array, rows, responses, events, ...: what check_data looks at
    least: float = 0  # seconds of a movie, volumes of a series or an array
    tr: float = 0  # s between volumes of a series
    shape: tuple = ()  # of an array, None for any number
    preferred: tuple = ()  # patterns that go before `path` where there is such a file; files of a group are then of one of them
    rate: float = 0  # frames per second that a movie must have, 0 for any


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes
    ----------
    name : str
        on the command line, and of the folder of its results
    subjects : tuple
        participants, as files are named after them (numbers or str)
    n_train, n_test : int
        clips
    tr : float
        s between volumes
    fps, clip_frames : int
        rate and length of a clip on disk
    frame_indices : tuple
        the eight frames of a clip that the models see
    middle_frame : int
        the frame that stands for the clip (image target, caption choice)
    frame_size : int
        pixels, height and width
    n_vertices : int
        vertices that preprocessing keeps; 0 for all that there are
    epochs : dict
        checkpoint that is used, per decoder, or per (decoder, subject) where one differs; "last" is allowed
    source : str
        where the raw data come from; "" for a data set of one's own
    models : dict
        default source of each model, hub id or folder: sd, clip, vifi, image_classifier, clip_classifier, caption_model;
        one that is not named has no default
    arms, left_out : tuple
        training arms that run_pipeline.py runs (common.arms), and stages that it leaves out unless they are named
    config : str
        argument file in configs/ that run_pipeline.py uses; "" for none
    making : tuple
        scripts that make the raw data; empty for real data
    preparation : tuple
        preprocessing scripts in running order
    checks : tuple
        scripts that check results against a known truth, for the report
    tables : tuple
        tables of the paper that results of the data set stand in (Evaluation_Metrics/paper_tables.py)
    distractors : tuple
        further entries of the large gallery of retrieval (Retrieval/Large_set.py)
    note : str
        what every figure and page made from the data must say, such as "phantom, not a brain"; "" for real data
    released_names : tuple
        words by which paths in the authors' folder name the data set
    test_clips : tuple
        numbers of the test clips over the whole data set, ascending from 1; the last n_test by default
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
    epochs: dict = field(default_factory=lambda: dict(RELEASED_EPOCHS))
    source: str = ""
    models: dict = field(default_factory=lambda: dict(MODELS))
    arms: tuple = ("full",)
    left_out: tuple = ()
    config: str = ""
    making: tuple = ()
    preparation: tuple = ()
    checks: tuple = ()
    tables: tuple = ()
    distractors: tuple = ()
    note: str = ""
    released_names: tuple = ()
    test_clips: tuple = ()

    def problem(self):
        """What is wrong with the entry, in words; None for nothing."""
        for fact in fields(self):
            value, kind = getattr(self, fact.name), (int, float) if fact.type is float else fact.type
            if not isinstance(value, kind) or isinstance(value, bool):
                return f"{fact.name} is {value!r}, and must be of type {fact.type.__name__}"
        if low := [name for name in ("n_train", "n_test", "tr", "fps", "clip_frames", "frame_size") if not 0 < getattr(self, name) < 10**9]:
            return f"{low[0]} is {getattr(self, low[0])}, and must be greater than 0"
        if not self.subjects or self.n_vertices < 0 or any(re.search(r"^\.|^$|/", str(name)) for name in (self.name, *self.subjects)):
            return "a name or participant is empty, has a '/' or begins with '.', there is no participant, or n_vertices is less than 0"
        if any(self.subjects.count(subject) > 1 for subject in self.subjects):
            return "a participant is there twice"
        inside = [i for i in self.frame_indices if isinstance(i, int) and 0 <= i < self.clip_frames]
        if len(inside) != 8 or tuple(sorted({*inside})) != self.frame_indices or self.middle_frame not in inside:
            return "frame_indices must be eight ascending frames below clip_frames, and middle_frame one of them"
        return None

    @property
    def simulated(self):
        """Whether the data are made, not measured."""
        return bool(self.note)

    @property
    def on_cortex(self):
        """Whether the columns of every fMRI array are vertices of the cortex; where they are not, preprocessing may know their vertices."""
        return True

    @property
    def label(self):
        """Start of a figure's title: 'phantom, ' for simulated data, else nothing."""
        return f"{self.name}, " if self.simulated else ""

    def n_clips(self, split):
        return {"train": self.n_train, "test": self.n_test}[split]

    def with_test_clips(self, numbers):
        """The same data set in another split."""
        return replace(self, test_clips=tuple(numbers), n_train=self.n_train + self.n_test - len(numbers), n_test=len(numbers))

    def clip_numbers(self, split):
        """Numbers of a split's clips over the whole data set, ascending from 1, list of int."""
        every = range(1, self.n_train + self.n_test + 1)
        test = set(self.test_clips or every[self.n_train :])
        return [number for number in every if (number in test) == (split == "test")]

    def clip_names(self, split):
        """Clip names in the order of every array's rows, numbered over the whole data set: 'clip_1', 'clip_2', ..."""
        return [f"clip_{number}" for number in self.clip_numbers(split)]

    def find_subject(self, word):
        """Participant of a word such as '1', 'sub01' or '100610', the entry of `subjects`; a UserError where there is none."""
        plain = re.sub(r"^(?:subject|subj|sub)[-_]?", "", str(word), flags=re.IGNORECASE)
        for subject in self.subjects:
            names = (str(subject), re.sub(r"^(?:subject|subj|sub)[-_]?", "", str(subject), flags=re.IGNORECASE))
            if str(word) == str(subject) or plain in names or (plain.isdecimal() and str(int(plain)) in names):
                return subject
        raise UserError(f"{self.name} has no subject {word}; choose from {', '.join(map(str, self.subjects))}")

    def released_numbers(self, subject):
        """Numbers by which the authors' folder may call a participant, tuple."""
        return (subject,)

    def raw_files(self, data_root, subjects):
        """Files that the raw data of participants consist of, iterable of RawFile."""
        return ()

    def known_captions(self, data_root, split):
        """File with captions that come with the data, and the captions, (Path, list of str); (None, None) where there are none."""
        return None, None

    def oracle_path(self, data_root, split):
        """Array of the true features that stand in for fMRI in the oracle arm; a UserError where they are not known."""
        raise UserError(f"--arm oracle needs features that are known to be true, which {self.name} does not have; use another arm")
