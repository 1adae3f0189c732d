"""Caption every clip by its frame 4, or take ready-made captions.

A data set that knows what its clips show, as the phantom does, brings its captions.

Reads    stimuli_frames/{Train,Test}/clip_{i}/, or one caption file (.h5, .txt, .csv) of all clips by video number
Writes   captions/{Train,Test}_captions_new.h5:{Train,Test}_captions     variable-length UTF-8, in clip order
         captions/{Train,Test}_captions.jsonl                            the caption of every clip, where a model makes them
         captions/SHA256SUMS

    python Data_preprocess/Algonauts2021/step3_video_captioning.py --precision fp16 --batch_size 16
    python Data_preprocess/Algonauts2021/step3_video_captioning.py --captions captions.txt

Seconds with ready captions. BLIP-2 wants a GPU: the weights of blip2-flan-t5-xxl alone take 25 GB in fp16.
"""

from common import cli
from common.datasets import Algonauts
from common.layout import Layout
from Data_preprocess.caption_steps import add_caption_flags, caption_by_middle_frame
from Data_preprocess.splits import make_step_parser, split_dataset, split_facts


def get_parser():
    parser = make_step_parser(__doc__, "Algonauts2021", split=True, device=True)
    add_caption_flags(parser, one_file=True)
    return parser


def main(args):
    dataset = split_dataset(args, Algonauts)
    caption_by_middle_frame(args, dataset, Layout.of(args), split_facts(dataset))


if __name__ == "__main__":
    cli.run(main, get_parser)
