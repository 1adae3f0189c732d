# %% [markdown]
# # One clip's way through the chain
#
# This page follows one clip of the phantom from the movie to its reconstruction, and shows what each ablation does to
# it. **Phantom: simulated fMRI of drawn movies; nothing here is a result about brains.** It is the file
# `examples/phantom_tour.py`, which reads what `make demo` left and calls the project's own functions; run it as a
# script, or cell by cell in an editor or a notebook (jupytext):
#
#     python examples/phantom_tour.py --data_root data --out_root outputs --clip 87 --to outputs/tour

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from common import cli
from common.datasets import get_dataset
from common.files import load_mask
from common.layout import Layout
from Data_preprocess.cortex_maps import draw_cortex
from Evaluation_Metrics.EPE import epe
from Evaluation_Metrics.gallery import read_manifest
from Evaluation_Metrics.SSIM import ssim
from Explainable_analysis.Cortical_visualization.maps import onto_cortex
from models.decoding import decode_fmri, load_decoders
from models.pipeline import as_frames, encode_prompts, render
from Reconstruction.outputs import to_uint8
from Reconstruction.sources import DatasetClips, mean_first_latent
from Reconstruction.stage2 import add_stage2_flags, clip_noise, load_pipeline, load_sd_config, pipeline_options, render_options

parser = argparse.ArgumentParser()
parser.add_argument("--data_root", type=Path, default="data")
parser.add_argument("--out_root", type=Path, default="outputs")
parser.add_argument("--clip", type=int, default=87)
parser.add_argument("--to", type=Path, default="outputs/tour")
flags, _ = parser.parse_known_args()  # a notebook has flags of its own
flags.to.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)

# %% [markdown]
# The reconstruction `full` was made by `Reconstruction/video_recons.py`, whose manifest says with which flags. What it read
# is read again: fMRI, true frames and captions of the test clips, and the three decoders' checkpoints.

# %%
dataset, layout = get_dataset("phantom"), Layout(flags.out_root / "phantom")
made = layout.recons(1, "full")
stage2_parser = cli.make_parser("stage 2")
add_stage2_flags(stage2_parser)
args = stage2_parser.parse_args([])
vars(args).update(read_manifest(made)["settings"])
source = DatasetClips(layout, dataset, 1, "test", "full", flags.data_root, args.seed)
checkpoints = {name: layout.checkpoints(1, "full", name) / f"{epoch}.safetensors" for name, epoch in dataset.epochs.items()}
sd_path = dataset.models["sd"]


