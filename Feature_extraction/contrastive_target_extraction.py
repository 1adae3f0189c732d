"""Extract CLIP features of the captions and of the clips' middle frames: the targets of contrastive learning.

Reads    captions/{split}_captions_new.h5, stimuli_frames/{split}/{clip}/
Writes   features/{split}_text_embeddings_CLIP_512.npy    (N, 512) float32, not normalised
         features/{split}_img_embeddings_CLIP_512.npy     (N, 512) float32, not normalised
         features/records/contrastive_target_extraction_{split}/

    python Feature_extraction/contrastive_target_extraction.py --dataset phantom
    python Feature_extraction/contrastive_target_extraction.py --dataset CC2017 --clip_path ViT-B-32:openai

About a minute for CC2017 on one GPU.
"""

import torch
from PIL import Image

from common import cli
from common.captions import read_captions
from common.datasets import get_dataset
from models.encoders import encode_clip_images, encode_clip_text
from Feature_extraction.extraction import ROWS, fill_arrays, pending_splits
from common.layout import Layout
from common.model_sources import add_model_flags, load_clip, model_files, model_path
from common.frames import read_frame

SCRIPT = "contrastive_target_extraction"


def outputs(layout, split):
    return [layout.text_embeddings_clip(split), layout.image_embeddings_clip(split)]


def extract(args, split, source, record):
    """Fill the two arrays of one split."""
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    captions = read_captions(layout.captions(split), dataset.n_clips(split))
    folders = [layout.frames(split, clip) for clip in dataset.clip_names(split)]
    model, preprocess, tokenizer = load_clip(source)
    model = model.to(cli.choose_device(args.device))

    def compute(rows):
        frames = [read_frame(folders[i], dataset.middle_frame, dataset.frame_size) for i in rows]
        pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in frames])
        text = encode_clip_text(model, tokenizer, captions[rows.start : rows.stop])
        return [text.cpu().numpy(), encode_clip_images(model, pixels).cpu().numpy()]

    card = {"rows": ROWS, "made_by": SCRIPT, "model": source}
    units = ("CLIP feature of the caption", f"CLIP feature of film frame {dataset.middle_frame}")
    arrays = [
        (path, (model.visual.output_dim,), "float32", {**card, "units": unit})
        for path, unit in zip(outputs(layout, split), units, strict=True)
    ]
    fill_arrays(arrays, compute, len(captions), args.batch_size, record, f"{split} captions and frames")
    record.finish(clips=len(captions))


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    add_model_flags(parser, "clip")
    parser.add_argument("--batch_size", type=cli.one_or_more, default=64, help="captions or frames at a time")
    return parser


def main(args):
    layout, source = Layout.of(args), model_path(args, "clip")

    def inputs(split):
        return [layout.captions(split), *model_files(source)]

    for split, record in pending_splits(args, SCRIPT, inputs, lambda split: outputs(layout, split)):
        extract(args, split, source, record)


if __name__ == "__main__":
    cli.run(main, get_parser)
