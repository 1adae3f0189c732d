"""The authors' published folder as a source: test fMRI, clips, checkpoints, Stable Diffusion, result zips.

The names of the files below its checkpoint folders vary, so they are found by pattern, and what was taken for what is
logged.
"""

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.files import UserError, missing
from common.readers import natural_key
from models.checkpoints import KINDS, empty_model, fill, read_released

log = logging.getLogger(__name__)

# folder and words that tell the decoder in a checkpoint's path
_CHECKPOINTS = {
    "semantic": ("Reconstruction_task", r"semantic|text"),
    "structure": ("Reconstruction_task", r"structure|content"),
    "CMG": ("Reconstruction_task", r"cmg|motion|consistency"),
    "retrieval": ("Retrieval_task", r"."),
}
_SUBJECT = re.compile(r"(?<![a-z])s(?:ub(?:j(?:ect)?)?)?[ _-]?(?:id)?[ _-]?0*(\d+)")
_DATASETS = ("cc2017", "hcp", "algonauts")


@dataclass(frozen=True)
class ReleasedTree:
    """Paths below the authors' folder.

    Parameters
    ----------
    root : Path of Mind_Animator_data
    dataset : entry of common/datasets.py
    subject : int
    """

    root: Path
    dataset: object
    subject: int

    def __post_init__(self):
        if not Path(self.root).is_dir():
            raise missing(self.root, "the authors' folder Mind_Animator_data", "check --released_root")

    @property
    def test_set(self):
        return Path(self.root) / "Testset_of_Preprocessed_datasets" / self.dataset.name

    def clip(self, name):
        return self.test_set / "stimuli_clips" / "Test" / f"{name}.mp4"

    @property
    def test_fmri(self):
        return self.test_set / "fMRI_data" / f"sub{self.subject}" / "Test" / f"masked{self.dataset.n_vertices}_test_data.npy"

    @property
    def mask(self):
        return self.test_set / "fMRI_data" / f"sub{self.subject}" / "activated_mask" / "mask_correct.npy"

    @property
    def stable_diffusion(self):
        return Path(self.root) / "Model_checkpoints" / "Stable_diffusion_ckpt"

    @property
    def results(self):
        return Path(self.root) / "Reconstruction_results" / self.dataset.name / f"reconstruction_results_sub{self.subject}.zip"

    def checkpoint(self, decoder, epoch):
        """The .pth of a decoder, found by the words in its path below the checkpoint folder.

        Parameters
        ----------
        decoder : "semantic", "structure", "CMG" or "retrieval"
        epoch : int or str, decides between several files

        Raises
        ------
        UserError : no file fits, or more than one
        """
        task, words = _CHECKPOINTS[decoder]
        folder = Path(self.root) / "Model_checkpoints" / task
        files = sorted(folder.rglob("*.pth"), key=natural_key)
        spelled = {file: file.relative_to(folder).as_posix().lower() for file in files}
        fitting = [file for file in files if re.search(words, spelled[file]) and self._is_ours(spelled[file])]
        # a file that names no subject is any subject's, but one that names ours goes first
        ours = [file for file in fitting if _SUBJECT.search(spelled[file])] or fitting
        if len(ours) > 1:
            ours = [file for file in ours if str(epoch) in re.findall(r"\d+|[a-z]+", file.stem.lower())] or ours
        if len(ours) != 1:
            found = f"{len(ours)}: {', '.join(file.name for file in ours[:6])}" if ours else f"none among {len(files)} .pth files"
            raise UserError(folder, f"one {decoder} checkpoint of subject {self.subject} (epoch {epoch})", found, f"name it by --{decoder}_model_path")
        log.info("%s decoder of subject %d: %s", decoder, self.subject, ours[0].relative_to(self.root))
        return ours[0]

    def _is_ours(self, spelled):
        """Whether a path speaks of no other subject and no other data set."""
        numbers = {int(number) for number in _SUBJECT.findall(spelled)}
        names = {self.subject, *getattr(self.dataset, "participants", ())[self.subject - 1 : self.subject]}
        sets = [name for name in _DATASETS if name in spelled]
        return (not numbers or bool(numbers & names)) and (not sets or self.dataset.name.lower().startswith(tuple(sets)))


