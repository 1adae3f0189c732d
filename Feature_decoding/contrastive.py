"""Training data of the decoders that learn CLIP features: sparsified fMRI, augmented captions, cropped frames."""

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from common import cli
from common.augment import draw_caption
from common.captions import read_captions
from common.files import load_array
from common.fmri import sparsify
from common.frames import read_frame
from common.randomness import numpy_generator
from Feature_decoding.training import Task
from models.encoders import encode_clip_images, encode_clip_text, encode_sd_text
from models.loading import load_clip, load_sd_text

SELECT_RATE, ZERO_RATE = 0.2, 0.5  # of fMRI sparsification
CROP = 400 / 512  # side of the crop of a frame
BANK_BYTES = 512e6  # text features that are held at a time
ENCODED = 256  # captions that are encoded at a time
_AGAIN = "run the feature extraction again"


# ---------------------------------------------------------------------------------------------- captions


def draw_captions(captions, seed, epoch):
    """One of the 13 EDA candidates of every caption, list of str."""
    return [draw_caption(caption, numpy_generator(seed, "caption", epoch, clip)) for clip, caption in enumerate(captions)]


class CaptionBank:
    """Text features of the augmented captions of every epoch.

    Captions are drawn and encoded for a block of epochs at once, each distinct one once. Blocks start at the same
    epochs in every training, because what an encoder makes of a caption depends, in the last bit, on its batch.

    Parameters
    ----------
    captions : list of str
        of the training clips
    n_epochs : int
        epochs of the whole training
    encode : function
        of a list of captions; gives a dict of tensors, one row a caption
    row_bytes : int
        size of the features of one caption
    """

    def __init__(self, captions, n_epochs, seed, encode, row_bytes):
        self.captions, self.n_epochs, self.seed, self.encode = captions, n_epochs, seed, encode
        self.epochs_at_once = max(1, int(BANK_BYTES / (row_bytes * len(captions))))
        self.block = None

    def take(self, clips, epoch):
        """Features of the captions that clips have in an epoch, dict of tensors."""
        rows = self.rows[epoch][clips]
        return {name: table[rows] for name, table in self.tables.items()}

    def open(self, epoch):
        """Make an epoch's captions ready to be taken."""
        block, rest = divmod(epoch - 1, self.epochs_at_once)
        if block == self.block:
            return
        first = epoch - rest
        drawn = {e: draw_captions(self.captions, self.seed, e) for e in range(first, min(first + self.epochs_at_once, self.n_epochs + 1))}
        distinct = sorted({caption for captions in drawn.values() for caption in captions})
        starts = tqdm(range(0, len(distinct), ENCODED), desc="augmented captions", unit="batch", leave=False)
        parts = [self.encode(distinct[start : start + ENCODED]) for start in starts]
        self.tables = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        place = {caption: i for i, caption in enumerate(distinct)}
        self.rows = {e: np.array([place[caption] for caption in captions]) for e, captions in drawn.items()}
        self.block = block


# ---------------------------------------------------------------------------------------------- frames


def crop_frame(frame, rng):
    """A random square of 400/512 of a square frame's side."""
    size = len(frame)
    side = int(size * CROP)
    top, left = rng.integers(size - side + 1, size=2)
    return frame[top : top + side, left : left + side]


# ---------------------------------------------------------------------------------------------- the task


