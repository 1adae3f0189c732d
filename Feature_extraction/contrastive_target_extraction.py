"""Extract CLIP features of the captions and of the clips' middle frames: the targets of contrastive learning.

Reads    captions/{split}_captions_new.h5                 N captions
         stimuli_frames/{split}/{clip}/                   one frame of each of N clips (frame 24 on CC2017)
Writes   features/{split}_text_embeddings_CLIP_512.npy    (N, 512) float32, not normalised
         features/{split}_img_embeddings_CLIP_512.npy     (N, 512) float32, not normalised
         features/records/contrastive_target_extraction_{split}/

    python Feature_extraction/contrastive_target_extraction.py --dataset phantom
    python Feature_extraction/contrastive_target_extraction.py --dataset CC2017 --clip_path ViT-B-32:openai

About a minute for CC2017 on one GPU.
"""

import logging
from functools import partial

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from common import cli
from common.captions import read_captions
from common.datasets import get_dataset
from common.frames import read_frame
from common.layout import Layout
from common.model_sources import add_model_flags, model_path
from Feature_extraction.extraction import extract_splits, frame_sums
from models.encoders import encode_clip_images, encode_clip_text
from models.loading import load_clip, model_files

log = logging.getLogger(__name__)

TEXT_BATCH = 64  # captions at a time


def prepare(layout, dataset, source, split, device):
    """What `extract_splits` asks for of a split."""
    captions = read_captions(layout.captions(split), dataset.n_clips(split))
    folders = [layout.frames(split, clip) for clip in dataset.clip_names(split)]
    model, preprocess, tokenizer = load_clip(source)
    model, n = model.to(device), len(set(captions))
    _, first, which = np.unique(np.asarray(tokenizer(captions)), axis=0, return_index=True, return_inverse=True)
    if len(first) < n:
        log.warning(
            "%s: %d different captions are %d to %s, which does not know their words or cuts them off; nothing decoded can tell them apart",
            layout.captions(split), n, len(first), source,
        )  # fmt: skip
    # each once, in the same batches at any --batch_size: equal ones must be equal to the last bit, or searches would not see them tie
    batches = tqdm(range(0, len(first), TEXT_BATCH), desc=f"{split} captions", unit="batch")
    text = torch.cat([encode_clip_text(model, tokenizer, [captions[i] for i in first[start : start + TEXT_BATCH]]) for start in batches])
    text = text.cpu().numpy()[which.ravel()]  # (N, 512)

    def compute(rows):
        frames = [read_frame(folders[i], dataset.middle_frame, dataset.frame_size) for i in rows]
        pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in frames])  # (B, 3, 224, 224)
        return [text[rows.start : rows.stop], encode_clip_images(model, pixels).cpu().numpy()]

    units = ("CLIP feature of the caption", f"CLIP feature of frame {dataset.middle_frame}")
    return len(captions), [((model.visual.output_dim,), "float32", {"units": unit, "model": source}) for unit in units], compute


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    add_model_flags(parser, "clip")
    parser.add_argument("--batch_size", type=cli.one_or_more, default=64, changes_result=False, help="frames at a time")
    return parser


def main(args):
    dataset, layout, source = get_dataset(args.dataset), Layout.of(args), model_path(args, "clip")

    def inputs(split):
        return [layout.captions(split), *frame_sums(layout, dataset, split), *model_files(source)]

    def outputs(split):
        return [layout.text_embeddings_clip(split), layout.image_embeddings_clip(split)]

    extract_splits(args, "contrastive_target_extraction", inputs, outputs, partial(prepare, layout, dataset, source))


if __name__ == "__main__":
    cli.run(main, get_parser)
