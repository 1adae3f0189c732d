"""The project's scripts at CC2017's size, on random data and random weights: their speed and GPU memory, for gpu.py.

What a folder of CC2017's results holds before training is made up: fMRI, targets, captions, frames, and Stable Diffusion and
CLIP of the published sizes. The scripts then run as a user runs them; what they learn and draw is noise.
"""

import json
import os
import subprocess
import sys
import threading
import time
from statistics import median

import cv2
import numpy as np
import torch
from timing import build_unet

from common import cli
from common.captions import write_captions
from common.datasets import get_dataset
from common.files import UserError, save_array
from common.layout import Layout
from Feature_extraction import content_feature_extraction
from models.encoders import N_TOKENS

DATASET = "CC2017"
PHANTOM_SD = cli.PROJECT / "phantom/models/sd"
WORDS = ("a man rides a horse along the beach", "two dogs play in the snow", "a city street at night", "a woman talks in a kitchen")
UNET, VAE = (320, 640, 1280, 1280), (128, 256, 512, 512)  # widths of Stable Diffusion 1.5
TEXT = {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
POLL = 0.1  # seconds between looks at the GPU's memory


# ---------------------------------------------------------------------------------------------- models


def build_vae(widths):
    """VAE of Stable Diffusion's kind with random weights."""
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=widths, layers_per_block=2, sample_size=512, **blocks).eval().requires_grad_(False)


def make_sd(folder, unet=UNET, vae=VAE, text=TEXT):
    """Stable Diffusion 1.5 with random weights in the diffusers layout; its tokenizer and scheduler are the phantom's."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    build_unet(unet, torch.device("cpu"), torch.float32).save_pretrained(folder / "unet")
    build_vae(vae).save_pretrained(folder / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(PHANTOM_SD / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=768, **text, **ends)).save_pretrained(folder / "text_encoder")
    for part in ("tokenizer", "scheduler"):
        os.symlink(PHANTOM_SD / part, folder / part)
    return folder


def make_clip(folder, name="ViT-B-32-quickgelu"):
    """An open_clip folder of an architecture with random weights."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir()
    config = open_clip.get_model_config(name)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    weights = open_clip.create_model(name, pretrained=None).state_dict()
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    return folder


# ---------------------------------------------------------------------------------------------- data


def make_data(out_root, latent=(4, 64, 64)):
    """What training reads of CC2017, random; all frames are one picture. The layout, and a file of eight rows of fMRI."""
    dataset, layout, rng = get_dataset(DATASET), Layout(out_root / DATASET), np.random.default_rng(0)
    n, n_frames = dataset.n_train, len(dataset.frame_indices)
    shapes = {
        layout.masked_fmri(1, "train", dataset.n_vertices): (n, dataset.n_vertices),
        layout.text_embeddings_sd("train"): (n, N_TOKENS, 768),
        layout.text_embeddings_clip("train"): (n, 512),
        layout.image_embeddings_clip("train"): (n, 512),
        layout.contents("train"): (n, latent[0], n_frames, *latent[1:]),
    }
    for path, shape in shapes.items():
        save_array(path, rng.standard_normal(shape, dtype=np.float32), rows="clips", units="none", made_by="benchmarks/full_size.py")
    write_captions(layout.captions("train"), "train", [f"{WORDS[i % len(WORDS)]} {'and ' * (i % 5)}more" for i in range(n)])
    noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    picture = out_root / "frame.jpg"
    cv2.imwrite(str(picture), cv2.resize(noise, (dataset.frame_size, dataset.frame_size), interpolation=cv2.INTER_CUBIC))
    for clip in dataset.clip_names("train"):
        folder = layout.frames("train", clip)
        folder.mkdir(parents=True)
        for index in dataset.frame_indices:
            os.link(picture, folder / f"{index:07d}.jpg")
    rows = out_root / "rows.npy"
    np.save(rows, rng.standard_normal((8, dataset.n_vertices), dtype=np.float32))
    return layout, rows


# ---------------------------------------------------------------------------------------------- runs


