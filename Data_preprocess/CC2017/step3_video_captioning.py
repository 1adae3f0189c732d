"""Caption every clip, or take ready-made captions.

BLIP-2 describes the first and the last frame; CLIP compares both captions with the middle frame. Where they fit it
equally well, one of the two is taken at random, else they are joined by ", and then ". A data set that knows what its
clips show, as the phantom does, brings its captions.

Reads    stimuli_frames/{Train,Test}/{clip}/, or caption files (.h5, .txt, .csv) in clip order
Writes   captions/{Train,Test}_captions_new.h5:{Train,Test}_captions     variable-length UTF-8, in clip order
         captions/{Train,Test}_captions.jsonl                            both captions and cosines of every clip
         captions/SHA256SUMS

    python Data_preprocess/CC2017/step3_video_captioning.py --dataset phantom
    python Data_preprocess/CC2017/step3_video_captioning.py --precision fp16 --batch_size 16
    python Data_preprocess/CC2017/step3_video_captioning.py --captions_train train.txt --captions_test test.csv

Seconds with ready captions. BLIP-2 wants a GPU: the weights of blip2-flan-t5-xxl alone take 25 GB in fp16.
"""

from functools import cache, partial
from pathlib import Path

import torch
from PIL import Image

from common import cli
from common.datasets import get_dataset
from common.layout import Layout
from common.model_sources import add_model_flags, model_path
from Data_preprocess.caption_steps import add_caption_flags, caption_split, no_words, open_captioner
from Data_preprocess.captioning import choose_caption
from Data_preprocess.ready_captions import captions_of_table, read_ready_captions
from models.encoders import encode_clip_images, encode_clip_text
from models.loading import load_clip


@cache
def open_clip_model(source, device):
    """CLIP, (model, preprocess, tokenizer); loaded once."""
    model, preprocess, tokenizer = load_clip(source)
    return model.to(device), preprocess, tokenizer


def clip_cosines(clip_model, middles, captions):
    """CLIP cosines of captions with frames, (B,) list of float; `clip_model` is (model, preprocess, tokenizer)."""
    model, preprocess, tokenizer = clip_model
    pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in middles])
    images, texts = encode_clip_images(model, pixels), encode_clip_text(model, tokenizer, captions)
    return torch.cosine_similarity(images, texts).tolist()


def describe_clips(captioner, clip_model, frames, names, prompt, key):
    """Caption a batch of clips, list of dict: clip, first, last, cosines, caption.

    Parameters
    ----------
    clip_model : tuple
        model, preprocess, tokenizer
    frames : list of arrays, shape (3, H, W, 3), uint8
        first, middle and last frame of each clip
    key : tuple
        fixes random choices, together with the clip's name
    """
    first, last = captioner([clip[0] for clip in frames], prompt), captioner([clip[2] for clip in frames], prompt)
    entries = []
    for name, a, b in zip(names, first, last, strict=True):
        if not (a or b):
            raise no_words(name)
        entries.append({"clip": name, "first": a or b, "last": b or a})
    middles = [clip[1] for clip in frames]
    cosines = [clip_cosines(clip_model, middles, [entry[which] for entry in entries]) for which in ("first", "last")]
    for entry, *pair in zip(entries, *cosines, strict=True):
        entry["cosines"] = pair
        entry["caption"] = choose_caption((entry["first"], entry["last"]), pair, *key, entry["clip"])
    return entries


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    group = parser.add_argument_group("ready-made captions")
    group.add_argument("--captions_train", type=Path, metavar="FILE", help=".h5, .txt or .csv file with one caption per training clip")
    group.add_argument("--captions_test", type=Path, metavar="FILE", help="the same for the test clips")
    add_caption_flags(parser)
    add_model_flags(parser, "clip")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    indices = (dataset.frame_indices[0], dataset.middle_frame, dataset.frame_indices[-1])

    def describe(split, frames, names):
        if not args.caption_model:
            print(f"{dataset.label}no {split} captions at hand: a captioner writes them; --captions_{split}, or a column of an event table, gives ready ones")
        clip_model = open_clip_model(model_path(args, "clip"), cli.choose_device(args.device))
        return describe_clips(open_captioner(args), clip_model, frames, names, args.prompt, (args.seed, split))

    for split in args.split:
        file, names, given = getattr(args, f"captions_{split}"), dataset.clip_names(split), (None, None)
        if file:
            given = file, read_ready_captions(file, names)
        elif not args.caption_model:
            given = dataset.known_captions(args.data_root, split)
            given = given if given[0] else captions_of_table(layout.clip(split, "clips").with_suffix(".csv"), names)
        caption_split(args, dataset, layout, split, given, indices, partial(describe, split))


if __name__ == "__main__":
    cli.run(main, get_parser)
