"""Train the phantom's tiny models: a Stable-Diffusion-layout generator, an open_clip CLIP, two classifiers.

Generator and CLIP learn from phantom stills and captions alone, never from videos: the generator must not learn motion.
The classifiers of the n-way metrics also see clips, and degraded copies of what they see, to read reconstructions.
The result ships with the project under phantom/models/, so that nobody needs to run this to use the phantom.

Writes   {models_dir}/sd/{vae,tokenizer,text_encoder,unet,scheduler}/   AutoencoderKL (4 x 16 x 16 latents of 64 x 64
                                                                          pictures, unit variance after x 0.18215), ...
         {models_dir}/clip/                                              open_clip folder, 512-d
         {models_dir}/image_classifier/                                  ViT: shape x colour x background, 96 classes
         {models_dir}/clip_classifier/                                   VideoMAE: shape x direction x background, 64 classes
         {models_dir}/{folder}/training.json                             seed, steps, minutes, losses or accuracies

    python Data_preprocess/Phantom/step3_train_models.py --models vae unet clip
    python Data_preprocess/Phantom/step3_train_models.py --models image_classifier clip_classifier

About 2 h on a shared CPU core: VAE 20 min, UNet 55, CLIP 17, the classifiers 15 each. They look through the VAE of
{models_dir}/sd.
"""

import json
import math
import string
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common import cli
from phantom import world as phantom_world
from common.augment import eda, load_synonyms
from common.datasets import PHANTOM
from common.files import atomic_files, atomic_path, write_text

SCALE = 0.18215  # Stable Diffusion's latent scale
PROMPT_TOKENS = 20  # length of the prompts that reconstruction uses; its inversion uses the tokenizer's full 77
NEGATIVE_PROMPT = "Not like the real scene, Distorted and blurred body, blurry,bad proportions,out of frame,disfigured"


# ---------------------------------------------------------------------------------------------- data


