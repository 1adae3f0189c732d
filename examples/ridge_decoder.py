"""An own decoder in thirty lines: ridge regression from fMRI to latents, tokens and embeddings, for stage 2 to render.

Reads    fMRI_in_fslr/sub{ID}/{Train,Test}/masked{n}_{trn,test}_data.npy; features/Train_contents.npy,
         Train_text_embeddings_SD.npy, Train_text_embeddings_CLIP_512.npy
Writes   {to}/latents.npy (N, 4, 8, h, w), tokens.npy (N, 19, D), embedding.npy (N, 512) of the N test clips

    python examples/ridge_decoder.py --dataset phantom --to outputs/ridge
    python Reconstruction/video_recons.py --dataset phantom --stage1_from outputs/ridge
    python Evaluation_Metrics/evaluate.py --dataset phantom --name ridge
"""

from pathlib import Path

import numpy as np
from einops import rearrange
from sklearn.linear_model import Ridge

from common import cli
from common.datasets import get_dataset
from common.files import save_array
from common.layout import Layout


def get_parser():
    parser = cli.make_parser(__doc__)
    group = cli.add_data_flags(parser, subject=True)
    group.add_argument("--to", type=Path, required=True, help="folder for the arrays; its name becomes that of the reconstruction")
    group.add_argument("--alpha", type=cli.real(above=0), default=3000.0, help="ridge penalty")
    return parser


def main(args):
    layout, dataset = Layout.of(args), get_dataset(args.dataset)
    train, test = (np.load(layout.masked_fmri(args.subj_ID, split, dataset.n_vertices)) for split in ("train", "test"))  # clips vertices
    targets = {
        "latents": np.load(layout.contents("train")),
        "tokens": np.load(layout.text_embeddings_sd("train"))[:, 1:],  # without the start token, which stage 2 adds
        "embedding": np.load(layout.text_embeddings_clip("train")),
    }
    for name, target in targets.items():
        model = Ridge(alpha=args.alpha).fit(train, rearrange(target, "clips ... -> clips (...)"))
        decoded = model.predict(test).reshape(len(test), *target.shape[1:]).astype(np.float32)
        save_array(
            args.to / f"{name}.npy", decoded, rows="test clips", units=f"those of the training {name}", made_by="examples/ridge_decoder.py"
        )
        print(f"{name}: {decoded.shape}, from {test.shape[1]} vertices")


if __name__ == "__main__":
    cli.run(main, get_parser)
