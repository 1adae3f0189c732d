"""Extract Stable Diffusion's text tokens of the captions: the condition that the semantic decoder learns.

Reads    captions/{split}_captions_new.h5                 N captions
Writes   features/{split}_text_embeddings_SD.npy          (N, 20, 768) float32, last hidden state of the text encoder
         features/records/semantic_feature_extraction_{split}/

    python Feature_extraction/semantic_feature_extraction.py --dataset phantom
    python Feature_extraction/semantic_feature_extraction.py --dataset CC2017 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

Seconds on a GPU, minutes on a CPU for CC2017.
"""

from functools import partial

from common import cli
from common.captions import read_captions
from common.datasets import get_dataset
from common.layout import Layout
from common.model_sources import add_model_flags, model_path
from Feature_extraction.extraction import extract_splits
from models.encoders import N_TOKENS, encode_sd_text
from models.loading import load_sd_text, model_files


def prepare(layout, dataset, source, split, device):
    """What `extract_splits` asks for of a split."""
    captions = read_captions(layout.captions(split), dataset.n_clips(split))
    tokenizer, text_encoder = load_sd_text(source)
    text_encoder.to(device)

    def compute(rows):
        tokens = encode_sd_text(text_encoder, tokenizer, captions[rows.start : rows.stop])  # (B, 20, 768)
        return [tokens.cpu().numpy()]

    card = {"units": "hidden state of Stable Diffusion's text encoder", "model": source}
    return len(captions), [((N_TOKENS, text_encoder.config.hidden_size), "float32", card)], compute


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    add_model_flags(parser, "sd")
    parser.add_argument("--batch_size", type=cli.one_or_more, default=64, changes_result=False, help="captions at a time")
    return parser


def main(args):
    dataset, layout, source = get_dataset(args.dataset), Layout.of(args), model_path(args, "sd")

    def inputs(split):
        return [layout.captions(split), *model_files(source, "text_encoder", "tokenizer")]

    def outputs(split):
        return [layout.text_embeddings_sd(split)]

    extract_splits(args, "semantic_feature_extraction", inputs, outputs, partial(prepare, layout, dataset, source))


if __name__ == "__main__":
    cli.run(main, get_parser)
