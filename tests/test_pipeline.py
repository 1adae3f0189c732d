"""Inversion, noise and guided denoising against loops written from the formulas, diffusers' schedulers and closed forms."""

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, UNet2DConditionModel
from tiny import NOISE_SCHEDULE, UNET
from torch import nn

from models.deep_features import ReusedDeepFeatures
from models.inflated_sd import InflatedUNet2DConditionModel, inflate_unet
from models.pipeline import NEGATIVE_PROMPT, InflatedSDPipeline

SD = NOISE_SCHEDULE | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
ALPHAS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
EMPTY_TOKENS = 5


def make_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(sample_size=8, **UNET).eval()


def make_vae():
    torch.manual_seed(1)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(4, 8), norm_num_groups=2, scaling_factor=0.18215, **blocks).eval()


def make_pipeline(scheduler=None, text_encoder=None, tokenizer=None):
    pipeline = InflatedSDPipeline(make_vae(), text_encoder, tokenizer, make_unet(), scheduler or DDIMScheduler(**SD))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_inputs(batch=2, frames=3, seed=2):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, frames, 8, 6, generator=generator)
    return latents, torch.randn(batch, EMPTY_TOKENS, 12, generator=generator), torch.randn(1, EMPTY_TOKENS, 12, generator=generator)


def relative_error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def predict(pipeline, x, t, embeds):
    return pipeline.unet(x.float(), t, embeds.expand(len(x), -1, -1)).sample.double()


def model_of(kind):
    """A UNet's prediction read as noise or as velocity."""
    return make_pipeline(DDIMScheduler(**SD, prediction_type=kind))


# ---------------------------------------------------------------------------------------------- inversion


@pytest.mark.parametrize(
    ("steps", "start", "only", "levels"),
    [
        (10, None, None, [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]),
        (10, 400, None, [1, 101, 201, 301]),
        (7, 500, None, [1, 143, 285, 427]),
        (10, 1, None, [1]),
        (10, None, 4, [1, 301, 601, 901]),
        (10, 400, 2, [1, 301]),
        (10, None, 1, [901]),
    ],
)
def test_inversion_follows_the_formula(steps, start, only, levels):
    pipeline = make_pipeline()
    latents, embeds, empty = make_inputs()
    x, s = latents.double(), 0
    for t in levels:
        noise = predict(pipeline, x, t, empty)
        x0 = (x - math.sqrt(1 - ALPHAS[s]) * noise) / math.sqrt(ALPHAS[s])
        x, s = math.sqrt(ALPHAS[t]) * x0 + math.sqrt(1 - ALPHAS[t]) * noise, t
    out = pipeline.invert(latents, empty, steps, start, only)
    assert out.dtype == torch.float32
    assert relative_error(out.double(), x) < 1e-5


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_inversion_equals_diffusers_inverse_scheduler(kind):
    pipeline = model_of(kind)
    latents, embeds, _ = make_inputs()
    inverse = DDIMInverseScheduler(**SD, prediction_type=kind)
    inverse.set_timesteps(8)
    x = latents
    for t in inverse.timesteps:
        x = inverse.step(predict(pipeline, x, t, embeds).float(), t, x).prev_sample
    assert relative_error(pipeline.invert(latents, embeds, 8), x) < 1e-5


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_denoising_returns_what_was_inverted(kind):
    """Without guidance, up to the scheme's error, which shrinks as steps grow."""
    pipeline = model_of(kind)
    latents, embeds, _ = make_inputs(batch=1)
    errors = []
    for steps in (10, 20, 80):
        grid = {"num_inference_steps": steps, "start_timestep": 601}
        noisy = pipeline.invert(latents, embeds, **grid)
        back = pipeline(latents=noisy, prompt_embeds=embeds, guidance_scale=1, output_type="latent", **grid).videos
        errors.append(relative_error(back, latents))
    assert errors[2] < errors[1] / 2 < errors[0] / 2 and errors[2] < 0.04


# ---------------------------------------------------------------------------------------------- noise


def test_noise_follows_the_formula():
    pipeline = make_pipeline()
    latents, _, _ = make_inputs()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    expected = math.sqrt(ALPHAS[200]) * latents.double() + math.sqrt(1 - ALPHAS[200]) * noise.double()
    assert relative_error(pipeline.add_noise_at(latents, noise, 200).double(), expected) < 1e-6
    shared = pipeline.add_noise_at(latents, noise[:, :, :1], 200)
    assert torch.equal(shared, pipeline.add_noise_at(latents, noise[:, :, :1].expand_as(latents), 200))


# ---------------------------------------------------------------------------------------------- denoising


