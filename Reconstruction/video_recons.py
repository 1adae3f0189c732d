"""Reconstruct videos from test fMRI: decode, invert, add noise, denoise.

Reads    fMRI_in_fslr/sub{ID}/Test/masked{n}_test_data.npy, checkpoints/sub{ID}/{arm}/{semantic,structure,CMG}/,
         features/test_groundtruth.npy; captions/ and features/Test_text_embeddings_CLIP_512.npy for the gallery;
         a Stable Diffusion folder (--sd_path). Or all of it from the authors' folder (--released_root).
Writes   recons/sub{ID}/{name}/results_recons/           test{i}.gif, test{i}.npz: frames (8, H, W, 3) uint8, lossless
                              /results_recons_with_gt/   test_and_gt{i}.gif, ground truth left
                              /stage1/                   test{i}.npz, the VAE's decoding before stage 2 (--save_stage1)
                              /strips/                   film strips of the gallery
                              /gallery.html, manifest.json, args.json, log.jsonl, metrics.json
         {name} is the arm, with _ablate_{what} and _seed{n} where these are not the defaults; --name gives another.

    python Reconstruction/video_recons.py --dataset phantom --config configs/phantom.yaml --subj_ID 1
    python Reconstruction/video_recons.py --subj_ID 1 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5 --precision fp16
    python Reconstruction/video_recons.py --subj_ID 1 --released_root Mind_Animator_data
    accelerate launch Reconstruction/video_recons.py --subj_ID 1

The same command again goes on at the first missing clip. Several processes share the clips among them; on CPUs start
them with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2`.

Phantom: about 1.5 s per clip on one core (its profile). An SD-1.5-size UNet takes about 150 forward passes over eight frames per clip.
"""

import argparse
import logging
import math
import os
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from common import cli
from common.arms import add_arm_flag, fmri_files, load_fmri
from common.captions import read_captions
from common.datasets import get_dataset
from common.files import UserError, fingerprint, load_array, missing, sha256
from common.pages.gallery import build_gallery
from common.layout import Layout
from common.model_sources import add_model_flags, model_files, model_path
from common.randomness import seed_of
from common.readers import format_clips, parse_clips, resize_frames
from Reconstruction.outputs import FORMATS, Outputs, read_log, write_clip, write_manifest
from common.records import Record, git_revision, versions
from common.released import ReleasedTree
from Reconstruction.stage2 import add_stage2_flags, as_frames, clip_noise, encode_prompts, load_pipeline, render
from common.video import read_frames
from models.checkpoints import KINDS, load_checkpoint
from models.pipeline import InflatedSDPipeline
from models.released import identify

log = logging.getLogger(__name__)

DECODERS = ("semantic", "structure", "CMG")
DECODER_KINDS = {"semantic": ("SemanticDecoder",), "structure": ("StructureDecoder",), "CMG": ("ConsistencyMotionGenerator", "PatchCMG")}
# flags that change how fast or where, or how many clips there are, not what a clip looks like
NEUTRAL = {"batch_size", "clips", "format", "save_stage1", "channels_last", "compile", "vae_slicing", "attention_slicing", "cpu_offload"}
NEUTRAL |= {"name", "video_save_folder1", "video_save_folder2"}
# what these lead to is in the record by its SHA-256
NEUTRAL |= {"ckpt", "sd_path", "clip_path", "released_root", *(f"{decoder}_model_path" for decoder in DECODERS)}

Decoders = namedtuple("Decoders", DECODERS)
Decoded = namedtuple("Decoded", ("latents", "tokens", "embedding"))


# ---------------------------------------------------------------------------------------------- the decoders


def load_decoder(path, decoder, n_vertices, token_dim):
    """Load a decoder, ours or released.

    Parameters
    ----------
    path : .safetensors with its JSON, or a released .pth
    decoder : one of DECODERS
    n_vertices : int, that it must take
    token_dim : int, width of the text encoder's tokens

    Returns
    -------
    model, record : nn.Module in evaluation mode; what its JSON says, {} for a released one
    """
    kinds = DECODER_KINDS[decoder]
    if path.suffix == ".safetensors":
        model, record = load_checkpoint(path)
    else:
        found = identify(path, token_dim=token_dim)
        model, record = found.load(), {"epoch": found.epoch, "subject": found.subject}
    if type(model) not in [KINDS[kind] for kind in kinds]:
        raise UserError(path, f"a {' or '.join(kinds)}", f"a {type(model).__name__}", f"check --{decoder}_model_path")
    if model.arguments["in_dim"] != n_vertices:
        raise UserError(
            path,
            f"a checkpoint for {n_vertices} vertices, as the fMRI has",
            f"one for {model.arguments['in_dim']}",
            "train on this fMRI, or give the fMRI that it was trained on",
        )
    return model.eval().requires_grad_(False), record


