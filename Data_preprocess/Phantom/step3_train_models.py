"""Train the phantom's tiny models: a Stable-Diffusion-layout generator and an open_clip CLIP.

Both learn from phantom stills and captions alone, never from videos: the generator must not learn motion.
The result ships with the project under phantom_models/, so that nobody needs to run this to use the phantom.

Writes   {models_dir}/sd/{vae,tokenizer,text_encoder,unet,scheduler}/   AutoencoderKL (4 x 16 x 16 latents of 64 x 64
                                                                          pictures, unit variance after x 0.18215), ...
         {models_dir}/clip/                                              open_clip folder, 512-d
         {models_dir}/{sd,clip}/training.json                            seed, steps, minutes, losses, versions

    python Data_preprocess/Phantom/step3_train_models.py --models vae unet clip

About 90 min on a shared CPU core: VAE 20, UNet 55, CLIP 17.
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
    vae.save_pretrained(folder / "vae")
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
    tokenizer.save_pretrained(folder / "tokenizer")
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
    scheduler.save_pretrained(folder / "scheduler")
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
            average.module[0].save_pretrained(folder / "unet")
            average.module[1].save_pretrained(folder / "text_encoder")
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
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def encode_stills(vae, n, rng):
    """Scaled latents of n stills, sampled from the posterior, and their captions."""
    latents, captions = [], []
    for _ in tqdm(range(0, n, 64), desc="stills", unit="batch", mininterval=5):
        words, pictures = draw_stills(min(64, n - len(captions)), rng)
        captions += words
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
    tokenizer.save_pretrained(folder)
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
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    text_cfg = {key: value for key, value in model_cfg["text_cfg"].items() if key != "hf_tokenizer_name"}
    model = open_clip.CLIP(embed_dim=512, vision_cfg=model_cfg["vision_cfg"], text_cfg=text_cfg)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.clip_lr, weight_decay=0.02)
    start, bar = time.time(), tqdm(range(args.clip_steps), desc="clip", unit="step", mininterval=10)
    for step in bar:
        set_lr(optimiser, cosine_lr(step, args.clip_steps, args.clip_lr))
        captions, pictures = draw_stills(96, rng)
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
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
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


MODELS = {"vae": (train_vae, "sd"), "unet": (train_unet, "sd"), "clip": (train_clip, "clip")}


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="which to train, in order")
    group.add_argument("--models_dir", type=Path, default=Path(__file__).parents[2] / "phantom_models", help="where to write")
    group = parser.add_argument_group("optimisation")
    group.add_argument("--vae_steps", type=int, default=2200, help="steps of batch 32")
    group.add_argument("--vae_lr", type=float, default=2e-3, help="peak learning rate")
    group.add_argument("--bank", type=int, default=24000, help="stills whose latents the UNet sees")
    group.add_argument("--unet_steps", type=int, default=6500, help="steps of the UNet")
    group.add_argument("--unet_batch", type=int, default=32, help="latents per step of the UNet")
    group.add_argument("--unet_lr", type=float, default=1.2e-3, help="peak learning rate")
    group.add_argument("--clip_steps", type=int, default=1500, help="steps of batch 96")
    group.add_argument("--clip_lr", type=float, default=1e-3, help="peak learning rate")
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