class GPUMemory(threading.Thread):
    """Most bytes that a GPU has in use beyond those at the start, by all processes, while the block runs; 0 without a GPU."""

    def __init__(self):
        super().__init__(daemon=True)
        self.done, self.peak = threading.Event(), 0

    def used(self):
        free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
        return total - free

    def run(self):
        while not self.done.wait(POLL):
            self.peak = max(self.peak, self.used() - self.before)

    def __enter__(self):
        self.before = self.used()
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()


def run(script, *flags):
    """Run a script of the project; its seconds, and the GPU's memory. A UserError with the end of its messages where it fails."""
    words = [sys.executable, str(script), *map(str, flags)]
    began = time.perf_counter()
    with GPUMemory() as memory:
        done = subprocess.run(words, cwd=cli.PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{script} ended with status {done.returncode} ({done.stderr.strip()[-500:]}); run it by hand")
    return time.perf_counter() - began, memory.peak


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def training_row(out_root, name, words, *flags):
    """A row, a training's second epoch of two; and the folder of its checkpoints."""
    folder = out_root / "trained" / " ".join([name, *flags]).replace(" --", "_")
    where = ["--dataset", DATASET, "--out_root", out_root, "--model_dir", folder]
    seconds, peak = run(f"Feature_decoding/train_{name}.py", *where, "--epoch", 2, *words, *flags)
    epoch = [entry["seconds"] for entry in read_log(folder) if "epoch" in entry][-1]
    return (" ".join([f"train_{name}", *flags]), "epoch", f"{epoch:.1f}", f"{peak / 1e9:.1f}", f"{seconds:.0f} for 2 epochs"), folder


def recons_row(out_root, decoders, words, rows, name, *flags):
    """A row, the last clip of stage 2, of up to eight: the first takes longer."""
    folder = out_root / name
    models = [word for flag, path in decoders.items() for word in (f"--{flag}_model_path", path / "last.safetensors")]
    where = ["--dataset", DATASET, "--out_root", out_root, "--out", folder, "--fmri", rows, "--fmri_norm", "none"]
    seconds, peak = run("Reconstruction/video_recons.py", *where, *models, *words, *flags)
    clips = [entry["seconds"] for entry in read_log(folder) if "clip" in entry]
    return " ".join(["video_recons", *flags]), "clip", f"{clips[-1]:.2f}", f"{peak / 1e9:.1f}", f"{seconds:.0f} for {len(clips)} clips"


def extraction_row(layout, sd, device, batch_size=2, batches=4):
    """A row: a clip of the content extraction, frames read from disk; the median over batches after the first."""
    args = cli.parse(content_feature_extraction.get_parser, ["--dataset", DATASET], "Feature_extraction/content_feature_extraction")
    with GPUMemory() as memory:
        *_, compute = content_feature_extraction.prepare(layout, get_dataset(DATASET), str(sd), args, "train", device)
        seconds = []
        for batch in range(batches):
            began = time.perf_counter()
            compute(range(batch * batch_size, (batch + 1) * batch_size))
            seconds.append((time.perf_counter() - began) / batch_size)
    return f"content_feature_extraction --batch_size {batch_size}", "clip", f"{median(seconds[1:]):.2f}", f"{memory.peak / 1e9:.1f}", ""


def script_rows(folder, device, recipes, latent=(4, 64, 64), sizes=None):
    """Rows (script, per, seconds, GB, whole run), one after another; `recipes` are flags of video_recons."""
    sd, clip = make_sd(folder / "sd", **(sizes or {})), make_clip(folder / "clip")
    layout, rows = make_data(folder, latent)
    yield extraction_row(layout, sd, device)
    decoders, encoders = {}, ["--sd_path", sd, "--clip_path", clip]
    for name, words, *flags in (("semantic_decoder", encoders), ("structure_decoder", []), ("CMG", [], "--tf32"), ("CMG", [])):
        row, decoders[name.removesuffix("_decoder")] = training_row(folder, name, words, *flags)
        yield row
    for number, flags in enumerate(recipes):
        yield recons_row(folder, decoders, ["--sd_path", sd], rows, f"recons{number}", *flags)
