"""Train the phantom's tiny models: a Stable-Diffusion-layout generator and an open_clip CLIP.

Both learn from phantom stills and captions alone, never from videos: the generator must not learn motion.
The result ships with the project under phantom_models/, so that nobody needs to run this to use the phantom.

Writes   {models_dir}/sd/{vae,tokenizer,text_encoder,unet,scheduler}/   AutoencoderKL (4 x 16 x 16 latents of 64 x 64
                                                                          pictures, unit variance after x 0.18215), ...
         {models_dir}/clip/                                              open_clip folder, 512-d
         {models_dir}/{sd,clip}/training.json                            seed, steps, minutes, losses, versions

    python Data_preprocess/Phantom/step3_train_models.py --models vae unet clip

About 90 min on one CPU core: VAE 10, UNet 60, CLIP 15.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common import cli, phantom_world
from common.augment import eda, load_synonyms

SCALE = 0.18215  # Stable Diffusion's latent scale
PROMPT_TOKENS = 20  # length of the prompts that reconstruction uses; its inversion uses the tokenizer's full 77
NEGATIVE_PROMPT = "Not like the real scene, Distorted and blurred body, blurry,bad proportions,out of frame,disfigured"


# ---------------------------------------------------------------------------------------------- data


def draw_stills(n, rng):
    """Random stills of the world at random moments of their scenes: list of captions, (n, 64, 64, 3) uint8."""
    scenes = [phantom_world.random_scene(rng) for _ in range(n)]
    pictures = np.empty((n, phantom_world.SIZE, phantom_world.SIZE, 3), np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        moment = int(rng.integers(phantom_world.SCENE_FRAMES))
        picture[:] = phantom_world.halve_chroma(phantom_world.render(scene, [moment])[0])
    return [scene.caption for scene in scenes], pictures


def as_pixels(pictures):
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def cosine_lr(step, steps, peak, warm_up=200):
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))))


def set_lr(optimiser, lr):
    for group in optimiser.param_groups:
        group["lr"] = lr


def write_record(folder, **record):
    """Merge what a training run did into training.json of its folder."""
    path = folder / "training.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **record}, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------- autoencoder


def train_vae(args, folder):
    """AutoencoderKL on stills: L1 + MSE + a light KL; then whitening folded into its quant convolutions."""
    from diffusers import AutoencoderKL

    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, 1])
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=phantom_world.SIZE, scaling_factor=SCALE,
    )  # fmt: skip
    optimiser = torch.optim.AdamW(vae.parameters(), lr=args.vae_lr, weight_decay=1e-4)
    start, bar = time.time(), tqdm(range(args.vae_steps), desc="vae", unit="step", mininterval=5)
    for step in bar:
        set_lr(optimiser, cosine_lr(step, args.vae_steps, args.vae_lr))
        pixels = as_pixels(draw_stills(32, rng)[1])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - pixels
        loss = error.abs().mean() + 2 * error.square().mean() + 2e-7 * posterior.kl().float().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            bar.set_postfix(psnr=f"{-10 * math.log10(error.square().mean().item() / 4):.1f} dB")
    vae.eval()
    whiten(vae, rng)
    with torch.no_grad():
        pixels = as_pixels(draw_stills(256, rng)[1])
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    psnr = -10 * torch.log10((decoded - pixels).square().mean((1, 2, 3)) / 4).mean().item()
    vae.save_pretrained(folder / "vae")
    write_record(folder, vae={"seed": args.seed, "steps": args.vae_steps, "minutes": round((time.time() - start) / 60, 1), "psnr_db": round(psnr, 2)})  # fmt: skip


@torch.no_grad()
def whiten(vae, rng):
    """Fold a per-channel affine map into quant_conv and its inverse into post_quant_conv.

    After it, latents x 0.18215 have mean 0 and variance 1 per channel, as Stable Diffusion's do.
    """
    latents = vae.encode(as_pixels(draw_stills(1024, rng)[1])).latent_dist.sample()
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = 1 / (std * SCALE)  # z' = gain (z - mean)
    n = len(gain)
    vae.quant_conv.weight[:n] *= gain.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:n] = gain * (vae.quant_conv.bias[:n] - mean)
    vae.quant_conv.bias[n:] += 2 * gain.log()  # the log-variances
    undone = vae.post_quant_conv.weight.clone()[:, :, 0, 0]  # z = z' / gain + mean
    vae.post_quant_conv.bias += undone @ mean
    vae.post_quant_conv.weight.copy_((undone / gain)[:, :, None, None])


MODELS = {"vae": (train_vae, "sd")}


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which to train, in order")
    group.add_argument("--models_dir", type=Path, default=Path(__file__).parents[2] / "phantom_models", help="where to write")
    group = parser.add_argument_group("optimisation")
    group.add_argument("--vae_steps", type=int, default=2200, help="steps of batch 32")
    group.add_argument("--vae_lr", type=float, default=2e-3, help="peak learning rate")
    group.add_argument("--seed", type=int, default=0, help="of data, initial weights and noise")
    return parser


def main(args):
    torch.set_num_threads(1)
    for name in args.models:
        train, folder = MODELS[name]
        (args.models_dir / folder).mkdir(parents=True, exist_ok=True)
        train(args, args.models_dir / folder)


if __name__ == "__main__":
    cli.run(main, get_parser)