def load_decoders(paths, n_vertices, token_dim, args):
    """Load the three decoders; a checkpoint of another subject or data set is pointed out.

    Returns
    -------
    Decoders, {decoder: epoch}
    """
    models, epochs = {}, {}
    for decoder, path in paths.items():
        models[decoder], record = load_decoder(path, decoder, n_vertices, token_dim)
        epochs[decoder] = record.get("epoch")
        for key, wanted in (("subject", args.subj_ID), ("dataset", args.dataset)):
            if record.get(key) not in (None, wanted):
                log.warning("%s: a checkpoint of %s %s, used on %s", path, key, record[key], wanted)
    return Decoders(**models), epochs


@torch.no_grad()
def decode_fmri(decoders, fmri, n_frames, *, visibility="released", ablate=None, mean_latent=None):
    """Stage 1: fMRI to latents and prompt tokens.

    Parameters
    ----------
    decoders : Decoders
    fmri : (B, V) float tensor
    n_frames : int
    visibility : "released" or "causal", of the CMG
    ablate : None; "structure", which takes `mean_latent` for the first frame; "motion", which repeats the first frame
    mean_latent : (C, h, w) tensor

    Returns
    -------
    Decoded : latents (B, C, F, h, w), tokens (B, L, D), embedding (B, 512)

    References
    ----------
    Mind-Animator, section 3.
    """
    embedding, tokens = decoders.semantic(fmri)
    first = mean_latent.to(fmri).expand(len(fmri), -1, -1, -1) if ablate == "structure" else decoders.structure(fmri)
    if ablate == "motion":
        frames = first[:, None].expand(-1, n_frames, -1, -1, -1)
    elif isinstance(decoders.CMG, KINDS["PatchCMG"]):
        frames = decoders.CMG.generate(fmri, first.contiguous(), n_frames)
    else:
        frames = decoders.CMG.generate(fmri, first.flatten(1), n_frames, visibility=visibility).unflatten(-1, first.shape[1:])
    return Decoded(frames.transpose(1, 2).contiguous(), tokens, embedding)  # b c f h w


def check_fit(decoders, sd_config, paths):
    """Raise a UserError unless the decoders fit each other and Stable Diffusion.

    Parameters
    ----------
    decoders : Decoders
    sd_config : configuration of Stable Diffusion's UNet
    paths : {decoder: path}, for the error
    """
    latent, channels, width = decoders.structure.latent_shape, sd_config["in_channels"], sd_config["cross_attention_dim"]
    frame = math.prod(decoders.CMG.frame_shape) if isinstance(decoders.CMG, KINDS["PatchCMG"]) else decoders.CMG.d_model
    wanted = (  # decoder, what, number that it should be, number that it is
        ("CMG", "latent frames of {} numbers, as the structure decoder's", math.prod(latent), frame),
        ("structure", "latents of {} channels, as Stable Diffusion's", channels, latent[0]),
        ("semantic", "tokens of width {}, as Stable Diffusion takes", width, decoders.semantic.token_dim),
    )  # fmt: skip
    for decoder, what, expected, found in wanted:
        if found != expected:
            raise UserError(
                paths[decoder], what.format(expected), found, "give checkpoints and a Stable Diffusion (--sd_path) that belong together"
            )


