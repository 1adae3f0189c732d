"""What the phantom's models are trained on and with: pictures and clips of its world, words, degradations, the loop.

Used by Data_preprocess/Phantom/step3_train_models.py. Every function takes its random generator; what torch draws comes
from its global one, which the script seeds.
"""

import contextlib
import json
import math
import os
import shutil
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common.augment import eda, load_synonyms
from common.datasets import PHANTOM
from common.files import naming, write_json
from models.encoders import N_TOKENS
from models.pipeline import INVERSION_TOKENS, NEGATIVE_PROMPT
from phantom import world

SCALE = 0.18215  # Stable Diffusion's latent scale


# ---------------------------------------------------------------------------------------------- pictures


def draw_stills(n, rng, fading=0.0):
    """Random scenes, list of n Scene, and a picture of each at a random moment, (n, 64, 64, 3) uint8.

    `fading` is the share of stills in which the object is translucent or, in half of these, gone.
    """
    scenes = [world.random_scene(rng) for _ in range(n)]
    pictures = np.empty((n, world.SIZE, world.SIZE, 3), np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        moment = int(rng.integers(world.SCENE_FRAMES))
        opacity = max(0.0, rng.uniform(-1, 1)) if fading and rng.random() < fading else 1.0
        picture[:] = world.halve_chroma(world.render(scene, [moment], opacity)[0])
    return scenes, pictures


def draw_clips(n, rng, fading=0.0):
    """Random scenes, list of n Scene, and the eight frames of each that the data set has, (n, 8, 64, 64, 3) uint8.

    `fading` is the share of clips in which the object fades away after a random frame.
    """
    scenes, clips = [world.random_scene(rng) for _ in range(n)], []
    for scene in scenes:
        last = rng.integers(8) if fading and rng.random() < fading else 8
        opacity = np.clip(1 - (np.arange(8) - last) / 2, 0, 1)
        clips.append([world.halve_chroma(picture) for picture in world.render(scene, PHANTOM.frame_indices, opacity)])
    return scenes, np.array(clips)


def as_pixels(pictures):
    """uint8 (..., H, W, 3) -> float (..., 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).movedim(-1, -3).float() / 127.5 - 1


@torch.no_grad()
def encode_stills(vae, n, rng):
    """Scaled latents of n random stills, sampled from the posterior, (n, 4, 16, 16), and their captions, list of str."""
    latents, captions = [], []
    for _ in tqdm(range(0, n, 64), desc="stills", unit="batch", mininterval=5):
        scenes, pictures = draw_stills(min(64, n - len(captions)), rng)
        captions += [scene.caption for scene in scenes]
        with mixed_precision():
            latents.append(vae.encode(as_pixels(pictures)).latent_dist.sample().float() * SCALE)
    return torch.cat(latents), captions


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


# ---------------------------------------------------------------------------------------------- degraded pictures


@torch.no_grad()
def through_latents(clips, vae):
    """Clips as a decoder of the brain would have them: latents blurred, shrunk and noisy, decoded by the VAE.

    Half of the noise is shared by the frames of a clip, the other half flickers. Clips (B, F, 3, H, W) in -1..1, both.
    """
    b, f = clips.shape[:2]

    def one_per_clip():
        return torch.rand(b, 1, 1, 1).repeat_interleave(f, 0)

    latents = vae.encode(clips.flatten(0, 1)).latent_dist.mode() * SCALE  # (clips frames) c h w
    blurred = F.avg_pool2d(latents, 3, 1, 1, count_include_pad=False)
    latents = torch.lerp(latents, blurred, 0.8 * one_per_clip())
    shared, own = torch.randn(b, *latents.shape[1:]).repeat_interleave(f, 0), torch.randn_like(latents)
    amount = 0.6 * one_per_clip()
    latents = latents * (1 - 0.35 * one_per_clip()) + amount * (shared + own) / 2**0.5
    return vae.decode(latents / SCALE).sample.clamp(-1, 1).unflatten(0, (b, f))


def disturb(clips):
    """Shift whole clips by up to 3 pixels, blur, change contrast and brightness, add noise; clips (B, F, 3, H, W)."""
    b = len(clips)
    rows, columns = torch.randint(-3, 4, (2, b)).tolist()
    edged = F.pad(clips.flatten(1, 2), (3,) * 4, "reflect").unflatten(1, clips.shape[1:3])
    h, w = clips.shape[-2:]
    clips = torch.stack([clip[..., 3 + r : 3 + r + h, 3 + c : 3 + c + w] for clip, r, c in zip(edged, rows, columns, strict=True)])
    blurred = F.avg_pool2d(clips.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(clips)
    blur, contrast, brightness, noise = torch.rand(4, b, 1, 1, 1, 1)
    clips = torch.lerp(clips, blurred, blur) * (0.75 + 0.4 * contrast) + 0.2 * (brightness - 0.5)
    return (clips + 0.15 * noise**2 * torch.randn_like(clips)).clamp(-1, 1)


# ---------------------------------------------------------------------------------------------- words


def make_tokenizer():
    """CLIPTokenizer in which every word of the world, and of its words' synonyms, is one token.

    The end token has the highest number, which is where open_clip reads a sentence's features; what no merge
    covers becomes single letters, and what has no letter the unknown token.
    """
    from tokenizers import Tokenizer, models, trainers
    from transformers import CLIPTokenizer

    synonyms = load_synonyms()
    words = sorted({w for word in world.vocabulary() for text in [word, *synonyms.get(word, [])] for w in text.split()})
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    letters = list(string.ascii_lowercase)
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False
    )
    learner.train_from_iterator(words, trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(set(learned["vocab"]) | {f"{letter}</w>" for letter in letters})
    special = ["<|unknown|>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate([special[0], *pieces, *special[1:]])}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, unk_token=special[0], model_max_length=77)
    broken = [word for word in words if len(tokenizer(word)["input_ids"]) != 3]
    assert not broken, f"not one token each: {broken}"
    return tokenizer


def to_tokens(tokenizer, prompts, length):
    """(B, length) int64, padded or cut."""
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def augmented(captions, rng, share):
    """Captions of which about `share` are replaced by one of their EDA candidates."""
    return [candidates[rng.integers(13)] if rng.random() < share and (candidates := eda(caption, rng)) else caption for caption in captions]


def choose_prompts(step, captions, rng):
    """Prompts of a batch and their length in tokens: some captions augmented, some empty, some the negative prompt."""
    if step % 12 == 0:  # inversion's empty prompt is 77 tokens long
        return [""] * len(captions), INVERSION_TOKENS
    prompts = augmented(captions, rng, 0.3)
    drop = rng.random(len(captions))
    return ["" if d < 0.05 else NEGATIVE_PROMPT if d < 0.1 else p for d, p in zip(drop, prompts, strict=True)], N_TOKENS


# ---------------------------------------------------------------------------------------------- the loop


def mixed_precision():
    """Context of bfloat16 where the CPU computes in it; elsewhere of float32, which is several times faster than imitating it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def cosine_lr(step, steps, peak, warm_up=200):
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))))