class ContrastiveTask(Task):
    """fMRI to CLIP features; subclasses say what the model gives and what the loss is.

    Targets are the features that extraction stored, in validation, and those of augmented captions and frames, in
    training: `text` and `image` (B, 512) and, if wanted, `tokens` (B, 19, 768).

    Parameters
    ----------
    fmri : tensor, shape (N, V), float32
        of the training split
    n_train : int
        clips that are trained on, the first of the split
    alpha : float
        weight of text against image in the contrastive loss
    crop_frames : bool
        draw a new crop of every frame in every epoch, rather than take the stored image features
    clip_path, sd_path : str
        source of CLIP; and of Stable Diffusion, if its text tokens are targets too
    """

    def __init__(self, layout, dataset, fmri, *, n_train, n_epochs, seed, alpha, crop_frames, clip_path, sd_path=None):
        self.dataset, self.fmri, self.n_train, self.n_epochs, self.seed = dataset, fmri, n_train, n_epochs, seed
        self.alpha, self.crop_frames, self.clip_path, self.sd_path = alpha, crop_frames, clip_path, sd_path
        n = len(fmri)
        stored = {"text": layout.text_embeddings_clip("train"), "image": layout.image_embeddings_clip("train")}
        self.stored = {name: torch.from_numpy(load_array(path, shape=(n, None), do=_AGAIN)) for name, path in stored.items()}  # (N, 512)
        if sd_path:  # the start token's embedding is the same for every prompt: nothing to decode
            tokens = load_array(layout.text_embeddings_sd("train"), shape=(n, None, None), do=_AGAIN)  # (N, 20, 768)
            self.stored["tokens"] = torch.from_numpy(tokens)[:, 1:]
        self.captions = read_captions(layout.captions("train"), n)
        self.folders = [layout.frames("train", name) for name in dataset.clip_names("train")]

    def prepare(self, device):
        self.clip, self.preprocess, self.clip_tokenizer = load_clip(self.clip_path)
        self.clip = self.clip.to(device)
        if self.sd_path:
            self.tokenizer, self.text_encoder = load_sd_text(self.sd_path)
            self.text_encoder.to(device)
        row_bytes = sum(self.stored[name][0].nbytes for name in self.stored if name != "image")
        self.bank = CaptionBank(self.captions[: self.n_train], self.n_epochs, self.seed, self.encode_captions, row_bytes)

    def encode_captions(self, captions):
        """Text features of captions, dict of CPU tensors: text (B, 512), tokens (B, 19, 768)."""
        features = {"text": encode_clip_text(self.clip, self.clip_tokenizer, captions).cpu()}
        if self.sd_path:
            n_tokens = self.stored["tokens"].shape[1] + 1
            features["tokens"] = encode_sd_text(self.text_encoder, self.tokenizer, captions, n_tokens)[:, 1:].cpu()
        return features

    def draw_sparse(self, epoch):
        """Draw the entries of the fMRI that are zero in an epoch."""
        rng = numpy_generator(self.seed, "sparsify", epoch)
        self.sparse = torch.from_numpy(sparsify(self.fmri[: self.n_train].numpy(), SELECT_RATE, ZERO_RATE, rng))

    def start_epoch(self, epoch):
        self.draw_sparse(epoch)
        self.bank.open(epoch)

    def load(self, clips, epoch):
        if epoch is None:
            return {"fmri": self.fmri[clips], **{name: table[clips] for name, table in self.stored.items()}}
        return {"fmri": self.sparse[clips], **self.bank.take(clips, epoch), **self.load_images(clips, epoch)}

    def load_images(self, clips, epoch):
        """Image features of clips, or the pixels that they are made of in an epoch."""
        return {"pixels": self.cropped_pixels(clips, epoch)} if self.crop_frames else {"image": self.stored["image"][clips]}

    def cropped_pixels(self, clips, epoch):
        """Preprocessed random crops of the middle frames, (B, 3, H, W)."""
        pixels = []
        for clip in clips:
            frame = read_frame(self.folders[clip], self.dataset.middle_frame, self.dataset.frame_size)
            crop = crop_frame(frame, numpy_generator(self.seed, "crop", epoch, clip))
            pixels.append(self.preprocess(Image.fromarray(crop)))
        return torch.stack(pixels)

    def targets(self, batch):
        """What the model should give: text, image and, if wanted, tokens."""
        if "pixels" in batch:
            batch["image"] = encode_clip_images(self.clip, batch.pop("pixels"))
        return {name: batch[name] for name in self.stored if name in batch}


def add_contrastive_flags(group):
    """Add --alpha and --image_aug."""
    group.add_argument("--alpha", type=cli.real(0, 1), default=0.5, help="weight of text against image in the contrastive loss")
    group.add_argument("--image_aug", choices=["on", "off"], default="on", help="image targets from new random crops in every epoch")