def to_uint8(frames):
    return np.round(frames * 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- the plan of a run


@dataclass(frozen=True)
class Plan:
    """What a run reads and writes, worked out from the flags."""

    dataset: object  # entry of common/datasets.py
    layout: Layout
    tree: ReleasedTree | None
    clips: list
    name: str
    outputs: Outputs
    sd_path: str
    sd_config: dict  # of the UNet
    checkpoints: dict  # decoder -> path


def make_plan(args):
    """Plan of the flags; a UserError where they cannot work."""
    for name, low, high in (("batch_size", 1, 10**6), ("steps", 1, 1000), ("noise_timestep", 0, 999), ("start_timestep", 1, 999), ("guidance", 0, 1000)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name}", f"{low} to {high}", value, "mend the flag")
    if args.released_root and (args.arm, args.split, args.ablate == "structure") != ("full", "test", False):
        found = f"--arm {args.arm} --split {args.split}{' --ablate structure' if args.ablate == 'structure' else ''}"
        raise UserError("--released_root", "flags that need no training data, which the authors' folder lacks", found, "mend the flags")
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    dataset.check_subject(args.subj_ID)
    tree = ReleasedTree(args.released_root, dataset, args.subj_ID) if args.released_root else None
    name = args.name or reconstruction_name(args.arm, args.ablate, args.seed, args.split)
    sd_path = str(tree.stable_diffusion) if tree and not args.sd_path else model_path(args, "sd")
    sd_config = load_sd_config(sd_path)
    checkpoints = {decoder: checkpoint_path(args, dataset, layout, tree, decoder, sd_config["cross_attention_dim"]) for decoder in DECODERS}
    for decoder, path in checkpoints.items():
        if not path.is_file():
            raise missing(path, f"the {decoder} decoder's checkpoint", f"train it, or check --{decoder}_model_path and --ckpt")
    return Plan(
        dataset, layout, tree, chosen_clips(args, dataset), name, make_outputs(args, dataset, layout, name), sd_path, sd_config, checkpoints
    )


def load_sd_config(sd_path):
    """Configuration of Stable Diffusion's UNet."""
    try:
        return UNet2DConditionModel.load_config(sd_path, subfolder="unet")
    except Exception as error:  # diffusers raises EnvironmentError and others for a missing or broken file
        reason = f"'{str(error).strip().splitlines()[0]}'"
        wanted = "Stable Diffusion in the diffusers layout, in a folder or on the hub"
        raise UserError(f"--sd_path {sd_path}", wanted, reason, "give another folder or hub id") from None


def chosen_clips(args, dataset):
    """Clip numbers of --clips."""
    n = dataset.n_clips(args.split)
    clips = parse_clips(",".join(args.clips)) if args.clips else list(range(1, n + 1))
    if clips[-1] > n:
        raise UserError("--clips", f"numbers up to {n}, the {args.split} clips of {dataset.name}", clips[-1], "mend the flag")
    return clips


def checkpoint_path(args, dataset, layout, tree, decoder, token_dim):
    """Path of a decoder's checkpoint: the flag's, the authors', or the one that training wrote."""
    given = getattr(args, f"{decoder}_model_path")
    if given:
        return Path(str(given).replace("{}", str(args.subj_ID)))
    epoch = args.ckpt or dataset.epochs[decoder]
    if tree:
        return tree.checkpoint(decoder, epoch, token_dim)
    stem = f"epoch_{epoch}" if isinstance(epoch, int) else epoch
    return layout.checkpoints(args.subj_ID, args.arm, decoder) / f"{stem}.safetensors"


def make_outputs(args, dataset, layout, name):
    """Outputs of a run."""
    recons = args.video_save_folder1 or layout.recons(args.subj_ID, name) / "results_recons"
    with_gt = args.video_save_folder2 or recons.with_name(f"{recons.name}_with_gt")
    n_frames = len(dataset.frame_indices)
    return Outputs(recons, with_gt, split=args.split, formats=args.format, save_stage1=args.save_stage1, n_frames=n_frames)


def describe_sources(plan):
    """What the result depends on.

    Returns
    -------
    dict, name -> file and SHA-256, for the manifest
    dict of settings that change with the content of these files
    """
    entries = {decoder: {"file": path.as_posix(), "sha256": sha256(path)} for decoder, path in plan.checkpoints.items()}
    settings = {f"{decoder}_checkpoint": entry["sha256"][:16] for decoder, entry in entries.items()}
    files = model_files(plan.sd_path, "unet", "vae", "text_encoder", "tokenizer", "scheduler")  # none for a hub id
    parts = {f"{file.parent.name}/{file.name}": {"file": file.as_posix(), "sha256": sha256(file)} for file in files}
    settings["stable_diffusion"] = fingerprint({name: entry["sha256"] for name, entry in parts.items()}) if parts else plan.sd_path
    return entries | {f"stable_diffusion/{name}": entry for name, entry in parts.items()}, settings


# ---------------------------------------------------------------------------------------------- what else a run reads


def load_test_fmri(args, plan):
    """fMRI of all clips of the split, (N, V) float32 tensor."""
    if plan.tree:
        fmri = load_array(plan.tree.test_fmri, shape=(plan.dataset.n_test, None), do="check --released_root and --subj_ID")
    else:
        clip_path = model_path(args, "clip")
        fmri = load_fmri(plan.layout, plan.dataset, args.subj_ID, args.split, args.arm, args.data_root, clip_path, args.seed)
    log.info("%sfMRI %s: %d clips x %d vertices, float32", "phantom " * plan.dataset.is_phantom, args.split, *fmri.shape)
    return torch.from_numpy(np.ascontiguousarray(fmri, dtype=np.float32))


def open_ground_truth(args, plan):
    """Function of a clip's number that gives its true frames, (F, H, W, 3) uint8.

    The array that content extraction wrote; without it, the frames of the film clips.
    """
    dataset, layout, tree = plan.dataset, plan.layout, plan.tree
    if args.split == "test" and not tree and layout.ground_truth.exists():
        shape = (dataset.n_test, len(dataset.frame_indices), None, None, 3)
        array = load_array(layout.ground_truth, shape=shape, dtype=np.uint8, mmap=True, verify=True)
        return lambda clip: np.array(array[clip - 1])
    names = dataset.clip_names(args.split)
    path = tree.clip if tree else lambda name: layout.clip(args.split, name)
    if not path(names[0]).parent.is_dir():
        wanted = path(names[0]).parent if tree else layout.ground_truth
        raise missing(wanted, "the true frames", "run content_feature_extraction, or check the paths")
    return lambda clip: resize_frames(read_frames(path(names[clip - 1]), dataset.frame_indices), dataset.frame_size)


def mean_first_latent(plan):
    """Mean of the training clips' first latents, (C, h, w) tensor."""
    shape = (plan.dataset.n_train, None, len(plan.dataset.frame_indices), None, None)
    contents = load_array(plan.layout.contents("train"), shape=shape, finite=False, mmap=True, verify=True, do="run content_feature_extraction")
    return torch.from_numpy(np.mean(contents[:, :, 0], axis=0, dtype=np.float64)).float()


class CaptionRanker:
    """Nearest captions to decoded semantics, by cosine in CLIP's space.

    Parameters
    ----------
    captions : list of str, of all clips of the split
    features : (N, 512) CLIP text features of the captions
    """

    def __init__(self, captions, features):
        self.captions = captions
        self.distinct, rows = np.unique(captions, return_index=True)
        self.features = features[rows] / np.linalg.norm(features[rows], axis=1, keepdims=True)

    def describe(self, clip, embedding):
        """Entries of the manifest: caption, nearest caption, rank of the own one among the different captions."""
        own = self.captions[clip - 1]
        similarity = self.features @ (embedding / np.linalg.norm(embedding))
        rank = 1 + int((similarity > similarity[self.distinct == own][0]).sum())
        return {"caption": own, "nearest_caption": str(self.distinct[similarity.argmax()]), "rank": rank, "n_captions": len(self.distinct)}


def open_captions(args, plan):
    """Function (clip, embedding) that gives the gallery's words on a clip, as far as captions and features are there."""
    path, n = plan.layout.captions(args.split), plan.dataset.n_clips(args.split)
    if plan.tree or not path.exists():
        return lambda clip, embedding: {}
    captions = read_captions(path, n)
    features = plan.layout.text_embeddings_clip(args.split)
    if not features.exists():
        return lambda clip, embedding: {"caption": captions[clip - 1]}
    return CaptionRanker(captions, load_array(features, shape=(n, None))).describe


# ---------------------------------------------------------------------------------------------- the run


def render_batches(batches, make, failures):
    """Frames of clips, batch by batch. A batch that fails is tried again clip by clip, so that one clip costs no other.

    Parameters
    ----------
    batches : list of lists of clips
    make : function of a list of clips that gives (frames, stage1 or None) of each
    failures : dict, to which {clip: reason} is added

    Yields
    ------
    seconds per clip, {clip: (frames, stage1)} of the clips that worked
    """

    def attempt(batch):
        try:
            return dict(zip(batch, make(batch), strict=True))
        except Exception as error:  # whatever it is, the other clips go on
            if len(batch) == 1:
                failures[batch[0]] = cli.one_line(error) or type(error).__name__
                return {}
            log.warning("clips %s: %s; tried again one by one", format_clips(batch), cli.one_line(error))
            return {number: result for clip in batch for number, result in attempt([clip]).items()}

    for batch in tqdm(batches, desc="stage 2", unit="batch"):
        began, made = time.time(), attempt(batch)
        broken = [clip for clip, (frames, _) in made.items() if not np.isfinite(frames).all()]
        failures |= dict.fromkeys(broken, "frames that are not finite numbers")
        yield (time.time() - began) / len(batch), {clip: result for clip, result in made.items() if clip not in broken}


@dataclass(frozen=True)
class Loaded:
    """What a run has in memory."""

    fmri: torch.Tensor  # (N, V), of all clips of the split
    true_frames: object  # function of a clip
    describe: object  # function of a clip and an embedding
    mean_latent: torch.Tensor | None
    decoders: Decoders
    epochs: dict  # decoder -> epoch of its checkpoint
    pipe: InflatedSDPipeline


def load(args, plan, device):
    """Load and check all that a run reads -> Loaded."""
    fmri = load_test_fmri(args, plan)
    true_frames, describe = open_ground_truth(args, plan), open_captions(args, plan)
    mean_latent = mean_first_latent(plan) if args.ablate == "structure" else None
    decoders, epochs = load_decoders(plan.checkpoints, fmri.shape[1], plan.sd_config["cross_attention_dim"], args)
    check_fit(decoders, plan.sd_config, plan.checkpoints)
    decoders = Decoders(*(model.to(device) for model in decoders))
    return Loaded(fmri.to(device), true_frames, describe, mean_latent, decoders, epochs, load_pipeline(plan.sd_path, args, device))


def reconstruct(args, outputs, record, loaded, share):
    """Make the clips of a share that are missing.

    Parameters
    ----------
    args : of the command line
    outputs : Outputs
    record : Record, started
    loaded : Loaded
    share : list of clips
    """
    # stage 1 for all clips of the share, whatever is there already: a run that goes on computes the same numbers
    fmri, pipe = loaded.fmri[torch.tensor(share) - 1], loaded.pipe
    options = {"visibility": args.visibility, "ablate": args.ablate, "mean_latent": loaded.mean_latent}
    decoded = decode_fmri(loaded.decoders, fmri, outputs.n_frames, **options)
    for model in loaded.decoders:
        model.cpu()  # stage 2 has the GPU to itself
    prompts = encode_prompts(pipe, loaded.decoders.semantic.n_tokens + 1)
    row = {clip: i for i, clip in enumerate(share)}

    # stage 2, in batches of the same clips for the same reason
    def make(batch):
        index = torch.tensor([row[clip] for clip in batch])
        latents = decoded.latents[index]
        noise = torch.stack([clip_noise(args.seed, clip, latents.shape[1:], args.noise_shared) for clip in batch])
        tokens = None if args.ablate == "semantic" else decoded.tokens[index]
        before = as_frames(pipe.decode(latents)) if args.save_stage1 else [None] * len(batch)
        return list(zip(render(pipe, prompts, latents, tokens, noise, args), before, strict=True))

    batches = [share[i : i + args.batch_size] for i in range(0, len(share), args.batch_size)]
    batches = [batch for batch in batches if not all(map(outputs.done, batch))]
    failures = {}
    for seconds, made in render_batches(batches, make, failures):
        for clip, (frames, before) in made.items():
            if outputs.done(clip):
                continue
            try:
                gt = loaded.true_frames(clip)
            except UserError as error:
                failures[clip] = cli.one_line(error)
                continue
            words = loaded.describe(clip, decoded.embedding[row[clip]].cpu().numpy())
            facts = {"seconds": round(seconds, 3), "seed": seed_of(args.seed, "noise", clip), "size": frames.shape[1], **words}
            record.log(clip=clip, time=time.time(), **facts)  # first: a clip that is there is always in the log
            write_clip(outputs, clip, to_uint8(frames), gt, None if before is None else to_uint8(before))
    for clip, reason in sorted(failures.items()):
        record.log(clip=clip, time=time.time(), failed=reason)


def finish(args, plan, record, sources):
    """Write manifest and gallery. The process that ends last writes metrics.json, or tells which clips failed."""
    outputs, dataset = plan.outputs, plan.dataset
    folders = {"recons": outputs.recons.name, "with_gt": os.path.relpath(outputs.with_gt, outputs.root), "strips": "strips"}
    facts = {"dataset": args.dataset, "phantom": dataset.is_phantom, "subject": args.subj_ID, "name": plan.name, "arm": args.arm}
    facts |= {"ablate": args.ablate, "split": args.split, "n_clips": dataset.n_clips(args.split), "frame_size": dataset.frame_size}
    facts |= {"seed": args.seed, "settings": record.settings(), "folders": folders, "checkpoints": sources}
    write_manifest(outputs, {**facts, "git": git_revision(), "versions": versions()})
    gallery = build_gallery(outputs.root, plan.layout.metrics(args.subj_ID, plan.name))

    lacking = [clip for clip in plan.clips if not outputs.done(clip)]
    logged = read_log(outputs.root / "log.jsonl")
    now = [clip for clip in lacking if logged.get(clip, {}).get("failed") and logged[clip]["time"] >= record.began]
    if len(now) < len(lacking):  # another process is still at work
        return
    if lacking:
        for clip in lacking:
            log.error("clip %d failed: %s", clip, logged[clip]["failed"])
        print(
            f"{len(lacking)} of {len(plan.clips)} clips failed: {format_clips(lacking)}; the others are in {outputs.recons}",
            file=sys.stderr,
        )
        sys.exit(1)
    record.finish(clips=len(plan.clips))
    log.info("%d clips in %s; look at %s", len(plan.clips), outputs.recons, gallery)


# ---------------------------------------------------------------------------------------------- the command


def get_parser():
    parser = cli.make_parser(__doc__)
    group = cli.add_data_flags(parser, subject=True, device=True)
    group.add_argument("--split", type=str.lower, choices=["train", "test"], default="test", help="which part")
    group.add_argument("--clips", nargs="+", metavar="1-40,52", help="clip numbers from 1 (default: all)")
    group.add_argument("--released_root", type=Path, help="the authors' folder Mind_Animator_data instead of all the above")
    group.add_argument("--video_save_folder1", type=Path, help="reconstructions (default: recons/sub{ID}/{name}/results_recons)")
    group.add_argument("--video_save_folder2", type=Path, help="reconstructions beside the ground truth (default: {folder1}_with_gt)")
    group.add_argument("--name", help="of this reconstruction (default: the arm, with ablation and seed)")
    group.add_argument(
        "--format", nargs="+", choices=list(FORMATS), default=["gif", "npz"], help="what is written of each clip; npz and png are lossless"
    )
    group.add_argument("--save_stage1", action="store_true", help="write the decoding before stage 2 too")

    add_model_flags(parser, "sd", "clip")
    group = parser.add_argument_group("decoders")
    for decoder in DECODERS:
        group.add_argument(f"--{decoder}_model_path", type=Path, help="ours (.safetensors) or released (.pth); {} stands for the subject")
    group.add_argument(
        "--ckpt",
        type=lambda text: int(text) if str(text).isdigit() else text,
        metavar="{N,best,last}",
        help="epoch of all three decoders (default: the data set's)",
    )
    add_arm_flag(group)
    group.add_argument(
        "--visibility", choices=["released", "causal"], default="released", help="earlier frames that the CMG sees: the first alone, or all"
    )
    group.add_argument("--ablate", choices=["semantic", "structure", "motion"], help="empty prompt, mean first frame, or still first frame")

    add_stage2_flags(parser)
    return parser


def main(args):
    plan = make_plan(args)
    outputs, tree = plan.outputs, plan.tree
    sources, content = describe_sources(plan)
    files = [tree.test_fmri] if tree else fmri_files(plan.layout, plan.dataset, args.subj_ID, args.split, args.arm, args.data_root)
    inputs = [path for path in (*plan.checkpoints.values(), *files) if path.is_file()]
    record = Record(outputs.root, argparse.Namespace(**vars(args), **content), inputs, NEUTRAL)

    # what is there already
    record.check_same()
    there = [clip for clip in plan.clips if outputs.done(clip)]
    if not args.overwrite:
        if there and not (outputs.root / "args.json").exists():
            found = f"clips {format_clips(there)} without one"
            raise UserError(outputs.recons, "a new folder, or one with its record", found, "name another folder, or --overwrite")
        if len(there) == len(plan.clips) and (outputs.root / "metrics.json").exists():
            log.info("%s: already done, --overwrite to redo", outputs.root)
            return

    state = PartialState(cpu=cli.choose_device(args.device).type == "cpu")
    loaded = load(args, plan, state.device)
    if args.overwrite and state.is_main_process:
        outputs.clear(range(1, plan.dataset.n_clips(args.split) + 1))
    record.start()
    (outputs.root / "metrics.json").unlink(missing_ok=True)
    if args.overwrite:
        state.wait_for_everyone()  # until the old files are gone
    share = plan.clips[state.process_index :: state.num_processes]
    if share:
        reconstruct(args, outputs, record, loaded, share)
    finish(
        args, plan, record, {name: entry | {"epoch": loaded.epochs[name]} if name in DECODERS else entry for name, entry in sources.items()}
    )


if __name__ == "__main__":
    cli.run(main, get_parser)
