"""Extract the VAE latents of eight frames per clip: what the structure decoder and the CMG learn.

Reads    stimuli_frames/{split}/{clip}/                   frames 0, 8, ..., 56 of N clips
Writes   features/{split}_contents.npy                    (N, 4, 8, 64, 64), channels before frames, scaled by 0.18215
         features/test_groundtruth.npy                    (N, 8, H, W, 3) uint8, the eight frames
         features/records/content_feature_extraction_{split}/

    python Feature_extraction/content_feature_extraction.py --dataset phantom
    python Feature_extraction/content_feature_extraction.py --dataset CC2017 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

A frame of 512 x 512 takes 15 s on one CPU thread, so CC2017 needs a GPU: 0.4 s a clip on an H100, and 18 GB for two at a time.
"""

from functools import partial

import numpy as np
import torch
from einops import rearrange

from common import cli
from common.datasets import get_dataset
from common.files import UserError
from common.frames import read_clip
from common.layout import Layout
from common.model_sources import add_model_flags, model_path
from common.randomness import torch_generator
from Feature_extraction.extraction import extract_splits, frame_sums
from models.loading import load_sd_part, model_files


@torch.no_grad()
def encode_frames(vae, frames, noise=None):
    """Scaled latents of clips.

    Parameters
    ----------
    frames : array, shape (B, F, H, W, 3), uint8
    noise : tensor, shape (B, F, C, h, w), optional
        to sample the posterior with; without it, its mode is taken

    Returns
    -------
    array, shape (B, C, F, h, w), float32
    """
    pixels = rearrange(torch.from_numpy(frames), "b f h w c -> (b f) c h w") / 127.5 - 1
    posterior = vae.encode(pixels.to(vae.device)).latent_dist
    latents = posterior.mean
    if noise is not None:
        latents = latents + posterior.std * rearrange(noise, "b f c h w -> (b f) c h w").to(vae.device)
    latents = rearrange(latents, "(b f) c h w -> b c f h w", b=len(frames))
    return (latents * vae.config.scaling_factor).cpu().numpy()


def latent_shape(vae, n_frames, size):
    """(channels, frames, height, width) of a clip's latents; a UserError when the VAE cannot halve the size so often."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if size % factor:
        raise UserError(
            f"--sd_path: the VAE reduces frames by a factor of {factor}, which does not divide {size} pixels; use another model"
        )
    return vae.config.latent_channels, n_frames, size // factor, size // factor


def prepare(layout, dataset, source, args, split, device):
    """What `extract_splits` asks for of a split."""
    folders = [layout.frames(split, clip) for clip in dataset.clip_names(split)]
    size, indices = dataset.frame_size, dataset.frame_indices
    vae = load_sd_part(source, "vae").to(device, memory_format=torch.channels_last)
    shape = channels, n_frames, *hw = latent_shape(vae, len(indices), size)

    def compute(rows):
        frames = np.stack([read_clip(folders[i], indices, size) for i in rows])  # (B, F, H, W, 3)
        noise = None
        if args.latents == "sample":  # a clip has its noise whatever the batch it comes in
            generators = [torch_generator(args.seed, "posterior", split, i) for i in rows]
            noise = torch.stack([torch.randn((n_frames, channels, *hw), generator=own) for own in generators])  # (B, F, C, h, w)
        return [encode_frames(vae, frames, noise), frames]

    card = {"model": source, "frames": list(indices)}
    latents = (shape, args.dtype, card | {"units": f"VAE latent x {vae.config.scaling_factor}"})
    true_frames = ((n_frames, size, size, 3), "uint8", card | {"units": "RGB, 0 to 255"})
    return len(folders), [latents, true_frames], compute


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True, device=True)
    add_model_flags(parser, "sd")
    parser.add_argument("--batch_size", type=cli.one_or_more, default=1, changes_result=False, help="clips at a time, eight frames each")
    parser.add_argument("--latents", choices=["sample", "mean"], default="sample", help="sample of the VAE's posterior, or its mode")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="type of the stored latents")
    return parser


def main(args):
    dataset, layout, source = get_dataset(args.dataset), Layout.of(args), model_path(args, "sd")

    def inputs(split):
        return [*frame_sums(layout, dataset, split), *model_files(source, "vae")]

    def outputs(split):
        return [layout.contents(split)] + ([layout.ground_truth] if split == "test" else [])

    extract_splits(args, "content_feature_extraction", inputs, outputs, partial(prepare, layout, dataset, source, args))


if __name__ == "__main__":
    cli.run(main, get_parser)