# ---------------------------------------------------------------------------------------------- checkpoints without a record


def load_released_decoder(path, decoder, token_dim=768):
    """Build a decoder of the sizes that a released .pth has, and fill it.

    What shapes don't tell is the released value: 4 heads of the CMG, 8 of the patch CMG.

    Parameters
    ----------
    path : .pth in the authors' names
    decoder : "semantic", "structure", "CMG" or "retrieval"
    token_dim : int, width of the text encoder's tokens

    Returns
    -------
    nn.Module in evaluation mode

    Raises
    ------
    UserError : not a checkpoint of this decoder
    """
    state = read_released(path)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    try:
        kind, arguments = _SIZES[decoder](shapes, token_dim)
    except (KeyError, IndexError, ZeroDivisionError):
        raise UserError(path, f"a checkpoint of a {decoder} decoder", f"entries such as {', '.join(list(shapes)[:3])}", "check the path") from None  # fmt: skip
    return fill(empty_model(KINDS[kind], arguments), state, path).eval()


def _count(shapes, prefix):
    """Number of a module list's members."""
    found = [re.match(re.escape(prefix) + r"\.(\d+)\.", name) for name in shapes]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _stem(shapes, prefix=""):
    hidden, in_dim = shapes[f"{prefix}lin0.0.weight"]
    return in_dim, hidden, _count(shapes, f"{prefix}mlp")


def _semantic(shapes, token_dim):
    in_dim, hidden, blocks = _stem(shapes)
    projector, out = (shapes["lin1.2.weight"][0], shapes["lin1.5.weight"][0]), shapes["lin1.8.weight"][0]
    return "SemanticDecoder", dict(in_dim=in_dim, hidden_dim=hidden, n_blocks=blocks, n_tokens=out // token_dim, token_dim=token_dim, projector_dims=projector)  # fmt: skip


def _structure(shapes, token_dim):
    in_dim, hidden, blocks = _stem(shapes)
    side = math.isqrt(shapes["lin1.2.weight"][0] // 4)
    return "StructureDecoder", dict(in_dim=in_dim, hidden_dim=hidden, n_blocks=blocks, latent_shape=(4, side, side))


def _retrieval(shapes, token_dim):
    in_dim, hidden, blocks = _stem(shapes)
    return "RetrievalDecoder", dict(in_dim=in_dim, hidden_dim=hidden, n_blocks=blocks)


def _cmg(shapes, token_dim):
    if "frame_embedder.proj.weight" in shapes:
        hidden, channels, patch, _ = shapes["frame_embedder.proj.weight"]
        side = patch * math.isqrt(shapes["pos_embed"][1])
        return "PatchCMG", dict(
            input_size=side, patch_size=patch, in_channels=channels, in_dim=shapes["fMRI_to_spatial.1.weight"][1], hidden_dim=hidden,
            depth=_count(shapes, "blocks"), mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] / hidden, n_frames=shapes["time_embed"][1],
        )  # fmt: skip
    in_dim, encoder_dim, encoder_blocks = _stem(shapes, "encoder.")
    attn_dim, d_model = shapes["decoder.layers.0.self_attn.linears.0.weight"]
    return "ConsistencyMotionGenerator", dict(
        in_dim=in_dim, d_model=d_model, n_layers=_count(shapes, "decoder.layers"), attn_dim=attn_dim,
        d_ff=shapes["decoder.layers.0.feed_forward.w_1.weight"][0], encoder_dim=encoder_dim, encoder_blocks=encoder_blocks,
        max_len=shapes["tgt_embed.1.pe"][1],
    )  # fmt: skip


_SIZES = {"semantic": _semantic, "structure": _structure, "CMG": _cmg, "retrieval": _retrieval}
