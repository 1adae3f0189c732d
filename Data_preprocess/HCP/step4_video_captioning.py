"""Caption every clip by its middle frame, or take ready-made captions, one file for the whole data set.

BLIP-2 describes frame 12. A data set that knows what its clips show, as the phantom does, brings its captions.

Reads    stimuli_frames/{Train,Test}/{clip}/, or one caption file (.h5, .txt, .csv) for all clips, in order
Writes   captions/{Train,Test}_captions_new.h5:{Train,Test}_captions     variable-length UTF-8, in clip order
         captions/Video_Captions.h5:Captions                             of all clips
         captions/{Train,Test}_captions.jsonl                            of every clip, where a model made them
         captions/SHA256SUMS

    python Data_preprocess/HCP/step4_video_captioning.py --dataset HCP --captions captions.txt
    python Data_preprocess/HCP/step4_video_captioning.py --dataset HCP --precision fp16 --batch_size 16
    python Data_preprocess/HCP/step4_video_captioning.py --dataset phantom-hcp

Seconds with ready captions. BLIP-2 wants a GPU: the weights of blip2-flan-t5-xxl alone take 25 GB in fp16.
"""

from common import cli
from common.captions import read_captions, write_captions
from common.datasets import HCPMovie
from common.layout import Layout
from Data_preprocess.caption_steps import add_caption_flags, caption_by_middle_frame
from Data_preprocess.splits import make_step_parser, split_dataset, split_facts


def join_captions(dataset, layout, overwrite):
    """Write the captions of all clips into one file, as soon as both splits have theirs."""
    path = layout.captions("train").with_name("Video_Captions.h5")
    if (path.exists() and not overwrite) or not all(layout.captions(split).is_file() for split in ("train", "test")):
        return
    captions = {}
    for split in ("train", "test"):
        captions |= dict(zip(dataset.clip_numbers(split), read_captions(layout.captions(split), dataset.n_clips(split)), strict=True))
    write_captions(path, "", [captions[number] for number in sorted(captions)], key="Captions")


def get_parser():
    parser = make_step_parser(__doc__, "HCP", split=True, device=True)
    add_caption_flags(parser, one_file=True)
    return parser


def main(args):
    dataset, layout = split_dataset(args, HCPMovie), Layout.of(args)
    caption_by_middle_frame(args, dataset, layout, split_facts(dataset))
    join_captions(dataset, layout, args.overwrite)


if __name__ == "__main__":
    cli.run(main, get_parser)
