"""Caption every clip, or take ready-made captions.

BLIP-2 describes the first and the last frame; CLIP compares both captions with the middle frame. Where they fit it
equally well, one of the two is taken at random, else they are joined by ", and then ". The phantom knows what its
clips show: its captions come from phantom_truth.json.

Reads    stimuli_frames/{Train,Test}/{clip}/, or caption files (.h5, .txt, .csv) in clip order
Writes   captions/{Train,Test}_captions_new.h5:{Train,Test}_captions     variable-length UTF-8, in clip order
         captions/{Train,Test}_captions.jsonl                            both captions and cosines of every clip

    python Data_preprocess/CC2017/step3_video_captioning.py --dataset phantom
    python Data_preprocess/CC2017/step3_video_captioning.py --precision fp16 --batch_size 16
    python Data_preprocess/CC2017/step3_video_captioning.py --captions_train train.txt --captions_test test.csv

Seconds with ready captions. BLIP-2 wants a GPU: the weights of blip2-flan-t5-xxl alone take 25 GB in fp16.
"""

import json
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from common import cli
from Data_preprocess.captioning import PROMPT, choose_caption, load_captioner
from common.captions import read_captions, write_captions
from common.datasets import get_dataset
from models.encoders import encode_clip_images, encode_clip_text
from common.files import UserError, missing, naming, read_json, write_text
from common.layout import Layout, part
from common.model_sources import add_model_flags, load_clip, model_path
from phantom.features import TRUTH
from common.records import Record
from common.frames import read_clip

CAPTION_MODEL = "Salesforce/blip2-flan-t5-xxl"  # paper, data preprocessing
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


# ---------------------------------------------------------------------------------------------- ready-made captions


def ready_captions(args, dataset, split):
    """(captions, file) from a caption file or the phantom's truth; (None, None) when a model has to make them."""
    file, n = getattr(args, f"captions_{split}"), dataset.n_clips(split)
    if file:
        return read_captions(file, n), file
    if dataset.is_phantom and not args.caption_model:
        file = args.data_root / TRUTH
        if not file.is_file():
            raise missing(file, "the phantom's truth", "run Data_preprocess/Phantom/step1_make_stimuli.py")
        captions = [clip["caption"] for clip in read_json(file)[split]]
        if len(captions) != n:
            raise UserError(file, f"{n} captions for {split}", str(len(captions)), "make the phantom again")
        return captions, file
    return None, None


# ---------------------------------------------------------------------------------------------- captions by a model


def clip_cosines(clip_model, middles, captions):
    """CLIP cosines of captions with frames, (B,) list of float.

    Parameters
    ----------
    clip_model : (model, preprocess, tokenizer)
    middles : list of (H, W, 3) uint8
    captions : list of str
    """
    model, preprocess, tokenizer = clip_model
    pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in middles])
    images, texts = encode_clip_images(model, pixels), encode_clip_text(model, tokenizer, captions)
    return torch.cosine_similarity(images, texts).tolist()


def describe_clips(captioner, clip_model, frames, names, key):
    """Caption a batch of clips.

    Parameters
    ----------
    captioner : Data_preprocess.captioning.Captioner
    clip_model : (model, preprocess, tokenizer)
    frames : list of (3, H, W, 3) uint8: first, middle and last frame of each clip
    names : list of str, clips
    key : tuple that fixes random choices, together with the clip's name

    Returns
    -------
    list of dict: clip, first, last, cosines, caption
    """
    first, last = captioner([clip[0] for clip in frames]), captioner([clip[2] for clip in frames])
    entries = []
    for name, a, b in zip(names, first, last, strict=True):
        if not (a or b):
            raise UserError("--caption_model", f"a description of {name}", "an empty text", "use another model")
        entries.append({"clip": name, "first": a or b, "last": b or a})
    middles = [clip[1] for clip in frames]
    cosines = [clip_cosines(clip_model, middles, [entry[which] for entry in entries]) for which in ("first", "last")]
    for entry, *pair in zip(entries, *cosines, strict=True):
        entry["cosines"] = pair
        entry["caption"] = choose_caption((entry["first"], entry["last"]), pair, *key, entry["clip"])
    return entries


def read_entries(path, names):
    """Entries of an unfinished run, as far as they go; a line that was cut off ends them."""
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


def make_captions(args, dataset, layout, split, models):
    """Captions of all clips by the model; goes on where an earlier run stopped."""
    path = layout.captions(split).with_name(f"{part(split)}_captions.jsonl")
    names = dataset.clip_names(split)
    entries = [] if args.overwrite else read_entries(path, names)
    indices = (dataset.frame_indices[0], dataset.middle_frame, dataset.frame_indices[-1])
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))
    with naming(path), open(path, "a", encoding="utf-8") as handle:
        for start in tqdm(range(len(entries), len(names), args.batch_size), desc=f"{split} captions", unit="batch"):
            batch = names[start : start + args.batch_size]
            frames = [read_clip(layout.frames(split, name), indices, dataset.frame_size) for name in batch]
            made = describe_clips(*models(), frames, batch, (args.seed, split))
            handle.writelines(json.dumps(entry) + "\n" for entry in made)
            handle.flush()
            entries += made
    return [entry["caption"] for entry in entries]


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    group = parser.add_argument_group("ready-made captions")
    group.add_argument("--captions_train", type=Path, metavar="FILE", help=".h5, .txt or .csv, one caption per training clip")
    group.add_argument("--captions_test", type=Path, metavar="FILE", help="the same for the test clips")
    group = parser.add_argument_group("caption model")
    group.add_argument("--caption_model", help=f"image-to-text model of transformers, hub id or folder (default: {CAPTION_MODEL})")
    group.add_argument("--caption_revision", help="branch, tag or commit on the hub")
    group.add_argument("--prompt", default=PROMPT, help="what the model is asked")
    group.add_argument("--precision", choices=list(DTYPES), help="of its weights (default: fp16 on a GPU, fp32 on a CPU)")
    group.add_argument("--batch_size", type=cli.one_or_more, default=8, help="clips at a time")
    add_model_flags(parser, "clip")
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    loaded = []

    def models():
        if not loaded:
            device = cli.choose_device(args.device)
            dtype = DTYPES[args.precision or ("fp16" if device.type == "cuda" else "fp32")]
            captioner = load_captioner(args.caption_model or CAPTION_MODEL, args.caption_revision, dtype, device)
            model, preprocess, tokenizer = load_clip(model_path(args, "clip"))
            loaded.extend((lambda frames: captioner(frames, args.prompt), (model.to(device), preprocess, tokenizer)))
        return loaded

    for split in args.split:
        captions, file = ready_captions(args, dataset, split)
        folder = layout.captions(split).parent / "records" / part(split)
        record = Record(folder, args, [file] if file else [], neutral={"split", "batch_size"})
        if layout.captions(split).exists() and record.is_done():
            continue
        record.start()
        if captions is None:
            captions = make_captions(args, dataset, layout, split, models)
        write_captions(layout.captions(split), split, captions)
        source = file or args.caption_model or CAPTION_MODEL
        expected = dataset.n_clips(split)
        print(f"{args.dataset} {split}: {len(captions)} captions from {source}, {expected} expected; the first: '{captions[0]}'")
        record.finish(captions=len(captions), expected=expected, source=str(source))


if __name__ == "__main__":
    cli.run(main, get_parser)