@pytest.mark.parametrize(("steps", "start", "interval"), [(10, None, None), (10, 400, None), (10, None, (201, 600))])
def test_guided_ddim_follows_the_formula(steps, start, interval):
    pipeline = make_pipeline()
    latents, embeds, negative = make_inputs()
    x = latents.double()
    for i in reversed(range(steps)):
        t = i * (1000 // steps) + 1
        if start is not None and t > start:
            continue
        without, with_prompt = predict(pipeline, x, t, negative), predict(pipeline, x, t, embeds)
        guided = interval is None or interval[0] <= t <= interval[1]
        noise = without + 3.5 * (with_prompt - without) if guided else with_prompt
        s = t - 1000 // steps
        alpha_t, alpha_s = ALPHAS[t], ALPHAS[s] if s >= 0 else ALPHAS[0]
        x0 = (x - math.sqrt(1 - alpha_t) * noise) / math.sqrt(alpha_t)
        x = math.sqrt(alpha_s) * x0 + math.sqrt(1 - alpha_s) * noise
    options = {"num_inference_steps": steps, "guidance_scale": 3.5, "start_timestep": start, "output_type": "latent"}
    options["guidance_interval"] = interval
    out = pipeline(latents=latents, prompt_embeds=embeds, negative_prompt_embeds=negative, **options).videos
    assert relative_error(out.double(), x) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_deep_features_of_an_earlier_call(levels):
    """In between, the first and the last level of this call around what entered the last up block in the last whole call."""
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16, 16)[:levels], "down_block_types": ("CrossAttnDownBlock2D",) * levels}
    unet = inflate_unet(UNet2DConditionModel(sample_size=8, **UNET | blocks | {"up_block_types": ("CrossAttnUpBlock2D",) * levels})).eval()
    latents, text, _ = make_inputs(frames=2)
    latents = latents[..., :4]  # 8 x 4, which three levels halve
    inputs, entered = [(latents * (1 + 0.1 * i), 900 - 100 * i, text) for i in range(5)], []
    hook = unet.up_blocks[-1].register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(kwargs["hidden_states"]), with_kwargs=True
    )
    whole = [unet(*given).sample for given in inputs]
    hook.remove()
    with ReusedDeepFeatures(unet, 2):
        made = [unet(*given).sample for given in inputs[:4]]
        half = unet(*(given[:1] for given in inputs[4][:1]), 500, text[:1]).sample  # another batch: whole
        again = unet(inputs[4][0][:1], 500, text[:1]).sample
    for i in (1, 3):
        replace = unet.up_blocks[-1].register_forward_pre_hook(
            lambda module, args, kwargs, kept=entered[i - 1]: (args, kwargs | {"hidden_states": kept}), with_kwargs=True
        )
        expected = unet(*inputs[i]).sample
        replace.remove()
        assert torch.equal(made[i - 1], whole[i - 1]) and torch.equal(made[i], expected) and not torch.equal(made[i], whole[i])
    assert (half - whole[4][:1]).abs().max() < 1e-5 and torch.equal(half, again)
    assert torch.equal(unet(*inputs[1]).sample, whole[1])  # as it was


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("steps", "start"), [(20, None), (20, 450), (6, None)])
def test_dpmsolver_follows_the_formula(kind, steps, start):
    """Multistep DPM-Solver++ of second order, Lu et al. 2022, algorithm 2, its first and last step of first order."""
    pipeline = make_pipeline(DPMSolverMultistepScheduler(**NOISE_SCHEDULE, prediction_type=kind))
    latents, embeds, _ = make_inputs()
    grid = [round(t) for t in np.linspace(0, 999, steps + 1)[:0:-1]]
    grid = [t for t in grid if start is None or t <= start]
    assert start is None or len(grid) < steps
    level = [math.log(math.sqrt(ALPHAS[t] / (1 - ALPHAS[t]))) for t in grid]
    x, last = latents.double(), None
    for i, t in enumerate(grid):
        signal, noise = math.sqrt(ALPHAS[t]), math.sqrt(1 - ALPHAS[t])
        out = predict(pipeline, x, t, embeds)
        clean = (x - noise * out) / signal if kind == "epsilon" else signal * x - noise * out
        if i == len(grid) - 1:  # down to no noise at all
            x = clean
            break
        slope = clean
        if last is not None:
            ratio = (level[i] - level[i - 1]) / (level[i + 1] - level[i])
            slope = (1 + 1 / (2 * ratio)) * clean - 1 / (2 * ratio) * last
        signal_next, noise_next = math.sqrt(ALPHAS[grid[i + 1]]), math.sqrt(1 - ALPHAS[grid[i + 1]])
        x = noise_next / noise * x - signal_next * (math.exp(level[i] - level[i + 1]) - 1) * slope
        last = clean
    options = {"num_inference_steps": steps, "guidance_scale": 1, "start_timestep": start, "output_type": "latent"}
    assert relative_error(pipeline(latents=latents, prompt_embeds=embeds, **options).videos.double(), x) < 1e-4


