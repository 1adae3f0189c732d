"""What a reconstruction reads: fMRI, true frames and captions of a data set, of the authors' folder, or of any recording.

Three kinds of clips with one interface: `n` clips numbered from 1, `inputs` (files for the record), `fmri(n_vertices)`,
`true_frames()` and `captions()`. Nothing big is read before these are called.
"""

import logging

import numpy as np

from common.arms import fmri_files, load_fmri
from common.captions import read_captions
from common.clip_frames import resize_frames
from common.cortex import N_CORTEX
from common.files import UserError, fingerprint, load_array, load_mask, missing, sha256
from common.fmri import load_statistics, scale, statistics
from common.readers import open_clips
from common.video import read_frames
from Evaluation_Metrics.ranking import Gallery, unit_rows
from models.loading import model_files

log = logging.getLogger(__name__)

NEAREST = 5  # captions that the gallery names of a clip
SAME = 1e-6  # less than this below a cosine of 1 is rounding


# ---------------------------------------------------------------------------------------------- clips of a data set


class DatasetClips:
    """Clips of one split, as preprocessing and feature extraction left them.

    `data_root` is for the oracle arm, the training's `seed` for the control arm.
    """

    def __init__(self, layout, dataset, subject, split, arm, data_root, seed):
        self.layout, self.dataset, self.split = layout, dataset, split
        self._fmri = (layout, dataset, subject, split, arm, data_root)
        self.seed, self.n = seed, dataset.n_clips(split)

    @property
    def inputs(self):
        return fmri_files(*self._fmri)

    def fmri(self, n_vertices):
        """Array (N, V), float32; `n_vertices` is checked with the decoders."""
        return load_fmri(*self._fmri, self.seed)

    def true_frames(self):
        """Function of a clip's number that gives its frames (F, H, W, 3), uint8.

        From the array that content extraction wrote; without it, from the clips' movies.
        """
        if self.split == "test" and self.layout.ground_truth.exists():
            shape = (self.n, len(self.dataset.frame_indices), None, None, 3)
            array = load_array(self.layout.ground_truth, shape=shape, dtype=np.uint8, mmap=True, verify=True)
            return lambda clip: np.array(array[clip - 1])
        return movie_frames(self.dataset, self.split, lambda name: self.layout.clip(self.split, name))

    def captions(self):
        """Function (clip, embedding) that gives the gallery's words on a clip, as far as there are captions and their features."""
        path, features = self.layout.captions(self.split), self.layout.text_embeddings_clip(self.split)
        if not path.exists():
            return no_captions
        captions = read_captions(path, self.n)
        if not features.exists():
            return lambda clip, embedding: {"caption": captions[clip - 1]}
        return CaptionRanker(captions, load_array(features, shape=(self.n, None))).describe


class ReleasedClips:
    """Test clips of the authors' folder, a ReleasedTree."""

    def __init__(self, tree, dataset):
        self.tree, self.dataset, self.n = tree, dataset, dataset.n_test

    @property
    def inputs(self):
        return [self.tree.test_fmri]

    def fmri(self, n_vertices):
        """Array (N, V), float32."""
        return load_array(self.tree.test_fmri, shape=(self.n, None), do="check --released_root and --subj_ID").astype(np.float32)

    def true_frames(self):
        """Function of a clip's number that gives its frames (F, H, W, 3), uint8."""
        return movie_frames(self.dataset, "test", self.tree.clip)

    def captions(self):
        return no_captions


def movie_frames(dataset, split, path):
    """Function of a clip's number that reads its frames from a movie; `path` is a function of the clip's name."""
    names = dataset.clip_names(split)
    if not path(names[0]).parent.is_dir():
        raise missing(path(names[0]).parent, "run Feature_extraction/content_feature_extraction.py, or check the paths")
    return lambda clip: resize_frames(read_frames(path(names[clip - 1]), dataset.frame_indices), dataset.frame_size)


def mean_first_latent(layout, dataset):
    """Mean of the training clips' first latents, array (C, h, w), float32."""
    shape = (dataset.n_train, None, len(dataset.frame_indices), None, None)
    do = "run Feature_extraction/content_feature_extraction.py"
    contents = load_array(layout.contents("train"), shape=shape, finite=False, mmap=True, verify=True, do=do)
    return np.mean(contents[:, :, 0], axis=0, dtype=np.float64).astype(np.float32)


# ---------------------------------------------------------------------------------------------- any recording


