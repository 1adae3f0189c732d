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

About 2 h on one CPU core: VAE 20 min, UNet 55, CLIP 17, the classifiers 15 each. UNet and classifiers take the VAE of
{models_dir}/sd.
"""

import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from common import cli
from common.files import atomic_path, write_json
from models.pipeline import INVERSION_TOKENS
from phantom import training, world

VAE_BATCH, UNET_BATCH, CLIP_BATCH, CLIP_TOKENS = 32, 32, 96, 24
PEAK_LR = {"vae": 2e-3, "unet": 1.2e-3, "clip": 1e-3, "classifier": 1e-3}
FADING = 0.4  # share of the classifiers' pictures in which the object fades
SHAPE = {"image_size": world.SIZE, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
PIXELS = {"do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "vae": ["diffusers", "AutoencoderKL"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


def minutes_since(start):
    return round((time.time() - start) / 60, 1)


# ---------------------------------------------------------------------------------------------- autoencoder


def train_vae(folder, *, steps, seed):
    """AutoencoderKL on stills: L1 + MSE + a light KL; then whitening folded into its quant convolutions."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=world.SIZE, scaling_factor=training.SCALE,
    )  # fmt: skip

    def loss_of(step):
        pixels = training.as_pixels(training.draw_stills(VAE_BATCH, rng)[1])  # b 3 h w
        with training.mixed_precision():
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample  # b 3 h w
        error = decoded.float() - pixels
        loss = error.abs().mean() + 2 * error.square().mean() + 2e-7 * posterior.kl().float().mean()
        return loss, {"psnr": f"{-10 * math.log10(error.square().mean().item() / 4):.1f} dB"}

    start = time.time()
    training.optimise(vae, loss_of, steps=steps, lr=PEAK_LR["vae"], weight_decay=1e-4, name="vae")
    vae.eval()
    training.whiten(vae, rng)
    with torch.no_grad():
        pixels = training.as_pixels(training.draw_stills(256, rng)[1])
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    psnr = -10 * torch.log10((decoded - pixels).square().mean((1, 2, 3)) / 4).mean().item()
    training.save(vae, folder / "vae")
    training.write_record(folder, vae={"seed": seed, "steps": steps, "minutes": minutes_since(start), "psnr_db": round(psnr, 2)})


# ---------------------------------------------------------------------------------------------- generator


def make_generator(tokenizer):
    """UNet and text encoder, in the order in which their weights are drawn, and the scheduler."""
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, projection_dim=96,
        max_position_embeddings=INVERSION_TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 96), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, cross_attention_dim=96,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return unet, text_encoder, scheduler


