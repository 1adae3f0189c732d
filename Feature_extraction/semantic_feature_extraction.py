"""Extract Stable Diffusion's text tokens of the captions: the condition that the semantic decoder learns.

Reads    captions/{split}_captions_new.h5
Writes   features/{split}_text_embeddings_SD.npy          (N, 20, 768) float32, last hidden state of the text encoder
         features/records/semantic_feature_extraction_{split}/

    python Feature_extraction/semantic_feature_extraction.py --dataset phantom
    python Feature_extraction/semantic_feature_extraction.py --dataset CC2017 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

Seconds on a GPU, minutes on a CPU for CC2017.
"""

from common import cli
from common.captions import read_captions
from common.datasets import get_dataset
from models.encoders import N_TOKENS, encode_sd_text
from Feature_extraction.extraction import ROWS, fill_arrays, pending_splits
from common.layout import Layout
from common.model_sources import add_model_flags, load_sd_part, model_files, model_path

SCRIPT = "semantic_feature_extraction"


def extract(args, split, source, record):
    """Fill the array of one split."""
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    captions = read_captions(layout.captions(split), dataset.n_clips(split))
    tokenizer = load_sd_part(source, "tokenizer")
    text_encoder = load_sd_part(source, "text_encoder").to(cli.choose_device(args.device))

    def compute(rows):
        return [encode_sd_text(text_encoder, tokenizer, captions[rows.start : rows.stop]).cpu().numpy()]

    card = {"rows": ROWS, "units": "hidden state of Stable Diffusion's text encoder", "made_by": SCRIPT, "model": source}
    arrays = [(layout.text_embeddings_sd(split), (N_TOKENS, text_encoder.config.hidden_size), "float32", card)]
    fill_arrays(arrays, compute, len(captions), args.batch_size, record, f"{split} captions")
    record.finish(clips=len(captions))


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    add_model_flags(parser, "sd")
    parser.add_argument("--batch_size", type=cli.one_or_more, default=64, help="captions at a time")
    return parser


def main(args):
    layout, source = Layout.of(args), model_path(args, "sd")

    def inputs(split):
        return [layout.captions(split), *model_files(source, "text_encoder", "tokenizer")]

    for split, record in pending_splits(args, SCRIPT, inputs, lambda split: [layout.text_embeddings_sd(split)]):
        extract(args, split, source, record)


if __name__ == "__main__":
    cli.run(main, get_parser)
