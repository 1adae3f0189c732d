"""From decoded latents to frames: DDIM inversion, added noise and guided denoising over an inflated UNet."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.utils import BaseOutput

from models.inflated_sd import inflate_unet

# of the released reconstruction script, spelling included
NEGATIVE_PROMPT = "Not like the real scene, Distorted and blurred body, blurry,bad proportions,out of frame,disfigured"


# ---------------------------------------------------------------------------------------------- samplers
# model(latents, timestep) -> prediction, of the kind that scheduler.config.prediction_type names


def grid_up_to(timesteps, start_timestep=None):
    """The timesteps of a descending grid that are at most `start_timestep`.

    Raises
    ------
    ValueError : no step is left
    """
    kept = timesteps if start_timestep is None else timesteps[timesteps <= start_timestep]
    if len(kept) == 0:
        raise ValueError(
            f"expected a start_timestep of at least {timesteps.min().item()}, the lowest step of the grid, got {start_timestep}"
        )
    return kept


def split_prediction(prediction, latents, alpha, kind):
    """Clean latents and noise that a prediction stands for, at the cumulative product of alphas `alpha`.

    Parameters
    ----------
    prediction, latents : torch.Tensor of one shape
    alpha : float, of the noise level of `latents`
    kind : "epsilon", "v_prediction" or "sample"
    """
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if kind == "epsilon":
        return (latents - noise * prediction) / signal, prediction
    if kind == "v_prediction":
        return signal * latents - noise * prediction, signal * prediction + noise * latents
    if kind == "sample":
        return prediction, (latents - signal * prediction) / noise
    raise ValueError(f"expected prediction_type epsilon, v_prediction or sample, got {kind}")


def ddim_invert(model, latents, scheduler, num_inference_steps, start_timestep=None, progress=iter):
    """Walk up the DDIM grid from clean latents: the noise that DDIM would turn into them.

    From level s to level t, the next of the grid: x0 and eps from model(x, t) and alpha_s, then
    x <- sqrt(alpha_t) x0 + sqrt(1 - alpha_t) eps.

    Parameters
    ----------
    model : function (latents, int timestep) -> prediction
    latents : torch.Tensor, float32
    scheduler : DDIMScheduler, left as it is
    num_inference_steps : int, steps of the whole grid
    start_timestep : int, optional; go up only to the last step of the grid that is at most this
    progress : function that wraps the iteration, for a progress bar

    Returns
    -------
    torch.Tensor of the shape of `latents`

    References
    ----------
    Song et al. 2021, Denoising Diffusion Implicit Models, equation 12 read backwards.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps)
    alphas = scheduler.alphas_cumprod.tolist()
    spacing = scheduler.config.num_train_timesteps // num_inference_steps
    for t in progress(grid_up_to(scheduler.timesteps, start_timestep).tolist()[::-1]):
        s = min(t - spacing, scheduler.config.num_train_timesteps - 1)
        alpha_s = alphas[s] if s >= 0 else float(scheduler.final_alpha_cumprod)
        clean, noise = split_prediction(model(latents, t), latents, alpha_s, scheduler.config.prediction_type)
        latents = alphas[t] ** 0.5 * clean + (1 - alphas[t]) ** 0.5 * noise
    return latents