@pytest.mark.parametrize("scheduler", [DDIMScheduler(**SD), DPMSolverMultistepScheduler(**NOISE_SCHEDULE)])
def test_a_call_leaves_the_scheduler_as_it_was(scheduler):
    pipeline = make_pipeline(scheduler)
    before = copy.deepcopy(vars(scheduler))
    latents, embeds, negative = make_inputs()
    options = {"latents": latents, "prompt_embeds": embeds, "negative_prompt_embeds": negative, "output_type": "latent"}
    first = pipeline(**options, num_inference_steps=6).videos
    pipeline(**options, num_inference_steps=9, start_timestep=300)
    pipeline.invert(latents, embeds, 4)
    again = pipeline(**options, num_inference_steps=6).videos
    assert torch.equal(first, again)
    assert all(str(value) == str(before[name]) for name, value in vars(scheduler).items())


@pytest.mark.parametrize("scheduler", [DDIMScheduler(**SD), DPMSolverMultistepScheduler(**NOISE_SCHEDULE)])
def test_batch_size_changes_nothing(scheduler):
    pipeline = make_pipeline(scheduler)
    latents, embeds, negative = make_inputs(batch=4)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))

    def reconstruct(part):
        x = pipeline.add_noise_at(pipeline.invert(latents[part], negative, 5), noise[part], 200)
        return pipeline(latents=x, prompt_embeds=embeds[part], negative_prompt_embeds=negative, num_inference_steps=5).videos

    together = reconstruct(slice(0, 4))
    apart = torch.cat([reconstruct(slice(0, 1)), reconstruct(slice(1, 4))])
    assert together.std() > 0.01
    assert (together - apart).abs().max() < 1e-4


# ---------------------------------------------------------------------------------------------- prompts


class WordLengthTokenizer:
    """Stands in for a CLIP tokenizer: the token of a word is its length, the padding 0."""

    def __call__(self, text, padding, max_length, truncation, return_tensors):
        assert padding == "max_length" and truncation and return_tensors == "pt"
        ids = [len(word) for word in text.split()][:max_length]
        return SimpleNamespace(input_ids=torch.tensor([ids + [0] * (max_length - len(ids))]))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 12)
        self.device = torch.device("cpu")

    def forward(self, ids):
        return (self.table(ids),)


def test_negative_prompt_is_encoded_to_the_length_of_the_prompt():
    torch.manual_seed(0)
    encoder = Encoder()
    pipeline = make_pipeline(text_encoder=encoder, tokenizer=WordLengthTokenizer())
    latents, embeds, _ = make_inputs()

    def run(**negative):
        return pipeline(latents=latents, prompt_embeds=embeds, num_inference_steps=2, output_type="latent", **negative).videos

    def encode(text):
        return encoder.table(torch.tensor([([len(word) for word in text.split()] + [0] * EMPTY_TOKENS)[:EMPTY_TOKENS]]))

    assert torch.equal(run(), run(negative_prompt_embeds=encode(NEGATIVE_PROMPT)))
    assert torch.equal(run(negative_prompt="a blurry"), run(negative_prompt_embeds=encode("a blurry")))
    assert torch.equal(run(negative_prompt=""), run(negative_prompt_embeds=encode("")))
    assert not torch.equal(run(), run(negative_prompt=""))
    assert pipeline.encode_prompt("").shape == (1, 77, 12)


def test_without_a_text_encoder_embeddings_are_needed():
    latents, embeds, _ = make_inputs()
    with pytest.raises(ValueError, match="text encoder"):
        make_pipeline()(latents=latents, prompt_embeds=embeds)


# ---------------------------------------------------------------------------------------------- decoding


@torch.no_grad()
def test_decoding_frame_by_frame():
    pipeline = make_pipeline()
    latents = 0.18215 * 3 * make_inputs()[0]
    expected = torch.stack(
        [torch.stack([pipeline.vae.decode(clip[None, :, f] / 0.18215).sample[0] for f in range(3)], dim=1) for clip in latents],
    )
    expected = (expected / 2 + 0.5).clamp(0, 1)
    assert expected.std() > 0.01
    for n_frames_batch in (1, 4, 100):
        out = pipeline.decode(latents, n_frames_batch)
        assert out.shape == (2, 3, 3, 16, 12)
        assert (out - expected).abs().max() < 1e-5