def draw_stills(n, rng, fading=0.0):
    """Random stills of the world at random moments of their scenes: list of scenes, (n, 64, 64, 3) uint8.

    In a share `fading` of them the object is translucent or, in half of these, gone.
    """
    scenes = [phantom_world.random_scene(rng) for _ in range(n)]
    pictures = np.empty((n, phantom_world.SIZE, phantom_world.SIZE, 3), np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        moment = int(rng.integers(phantom_world.SCENE_FRAMES))
        opacity = max(0.0, rng.uniform(-1, 1)) if fading and rng.random() < fading else 1.0
        picture[:] = phantom_world.halve_chroma(phantom_world.render(scene, [moment], opacity)[0])
    return scenes, pictures


def draw_clips(n, rng, fading=0.0):
    """Random clips of the world, their eight frames as the data set has them: list of scenes, (n, 8, 64, 64, 3) uint8.

    In a share `fading` of them the object fades away after a random frame.
    """
    scenes, clips = [phantom_world.random_scene(rng) for _ in range(n)], []
    for scene in scenes:
        last = rng.integers(8) if fading and rng.random() < fading else 8
        opacity = np.clip(1 - (np.arange(8) - last) / 2, 0, 1)
        clips.append([phantom_world.halve_chroma(picture) for picture in phantom_world.render(scene, PHANTOM.frame_indices, opacity)])
    return scenes, np.array(clips)


def as_pixels(pictures):
    """uint8 (..., H, W, 3) -> float (..., 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).movedim(-1, -3).float() / 127.5 - 1


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
    write_text(path, json.dumps({**old, **record}, indent=2) + "\n")


def save(model, folder):
    """save_pretrained of a model, a tokenizer or a processor: all of its files, or none where the disk is full."""
    with atomic_files(folder) as temporary:
        model.save_pretrained(temporary)


# ---------------------------------------------------------------------------------------------- autoencoder


def train_vae(args, folder):
    """AutoencoderKL on stills: L1 + MSE + a light KL; then whitening folded into its quant convolutions."""
    from diffusers import AutoencoderKL

    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, 1])
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=phantom_world.SIZE,
        scaling_factor=SCALE,
    )
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
    save(vae, folder / "vae")
    write_record(
        folder, vae={"seed": args.seed, "steps": args.vae_steps, "minutes": round((time.time() - start) / 60, 1), "psnr_db": round(psnr, 2)}
    )


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


# ---------------------------------------------------------------------------------------------- words


def make_tokenizer():
    """CLIPTokenizer in which every word of the world, and of its words' synonyms, is one token.

    The end token has the highest number, which is where open_clip reads a sentence's features; what no merge
    covers becomes single letters, and what has no letter the unknown token.
    """
    from tokenizers import Tokenizer, models, trainers
    from transformers import CLIPTokenizer

    synonyms = load_synonyms()
    words = sorted({w for word in phantom_world.vocabulary() for text in [word, *synonyms.get(word, [])] for w in text.split()})
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


# ---------------------------------------------------------------------------------------------- generator


def train_unet(args, folder):
    """UNet and text encoder together on the denoising loss; half of the timesteps where the phantom's profile works."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, 2])
    tokenizer = make_tokenizer()
    save(tokenizer, folder / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=96,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=96,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    save(scheduler, folder / "scheduler")
    latents, captions = encode_stills(AutoencoderKL.from_pretrained(folder / "vae"), args.bank, rng)

    trained = torch.nn.ModuleList([unet, text_encoder])
    average = torch.optim.swa_utils.AveragedModel(trained, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    optimiser = torch.optim.AdamW(trained.parameters(), lr=args.unet_lr, weight_decay=1e-3)
    alpha_bar = scheduler.alphas_cumprod
    losses = []
    start, bar = time.time(), tqdm(range(args.unet_steps), desc="unet", unit="step", mininterval=10)
    for step in bar:
        set_lr(optimiser, cosine_lr(step, args.unet_steps, args.unet_lr))
        index = rng.integers(args.bank, size=args.unet_batch)
        clean = latents[torch.from_numpy(index)]
        t = torch.randint(1000, (args.unet_batch,))
        t = torch.where(torch.rand(args.unet_batch) < 0.5, t, t * 450 // 1000)
        noise = torch.randn_like(clean)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        if step % 12 == 0:  # inversion's empty prompt is 77 tokens long
            prompts, length = [""] * args.unet_batch, 77
        else:
            prompts, length = augmented([captions[i] for i in index], rng, 0.3), PROMPT_TOKENS
            drop = rng.random(args.unet_batch)
            prompts = ["" if d < 0.05 else NEGATIVE_PROMPT if d < 0.1 else p for d, p in zip(drop, prompts, strict=True)]
        with torch.autocast("cpu", torch.bfloat16):
            words = text_encoder(to_tokens(tokenizer, prompts, length))[0]
            guess = unet(noisy, t, words).sample
        loss = F.mse_loss(guess.float(), noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(trained)
        losses.append(loss.item())
        if step % 100 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-500:]):.4f}")
        if (step + 1) % 1000 == 0 or step + 1 == args.unet_steps:
            save(average.module[0], folder / "unet")
            save(average.module[1], folder / "text_encoder")
            record = {
                "seed": args.seed,
                "steps": step + 1,
                "batch": args.unet_batch,
                "minutes": round((time.time() - start) / 60, 1),
                "loss": float(np.mean(losses[-1000:])),
            }
            write_record(folder, unet_and_text_encoder=record)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def encode_stills(vae, n, rng):
    """Scaled latents of n stills, sampled from the posterior, and their captions."""
    latents, captions = [], []
    for _ in tqdm(range(0, n, 64), desc="stills", unit="batch", mininterval=5):
        scenes, pictures = draw_stills(min(64, n - len(captions)), rng)
        captions += [scene.caption for scene in scenes]
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(as_pixels(pictures)).latent_dist.sample().float() * SCALE)
    return torch.cat(latents), captions


# ---------------------------------------------------------------------------------------------- CLIP


def train_clip(args, folder):
    """open_clip model on stills and captions, EDA-augmented ones too; equal captions in a batch count as one."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, 3])
    tokenizer = make_tokenizer()
    save(tokenizer, folder)
    model_cfg = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": 24,
            "vocab_size": len(tokenizer),
            "width": 128,
            "heads": 4,
            "layers": 3,
            "hf_tokenizer_name": "here",
        },
    }
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")
    text_cfg = {key: value for key, value in model_cfg["text_cfg"].items() if key != "hf_tokenizer_name"}
    model = open_clip.CLIP(embed_dim=512, vision_cfg=model_cfg["vision_cfg"], text_cfg=text_cfg)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.clip_lr, weight_decay=0.02)
    start, bar = time.time(), tqdm(range(args.clip_steps), desc="clip", unit="step", mininterval=10)
    for step in bar:
        set_lr(optimiser, cosine_lr(step, args.clip_steps, args.clip_lr))
        scenes, pictures = draw_stills(96, rng)
        captions = [scene.caption for scene in scenes]
        tokens = to_tokens(tokenizer, augmented(captions, rng, 0.5), 24)
        with torch.autocast("cpu", torch.bfloat16):
            image, text, scale = model(as_pixels(pictures), tokens)
        logits = scale * image.float() @ text.float().T
        names = np.array(captions)
        same = torch.from_numpy((names[:, None] == names).astype(np.float32))
        wanted = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 50 == 0:
            right = same[torch.arange(96), logits.argmax(1)].mean().item()
            bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{right:.2f}")
    with atomic_path(folder / "open_clip_model.safetensors") as temporary:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary)
    write_record(
        folder,
        clip={
            "seed": args.seed,
            "steps": args.clip_steps,
            "minutes": round((time.time() - start) / 60, 1),
            "loss": loss.item(),
            "retrieval_in_96": right,
        },
    )


# ---------------------------------------------------------------------------------------------- classifiers

FADING = 0.4  # share of training pictures in which the object fades
SHAPE = {"image_size": phantom_world.SIZE, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
PIXELS = {"do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@torch.no_grad()
def through_latents(clips, vae):
    """Clips as a decoder of the brain would have them: latents blurred, shrunk and noisy, decoded by the VAE.

    Parameters
    ----------
    clips : (B, F, 3, H, W) in -1..1; half of the noise is shared by the frames of a clip, the other half flickers
    vae : AutoencoderKL

    Returns
    -------
    like clips
    """
    b, f = clips.shape[:2]

    def one_per_clip():
        return torch.rand(b, 1, 1, 1).repeat_interleave(f, 0)

    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(clips.flatten(0, 1)).latent_dist.mode().float() * SCALE  # (clips frames) c h w
        blurred = F.avg_pool2d(latents, 3, 1, 1, count_include_pad=False)
        latents = torch.lerp(latents, blurred, 0.8 * one_per_clip())
        shared, own = torch.randn(b, *latents.shape[1:]).repeat_interleave(f, 0), torch.randn_like(latents)
        amount = 0.6 * one_per_clip()
        latents = latents * (1 - 0.35 * one_per_clip()) + amount * (shared + own) / 2**0.5
        return vae.decode(latents / SCALE).sample.float().clamp(-1, 1).unflatten(0, (b, f))


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


def factor_log_probabilities(logits, factors):
    """Log-probabilities of each factor's values, the other factors summed out: a list of (B, values)."""
    joint = F.log_softmax(logits, -1).view(-1, *map(len, factors.values()))  # b (first second third) -> b first second third
    axes = range(1, joint.ndim)
    return [joint.logsumexp([other for other in axes if other != axis]) for axis in axes]


def fit_classifier(args, folder, model, processor, draw, factors, batch, steps, bank):
    """Fit a classifier of transformers on fresh pictures and save it with its processor.

    The loss is the cross-entropy of the class and of each of its factors. A third of the batches is clean, a third
    disturbed, a third disturbed pictures of a bank that went through noisy latents. Objects fade in the last two, so
    that a reconstruction without one is read as undecided.

    Parameters
    ----------
    args : of get_parser
    folder : to save into; the VAE is in sd/vae beside it
    model, processor : of transformers
    draw : (n, rng, fading) -> scenes and uint8 (n, [8,] 64, 64, 3)
    factors : {name: values} whose combinations are the classes
    batch, steps : size and number of the batches
    bank : pictures or clips that go through the latents before training
    """
    from diffusers import AutoencoderKL

    rng = np.random.default_rng([args.seed, 4])
    vae = AutoencoderKL.from_pretrained(folder.parent / "sd" / "vae").eval().requires_grad_(False)

    def sample(n, rng, fading=0.0):
        scenes, pictures = draw(n, rng, fading)
        clips = as_pixels(pictures).view(n, -1, 3, *pictures.shape[-3:-1])  # b frames c h w
        return clips, torch.from_numpy(phantom_world.factor_numbers(scenes, factors))

    def sample_degraded(n, rng, fading):
        parts = []
        for _ in tqdm(range(0, n, 32), desc=f"{folder.name}: through latents", unit="batch", mininterval=5):
            clips, wanted = sample(32, rng, fading)
            parts.append((through_latents(clips, vae), wanted))
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def logits_of(clips):
        return model(pixel_values=clips if draw is draw_clips else clips[:, 0]).logits

    @torch.no_grad()
    def accuracies(clips, wanted):
        right = []
        for part, target in zip(clips.split(32), wanted.split(32), strict=True):
            guesses = factor_log_probabilities(logits_of(part), factors)
            right.append(torch.stack([guess.argmax(1) for guess in guesses], 1) == target)
        right = torch.cat(right)
        each = {name: round(share.item(), 3) for name, share in zip(factors, right.float().mean(0), strict=True)}
        return each | {"together": round(right.all(1).float().mean().item(), 3)}

    start, sizes = time.time(), [len(values) for values in factors.values()]
    degraded, their_wanted = sample_degraded(bank, rng, FADING)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.classifier_lr, weight_decay=0.02)
    bar = tqdm(range(steps), desc=folder.name, unit="step", mininterval=10)
    for step in bar:
        set_lr(optimiser, cosine_lr(step, steps, args.classifier_lr))
        if step % 3 < 2:
            clips, wanted = sample(batch, rng, FADING * (step % 3))
        else:
            rows = rng.integers(len(degraded), size=batch)
            clips, wanted = degraded[rows], their_wanted[rows]
        logits = logits_of(disturb(clips) if step % 3 else clips)
        joint = torch.from_numpy(np.ravel_multi_index(wanted.T.numpy(), sizes))
        loss = F.cross_entropy(logits, joint)
        for guess, values in zip(factor_log_probabilities(logits, factors), wanted.T, strict=True):
            loss = loss + F.nll_loss(guess, values)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.2f}")
    minutes = round((time.time() - start) / 60, 1)
    model.eval()
    save(model, folder)
    save(processor, folder)
    rng, n = np.random.default_rng([args.seed, 5]), args.classifier_test
    accuracy = {"clean": accuracies(*sample(n, rng)), "degraded": accuracies(*sample_degraded(n, rng, 0.0))}
    record = {"seed": args.seed, "steps": steps, "batch": batch, "minutes": minutes, "accuracy": accuracy}
    write_record(folder, **{folder.name: record})


