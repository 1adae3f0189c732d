"""Writing the captions of a split: ready-made ones, or by a model, going on where earlier work stopped."""

import argparse
import json
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

import torch
from tqdm import tqdm

from common import cli
from common.captions import write_captions
from common.files import UserError, naming, read_log, write_text
from common.frames import read_clip
from common.layout import part
from common.model_sources import model_path
from common.records import working
from Data_preprocess.captioning import PROMPT, load_captioner
from Data_preprocess.ready_captions import read_ready_captions
from models.loading import model_files

CAPTION_MODEL = "Salesforce/blip2-flan-t5-xxl"  # paper, data preprocessing
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OF_MODELS = ("caption_model", "caption_revision", "prompt", "precision", "clip_path", "seed")  # flags that captions of a model depend on


def add_caption_flags(parser, one_file=False):
    """Add the flags of the caption model, and --captions for a data set whose captions are one file."""
    if one_file:
        group = parser.add_argument_group("ready-made captions")
        group.add_argument(
            "--captions", type=Path, metavar="FILE", help=".h5, .txt or .csv file with one caption per clip of the whole data set"
        )
    group = parser.add_argument_group("caption model")
    group.add_argument("--caption_model", help=f"image-to-text model of transformers, hub id or folder (default: {CAPTION_MODEL})")
    group.add_argument("--caption_revision", help="branch, tag or commit on the hub")
    group.add_argument("--prompt", default=PROMPT, help="question to the model")
    group.add_argument("--precision", choices=list(DTYPES), help="type of its weights (default: fp16 on a GPU, fp32 on a CPU)")
    group.add_argument("--batch_size", type=cli.one_or_more, default=8, changes_result=False, help="clips at a time")


def caption_model(args):
    return model_path(args, "caption_model") or CAPTION_MODEL


def open_captioner(args):
    """The captioning model of the flags, Captioner; loaded once."""
    device = cli.choose_device(args.device)
    return _open_captioner(
        caption_model(args), args.caption_revision, args.precision or ("fp16" if device.type == "cuda" else "fp32"), device
    )


@cache
def _open_captioner(source, revision, precision, device):
    return load_captioner(source, revision, DTYPES[precision], device)


# ---------------------------------------------------------------------------------------------- captions by a model


def make_captions(path, folders, indices, size, batch_size, describe):
    """Captions of all clips by a model, list of str; goes on where earlier work stopped.

    Parameters
    ----------
    path : Path
        .jsonl, one line a clip
    folders : list of Path
        frames of each clip, in folders of the clips' names
    indices, size
        frames that are described, and their pixels
    describe : function of frames and clip names
        returns entries: dicts of clip, caption and what else there is to say
    """
    known = zip(read_log(path, {"clip": str, "caption": str}), folders, strict=False)
    entries = [entry for entry, _ in takewhile(lambda pair: pair[0]["clip"] == pair[1].name, known)]  # a line that was cut off ends them
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    with naming(path), open(path, "a", encoding="utf-8") as handle:
        for start in tqdm(range(len(entries), len(folders), batch_size), desc=path.stem.replace("_", " "), unit="batch"):
            batch = folders[start : start + batch_size]
            made = describe([read_clip(folder, indices, size) for folder in batch], [folder.name for folder in batch])
            handle.writelines(json.dumps(entry) + "\n" for entry in made)
            handle.flush()
            entries += made
    return [entry["caption"] for entry in entries]


def describe_middles(args, frames, names):
    """Caption a batch of clips by one frame each, (1, H, W, 3) uint8; entries as `make_captions` takes them."""
    captions = open_captioner(args)([clip[0] for clip in frames], args.prompt)
    if "" in captions:
        raise no_words(names[captions.index("")])
    return [{"clip": name, "caption": caption} for name, caption in zip(names, captions, strict=True)]


def no_words(name):
    """UserError for a clip that the model says nothing about."""
    return UserError(f"the caption model says nothing about {name}; use another --caption_model or --prompt")


# ---------------------------------------------------------------------------------------------- captions of a split


def caption_split(args, dataset, layout, split, given, indices, describe, facts=None):
    """Write the captions of a split, or find them done.

    Parameters
    ----------
    given : tuple
        file of ready captions, and the captions, list of str; (None, None) to have them made
    indices, describe
        as for `make_captions`
    facts : dict, optional
        further settings that captions depend on
    """
    path, n, (file, captions) = layout.captions(split), dataset.n_clips(split), given
    lines = path.with_name(f"{part(split)}_captions.jsonl")
    sources = [caption_model(args)] + ([model_path(args, "clip")] if hasattr(args, "clip_path") else [])
    inputs = [file] if file else [path for source in sources for path in model_files(source)]
    if file:  # flags of models that are not asked stand at their defaults in the record
        flags = getattr(args, "_flags", {})
        args = argparse.Namespace(**vars(args) | {name: flags[name][0] for name in OF_MODELS if name in flags})
    folder = path.parent / "records" / part(split)
    with working(folder, args, inputs=inputs, outputs=[path], facts=facts, clear=[path, lines]) as record:
        if record is None:
            return
        if captions is None:
            folders = [layout.frames(split, name) for name in dataset.clip_names(split)]
            captions = make_captions(lines, folders, indices, dataset.frame_size, args.batch_size, describe)
        write_captions(path, split, captions)
        source = str(file or caption_model(args))
        print(f"{dataset.name} {split}: {len(captions)} captions from {source}, {n} expected; the first: '{captions[0]}'")
        record.finish(captions=len(captions), expected=n, source=source)


def caption_by_middle_frame(args, dataset, layout, facts=None):
    """Write the captions of a data set with one caption file, or a caption model's of the clips' middle frames."""
    names = {n: name for split in ("train", "test") for n, name in zip(dataset.clip_numbers(split), dataset.clip_names(split), strict=True)}
    every = read_ready_captions(args.captions, [names[number] for number in sorted(names)]) if args.captions else None
    for split in args.split:
        given = (None, None) if args.caption_model else dataset.known_captions(args.data_root, split)
        if every:
            given = args.captions, [every[number - 1] for number in dataset.clip_numbers(split)]
        caption_split(args, dataset, layout, split, given, (dataset.middle_frame,), partial(describe_middles, args), facts)