# ---------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latents": torch.zeros(2, 4, 8, 6)}, r"latents must have the shape \(B, 4, F, H, W\), not \(2, 4, 8, 6\)"),
        ({"latents": torch.zeros(2, 3, 3, 8, 6)}, r"latents must have the shape \(B, 4, F, H, W\), not \(2, 3, 3, 8, 6\)"),
        ({"prompt_embeds": torch.zeros(3, 5, 12)}, r"prompt_embeds must have the shape \(2 or 1, L, 12\), not \(3, 5, 12\)"),
        ({"prompt_embeds": torch.zeros(2, 5, 13)}, r"prompt_embeds must have the shape \(2 or 1, L, 12\), not \(2, 5, 13\)"),
        (
            {"negative_prompt_embeds": torch.zeros(1, 6, 12)},
            r"negative_prompt_embeds must have the shape \(2 or 1, 5, 12\), not \(1, 6, 12\)",
        ),
        ({"start_timestep": 0}, "start_timestep 0 is below the lowest step of the grid, 1"),
    ],
)
def test_input_that_does_not_fit(change, words):
    latents, embeds, negative = make_inputs()
    arguments = {"latents": latents, "prompt_embeds": embeds, "negative_prompt_embeds": negative} | change
    with pytest.raises(ValueError, match=words):
        make_pipeline()(**arguments)


# ---------------------------------------------------------------------------------------------- folders and types


def test_folder_in_the_layout_of_stable_diffusion(tmp_path):
    """The published folders name PNDM and a safety checker."""
    make_unet().save_pretrained(tmp_path / "unet")
    make_vae().save_pretrained(tmp_path / "vae")
    PNDMScheduler(**NOISE_SCHEDULE, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1).save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0", "scheduler": ["diffusers", "PNDMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"text_encoder": [None, None], "tokenizer": [None, None], "safety_checker": [None, None], "feature_extractor": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    pipeline = InflatedSDPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    latents, embeds, _ = make_inputs()
    expected = make_pipeline()
    assert torch.equal(pipeline.invert(latents, embeds, 3), expected.invert(latents, embeds, 3))
    video = pipeline(latents=latents, prompt_embeds=embeds, guidance_scale=1, num_inference_steps=3).videos
    assert torch.equal(video, expected(latents=latents, prompt_embeds=embeds, guidance_scale=1, num_inference_steps=3).videos)
    pipeline.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert isinstance(InflatedSDPipeline.from_pretrained(tmp_path / "again").unet, InflatedUNet2DConditionModel)


@pytest.mark.parametrize("wrap", [lambda unet: unet, lambda unet: torch.compile(unet, backend="eager")])
def test_a_compiled_or_assigned_unet_is_one_graph_and_saved_as_a_2d_one(tmp_path, wrap):
    latents, embeds, _ = make_inputs()
    options = {"latents": latents, "prompt_embeds": embeds, "guidance_scale": 1, "num_inference_steps": 2}
    one_level = {"block_out_channels": (8,), "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet, counters = UNet2DConditionModel(sample_size=8, **UNET | one_level).eval(), torch._dynamo.utils.counters
    expected = InflatedSDPipeline(make_vae(), None, None, copy.deepcopy(unet), DDIMScheduler(**SD))(**options).videos
    torch._dynamo.reset()
    counters.clear()
    pipeline = InflatedSDPipeline(make_vae(), None, None, wrap(unet), DDIMScheduler(**SD))
    pipeline.unet = pipeline.unet  # an assignment notes our class
    assert (pipeline(**options).videos - expected).abs().max() < 1e-4
    assert counters["stats"]["unique_graphs"] <= 1 and not counters["graph_break"]  # both steps, the whole UNet
    pipeline.save_pretrained(tmp_path)
    torch._dynamo.reset()
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert torch.equal(InflatedSDPipeline.from_pretrained(tmp_path)(**options).videos, expected)


def test_bfloat16_weights_keep_float32_latents():
    pipeline = make_pipeline()
    latents, embeds, _ = make_inputs()
    expected = pipeline(latents=pipeline.invert(latents, embeds, 5), prompt_embeds=embeds, guidance_scale=1, num_inference_steps=5).videos
    mixed = pipeline.add_noise_at(latents, latents.flip(0), 200)
    pipeline.to(torch.bfloat16)
    assert torch.equal(pipeline.add_noise_at(latents, latents.flip(0), 200), mixed)
    noisy = pipeline.invert(latents, embeds, 5)
    assert noisy.dtype == torch.float32 and not torch.equal(noisy, noisy.bfloat16().float())
    out = pipeline(latents=noisy, prompt_embeds=embeds, guidance_scale=1, num_inference_steps=5).videos
    assert out.dtype == torch.float32
    assert -10 * math.log10(((out - expected) ** 2).mean()) > 30  # PSNR of frames in 0...1
