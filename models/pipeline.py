"""Stage 2, from decoded latents and tokens to frames: invert, add noise, denoise, decode over an inflated UNet.

`render` is the whole of it; what it calls stands below: the pipeline, the samplers, the schedulers.
"""

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils import BaseOutput
from einops import rearrange

from models.deep_features import ReusedDeepFeatures
from models.encoders import encode_sd_text
from models.inflated_sd import inflate_unet

# of the released reconstruction script, spelling included
NEGATIVE_PROMPT = "Not like the real scene, Distorted and blurred body, blurry,bad proportions,out of frame,disfigured"
INVERSION_TOKENS = 77  # of the empty prompt during inversion, as released
PREDICTIONS = ("epsilon", "v_prediction", "sample")  # what a UNet's output can stand for


# ---------------------------------------------------------------------------------------------- the recipe


class Prompts(NamedTuple):
    """Text embeddings that all clips share, each (1, L, D)."""

    inversion: torch.Tensor  # of the empty prompt, for the inversion
    empty: torch.Tensor  # of the empty prompt, as long as the decoded one
    negative: torch.Tensor  # as long as the decoded one


def encode_prompts(pipe, n_tokens):
    """Embed what all clips share, Prompts; n_tokens is the length of the decoded prompt, start token included."""

    def encode(prompt, length):
        return encode_sd_text(pipe.text_encoder, pipe.tokenizer, [prompt], length)

    inversion = encode("", min(INVERSION_TOKENS, pipe.tokenizer.model_max_length))
    return Prompts(inversion, encode("", n_tokens), encode(NEGATIVE_PROMPT, n_tokens))


def render(
    pipe, latents, tokens, noise, prompts, *, n_steps=50, guidance=12.5, noise_timestep=200, start_timestep=None, inversion=True,
    inversion_steps=None, guidance_interval=None, deep_every=1,
):  # fmt: skip
    """Make frames of decoded latents and tokens; the defaults are the released recipe.

    Parameters
    ----------
    pipe : InflatedSDPipeline
    latents : torch.Tensor, shape (B, C, F, h, w)
    tokens : torch.Tensor, shape (B, L, D), or None
        decoded prompt without its start token; None for the empty prompt
    noise : torch.Tensor, shape (B, C, F, h, w), or (B, C, 1, h, w) for noise that all frames of a clip share
    prompts : Prompts
        those of n_tokens = L + 1
    n_steps : int
        steps of the whole grid, up and down
    guidance : float
        scale of classifier-free guidance
    noise_timestep : int
        level of the added noise, 0...999
    start_timestep : int, optional
        use only the steps of the grid that are at most this, both ways
    inversion : bool
        False adds the noise to the latents themselves
    inversion_steps : int, optional
        steps up, spread over the steps of the grid that are used; by default all of them
    guidance_interval : (int, int), optional
        lowest and highest timestep at which there is guidance; elsewhere the UNet runs on the prompt alone
    deep_every : int
        steps, up and down, of which one computes the deep blocks of the UNet (models.deep_features)

    Returns
    -------
    np.ndarray, shape (B, F, H, W, 3), float32
        frames in 0...1; NaN where the computation overflowed

    References
    ----------
    Mind-Animator, section 3.4 and the released reconstruction script.
    """
    # 1. invert: up the grid without guidance, to the noise from which DDIM would draw these latents
    if inversion:
        latents = pipe.invert(latents, prompts.inversion, n_steps, start_timestep, inversion_steps, deep_every)
    # 2. noise: mixed in at one level, whatever level the inversion ended at
    latents = pipe.add_noise_at(latents, noise, noise_timestep)
    # 3. denoise: down the grid, guided by the decoded prompt. Its first token is the start token, whose embedding is
    #    the same in every prompt since the text encoder is causal.
    embeds = prompts.empty
    if tokens is not None:
        embeds = torch.cat([prompts.empty[:, :1].expand(len(tokens), -1, -1).to(tokens), tokens], dim=1)  # b l+1 d
    latents = pipe(
        latents=latents, prompt_embeds=embeds, negative_prompt_embeds=prompts.negative, num_inference_steps=n_steps,
        guidance_scale=guidance, guidance_interval=guidance_interval, start_timestep=start_timestep, deep_every=deep_every,
        output_type="latent",
    ).videos  # fmt: skip
    # 4. decode
    frames = as_frames(pipe.decode(latents))
    pipe.maybe_free_model_hooks()
    return frames