def optimise(model, loss_of, *, steps, lr, weight_decay, name, after=None):
    """AdamW with warm-up, cosine and clipped gradients.

    `loss_of` draws a batch of a step and returns its loss and {quantity to show: value}; `lr` is the peak; `name` the progress bar's;
    `after` is called with the step and its loss when the weights are updated.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    bar = tqdm(range(steps), desc=name, unit="step", mininterval=10)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = cosine_lr(step, steps, lr)
        loss, shown = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if after:
            after(step, loss.item())
        if step % 50 == 0:
            bar.set_postfix({"loss": f"{loss.item():.4f}", **shown})


def write_record(folder, **record):
    """Merge what a training did into training.json of its folder."""
    path = folder / "training.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**old, **record})


@contextlib.contextmanager
def atomic_files(folder):
    """Yield an empty temporary folder beside `folder`; its files move into `folder` when the block ends well."""
    folder = Path(folder)
    temporary = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    try:
        with naming(folder):
            temporary.mkdir(parents=True)
            yield temporary
            folder.mkdir(exist_ok=True)
            for path in temporary.iterdir():
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save(model, folder):
    """save_pretrained of a model, a tokenizer or a processor: all of its files, or none where the disk is full."""
    with atomic_files(folder) as temporary:
        model.save_pretrained(temporary)


# ---------------------------------------------------------------------------------------------- classifiers


def factor_log_probabilities(logits, factors):
    """Log-probabilities of each factor's values, the other factors summed out: a list of (B, values)."""
    joint = F.log_softmax(logits, -1).view(-1, *map(len, factors.values()))  # b (first second third) -> b first second third
    axes = range(1, joint.ndim)
    return [joint.logsumexp([other for other in axes if other != axis]) for axis in axes]


class LabelledClips:
    """Labelled clips of the world for a classifier: clean, or degraded by the latents of a VAE.

    `draw` is draw_stills or draw_clips; the classes are the combinations of `factors` {name: values}; `name` is the bar's.
    """

    def __init__(self, draw, factors, vae, name):
        self.draw, self.factors, self.vae, self.name = draw, factors, vae, name

    def clean(self, n, rng, fading=0.0):
        """Clips (n, F, 3, H, W) in -1..1, F = 1 for stills, and the numbers of their factors' values, (n, factors)."""
        scenes, pictures = self.draw(n, rng, fading)
        clips = as_pixels(pictures).view(n, -1, 3, *pictures.shape[-3:-1])  # b frames c h w
        return clips, torch.from_numpy(world.factor_numbers(scenes, self.factors))

    def degraded(self, n, rng, fading):
        """Likewise, after `through_latents`."""
        parts = []
        for _ in tqdm(range(0, n, 32), desc=f"{self.name}: through latents", unit="batch", mininterval=5):
            clips, wanted = self.clean(32, rng, fading)
            parts.append((through_latents(clips, self.vae), wanted))
        return [torch.cat(part) for part in zip(*parts, strict=True)]


@torch.no_grad()
def accuracies(logits_of, clips, wanted, factors):
    """Share of LabelledClips whose factors are named right, {factor: share, "together": share of all at once}.

    `logits_of` is a function: clips (B, F, 3, H, W) -> logits (B, classes).
    """
    right = []
    for part, target in zip(clips.split(32), wanted.split(32), strict=True):
        guesses = factor_log_probabilities(logits_of(part), factors)
        right.append(torch.stack([guess.argmax(1) for guess in guesses], 1) == target)
    right = torch.cat(right)
    each = {name: round(share.item(), 3) for name, share in zip(factors, right.float().mean(0), strict=True)}
    return each | {"together": round(right.all(1).float().mean().item(), 3)}
