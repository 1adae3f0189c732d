"""Speed of the feature extractions against frame by frame and caption by caption, side by side in one run.

Prints   VAE latents of clips: Stable Diffusion's VAE on all frames of a batch of clips, channels last, against one frame at a time
         CLIP features of captions and frames: a batch against one at a time

The models have Stable Diffusion 1.5's and CLIP ViT-B/32's sizes and random weights.

    python benchmarks/extraction.py
    python benchmarks/extraction.py --size 64 --clips 1 --captions 8

About 1 min on two cores; 2 GB.
"""

import argparse
import copy

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL
from timing import compare

from Feature_extraction.content_feature_extraction import encode_frames
from models.encoders import encode_clip_images, encode_clip_text

VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


@torch.no_grad()
def plain_latents(vae, clips):
    """Frame after frame, then stacked."""
    found = []
    for clip in clips:
        frames = [torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1 for frame in clip]
        found.append(torch.cat([vae.encode(frame).latent_dist.mean * vae.config.scaling_factor for frame in frames]).transpose(0, 1))
    return torch.stack(found).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1, help="number of clips of eight frames (default: 1)")
    parser.add_argument("--size", type=int, default=128, help="pixels of a frame's side (default: 128)")
    parser.add_argument("--captions", type=int, default=32, help="number of captions and of frames for CLIP (default: 32)")
    args = parser.parse_args()
    torch.manual_seed(0)
    clips = np.random.default_rng(0).integers(0, 256, (args.clips, 8, args.size, args.size, 3), dtype=np.uint8)
    vae = AutoencoderKL(**VAE).eval()
    fast = copy.deepcopy(vae).to(memory_format=torch.channels_last)
    what = f"VAE latents of {args.clips} clips of 8 x {args.size} x {args.size}"
    expected, found = compare(what, lambda: plain_latents(vae, clips), lambda: encode_frames(fast, clips), repeats=3)
    print(f"  largest difference {np.abs(found - expected).max():.1e}")

    model, tokenizer = open_clip.create_model("ViT-B-32", pretrained=None).eval(), open_clip.get_tokenizer("ViT-B-32")
    captions = [f"a red circle moves to the left over {n} stones" for n in range(args.captions)]
    pixels = torch.randn(args.captions, 3, 224, 224)
    for what, inputs, encode in (
        ("captions", captions, lambda batch: encode_clip_text(model, tokenizer, batch)),
        ("frames", pixels, lambda batch: encode_clip_images(model, batch)),
    ):
        expected, found = compare(
            f"CLIP features of {args.captions} {what}",
            lambda inputs=inputs, encode=encode: torch.cat([encode(inputs[i : i + 1]) for i in range(len(inputs))]),
            lambda inputs=inputs, encode=encode: encode(inputs),
            repeats=3,
        )
        print(f"  largest difference {(found - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
