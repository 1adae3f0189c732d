"""Extract the VAE latents of eight frames a clip: what the structure decoder and the CMG learn.

Reads    stimuli_frames/{split}/{clip}/
Writes   features/{split}_contents.npy                    (N, 4, 8, 64, 64), scaled by 0.18215
         features/test_groundtruth.npy                    (N, 8, H, W, 3) uint8, the eight frames
         features/records/content_feature_extraction_{split}/

    python Feature_extraction/content_feature_extraction.py --dataset phantom
    python Feature_extraction/content_feature_extraction.py --dataset CC2017 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

A frame of 512 x 512 takes 15 s on one CPU thread, so CC2017 needs a GPU; memory grows with --batch_size.
"""

import numpy as np
import torch

from common import cli
from common.datasets import get_dataset
from Feature_extraction.extraction import ROWS, fill_arrays, pending_splits
from common.files import UserError
from common.layout import Layout
from common.model_sources import add_model_flags, load_sd_part, model_files, model_path
from common.randomness import torch_generator
from common.frames import read_clip

SCRIPT = "content_feature_extraction"


def posterior_noise(shape, seed, split, clip):
    """Standard normal numbers that belong to one clip, whatever the batch it comes in."""
    return torch.randn(shape, generator=torch_generator(seed, "posterior", split, clip))


@torch.no_grad()
def encode_frames(vae, frames, noise=None):
    """Scaled latents of clips.

    Parameters
    ----------
    vae : diffusers.AutoencoderKL
    frames : (B, F, H, W, 3) uint8
    noise : (B, F, C, h, w) tensor to sample the posterior with; None takes its mode

    Returns
    -------
    (B, C, F, h, w) float32 array
    """
    pixels = torch.from_numpy(frames).flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1  # (b f) c h w
    posterior = vae.encode(pixels.to(vae.device)).latent_dist
    latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.flatten(0, 1).to(vae.device)
    latents = latents.unflatten(0, frames.shape[:2]).transpose(1, 2)  # b c f h w
    return (latents * vae.config.scaling_factor).cpu().numpy()


def latent_shape(vae, n_frames, size):
    """(channels, frames, height, width) of a clip's latents; a UserError when the VAE cannot halve the size so often."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if size % factor:
        raise UserError("--sd_path", f"a VAE whose factor divides frames of {size} pixels", f"factor {factor}", "choose another model")
    return vae.config.latent_channels, n_frames, size // factor, size // factor


def outputs(layout, split):
    return [layout.contents(split)] + ([layout.ground_truth] if split == "test" else [])


def extract(args, split, source, record):
    """Fill the arrays of one split."""
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    folders = [layout.frames(split, clip) for clip in dataset.clip_names(split)]
    size, indices = dataset.frame_size, dataset.frame_indices
    vae = load_sd_part(source, "vae").to(cli.choose_device(args.device), memory_format=torch.channels_last)
    shape = channels, n_frames, *hw = latent_shape(vae, len(indices), size)

    def compute(rows):
        frames = np.stack([read_clip(folders[i], indices, size) for i in rows])
        noise = None
        if args.latents == "sample":
            noise = torch.stack([posterior_noise((n_frames, channels, *hw), args.seed, split, i) for i in rows])
        return [encode_frames(vae, frames, noise), frames]

    card = {"rows": ROWS, "made_by": SCRIPT, "model": source, "frames": list(indices)}
    units = (f"VAE latent x {vae.config.scaling_factor}", "RGB, 0 to 255")
    kinds = ((shape, args.dtype), ((n_frames, size, size, 3), "uint8"))
    arrays = [
        (path, *kind, {**card, "units": unit})
        for path, kind, unit in zip(outputs(layout, split), kinds, units, strict=False)  # the second in the test split alone
    ]
    fill_arrays(arrays, compute, len(folders), args.batch_size, record, f"{split} clips")
    record.finish(clips=len(folders))


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    add_model_flags(parser, "sd")
    parser.add_argument("--batch_size", type=cli.one_or_more, default=2, help="clips at a time, eight frames each")
    parser.add_argument("--latents", choices=["sample", "mean"], default="sample", help="draw from the VAE's posterior, or take its mode")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="type of the stored latents")
    return parser


def main(args):
    layout, source = Layout.of(args), model_path(args, "sd")
    inputs = model_files(source, "vae")
    for split, record in pending_splits(args, SCRIPT, lambda split: inputs, lambda split: outputs(layout, split)):
        extract(args, split, source, record)


if __name__ == "__main__":
    cli.run(main, get_parser)
