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

import json
from functools import cache, partial
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from common import cli
from common.captions import read_captions, write_captions
from common.datasets import get_dataset
from common.files import UserError, naming, write_text
from common.frames import read_clip
from common.layout import Layout, part
from common.model_sources import add_model_flags, load_clip, model_path
from common.records import working
from Data_preprocess.captioning import PROMPT, choose_caption, load_captioner
from models.encoders import encode_clip_images, encode_clip_text

CAPTION_MODEL = "Salesforce/blip2-flan-t5-xxl"  # paper, data preprocessing
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


# ---------------------------------------------------------------------------------------------- captions by a model


@cache
def load_models(caption_model, revision, precision, clip_path, device):
    """The captioning model and CLIP, (Captioner, (model, preprocess, tokenizer)); `precision` None chooses by device."""
    dtype = DTYPES[precision or ("fp16" if device.type == "cuda" else "fp32")]
    captioner = load_captioner(caption_model, revision, dtype, device)
    model, preprocess, tokenizer = load_clip(clip_path)
    return captioner, (model.to(device), preprocess, tokenizer)


def clip_cosines(clip_model, middles, captions):
    """CLIP cosines of captions with frames, (B,) list of float.

    Parameters
    ----------
    clip_model : tuple
        model, preprocess, tokenizer
    middles : list of arrays, shape (H, W, 3), uint8
    captions : list of str
    """
    model, preprocess, tokenizer = clip_model
    pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in middles])
    images, texts = encode_clip_images(model, pixels), encode_clip_text(model, tokenizer, captions)
    return torch.cosine_similarity(images, texts).tolist()


def describe_clips(captioner, clip_model, frames, names, prompt, key):
    """Caption a batch of clips.

    Parameters
    ----------
    captioner : Data_preprocess.captioning.Captioner
    clip_model : tuple
        model, preprocess, tokenizer
    frames : list of arrays, shape (3, H, W, 3), uint8
        first, middle and last frame of each clip
    names : list of str
        clips
    prompt : str
    key : tuple
        fixes random choices, together with the clip's name

    Returns
    -------
    list of dict
        clip, first, last, cosines, caption
    """
    first, last = captioner([clip[0] for clip in frames], prompt), captioner([clip[2] for clip in frames], prompt)
    entries = []
    for name, a, b in zip(names, first, last, strict=True):
        if not (a or b):
            raise UserError(f"the caption model says nothing about {name}; use another --caption_model or --prompt")
        entries.append({"clip": name, "first": a or b, "last": b or a})
    middles = [clip[1] for clip in frames]
    cosines = [clip_cosines(clip_model, middles, [entry[which] for entry in entries]) for which in ("first", "last")]
    for entry, *pair in zip(entries, *cosines, strict=True):
        entry["cosines"] = pair
        entry["caption"] = choose_caption((entry["first"], entry["last"]), pair, *key, entry["clip"])
    return entries


def read_entries(path, names):
    """Entries of work that was stopped, as far as they go; a line that was cut off ends them."""
    entries = []
    if path.exists():
        for line, name in zip(path.read_text(encoding="utf-8").splitlines(), names, strict=False):
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if entry.get("clip") != name:
                break
            entries.append(entry)
    return entries


def make_captions(path, folders, indices, size, batch_size, describe):
    """Captions of all clips by a model; goes on where earlier work stopped.

    Parameters
    ----------
    path : Path
        .jsonl, one line a clip
    folders : list of Path
        frames of each clip, in folders of the clips' names
    indices : tuple
        first, middle and last frame
    size : int
        pixels of a frame
    batch_size : int
        clips at a time
    describe : function of frames and clip names
        returns entries

    Returns
    -------
    list of str
    """
    entries = read_entries(path, [folder.name for folder in folders])
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    with naming(path), open(path, "a", encoding="utf-8") as handle:
        for start in tqdm(range(len(entries), len(folders), batch_size), desc=path.stem.replace("_", " "), unit="batch"):
            batch = folders[start : start + batch_size]
            made = describe([read_clip(folder, indices, size) for folder in batch], [folder.name for folder in batch])
            handle.writelines(json.dumps(entry) + "\n" for entry in made)
            handle.flush()
            entries += made
    return [entry["caption"] for entry in entries]


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    group = parser.add_argument_group("ready-made captions")
    group.add_argument("--captions_train", type=Path, metavar="FILE", help=".h5, .txt or .csv file with one caption per training clip")
    group.add_argument("--captions_test", type=Path, metavar="FILE", help="the same for the test clips")
    group = parser.add_argument_group("caption model")
    group.add_argument("--caption_model", help=f"image-to-text model of transformers, hub id or folder (default: {CAPTION_MODEL})")
    group.add_argument("--caption_revision", help="branch, tag or commit on the hub")
    group.add_argument("--prompt", default=PROMPT, help="question to the model")
    group.add_argument("--precision", choices=list(DTYPES), help="type of its weights (default: fp16 on a GPU, fp32 on a CPU)")
    group.add_argument("--batch_size", type=cli.one_or_more, default=8, changes_result=False, help="clips at a time")
    add_model_flags(parser, "clip")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    caption_model = model_path(args, "caption_model") or CAPTION_MODEL

    def describe(split, frames, names):
        captioner, clip_model = load_models(
            caption_model, args.caption_revision, args.precision, model_path(args, "clip"), cli.choose_device(args.device)
        )
        return describe_clips(captioner, clip_model, frames, names, args.prompt, (args.seed, split))

    for split in args.split:
        path, n = layout.captions(split), dataset.n_clips(split)
        file, captions = getattr(args, f"captions_{split}"), None
        if file:
            captions = read_captions(file, n)
        elif not args.caption_model:
            file, captions = dataset.known_captions(args.data_root, split)
        lines = path.with_name(f"{part(split)}_captions.jsonl")
        folder, inputs = path.parent / "records" / part(split), [file] if file else []
        with working(folder, args, inputs=inputs, outputs=[path], clear=[path, lines]) as record:
            if record is None:
                continue
            if captions is None:
                indices = (dataset.frame_indices[0], dataset.middle_frame, dataset.frame_indices[-1])
                folders = [layout.frames(split, name) for name in dataset.clip_names(split)]
                captions = make_captions(lines, folders, indices, dataset.frame_size, args.batch_size, partial(describe, split))
            write_captions(path, split, captions)
            source = str(file or caption_model)
            print(f"{dataset.name} {split}: {len(captions)} captions from {source}, {n} expected; the first: '{captions[0]}'")
            record.finish(captions=len(captions), expected=n, source=source)


if __name__ == "__main__":
    cli.run(main, get_parser)