def train_unet(folder, *, steps, bank, seed):
    """UNet and text encoder together on the denoising loss; half of the timesteps where the phantom's profile works.

    What is saved is their exponential moving average, every 1000 steps.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    tokenizer = training.make_tokenizer()
    unet, text_encoder, scheduler = make_generator(tokenizer)
    training.save(tokenizer, folder / "tokenizer")
    training.save(scheduler, folder / "scheduler")
    latents, captions = training.encode_stills(AutoencoderKL.from_pretrained(folder / "vae"), bank, rng)
    trained = torch.nn.ModuleList([unet, text_encoder])
    average = torch.optim.swa_utils.AveragedModel(trained, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    losses, start = [], time.time()

    def loss_of(step):
        index = rng.integers(bank, size=UNET_BATCH)
        clean = latents[torch.from_numpy(index)]  # b c h w
        t = torch.randint(1000, (UNET_BATCH,))
        t = torch.where(torch.rand(UNET_BATCH) < 0.5, t, t * 450 // 1000)
        noise = torch.randn_like(clean)
        a = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        prompts, length = training.choose_prompts(step, [captions[i] for i in index], rng)
        with training.mixed_precision():
            words = text_encoder(training.to_tokens(tokenizer, prompts, length))[0]  # b tokens 96
            guess = unet(noisy, t, words).sample  # b c h w
        return F.mse_loss(guess.float(), noise), {"mean_loss": f"{np.mean(losses[-500:] or np.nan):.4f}"}

    def after(step, loss):
        average.update_parameters(trained)
        losses.append(loss)
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            training.save(average.module[0], folder / "unet")
            training.save(average.module[1], folder / "text_encoder")
            record = {"seed": seed, "steps": step + 1, "batch": UNET_BATCH, "minutes": minutes_since(start)}
            training.write_record(folder, unet_and_text_encoder=record | {"loss": float(np.mean(losses[-1000:]))})

    training.optimise(trained, loss_of, steps=steps, lr=PEAK_LR["unet"], weight_decay=1e-3, name="unet", after=after)
    write_json(folder / "model_index.json", PIPELINE)


# ---------------------------------------------------------------------------------------------- CLIP


def make_clip(folder, tokenizer):
    """open_clip model, and its configuration in the folder."""
    vision = {"image_size": world.SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8}
    text = {"context_length": CLIP_TOKENS, "vocab_size": len(tokenizer), "width": 128, "heads": 4, "layers": 3}
    model_cfg = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": {**text, "hf_tokenizer_name": "here"}}
    write_json(folder / "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    return open_clip.CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text)


def train_clip(folder, *, steps, seed):
    """open_clip model on stills and captions, EDA-augmented ones too; equal captions in a batch count as one."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 3])
    tokenizer = training.make_tokenizer()
    training.save(tokenizer, folder)
    model = make_clip(folder, tokenizer)
    start, last = time.time(), {}

    def loss_of(step):
        scenes, pictures = training.draw_stills(CLIP_BATCH, rng)
        captions = [scene.caption for scene in scenes]
        tokens = training.to_tokens(tokenizer, training.augmented(captions, rng, 0.5), CLIP_TOKENS)
        with training.mixed_precision():
            image, text, scale = model(training.as_pixels(pictures), tokens)  # b 512 each
        logits = scale * image.float() @ text.float().T  # images texts
        names = np.array(captions)
        same = torch.from_numpy((names[:, None] == names).astype(np.float32))
        wanted = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
        last.update(loss=loss.item(), retrieval_in_96=same[torch.arange(CLIP_BATCH), logits.argmax(1)].mean().item())
        return loss, {"right": f"{last['retrieval_in_96']:.2f}"}

    @torch.no_grad()
    def after(step, loss):
        model.logit_scale.clamp_(max=math.log(100))

    training.optimise(model, loss_of, steps=steps, lr=PEAK_LR["clip"], weight_decay=0.02, name="clip", after=after)
    with atomic_path(folder / "open_clip_model.safetensors") as temporary:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary)
    training.write_record(folder, clip={"seed": seed, "steps": steps, "minutes": minutes_since(start), **last})


# ---------------------------------------------------------------------------------------------- classifiers


def fit_classifier(folder, model, processor, draw, factors, *, batch, steps, bank, n_test, seed):
    """Fit a classifier of transformers on fresh pictures and save it with its processor.

    The loss is the cross-entropy of the class and of each of its factors. A third of the batches is clean, a third
    disturbed, a third disturbed pictures of a bank that went through noisy latents. Objects fade in the last two, so
    that a reconstruction without one is read as undecided.

    Parameters
    ----------
    folder : Path
        to save into; the VAE is in sd/vae beside it
    draw : draw_stills or draw_clips
    factors : dict
        name -> values, whose combinations are the classes
    bank : int
        pictures or clips that go through the latents before training
    n_test : int
        fresh pictures or clips for the accuracies of the record
    """
    rng = np.random.default_rng([seed, 4])
    vae = AutoencoderKL.from_pretrained(folder.parent / "sd" / "vae").eval().requires_grad_(False)
    source, sizes = training.LabelledClips(draw, factors, vae, folder.name), [len(values) for values in factors.values()]

    def logits_of(clips):
        return model(pixel_values=clips if draw is training.draw_clips else clips[:, 0]).logits  # b classes

    def loss_of(step):
        if step % 3 < 2:
            clips, wanted = source.clean(batch, rng, FADING * (step % 3))
        else:
            rows = rng.integers(len(degraded), size=batch)
            clips, wanted = degraded[rows], their_wanted[rows]
        logits = logits_of(training.disturb(clips) if step % 3 else clips)
        joint = torch.from_numpy(np.ravel_multi_index(wanted.T.numpy(), sizes))
        loss = F.cross_entropy(logits, joint)
        for guess, values in zip(training.factor_log_probabilities(logits, factors), wanted.T, strict=True):
            loss = loss + F.nll_loss(guess, values)
        return loss, {}

    start = time.time()
    degraded, their_wanted = source.degraded(bank, rng, FADING)
    training.optimise(model, loss_of, steps=steps, lr=PEAK_LR["classifier"], weight_decay=0.02, name=folder.name)
    minutes = minutes_since(start)
    model.eval()
    training.save(model, folder)
    training.save(processor, folder)
    rng = np.random.default_rng([seed, 5])
    accuracy = {"clean": training.accuracies(logits_of, *source.clean(n_test, rng), factors)}
    accuracy["degraded"] = training.accuracies(logits_of, *source.degraded(n_test, rng, 0.0), factors)
    training.write_record(folder, **{folder.name: {"seed": seed, "steps": steps, "batch": batch, "minutes": minutes, "accuracy": accuracy}})


