"""Extract Stable Diffusion's text tokens of the captions: the condition that the semantic decoder learns.

Reads    captions/{split}_captions_new.h5                 N captions
Writes   features/{split}_text_embeddings_SD.npy          (N, 20, 768) float32, last hidden state of the text encoder
         features/records/semantic_feature_extraction_{split}/

    python Feature_extraction/semantic_feature_extraction.py --dataset phantom
    python Feature_extraction/semantic_feature_extraction.py --dataset CC2017 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

Seconds on a GPU, minutes on a CPU for CC2017.
"""

from common import cli
from common.captions import read_captions
from common.datasets import get_dataset
from common.layout import Layout
from common.model_sources import add_model_flags, model_path
from Feature_extraction.extraction import ROWS, extracting, fill_arrays, join_processes, record_folder
from models.encoders import N_TOKENS, encode_sd_text
from models.loading import load_sd_text, model_files

SCRIPT = "semantic_feature_extraction"


def extract(captions, path, source, record, *, state, batch_size, what):
    """Fill the array of one split.

    Parameters
    ----------
    captions : list of str
    path : Path
        of the array
    source : str
        folder or hub id of Stable Diffusion
    record : common.records.Record
    state : accelerate.PartialState
    batch_size : int
        captions at a time
    what : str
        for the progress bar
    """
    tokenizer, text_encoder = load_sd_text(source)
    text_encoder.to(state.device)

    def compute(rows):
        tokens = encode_sd_text(text_encoder, tokenizer, captions[rows.start : rows.stop])  # (B, 20, 768)
        return [tokens.cpu().numpy()]

    card = {"rows": ROWS, "units": "hidden state of Stable Diffusion's text encoder", "made_by": SCRIPT, "model": source}
    arrays = [(path, (N_TOKENS, text_encoder.config.hidden_size), "float32", card)]
    fill_arrays(state, arrays, compute, len(captions), batch_size, record, what)


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    add_model_flags(parser, "sd")
    parser.add_argument("--batch_size", type=cli.one_or_more, default=64, changes_result=False, help="captions at a time")
    return parser


def main(args):
    dataset, layout, source = get_dataset(args.dataset), Layout.of(args), model_path(args, "sd")
    state = join_processes(args.device)
    for split in args.split:
        inputs = [layout.captions(split), *model_files(source, "text_encoder", "tokenizer")]
        path = layout.text_embeddings_sd(split)
        with extracting(state, record_folder(layout, SCRIPT, split), args, inputs=inputs, outputs=[path]) as record:
            if record is None:
                continue
            captions = read_captions(layout.captions(split), dataset.n_clips(split))
            extract(captions, path, source, record, state=state, batch_size=args.batch_size, what=f"{split} captions")


if __name__ == "__main__":
    cli.run(main, get_parser)
