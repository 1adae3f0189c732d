"""Stage 2, from decoded latents to frames with Stable Diffusion: its flags, the pipeline that they ask for, and the recipe."""

import sys
from collections import namedtuple

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from models.encoders import encode_sd_text
from common.files import UserError
from common.model_sources import load_sd_part
from common.randomness import torch_generator
from models.pipeline import NEGATIVE_PROMPT, InflatedSDPipeline

INVERSION_TOKENS = 77  # of the empty prompt during inversion, as released
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Prompts = namedtuple("Prompts", ("inversion", "empty", "negative"))


# ---------------------------------------------------------------------------------------------- flags


def add_stage2_flags(parser):
    """Add the flags of stage 2: what it computes, and how fast and in how much memory."""
    group = parser.add_argument_group("stage 2")
    group.add_argument("--scheduler", choices=["ddim", "dpmsolver++"], default="ddim", help="of the denoising")
    group.add_argument("--steps", type=int, default=50, help="of the whole grid, for inversion and denoising")
    group.add_argument("--guidance", type=float, default=12.5, help="guidance scale")
    group.add_argument("--no_inversion", action="store_true", help="add the noise to the decoded latents themselves")
    group.add_argument("--noise_timestep", type=int, default=200, help="level of the added noise, 0...999")
    group.add_argument("--start_timestep", type=int, help="use only the steps of the grid up to this (default: all, from 981 for 50 steps)")
    group.add_argument("--noise_shared", action="store_true", help="one noise frame for all frames of a clip")

    group = parser.add_argument_group("memory and speed")
    group.add_argument("--batch_size", type=int, default=1, help="clips per UNet call")
    group.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help="of Stable Diffusion's weights")
    group.add_argument("--channels_last", action="store_true", help="memory format of the convolutions")
    group.add_argument("--compile", action="store_true", help="torch.compile the UNet; the first call takes longer")
    group.add_argument("--vae_slicing", action="store_true", help="decode one frame at a time")
    group.add_argument("--attention_slicing", action="store_true", help="slice the cross-attention")
    group.add_argument("--cpu_offload", action="store_true", help="keep on the GPU only the model that is at work")


# ---------------------------------------------------------------------------------------------- the pipeline


class DDIMGridDPMSolver(DPMSolverMultistepScheduler):
    """DPM-Solver++ on DDIM's grid, up to which the inversion goes; its own ends at other noise levels."""

    def set_timesteps(self, num_inference_steps, device=None):
        spacing = self.config.num_train_timesteps // num_inference_steps
        super().set_timesteps(timesteps=[k * spacing + 1 for k in reversed(range(num_inference_steps))], device=device)


def make_scheduler(name, config):
    """Scheduler of SD 1.x on the grid 981, 961, ..., 1 (for 50 steps)."""
    ddim = DDIMScheduler.from_config(config, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading")
    # from DDIM's configuration, which the inversion goes back to
    return ddim if name == "ddim" else DDIMGridDPMSolver.from_config(ddim.config, algorithm_type="dpmsolver++")


def load_pipeline(path, args, device):
    """InflatedSDPipeline of a Stable Diffusion folder with the memory and speed options of the flags."""
    parts = {part: load_sd_part(path, part, PRECISIONS[args.precision]) for part in ("vae", "text_encoder", "unet")}
    scheduler = make_scheduler(args.scheduler, load_sd_part(path, "scheduler").config)
    pipe = InflatedSDPipeline(tokenizer=load_sd_part(path, "tokenizer"), scheduler=scheduler, **parts)
    pipe.set_progress_bar_config(leave=False, disable=not sys.stderr.isatty())
    if args.cpu_offload:
        if device.type == "cpu":
            raise UserError("--cpu_offload", "a GPU to fetch the models to", "the CPU", "leave the flag out")
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    if args.channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if args.vae_slicing:
        pipe.vae.enable_slicing()
    if args.attention_slicing:
        pipe.enable_attention_slicing()
    if args.compile:
        pipe.unet.compile()
    return pipe


# ---------------------------------------------------------------------------------------------- the recipe


def encode_prompts(pipe, n_tokens):
    """Embeddings that all clips share: the empty prompt for the inversion and at the length of the decoded prompt, the negative one.

    The first token of any prompt is the start token, whose embedding is always the same since the encoder is causal.

    Parameters
    ----------
    pipe : InflatedSDPipeline
    n_tokens : int, length of the decoded prompt, start token included
    """

    def encode(prompt, length):
        return encode_sd_text(pipe.text_encoder, pipe.tokenizer, [prompt], length)

    return Prompts(
        encode("", min(INVERSION_TOKENS, pipe.tokenizer.model_max_length)), encode("", n_tokens), encode(NEGATIVE_PROMPT, n_tokens)
    )


def clip_noise(seed, clip, shape, shared=False):
    """Noise of one clip, the same whichever other clips are made.

    Parameters
    ----------
    seed, clip : int
    shape : (C, F, h, w)
    shared : one noise frame for all frames

    Returns
    -------
    (C, F or 1, h, w) float32 tensor
    """
    channels, n_frames, height, width = shape
    return torch.randn(channels, 1 if shared else n_frames, height, width, generator=torch_generator(seed, "noise", clip))


def render(pipe, prompts, latents, tokens, noise, args):
    """Stage 2: decoded latents to frames.

    Parameters
    ----------
    pipe : InflatedSDPipeline
    prompts : Prompts
    latents : (B, C, F, h, w)
    tokens : (B, L, D), or None for the empty prompt
    noise : (B, C, F or 1, h, w)
    args : steps, start_timestep, no_inversion, noise_timestep, guidance

    Returns
    -------
    (B, F, H, W, 3) float32 array in 0...1; NaN where the computation overflowed
    """
    if not args.no_inversion:
        latents = pipe.invert(latents, prompts.inversion, args.steps, args.start_timestep)
    latents = pipe.add_noise_at(latents, noise, args.noise_timestep)
    embeds = prompts.empty
    if tokens is not None:
        embeds = torch.cat([prompts.empty[:, :1].expand(len(tokens), -1, -1).to(tokens), tokens], dim=1)
    videos = pipe(
        latents=latents,
        prompt_embeds=embeds,
        negative_prompt_embeds=prompts.negative,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        start_timestep=args.start_timestep,
        output_type="pt",
    ).videos
    return as_frames(videos)


def as_frames(videos):
    """(B, 3, F, H, W) tensor -> (B, F, H, W, 3) array."""
    return videos.permute(0, 2, 3, 4, 1).float().cpu().numpy()
