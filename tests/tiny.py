"""What several tests need: scripts by path, and tiny members of the real model classes."""

import importlib
import json
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import apart, cli
from common.captions import write_captions
from common.datasets import PHANTOM
from common.files import save_array
from common.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
CARD = {"rows": "clips", "units": "none", "made_by": "test"}


def load_script(path):
    """A script as a module, by its path in the tree."""
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))


def run_script(script, *argv):
    """Run a script's main on a command line."""
    cli.run(script.main, script.get_parser, argv)


def fails(script, *argv, status=2):
    """Run a script that must exit with `status`."""
    with pytest.raises(SystemExit) as stopped:
        run_script(script, *argv)
    assert stopped.value.code == status


def error_of(capsys, script, *argv):
    """The one line that a script ends with, after a user's mistake."""
    capsys.readouterr()
    fails(script, *argv)
    (line,) = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error:")]
    return line


def read_here(function, path, do):
    """What read_apart of common.apart returns, without a child's half second of imports where nothing is wrong with a file."""
    try:
        return {name: np.asarray(value) for name, value in function(str(path)).items()}
    except Exception:
        return apart.read_apart(function, path, do)


# ---------------------------------------------------------------------------------------------- models


def run_chain(dataset, folder):
    """The pipeline as a newcomer calls it, with data/ and outputs/ in a folder, but that no baselines are scored; and its report."""
    where = ["--dataset", dataset, "--data_root", str(folder / "data"), "--out_root", str(folder / "outputs")]
    command = [sys.executable, "run_pipeline.py", *where, "--stages", "phantom,preprocess,extract,train,reconstruct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for arm in ("full", "control"):
        run_script(load_script("Evaluation_Metrics/evaluate.py"), *where, "--name", arm, "--baselines", "none", "--workers", 1)
    run_script(load_script("run_pipeline.py"), *where, "--stages", "report")


def make_tokenizer():
    """A CLIP tokenizer whose tokens are letters."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, ",", "."]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def prompt_ids(tokenizer, caption, length=20):
    """Tokens of a prompt, cut before its end token or padded."""
    ids = tokenizer(caption).input_ids
    return ids + [tokenizer.pad_token_id] * (length - len(ids)) if len(ids) <= length else [*ids[: length - 1], ids[-1]]


UNET = {
    "block_out_channels": (8, 16), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "layers_per_block": 1,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 12, "norm_num_groups": 4, "attention_head_dim": 2,
}  # fmt: skip
NOISE_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_sd(folder):
    """Stable Diffusion in the diffusers layout: latents of a quarter of the size, text of width 12."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    AutoencoderKL(
        block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
    ).save_pretrained(folder / "vae")  # fmt: skip
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=12,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )).save_pretrained(folder / "text_encoder")  # fmt: skip
    UNet2DConditionModel(sample_size=8, **UNET).save_pretrained(folder / "unet")
    # a careless scheduler file: stage 2 must set what the recipe fixes
    DDIMScheduler(**NOISE_SCHEDULE, clip_sample=True, set_alpha_to_one=True, steps_offset=0).save_pretrained(folder / "scheduler")
    return folder


def make_clip(folder):
    """An open_clip folder with features of 10 numbers and images of 32 pixels."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(2)
    config = {
        "embed_dim": 10,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def make_blip2(folder, decoder, seed=0):
    """A folder with a BLIP-2 of a few thousand random weights, on T5 or on OPT."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor, PreTrainedTokenizerFast

    from Data_preprocess.captioning import PROMPT

    prompt = PROMPT.replace("?", " ?").replace(":", " :")
    vocabulary = f"<pad> </s> <unk> <s> {prompt} a red circle on the sea blue star man dog runs".split()
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>")
    processor = Blip2Processor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer, num_query_tokens=4)
    n = len(processor.tokenizer)
    common = {"vocab_size": n, "pad_token_id": 0, "eos_token_id": 1}
    text = {
        "t5": {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
        "opt": {
            "model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 32, "num_attention_heads": 2,
            "max_position_embeddings": 128, "word_embed_proj_dim": 16, "bos_token_id": 3,
        },
    }[decoder]  # fmt: skip
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**size, "image_size": 32, "patch_size": 8},
        qformer_config={**size, "vocab_size": n, "encoder_hidden_size": 16, "max_position_embeddings": 64}, text_config={**common, **text},
        num_query_tokens=4, image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(0, 0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


# ---------------------------------------------------------------------------------------------- data

N_TRAIN, N_TEST, N_VERTICES, SIZE = 26, 4, 30, 32
SMALL = replace(
    PHANTOM, n_train=N_TRAIN, n_train_runs=2, clips_per_train_run=N_TRAIN // 2,
    n_test=N_TEST, n_test_runs=2, clips_per_test_run=N_TEST // 2,
    frame_size=SIZE, n_vertices=N_VERTICES, epochs={"semantic": 2, "structure": 3, "CMG": 2, "retrieval": 2}, config="",
)  # fmt: skip
WORDS = ("a small red circle", "a large blue star on a tile floor", "two dogs run over the green grass", "waves")


def make_captions(layout, split, n):
    captions = [WORDS[i % len(WORDS)] + " indeed" * (i % 3) for i in range(n)]
    write_captions(layout.captions(split), split, captions)
    return captions


def make_frames(layout, split, rng):
    """Random frames as PNG, which loses nothing; (N, 8, SIZE, SIZE, 3) uint8."""
    frames = rng.integers(0, 256, (SMALL.n_clips(split), 8, SIZE, SIZE, 3), dtype=np.uint8)
    for name, clip in zip(SMALL.clip_names(split), frames, strict=True):
        folder = layout.frames(split, name)
        folder.mkdir(parents=True)
        for index, frame in zip(SMALL.frame_indices, clip, strict=True):
            Image.fromarray(frame).save(folder / f"{index:07d}.png")
    return frames


def make_features(out_root, seed=0):
    """fMRI, targets, captions and frames of the small data set, with latents that fMRI predicts."""
    layout, rng = Layout(Path(out_root) / "phantom"), np.random.default_rng(seed)
    fmri = rng.standard_normal((N_TRAIN, N_VERTICES)).astype(np.float32)
    latents = fmri @ rng.standard_normal((N_VERTICES, 4 * 8 * 8 * 8)) / N_VERTICES**0.5
    arrays = {
        layout.masked_fmri(1, "train", N_VERTICES): fmri,
        layout.text_embeddings_sd("train"): rng.standard_normal((N_TRAIN, 20, 12)),
        layout.text_embeddings_clip("train"): rng.standard_normal((N_TRAIN, 10)),
        layout.image_embeddings_clip("train"): rng.standard_normal((N_TRAIN, 10)),
        layout.contents("train"): latents.reshape(N_TRAIN, 4, 8, 8, 8),
    }
    for path, array in arrays.items():
        save_array(path, array.astype(np.float32), **CARD)
    make_captions(layout, "train", N_TRAIN)
    make_frames(layout, "train", rng)
    return layout


def make_classifiers(root):
    """ViT and VideoMAE of 96 classes with random weights, as folders below `root`."""
    from transformers import (
        VideoMAEConfig,
        VideoMAEForVideoClassification,
        VideoMAEImageProcessor,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    shape |= {"image_size": 32, "patch_size": 8, "num_labels": 96}
    ViTForImageClassification(ViTConfig(**shape)).save_pretrained(root / "image_classifier")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "image_classifier")
    VideoMAEForVideoClassification(VideoMAEConfig(**shape, num_frames=16, tubelet_size=2)).save_pretrained(root / "clip_classifier")
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(root / "clip_classifier")
