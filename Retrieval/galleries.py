"""What retrieval searches, and with what: CLIP features of clips, and embeddings that a decoder makes of their fMRI."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.arms import fmri_files, load_fmri, named_arm
from common.captions import read_captions
from common.datasets import DATASETS, get_dataset
from common.files import UserError, load_array, missing
from common.layout import Layout, arm_name
from models.decoding import load_decoder
from models.released import find_checkpoint
from Retrieval.retrieval import unit_rows

METHODS = {
    "contrastive": "residual MLP, contrastive loss and MSE",
    "linear_mse": "linear, MSE",
    "mlp_mse": "residual MLP, MSE",
}
_EXTRACT = "run Feature_extraction/contrastive_target_extraction.py"


def checkpoint_folder(method, solver="gradient"):
    """Folder of a method's checkpoints below those of an arm."""
    return "_".join(["retrieval", *[method] * (method != "contrastive"), *["ridge"] * (solver == "ridge")])


# ---------------------------------------------------------------------------------------------- galleries


@dataclass
class Entries:
    """Entries of a gallery: CLIP features (M, D) float32, names of clips, captions ("" where none is known), movies for the page
    (Path or None), and the files that the features are read from.
    """

    features: np.ndarray
    names: list
    captions: list
    movies: list
    files: list

    def __len__(self):
        return len(self.names)

    @property
    def n_repeated(self):
        """Entries whose caption another one has too."""
        _, counts = np.unique([caption for caption in self.captions if caption], return_counts=True)
        return int(counts[counts > 1].sum())

    def tie_captions(self):
        """Give equal captions equal features: batches of an encoder differ in the last bits."""
        first = {}
        rows = [first.setdefault(caption or row, row) for row, caption in enumerate(self.captions)]
        self.features = self.features[rows]


def join(parts):
    """One gallery of several."""
    widths = {part.features.shape[1]: part.files[0] for part in parts}
    if len(widths) > 1:
        found = " and ".join(f"{width} ({path})" for width, path in widths.items())
        raise UserError(f"galleries have features of different widths, {found}; extract them with one CLIP")
    lists = {name: [entry for part in parts for entry in getattr(part, name)] for name in ("names", "captions", "movies", "files")}
    return Entries(np.concatenate([part.features for part in parts]), **lists)


def load_features(path, n, do):
    """CLIP features (n, D) float32 of a file; a UserError for one with a row that has no cosine."""
    features = load_array(path, shape=(n, None), do=do).astype(np.float32)
    try:
        unit_rows(str(path), features)
    except ValueError as error:
        raise UserError(f"{error}; {do}") from None
    return features


def clips_of(layout, dataset, split, target):
    """Clips of a data set's split; `target` is "text" or "image"."""
    path = layout.text_embeddings_clip(split) if target == "text" else layout.image_embeddings_clip(split)
    n, names = dataset.n_clips(split), dataset.clip_names(split)
    captions = read_captions(layout.captions(split), n) if layout.captions(split).exists() else [""] * n
    movies = [layout.clip(split, name) for name in names]
    return Entries(load_features(path, n, f"{_EXTRACT} --dataset {dataset.name}"), names, captions, movies, [path])


def distractors_of(word, out_root, target):
    """Further entries, list of Entries.

    `word` is a data set (both splits), a data set and a split (phantom:train), or a .npy file of CLIP features (M, D).
    """
    if word.endswith(".npy"):
        path = Path(word)
        features = load_features(path, None, "give CLIP features, one row a clip, with --distractors")
        names = [f"{path.stem} {row}" for row in range(1, len(features) + 1)]
        return [Entries(features, names, [""] * len(names), [None] * len(names), [path])]
    name, _, split = word.partition(":")
    if name not in DATASETS or split not in ("", "train", "test"):
        raise UserError(f"--distractors {word} is neither a data set ({', '.join(DATASETS)}, with :train or :test) nor a .npy file")
    layout, dataset = Layout(Path(out_root) / name), get_dataset(name)
    return [clips_of(layout, dataset, part, target) for part in ([split] if split else ["train", "test"])]


# ---------------------------------------------------------------------------------------------- embeddings


def checkpoint_path(args, dataset, layout, arm, tree=None):
    """Checkpoint that the flags name: a file, the authors', or the one that training wrote."""
    if args.retrieval_model_path:
        return Path(str(args.retrieval_model_path).replace("{}", str(args.subj_ID)))
    epoch = args.ckpt or dataset.epochs.get(("retrieval", args.subj_ID), dataset.epochs["retrieval"])
    if tree:
        return find_checkpoint(**tree.checkpoints("retrieval"), epoch=epoch)
    if args.solver == "ridge":
        epoch = "last"  # the only one
    stem = f"epoch_{epoch}" if isinstance(epoch, int) else epoch
    folder = layout.checkpoints(args.subj_ID, arm_name(named_arm(args, arm), args.seed), checkpoint_folder(args.method, args.solver))
    path = folder / f"{stem}.safetensors"
    if not path.is_file() and arm == args.arm:
        solver = f" --solver {args.solver}" if args.solver == "ridge" else ""
        raise missing(path, f"run Retrieval/train_retrieval_decoder.py --method {args.method}{solver}, or choose another with --ckpt")
    return path


def fmri_path(args, dataset, layout, arm, tree=None):
    """File of the test fMRI."""
    return tree.test_fmri if tree else fmri_files(layout, dataset, args.subj_ID, "test", arm, args.data_root)[0]


@torch.no_grad()
def decode_embeddings(args, dataset, layout, arm, path, tree=None):
    """Embeddings that a checkpoint makes of the test fMRI, (N, D) float32, and the checkpoint's epoch."""
    whose = {"subject": args.subj_ID, "dataset": dataset.name, "allow_unfinished": args.allow_unfinished}
    model, epoch = load_decoder(path, "retrieval", **whose)
    if tree:
        fmri = load_array(tree.test_fmri, shape=(dataset.n_test, None), do="check --released_root and --subj_ID")
    else:
        fmri = load_fmri(layout, dataset, args.subj_ID, "test", arm, args.data_root, args.seed)
    if fmri.shape[1] != model.in_dim:
        raise UserError(
            f"{path} decodes {model.in_dim} vertices, but the fMRI has {fmri.shape[1]}; give a checkpoint that was trained on these"
        )
    return model(torch.from_numpy(np.array(fmri, np.float32))).numpy(), epoch
