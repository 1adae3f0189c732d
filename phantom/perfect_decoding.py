"""What decoders that made no mistake would give of random phantom scenes: clips for stage 2 without fMRI."""

import numpy as np
import torch
from einops import rearrange

from common.datasets import PHANTOM
from common.randomness import numpy_generator
from models.encoders import N_TOKENS, encode_sd_text
from phantom import world


@torch.no_grad()
def decode_perfectly(pipe, n, seed):
    """n random scenes as true frames (n, 8, H, W, 3) uint8, latents (n, 4, 8, h, w), and tokens (n, 19, D): captions without the start token.

    `pipe` is an InflatedSDPipeline of the phantom's Stable Diffusion, float32.
    """
    rng = numpy_generator(seed, "scenes")
    scenes = [world.random_scene(rng) for _ in range(n)]
    frames = np.stack([world.render(scene, PHANTOM.frame_indices) for scene in scenes])
    pixels = rearrange(torch.from_numpy(frames).float() / 127.5 - 1, "n f h w c -> (n f) c h w").to(pipe.vae.device)
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    tokens = encode_sd_text(pipe.text_encoder, pipe.tokenizer, [scene.caption for scene in scenes], N_TOKENS)
    return frames, rearrange(latents, "(n f) c h w -> n c f h w", n=n), tokens[:, 1:]