def named(names):
    """Labels of a configuration."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def train_image_classifier(folder, *, seed, **options):
    """ViT on stills; `options` of fit_classifier."""
    torch.manual_seed(seed)
    model = ViTForImageClassification(ViTConfig(**SHAPE, patch_size=8, **named(world.image_class_names())))
    processor = ViTImageProcessor(size={"height": world.SIZE, "width": world.SIZE}, **PIXELS)
    fit_classifier(folder, model, processor, training.draw_stills, world.IMAGE_FACTORS, batch=64, seed=seed, **options)


def train_clip_classifier(folder, *, seed, **options):
    """VideoMAE on clips of eight frames; `options` of fit_classifier."""
    torch.manual_seed(seed)
    config = VideoMAEConfig(**SHAPE, patch_size=16, num_frames=8, tubelet_size=2, **named(world.clip_class_names()))
    processor = VideoMAEImageProcessor(size={"shortest_edge": world.SIZE}, crop_size={"height": world.SIZE, "width": world.SIZE}, **PIXELS)
    model = VideoMAEForVideoClassification(config)
    fit_classifier(folder, model, processor, training.draw_clips, world.CLIP_FACTORS, batch=32, seed=seed, **options)


# ---------------------------------------------------------------------------------------------- script

FOLDERS = {"vae": "sd", "unet": "sd", "clip": "clip", "image_classifier": "image_classifier", "clip_classifier": "clip_classifier"}


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--models", nargs="+", choices=list(FOLDERS), default=list(FOLDERS), help="models to train, in order")
    group.add_argument("--models_dir", type=Path, default=Path(__file__).parents[2] / "phantom" / "models", help="folder for the models")
    group = parser.add_argument_group("optimisation")
    group.add_argument("--vae_steps", type=cli.one_or_more, default=2200, help="steps of the VAE, 32 stills each")
    group.add_argument("--bank", type=cli.one_or_more, default=24000, help="number of stills whose latents the UNet sees")
    group.add_argument("--unet_steps", type=cli.one_or_more, default=6500, help="steps of the UNet, 32 latents each")
    group.add_argument("--clip_steps", type=cli.one_or_more, default=1500, help="steps of CLIP, 96 stills each")
    group.add_argument("--image_classifier_steps", type=cli.one_or_more, default=2200, help="steps of the image classifier, 64 stills each")
    group.add_argument("--clip_classifier_steps", type=cli.one_or_more, default=3400, help="steps of the clip classifier, 32 clips each")
    group.add_argument(
        "--classifier_bank", type=cli.whole(32), default=12800, help="number of frames that a classifier sees through noisy latents"
    )
    group.add_argument(
        "--classifier_test", type=cli.one_or_more, default=512, help="number of fresh pictures for the classifiers' accuracies"
    )
    parser.set_defaults(seed=0)
    return parser


def main(args):
    torch.set_num_threads(1)
    bank, common = args.classifier_bank, {"seed": args.seed}
    classifier = common | {"n_test": args.classifier_test}
    train = {
        "vae": partial(train_vae, steps=args.vae_steps, **common),
        "unet": partial(train_unet, steps=args.unet_steps, bank=args.bank, **common),
        "clip": partial(train_clip, steps=args.clip_steps, **common),
        "image_classifier": partial(train_image_classifier, steps=args.image_classifier_steps, bank=bank, **classifier),
        "clip_classifier": partial(train_clip_classifier, steps=args.clip_classifier_steps, bank=bank // 8, **classifier),
    }
    for name in args.models:
        folder = args.models_dir / FOLDERS[name]
        folder.mkdir(parents=True, exist_ok=True)
        train[name](folder)


if __name__ == "__main__":
    cli.run(main, get_parser)