def as_frames(videos):
    """Tensor (B, 3, F, H, W) -> float32 array (B, F, H, W, 3)."""
    return rearrange(videos, "b c f h w -> b f h w c").float().cpu().numpy()


# ---------------------------------------------------------------------------------------------- schedulers


class DDIMGridDPMSolver(DPMSolverMultistepScheduler):
    """DPM-Solver++ on DDIM's grid, up to which the inversion goes; its own grid ends at other noise levels."""

    def set_timesteps(self, num_inference_steps, device=None):
        spacing = self.config.num_train_timesteps // num_inference_steps
        super().set_timesteps(timesteps=[k * spacing + 1 for k in reversed(range(num_inference_steps))], device=device)


def noise_schedule(config):
    """What a scheduler's configuration of any class says about the model, for DDIMScheduler: its noise levels and what it predicts.

    The rest of it is about one way of sampling. The recipe has its own, and latents have no range to which they could be
    clipped or thresholded.

    Raises
    ------
    ValueError
        no noise levels, as for flow matching, where a library would go on with levels of its own; or levels or a kind of
        prediction that are none
    """
    levels = {key: config.get(key) for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
    lacking = [key for key, value in levels.items() if value is None and not (config.get("trained_betas") and key != "num_train_timesteps")]
    if lacking or config.get("use_flow_sigmas"):
        what = f"no {', '.join(lacking)}" if lacking else "use_flow_sigmas"
        raise ValueError(f"holds {config.get('_class_name')} with {what}, not the noise levels of a diffusion model")
    kind = config.get("prediction_type")
    kind = "epsilon" if kind is None else kind  # the first versions did not write it
    if kind not in PREDICTIONS:
        raise ValueError(f"says that the model predicts {kind}, not {', '.join(PREDICTIONS)}")
    optional = {key: config[key] for key in ("trained_betas", "rescale_betas_zero_snr") if config.get(key)}
    schedule = {key: value for key, value in levels.items() if value is not None} | optional | {"prediction_type": kind}
    try:
        betas = DDIMScheduler(**schedule).betas.reshape(-1)
    except Exception as error:  # values of a type that does not fit, or an unknown beta_schedule
        raise ValueError(f"holds noise levels that cannot be computed ({error})") from None
    if not (len(betas) == schedule["num_train_timesteps"] > 0 and bool(((betas > 0) & (betas <= 1)).all())):
        raise ValueError(f"holds noise levels that do not rise from 0 to 1 in {schedule['num_train_timesteps']} steps")
    return schedule


def make_scheduler(name, config):
    """Scheduler of SD 1.x, "ddim" or "dpmsolver++", on the grid 981, 961, ..., 1 (for 50 steps).

    Of the configuration of a Stable Diffusion's scheduler only its `noise_schedule` counts.
    """
    recipe = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}
    ddim = DDIMScheduler(**noise_schedule(config), **recipe)
    # from DDIM's configuration, which the inversion goes back to
    return ddim if name == "ddim" else DDIMGridDPMSolver.from_config(ddim.config, algorithm_type="dpmsolver++")


def _as_ddim(scheduler):
    """DDIM with another scheduler's noise schedule; latents have no range to be clipped or thresholded to."""
    noise_schedule(scheduler.config)
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, thresholding=False)