class RecordingClips:
    """Rows of any recording with the vertices of the decoders, one row a clip; or no fMRI at all, for clips decoded elsewhere.

    Parameters
    ----------
    path : Path or None
        .npy (N, V): the vertices of the decoders, or all of the data set, of which a mask chooses
    n : int, optional
        clips, where there is no fMRI
    gt : Path, optional
        true clips: .npy (N, F, H, W, 3) or a folder or zip of movies, GIFs, npz
    times : tuple, optional
        at which they are taken of the true clips, see `common.clip_frames.clip_times`
    norm : str, optional
        "own" scales the rows by their own mean and standard deviation, "saved" by those of the training, "none" leaves them;
        by default "saved" where there is such a file, else "own"
    saved, masks : list of Path
        where the statistics of the training, and masks of zeros and ones, one a vertex, may be
    """

    def __init__(self, path, *, n=None, gt=None, n_frames=8, times=None, norm=None, saved=(), masks=()):
        self.path, self.norm, self.masks = path, norm, [path for path in masks if path.is_file()]
        self.saved = next((path for path in saved if path.is_file()), None)
        self.n = len(load_array(path, shape=(None, None), mmap=True, finite=False, do="check --fmri")) if path else n
        self.gt = open_clips(gt, n_frames=n_frames, times=times) if gt else None
        if self.gt and self.gt.numbers != list(range(1, self.n + 1)):
            raise UserError(f"{gt} does not hold clips 1-{self.n}, one for every row; check --gt")

    @property
    def inputs(self):
        return [self.path] if self.path else []

    def fmri(self, n_vertices):
        """Array (N, n_vertices), float32, standardised."""
        rows = load_array(self.path, shape=(None, None), do="check --fmri")
        if rows.shape[1] != n_vertices:
            rows = rows[:, self._mask(rows.shape[1], n_vertices)]
        norm = self.norm or ("saved" if self.saved else "own")
        if norm == "none":
            log.info("fMRI taken as it is (--fmri_norm none)")
            return rows.astype(np.float32)
        if norm == "own":
            if self.n < 2:
                raise UserError(f"{self.path} has one row, which has no standard deviation; use --fmri_norm saved or none")
            log.info("fMRI standardised by its own mean and standard deviation (--fmri_norm own)")
            return scale(rows, *statistics(rows))
        if not self.saved:
            raise UserError(
                "--fmri_norm saved needs the statistics of the training, fmri_statistics.npy beside the checkpoints; use own or none"
            )
        log.info("fMRI standardised by the mean and standard deviation of the training, %s (--fmri_norm saved)", self.saved)
        return scale(rows, *load_statistics(self.saved, "train", n_vertices))

    def _mask(self, n_columns, n_vertices):
        """Columns of the decoders' vertices among all: as many as the masks are of, or the 59412."""
        every = {path: load_array(path, shape=(None,), mmap=True, do="give a mask of zeros and ones").size for path in self.masks}
        if n_columns not in every.values() and n_columns != N_CORTEX:
            whole = " or ".join(map(str, sorted(set(every.values())))) or N_CORTEX
            raise UserError(f"{self.path} has {n_columns} columns; give the {n_vertices} vertices of the decoders, or all {whole}")
        masks = {path: load_mask(path, n) for path, n in every.items() if n == n_columns}
        for path, mask in masks.items():
            if mask.sum() == n_vertices:
                log.info("%d vertices chosen by %s", n_vertices, path)
                return mask
        found = ", ".join(f"{path} selects {mask.sum()}" for path, mask in masks.items()) or "no mask was found"
        raise UserError(f"{self.path} has all {n_columns} vertices and the decoders take {n_vertices}: {found}; give --mask")

    def true_frames(self):
        """Function of a clip's number that gives its frames; None without ground truth."""
        return self.gt.read if self.gt else None

    def captions(self):
        return no_captions


# ---------------------------------------------------------------------------------------------- captions


def no_captions(clip, embedding):
    return {}


class CaptionRanker:
    """Nearest captions to decoded semantics, by cosine in CLIP's space with the text features (N, 512) of the split's captions.

    Captions that are the same to CLIP, such as those of words that a small model does not know, count as one.
    """

    def __init__(self, captions, features):
        self.captions = captions
        distinct, rows, own = np.unique(captions, return_index=True, return_inverse=True)
        unit = unit_rows("the captions' features", features[rows])
        first = (unit @ unit.T > 1 - SAME).argmax(1)
        kept = np.unique(first)
        self.distinct, self.gallery, self.own = distinct[kept], Gallery(features[rows[kept]]), np.searchsorted(kept, first[own])

    def describe(self, clip, embedding):
        """Entries of the manifest: caption, the nearest captions with their cosines, rank of the own one among the different captions."""
        words = {"caption": self.captions[clip - 1]}
        if embedding is None or len(embedding) != self.gallery.distinct.shape[1] or len(self.gallery) == 1:  # nothing to rank
            return words
        rank, _ = self.gallery.rank(embedding[None], self.own[[clip - 1]])
        (nearest,), (cosines,) = self.gallery.nearest(embedding[None], min(NEAREST, len(self.gallery)))
        found = {str(self.distinct[i]): round(float(cosine), 4) for i, cosine in zip(nearest, cosines, strict=True)}
        return words | {"nearest_captions": found, "rank": int(rank[0]), "n_captions": len(self.gallery)}


# ---------------------------------------------------------------------------------------------- models


def describe_models(checkpoints, sd_path):
    """Files of the models, {name: {"file", "sha256"}}, and the settings that change with their content, dict."""
    entries = {decoder: {"file": path.as_posix(), "sha256": sha256(path)} for decoder, path in checkpoints.items()}
    settings = {f"{decoder}_checkpoint": entry["sha256"][:16] for decoder, entry in entries.items()}
    files = model_files(sd_path, "unet", "vae", "text_encoder", "tokenizer", "scheduler")  # none for a hub id
    parts = {f"{file.parent.name}/{file.name}": {"file": file.as_posix(), "sha256": sha256(file)} for file in files}
    settings["stable_diffusion"] = fingerprint({name: entry["sha256"] for name, entry in parts.items()}) if parts else sd_path
    return entries | {f"stable_diffusion/{name}": entry for name, entry in parts.items()}, settings