def denoise(model, latents, scheduler, num_inference_steps, start_timestep=None, progress=iter, generator=None):
    """Walk down the scheduler's grid.

    Parameters
    ----------
    model, latents, num_inference_steps, start_timestep, progress : as in `ddim_invert`
    scheduler : DDIMScheduler or DPMSolverMultistepScheduler, left as it is
    generator : torch.Generator, optional, for stochastic variants of the solver

    Returns
    -------
    torch.Tensor of the shape of `latents`
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
    text_encoder, tokenizer : CLIP text model and tokenizer, or None when all embeddings are given
    unet : diffusers.UNet2DConditionModel, inflated in place if it is not
    scheduler : DDIMScheduler or DPMSolverMultistepScheduler; another one is replaced by DDIM with its noise schedule,
        as the released code reads the scheduler file of Stable Diffusion 1.x

    Latents are (B, 4, F, H, W), scaled by vae.config.scaling_factor, and stay float32 between the steps whatever the
    type of the weights.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["text_encoder", "tokenizer"]

    def __init__(self, vae, text_encoder, tokenizer, unet, scheduler):
        super().__init__()
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
        """Embed a prompt.

        Parameters
        ----------
        prompt : str
        n_tokens : int, length to which the prompt is padded or cut

        Returns
        -------
        torch.Tensor (1, n_tokens, D)

        Raises
        ------
        ValueError : the pipeline has no text encoder
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("expected a text encoder and a tokenizer, or all embeddings, got neither")
        ids = self.tokenizer(prompt, padding="max_length", max_length=n_tokens, truncation=True, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self._execution_device))[0]

    @torch.no_grad()
    def invert(self, latents, prompt_embeds, num_inference_steps=50, start_timestep=None):
        """DDIM inversion without guidance.

        Parameters
        ----------
        latents : torch.Tensor (B, C, F, H, W), clean
        prompt_embeds : torch.Tensor (B or 1, L, D), released: of the empty prompt
        num_inference_steps : int, steps of the whole grid
        start_timestep : int, optional; invert only up to the last step of the grid that is at most this

        Returns
        -------
        torch.Tensor (B, C, F, H, W), float32
        """
        latents = self._latents(latents)
        embeds = self._embeds("prompt_embeds", prompt_embeds, len(latents))
        scheduler = self.scheduler if isinstance(self.scheduler, DDIMScheduler) else _as_ddim(self.scheduler)
        return ddim_invert(
            lambda x, t: self._predict(x, t, embeds), latents, scheduler, num_inference_steps, start_timestep, self.progress_bar
        )

    def add_noise_at(self, latents, noise, timestep):
        """Mix in noise as the forward diffusion does: sqrt(alpha_t) latents + sqrt(1 - alpha_t) noise.

        Parameters
        ----------
        latents : torch.Tensor (B, C, F, H, W)
        noise : torch.Tensor of the same shape, or with F = 1 for one noise frame that all frames share
        timestep : int, 0...999

        Returns
        -------
        torch.Tensor (B, C, F, H, W), float32
        """
        alphas = self.scheduler.alphas_cumprod
        if not 0 <= timestep < len(alphas):
            raise ValueError(f"expected a timestep in 0...{len(alphas) - 1}, got {timestep}")
        alpha = alphas[timestep].item()
        latents = self._latents(latents)
        return alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise.to(latents)

    @torch.no_grad()
    def decode(self, latents, n_frames_batch=8):
        """Decode latents to frames.

        Parameters
        ----------
        latents : torch.Tensor (B, C, F, H, W)
        n_frames_batch : int, frames that the VAE decodes at once

        Returns
        -------
        torch.Tensor (B, 3, F, H, W), float32, 0...1
        """
        latents = self._latents(latents)
        folded = (latents / self.vae.config.scaling_factor).transpose(1, 2).flatten(0, 1)  # (b f) c h w
        frames = torch.cat([self.vae.decode(chunk.to(self.vae.dtype)).sample.float() for chunk in folded.split(n_frames_batch)])
        frames = (frames / 2 + 0.5).clamp(0, 1)
        return frames.unflatten(0, (len(latents), -1)).transpose(1, 2)  # b c f h w

    @torch.no_grad()
    def __call__(
        self,
        *,
        latents,
        prompt_embeds,
        negative_prompt_embeds=None,
        negative_prompt=None,
        num_inference_steps=50,
        guidance_scale=12.5,
        start_timestep=None,
        generator=None,
        output_type="pt",
        n_frames_batch=8,
    ):
        """Denoise with classifier-free guidance and decode.

        Parameters
        ----------
        latents : torch.Tensor (B, C, F, H, W), noisy
        prompt_embeds : torch.Tensor (B or 1, L, D)
        negative_prompt_embeds : torch.Tensor (B or 1, L, D), optional
        negative_prompt : str, optional; without it and the embeddings, the released one. Encoded to L tokens.
        num_inference_steps : int, steps of the whole grid
        guidance_scale : float, 1 is without guidance and runs the UNet on the prompt only
        start_timestep : int, optional; use only the steps of the grid that are at most this
        generator : torch.Generator, optional, for stochastic variants of the solver; DDIM runs with eta = 0
        output_type : "pt", "np" or "latent"
        n_frames_batch : int, frames that the VAE decodes at once

        Returns
        -------
        InflatedSDPipelineOutput with .videos (B, 3, F, H, W) in 0...1, or the final latents

        Raises
        ------
        ValueError : a shape or an option that does not fit

        References
        ----------
        Ho and Salimans 2022, Classifier-Free Diffusion Guidance, equation 6.
        """
        if output_type not in ("pt", "np", "latent"):
            raise ValueError(f"expected output_type pt, np or latent, got {output_type}")
        latents = self._latents(latents)
        embeds = self._embeds("prompt_embeds", prompt_embeds, len(latents))
        guided = guidance_scale != 1
        if guided:
            if negative_prompt_embeds is None:
                negative_prompt_embeds = self.encode_prompt(
                    negative_prompt if negative_prompt is not None else NEGATIVE_PROMPT, embeds.shape[1]
                )
            negative = self._embeds("negative_prompt_embeds", negative_prompt_embeds, len(latents), n_tokens=embeds.shape[1])
            embeds = torch.cat([negative, embeds])

        def model(x, t):
            if not guided:
                return self._predict(x, t, embeds)
            without, with_prompt = self._predict(torch.cat([x, x]), t, embeds).chunk(2)
            return without + guidance_scale * (with_prompt - without)

        latents = denoise(model, latents, self.scheduler, num_inference_steps, start_timestep, self.progress_bar, generator)
        videos = latents if output_type == "latent" else self.decode(latents, n_frames_batch)
        self.maybe_free_model_hooks()
        return InflatedSDPipelineOutput(videos=videos.cpu().numpy() if output_type == "np" else videos)

    def _predict(self, latents, timestep, embeds):
        # a tensor, because a compiled UNet would specialise on a number
        timestep = torch.tensor(timestep, device=latents.device)
        return self.unet(latents.to(self.unet.dtype), timestep, encoder_hidden_states=embeds).sample.float()

    def _latents(self, latents):
        channels = self.unet.config.in_channels
        if latents.ndim != 5 or latents.shape[1] != channels:
            raise ValueError(f"expected latents of shape (B, {channels}, F, H, W), got {tuple(latents.shape)}")
        return latents.to(self._execution_device, torch.float32)

    def _embeds(self, name, embeds, batch, n_tokens=None):
        width = self.unet.config.cross_attention_dim
        fits = embeds.ndim == 3 and len(embeds) in (1, batch) and embeds.shape[2] == width and n_tokens in (None, embeds.shape[1])
        if not fits:
            raise ValueError(f"expected {name} of shape ({batch} or 1, {n_tokens or 'L'}, {width}), got {tuple(embeds.shape)}")
        return embeds.to(self._execution_device, self.unet.dtype).expand(batch, -1, -1)


def _as_ddim(scheduler):
    """DDIM with another scheduler's noise schedule; latents have no range to be clipped to."""
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)