def check_steps(config, n_steps, noise_timestep, start_timestep=None, inversion_steps=None, guidance_interval=None):
    """Raise a ValueError for steps that a scheduler's noise levels do not have, by its configuration; arguments as of `render`."""
    schedule = noise_schedule(config)
    n_levels = schedule["num_train_timesteps"]
    last = n_levels // n_steps * (n_steps - 1) + 1  # the first step of the grid
    if last >= n_levels:
        raise ValueError(f"{n_steps} steps are too many for {n_levels} noise levels; use at most {n_levels - 1}")
    if noise_timestep >= n_levels:
        raise ValueError(f"there is no noise level {noise_timestep}; use one from 0 to {n_levels - 1}")
    top = last if start_timestep is None else min(last, start_timestep)
    if DDIMScheduler(**schedule).alphas_cumprod[top] <= 0:
        raise ValueError(f"step {top} of {n_steps} steps is pure noise in this schedule; use fewer steps")
    used = [t for t in range(1, last + 1, n_levels // n_steps) if t <= top]
    if inversion_steps and inversion_steps > len(used):
        raise ValueError(f"{inversion_steps} steps of inversion are more than the {len(used)} that are used; use at most {len(used)}")
    if guidance_interval and not any(guidance_interval[0] <= t <= guidance_interval[1] for t in used):
        low, high = guidance_interval
        raise ValueError(f"none of the {len(used)} steps lies in the guidance interval from {low} to {high}; give a wider one")


# ---------------------------------------------------------------------------------------------- samplers
# model(latents, timestep) -> prediction, of the kind that scheduler.config.prediction_type names


def grid_up_to(timesteps, start_timestep=None):
    """The timesteps of a descending grid that are at most `start_timestep`; a ValueError when none is."""
    kept = timesteps if start_timestep is None else timesteps[timesteps <= start_timestep]
    if len(kept) == 0:
        raise ValueError(f"start_timestep {start_timestep} is below the lowest step of the grid, {timesteps.min().item()}")
    return kept


def split_prediction(prediction, latents, alpha, kind):
    """Clean latents and noise that a prediction stands for, all of one shape.

    Parameters
    ----------
    alpha : float
        cumulative product of alphas at the noise level of `latents`
    kind : str
        "epsilon", "v_prediction" or "sample"
    """
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if kind == "epsilon":
        return (latents - noise * prediction) / signal, prediction
    if kind == "v_prediction":
        return signal * latents - noise * prediction, signal * prediction + noise * latents
    if kind == "sample":
        return prediction, (latents - signal * prediction) / noise
    raise ValueError(f"prediction_type must be one of {', '.join(PREDICTIONS)}, not {kind}")


def ddim_invert(model, latents, scheduler, num_inference_steps, start_timestep=None, progress=iter, inversion_steps=None):
    """Walk up the DDIM grid from clean latents: the noise that DDIM would turn into them, of their shape.

    From level s to level t, the next of the grid: x0 and eps from model(x, t) and alpha_s, then
    x <- sqrt(alpha_t) x0 + sqrt(1 - alpha_t) eps.

    Parameters
    ----------
    model : function (latents, int timestep) -> prediction
    latents : torch.Tensor, float32
    scheduler : DDIMScheduler
        left as it is
    num_inference_steps : int
        steps of the whole grid
    start_timestep : int, optional
        go up only to the last step of the grid that is at most this
    progress : function
        wraps the iteration, for a progress bar
    inversion_steps : int, optional
        use only so many of these steps, evenly spread, the last one among them

    References
    ----------
    Song et al. 2021, Denoising Diffusion Implicit Models, equation 12 read backwards.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps)
    alphas = scheduler.alphas_cumprod.tolist()
    n_levels = scheduler.config.num_train_timesteps
    up = grid_up_to(scheduler.timesteps, start_timestep).tolist()[::-1]
    bottom = up[0] - n_levels // num_inference_steps
    if inversion_steps is not None:
        up = [up[i] for i in np.linspace(len(up) - 1, 0, inversion_steps).round().astype(int)[::-1]]
    for s, t in progress(list(zip([bottom, *up[:-1]], up, strict=True))):
        s = min(s, n_levels - 1)
        alpha_s = alphas[s] if s >= 0 else float(scheduler.final_alpha_cumprod)
        clean, noise = split_prediction(model(latents, t), latents, alpha_s, scheduler.config.prediction_type)
        latents = alphas[t] ** 0.5 * clean + (1 - alphas[t]) ** 0.5 * noise
    return latents


def denoise(model, latents, scheduler, num_inference_steps, start_timestep=None, progress=iter, generator=None):
    """Walk down the scheduler's grid, to latents of the same shape.

    Parameters
    ----------
    model, latents, num_inference_steps, start_timestep, progress
        as in `ddim_invert`
    scheduler : DDIMScheduler or DPMSolverMultistepScheduler
        left as it is
    generator : torch.Generator, optional
        for stochastic variants of the solver
    """
    scheduler = copy.deepcopy(scheduler)  # a multistep solver remembers its last predictions
    scheduler.set_timesteps(num_inference_steps)
    kept = grid_up_to(scheduler.timesteps, start_timestep)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(scheduler.timesteps) - len(kept))
    for t in progress(kept.tolist()):
        latents = scheduler.step(model(latents, t), t, latents, generator=generator).prev_sample
    return latents


# ---------------------------------------------------------------------------------------------- the pipeline


@dataclass
class InflatedSDPipelineOutput(BaseOutput):
    """Frames (B, 3, F, H, W) in 0...1, as tensor or array, or the final latents."""

    videos: torch.Tensor | np.ndarray


class InflatedSDPipeline(DiffusionPipeline):
    """Stable Diffusion on clips.

    Parameters
    ----------
    vae : diffusers.AutoencoderKL
    text_encoder, tokenizer : CLIP text model and tokenizer
        or None when all embeddings are given
    unet : diffusers.UNet2DConditionModel
        inflated in place if it is not
    scheduler : DDIMScheduler or DPMSolverMultistepScheduler
        another one is replaced by DDIM with its noise schedule, as the released code reads the scheduler file of
        Stable Diffusion 1.x

    Latents are (B, 4, F, H, W), scaled by vae.config.scaling_factor, and stay float32 between the steps whatever the
    type of the weights.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["text_encoder", "tokenizer"]

    def __init__(self, vae, text_encoder, tokenizer, unet, scheduler):
        super().__init__()
        noise_schedule(scheduler.config)
        if not isinstance(scheduler, DDIMScheduler | DPMSolverMultistepScheduler):
            scheduler = _as_ddim(scheduler)
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        inflate_unet(getattr(unet, "_orig_mod", unet))  # _orig_mod: inside torch.compile's wrapper

    def save_pretrained(self, save_directory, **options):
        """Write a folder of 2-D Stable Diffusion, as diffusers' method does."""
        self.register_to_config(unet=("diffusers", "UNet2DConditionModel"))  # not our class, which an assignment to .unet put there
        super().save_pretrained(save_directory, **options)

    @torch.no_grad()
    def encode_prompt(self, prompt, n_tokens=77):
        """Embed a prompt, padded or cut to n_tokens, (1, n_tokens, D)."""
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("a pipeline without text encoder and tokenizer needs all embeddings")
        ids = self.tokenizer(prompt, padding="max_length", max_length=n_tokens, truncation=True, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self._execution_device))[0]

    @torch.no_grad()
    def invert(self, latents, prompt_embeds, num_inference_steps=50, start_timestep=None, inversion_steps=None, deep_every=1):
        """DDIM inversion without guidance, of clean latents (B, C, F, H, W) to the same in float32.

        Parameters
        ----------
        prompt_embeds : torch.Tensor, shape (B or 1, L, D)
            released: of the empty prompt
        num_inference_steps, start_timestep, inversion_steps
            as in `ddim_invert`
        deep_every : int
            see models.deep_features
        """
        latents = self._latents(latents)
        embeds = self._embeds("prompt_embeds", prompt_embeds, len(latents))
        scheduler = self.scheduler if isinstance(self.scheduler, DDIMScheduler) else _as_ddim(self.scheduler)

        def model(x, t):
            return self._predict(x, t, embeds)

        with ReusedDeepFeatures(self.unet, deep_every):
            return ddim_invert(model, latents, scheduler, num_inference_steps, start_timestep, self.progress_bar, inversion_steps)

    def add_noise_at(self, latents, noise, timestep):
        """Mix in noise as the forward diffusion does: sqrt(alpha_t) latents + sqrt(1 - alpha_t) noise, float32.

        Parameters
        ----------
        latents : torch.Tensor, shape (B, C, F, H, W)
        noise : torch.Tensor, shape (B, C, F or 1, H, W)
            F = 1 for one noise frame that all frames share
        timestep : int
            0...999
        """
        alphas = self.scheduler.alphas_cumprod
        if not 0 <= timestep < len(alphas):
            raise ValueError(f"timestep must be in 0...{len(alphas) - 1}, not {timestep}")
        alpha = alphas[timestep].item()
        latents = self._latents(latents)
        return alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise.to(latents)

    @torch.no_grad()
    def decode(self, latents, n_frames_batch=8):
        """Decode latents (B, C, F, H, W) to frames (B, 3, F, H, W) float32 in 0...1, n_frames_batch frames at once."""
        latents = self._latents(latents)
        folded = rearrange(latents / self.vae.config.scaling_factor, "b c f h w -> (b f) c h w")
        frames = torch.cat([self.vae.decode(chunk.to(self.vae.dtype)).sample.float() for chunk in folded.split(n_frames_batch)])
        return rearrange((frames / 2 + 0.5).clamp(0, 1), "(b f) c h w -> b c f h w", b=len(latents))

    @torch.no_grad()
    def __call__(
        self, *, latents, prompt_embeds, negative_prompt_embeds=None, negative_prompt=None, num_inference_steps=50, guidance_scale=12.5,
        guidance_interval=None, start_timestep=None, deep_every=1, generator=None, output_type="pt", n_frames_batch=8,
    ):  # fmt: skip
        """Denoise with classifier-free guidance and decode.

        Parameters
        ----------
        latents : torch.Tensor, shape (B, C, F, H, W)
            noisy
        prompt_embeds, negative_prompt_embeds : torch.Tensor, shape (B or 1, L, D)
        negative_prompt : str, optional
            instead of its embeddings; the released one by default, encoded to L tokens
        num_inference_steps, start_timestep, generator
            as in `denoise`; DDIM runs with eta = 0
        guidance_scale : float
            1 is without guidance and runs the UNet on the prompt alone
        guidance_interval : (int, int), optional
            lowest and highest timestep with guidance
        deep_every : int
            see models.deep_features
        output_type : str
            "pt", "np" or "latent"
        n_frames_batch : int
            frames that the VAE decodes at once

        Returns
        -------
        InflatedSDPipelineOutput
            with .videos (B, 3, F, H, W) in 0...1, or the final latents

        References
        ----------
        Ho and Salimans 2022, Classifier-Free Diffusion Guidance, equation 6; Kynkäänniemi et al. 2024, Applying Guidance in a
        Limited Interval.
        """
        if output_type not in ("pt", "np", "latent"):
            raise ValueError(f"output_type must be pt, np or latent, not {output_type}")
        latents = self._latents(latents)
        embeds = self._embeds("prompt_embeds", prompt_embeds, len(latents))
        low, high = guidance_interval or (-math.inf, math.inf)
        if guidance_scale != 1:
            both = torch.cat([self._negative(negative_prompt_embeds, negative_prompt, embeds), embeds])  # (2 b) l d

        def model(x, t):
            if guidance_scale == 1 or not low <= t <= high:
                return self._predict(x, t, embeds)
            without, with_prompt = self._predict(torch.cat([x, x]), t, both).chunk(2)
            return without + guidance_scale * (with_prompt - without)

        with ReusedDeepFeatures(self.unet, deep_every):
            latents = denoise(model, latents, self.scheduler, num_inference_steps, start_timestep, self.progress_bar, generator)
        videos = latents if output_type == "latent" else self.decode(latents, n_frames_batch)
        self.maybe_free_model_hooks()
        return InflatedSDPipelineOutput(videos=videos.cpu().numpy() if output_type == "np" else videos)

    def _negative(self, embeds, prompt, like):
        """Embeddings of the negative prompt in the shape of `like`."""
        if embeds is None:
            embeds = self.encode_prompt(NEGATIVE_PROMPT if prompt is None else prompt, like.shape[1])
        return self._embeds("negative_prompt_embeds", embeds, len(like), n_tokens=like.shape[1])

    def _predict(self, latents, timestep, embeds):
        # a tensor, because a compiled UNet would specialise on a number
        timestep = torch.tensor(timestep, device=latents.device)
        return self.unet(latents.to(self.unet.dtype), timestep, encoder_hidden_states=embeds).sample.float()

    def _latents(self, latents):
        channels = self.unet.config.in_channels
        if latents.ndim != 5 or latents.shape[1] != channels:
            raise ValueError(f"latents must have the shape (B, {channels}, F, H, W), not {tuple(latents.shape)}")
        return latents.to(self._execution_device, torch.float32)

    def _embeds(self, name, embeds, batch, n_tokens=None):
        width = self.unet.config.cross_attention_dim
        fits = embeds.ndim == 3 and len(embeds) in (1, batch) and embeds.shape[2] == width and n_tokens in (None, embeds.shape[1])
        if not fits:
            raise ValueError(f"{name} must have the shape ({batch} or 1, {n_tokens or 'L'}, {width}), not {tuple(embeds.shape)}")
        return embeds.to(self._execution_device, self.unet.dtype).expand(batch, -1, -1)