def named(names):
    """Labels of a configuration."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def train_image_classifier(args, folder):
    """ViT on stills."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(args.seed)
    model = ViTForImageClassification(ViTConfig(**SHAPE, patch_size=8, **named(phantom_world.image_class_names())))
    processor = ViTImageProcessor(size={"height": phantom_world.SIZE, "width": phantom_world.SIZE}, **PIXELS)
    fit_classifier(
        args, folder, model, processor, draw_stills, phantom_world.IMAGE_FACTORS, 64, args.image_classifier_steps, args.classifier_bank
    )


def train_clip_classifier(args, folder):
    """VideoMAE on clips of eight frames."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor

    torch.manual_seed(args.seed)
    size = phantom_world.SIZE
    config = VideoMAEConfig(**SHAPE, patch_size=16, num_frames=8, tubelet_size=2, **named(phantom_world.clip_class_names()))
    model = VideoMAEForVideoClassification(config)
    processor = VideoMAEImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **PIXELS)
    fit_classifier(
        args, folder, model, processor, draw_clips, phantom_world.CLIP_FACTORS, 32, args.clip_classifier_steps, args.classifier_bank // 8
    )


MODELS = {
    "vae": (train_vae, "sd"),
    "unet": (train_unet, "sd"),
    "clip": (train_clip, "clip"),
    "image_classifier": (train_image_classifier, "image_classifier"),
    "clip_classifier": (train_clip_classifier, "clip_classifier"),
}


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which to train, in order")
    group.add_argument("--models_dir", type=Path, default=Path(__file__).parents[2] / "phantom" / "models", help="where to write")
    group = parser.add_argument_group("optimisation")
    group.add_argument("--vae_steps", type=int, default=2200, help="steps of batch 32")
    group.add_argument("--vae_lr", type=float, default=2e-3, help="peak learning rate")
    group.add_argument("--bank", type=int, default=24000, help="stills whose latents the UNet sees")
    group.add_argument("--unet_steps", type=int, default=6500, help="steps of the UNet")
    group.add_argument("--unet_batch", type=int, default=32, help="latents per step of the UNet")
    group.add_argument("--unet_lr", type=float, default=1.2e-3, help="peak learning rate")
    group.add_argument("--clip_steps", type=int, default=1500, help="steps of batch 96")
    group.add_argument("--clip_lr", type=float, default=1e-3, help="peak learning rate")
    group.add_argument("--image_classifier_steps", type=int, default=2200, help="steps of batch 64")
    group.add_argument("--clip_classifier_steps", type=int, default=3400, help="steps of batch 32")
    group.add_argument("--classifier_lr", type=float, default=1e-3, help="peak learning rate")
    group.add_argument("--classifier_bank", type=int, default=12800, help="frames that a classifier sees through noisy latents")
    group.add_argument("--classifier_test", type=int, default=512, help="fresh pictures that give the classifiers' accuracies")
    parser.set_defaults(seed=0)
    return parser


def main(args):
    torch.set_num_threads(1)
    for name in args.models:
        train, folder = MODELS[name]
        (args.models_dir / folder).mkdir(parents=True, exist_ok=True)
        train(args, args.models_dir / folder)


if __name__ == "__main__":
    cli.run(main, get_parser)