def picture(name, rows):
    """Save clips, one a row with words at its left, as {name}.webp."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(8.6, 0.9 * len(rows)), squeeze=False, layout="constrained")
    for ax, (words, frames) in zip(axes[:, 0], rows.items(), strict=True):
        gap = np.full_like(frames[:, :, :2], 255)
        ax.imshow(np.concatenate([np.concatenate([frame, space], axis=1) for frame, space in zip(frames, gap, strict=True)], axis=1))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(f"phantom, clip {flags.clip}: {caption}", fontsize=9)
    figure.savefig(flags.to / f"{name}.webp", dpi=110, bbox_inches="tight", pil_kwargs={"quality": 85})
    plt.close(figure)


# %% [markdown]
# ## 1. The movie and its caption
#
# A clip is two seconds of a movie; the models see eight of its frames. The caption is what BLIP-2 would say of it; the
# phantom's comes from the scene that was drawn.
#
# ![Eight frames of the clip](tour/1_frames.webp)

# %%
truth = source.true_frames()(flags.clip)  # f h w c
describe = source.captions()
caption = describe(flags.clip, None)["caption"]
picture("1_frames", {"truth": truth})

# %% [markdown]
# ## 2. The fMRI
#
# One volume, four seconds after the clip began, at the vertices whose responses to the training clips' repetitions
# agree best; the phantom's planted areas are among them. This row of numbers is all that the decoders are given.
#
# ![The clip's fMRI on the cortex](tour/2_fmri.png)

# %%
fmri = source.fmri(dataset.n_vertices)[flags.clip - 1]  # v
cortex = onto_cortex(fmri, load_mask(layout.mask(1), 59412), fill=np.nan)
title = f"phantom, clip {flags.clip}: fMRI of the selected vertices"
draw_cortex(flags.to / "2_fmri.png", cortex, title, "standard deviations", cmap="RdBu_r", vmin=-3, vmax=3)

# %% [markdown]
# ## 3. Semantics: fMRI to prompt
#
# The semantic decoder makes an embedding in CLIP's space, pulled by contrastive training towards the caption's, and of
# it the tokens that Stable Diffusion will be prompted with. Words never appear, but one can ask which captions are near:
#
# ![Captions nearest to the decoded embedding](tour/3_captions.webp)

# %%
decoders, _ = load_decoders(checkpoints, load_sd_config(sd_path, args)["cross_attention_dim"])
row = torch.from_numpy(fmri)[None]
decoded = decode_fmri(decoders, row, visibility=args.visibility)
said = describe(flags.clip, decoded.embedding[0].numpy())
names, cosines = zip(*reversed(said["nearest_captions"].items()), strict=True)
figure, ax = plt.subplots(figsize=(8.6, 1.9), layout="constrained")
ax.barh(names, cosines, color=["#2457a6" if name == caption else "#b0b7c0" for name in names])
ax.set_title(f"phantom, clip {flags.clip}: own caption (blue) has rank {said['rank']} of {said['n_captions']}", fontsize=9)
ax.set_xlabel("cosine", fontsize=8)
ax.tick_params(labelsize=8)
figure.savefig(flags.to / "3_captions.webp", dpi=110)
plt.close(figure)

# %% [markdown]
# ## 4. Structure and motion: fMRI to latents
#
# The structure decoder gives the VAE latent of the first frame; the motion generator (CMG) goes on from it, frame by
# frame, looking at the fMRI. Decoded by the VAE they look like this: the first is a still, the second moves.
#
# ![Latents after structure and after the CMG](tour/4_latents.webp)

# %%
pipe = load_pipeline(sd_path, torch.device("cpu"), **pipeline_options(args))


def decode(latents):
    return to_uint8(as_frames(pipe.decode(latents)))[0]  # f h w c


still = decode_fmri(decoders, row, ablate="motion")
picture("4_latents", {"truth": truth, "structure": decode(still.latents), "structure\nand CMG": decode(decoded.latents)})

# %% [markdown]
# ## 5. Stage 2: invert, add noise, denoise
#
# Stable Diffusion, inflated to movies, cleans the latents up without losing their layout. DDIM inversion runs the
# denoiser backwards, to the noise from which it would draw these latents; a bit of fresh noise is mixed in; and from there it
# denoises, guided by the decoded prompt. The phantom's tiny generator does better without the inversion, so that its
# profile leaves the step out (`--no_inversion`); the picture shows it all the same, as far up as the profile starts.
#
# ![Latents after inversion, with noise, and denoised](tour/5_stage2.webp)

# %%
prompts = encode_prompts(pipe, decoded.tokens.shape[1] + 1)
noise = clip_noise(args.seed, flags.clip, decoded.latents.shape[1:], args.noise_shared)[None]


def stage2(stage1, tokens=decoded.tokens):
    return to_uint8(render(pipe, stage1.latents, tokens, noise, prompts, **render_options(args)))[0]


inverted = pipe.invert(decoded.latents, prompts.inversion, args.steps, args.start_timestep)
full = stage2(decoded)
steps = {"decoded": decode(decoded.latents), "inverted": decode(inverted)}
steps["noise added"] = decode(pipe.add_noise_at(decoded.latents, noise, args.noise_timestep))
picture("5_stage2", {"truth": truth, **steps, "denoised": full})

with np.load(made / f"results_recons/test{flags.clip}.npz") as stored:  # in a batch with others, hence other rounding
    print(f"difference from the reconstruction in {made.name}: {np.abs(full.astype(int) - stored['frames']).mean():.3f} of 255")

# %% [markdown]
# ## 6. What each part is for
#
# Each ablation takes one part away: the prompt (empty), the first frame (the mean of all training clips), the motion
# (the first frame eight times). SSIM says how alike the pictures are, the end-point error (EPE, in pixels) how far the motion is off;
# low is good for it. One clip proves nothing: the report has every claim over all clips, beside its control.
#
# ![Ablations of the clip](tour/6_ablations.webp)

# %%
mean = torch.from_numpy(mean_first_latent(layout, dataset))
without = {
    "semantics": stage2(decoded, tokens=None),
    "structure": stage2(decode_fmri(decoders, row, visibility=args.visibility, ablate="structure", mean_latent=mean)),
    "motion": stage2(still),
}
clips = {"full": full} | {f"no {part}": frames for part, frames in without.items()}
scores = {
    name: f"SSIM {ssim(frames[None], truth[None])[0]:.2f}, EPE {epe(frames[None], truth[None])[0][0]:.2f}" for name, frames in clips.items()
}
picture("6_ablations", {"truth": truth} | {f"{name}\n{scores[name]}": frames for name, frames in clips.items()})
print(f"pictures in {flags.to}")

# %% [markdown]
# The same clip, with all metrics and beside the other reconstructions, is a page of the gallery:
# `outputs/phantom/recons/sub1/full/gallery.html#clip=87`.
