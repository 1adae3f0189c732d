"""Reconstruct movies from fMRI: decode, invert, add noise, denoise.

Reads    fMRI_in_fslr/sub{ID}/Test/masked{n}_test_data.npy, checkpoints/sub{ID}/{arm}/{semantic,structure,CMG}/,
         features/test_groundtruth.npy; captions/ and features/Test_text_embeddings_CLIP_512.npy for the gallery;
         a Stable Diffusion folder (--sd_path). Or all of it from the authors' folder (--released_root).
Writes   recons/sub{ID}/{name}/results_recons/           test{i}.gif, test{i}.npz: frames (8, H, W, 3) uint8, lossless
                              /results_recons_with_gt/   test_and_gt{i}.gif, ground truth left
                              /samples/{2..K}/           test{i}.npz, from other noises (--n_samples K)
                              /stage1/                   test{i}.npz, the VAE's decoding before stage 2 (--save_stage1)
                              /stage1_arrays/            latents.npy, tokens.npy, embedding.npy (--save_stage1_arrays)
                              /strips/, strips_stage1/   movie strips that the gallery plays
                              /gallery.html, manifest.json, args.json, log.jsonl, metrics.json; SHA256SUMS in the folders
         {name} is the arm, with _ablate_{what} and _seed{n} where these are not the defaults; --name gives another.

    python Reconstruction/video_recons.py --dataset phantom --subj_ID 1
    python Reconstruction/video_recons.py --subj_ID 1 --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5 --precision fp16
    python Reconstruction/video_recons.py --subj_ID 1 --released_root Mind_Animator_data
    accelerate launch Reconstruction/video_recons.py --subj_ID 1

Rows of any recording with the vertices of the decoders, without a data set; and clips that another decoder decoded
(docs/own_decoder.md):

    python Reconstruction/video_recons.py --fmri FILE.npy --out DIR --gt FOLDER_OF_MOVIES
    python Reconstruction/video_recons.py --subj_ID 1 --stage1_from FOLDER_OF_ARRAYS

The same command again goes on at the first missing clip. Several processes share the clips among them; on CPUs start
them with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2`.

Phantom: one to two seconds per clip on one core (its profile). An SD-1.5-size UNet takes about 150 forward passes over eight frames per clip.
"""

import contextlib
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from common import cli
from common.arms import add_arm_flag, named_arm
from common.clip_frames import clip_times
from common.datasets import get_dataset
from common.files import UserError, missing
from common.layout import Layout, arm_name, reconstruction_name
from common.model_sources import add_model_flags, model_path
from common.randomness import seed_of
from common.readers import format_clips, parse_clips
from common.records import git_revision, versions, working
from common.released import ReleasedTree
from Evaluation_Metrics.gallery import build_gallery
from models.checkpoints import TRAINING_STATE, statistics_path
from models.decoding import Decoded, check_fit, decode_fmri, load_decoders
from models.pipeline import as_frames, encode_prompts, render
from models.released import find_checkpoint
from Reconstruction.outputs import FORMATS, Outputs, read_log, to_uint8, write_clip, write_manifest
from Reconstruction.sources import DatasetClips, RecordingClips, ReleasedClips, describe_models, mean_first_latent
from Reconstruction.stage1_arrays import check_tokens, count_clips, load_stage1, save_stage1, stage1_files
from Reconstruction.stage2 import (
    add_stage2_flags,
    clip_noise,
    load_pipeline,
    load_sd_config,
    pipeline_options,
    render_batches,
    render_options,
)

log = logging.getLogger(__name__)

DECODERS = ("semantic", "structure", "CMG")


# ---------------------------------------------------------------------------------------------- flags


def checkpoint_name(text):
    """Type of --ckpt: the number of an epoch, or a word."""
    return int(text) if str(text).isdigit() else text


def get_parser():
    parser = cli.make_parser(__doc__)
    group = cli.add_data_flags(parser, subject=True, device=True)
    group.add_argument("--split", type=str.lower, choices=["train", "test"], default="test", help="split whose clips are reconstructed")
    group.add_argument("--clips", nargs="+", metavar="1-40,52", changes_result=False, help="clip numbers from 1 (default: all)")
    group.add_argument("--released_root", type=Path, help="the authors' folder Mind_Animator_data, instead of all the above")

    group = parser.add_argument_group("another recording")
    group.add_argument(
        "--fmri", type=Path, metavar="FILE.npy", help="fMRI, one row a clip: the decoders' vertices, or all of --mask; needs --out"
    )
    group.add_argument(
        "--gt", type=Path, metavar="PATH", help="true clips of these rows: .npy (N, F, H, W, 3), or a folder or zip of movies"
    )
    group.add_argument(
        "--mask", type=Path, metavar="FILE.npy", help="zeros and ones, one a vertex: the decoders' vertices (default: the subject's mask)"
    )
    group.add_argument(
        "--fmri_norm", choices=["own", "saved", "none"],
        help="mean and standard deviation that standardise the rows: their own, those saved at training, or none (default: saved, "
        "where the file is beside the checkpoints, else own)",
    )  # fmt: skip

    group = parser.add_argument_group("output")
    where = {"type": Path, "changes_result": False}
    group.add_argument("--out", **where, help="folder of all results (default: recons/sub{ID}/{name} below --out_root)")
    group.add_argument("--video_save_folder1", **where, help="folder of the reconstructions (default: results_recons in the folder above)")
    group.add_argument("--video_save_folder2", **where, help="folder of the side-by-side movies (default: {folder1}_with_gt)")
    group.add_argument("--name", changes_result=False, help="name of this reconstruction (default: the arm, with ablation and seed)")
    group.add_argument(
        "--format", nargs="+", choices=list(FORMATS), default=["gif", "npz"], changes_result=False,
        help="files that are written of each clip; npz and png are lossless (default: gif npz)",
    )  # fmt: skip
    group.add_argument(
        "--save_stage1", action="store_true", changes_result=False, help="frames of stage 1, before Stable Diffusion, as well"
    )
    group.add_argument(
        "--save_stage1_arrays", action="store_true", changes_result=False, help="latents, tokens and embeddings of all clips as well"
    )
    group.add_argument("--n_samples", type=cli.one_or_more, default=1, changes_result=False, help="number of samples of a clip")
    add_model_flags(parser, "sd")
    add_decoder_flags(parser)
    add_stage2_flags(parser)
    return parser


def add_decoder_flags(parser):
    """Add the flags of stage 1."""
    group = parser.add_argument_group("decoders")
    for decoder in DECODERS:
        help = f"{decoder} decoder, ours (.safetensors) or released (.pth); {{}} stands for the subject (default: the one trained here)"
        group.add_argument(f"--{decoder}_model_path", type=Path, changes_result=False, help=help)
    group.add_argument(
        "--ckpt",
        type=checkpoint_name,
        metavar="{N,best,last}",
        changes_result=False,
        help="checkpoint of all three decoders (default: the data set's)",
    )
    group.add_argument(
        "--train_seed", type=cli.whole(0, 2**32 - 1), changes_result=False, help="seed of the decoders' training (default: that of --seed)"
    )
    group.add_argument("--allow_unfinished", action="store_true", changes_result=False, help="checkpoints of unfinished trainings allowed")
    group.add_argument(
        "--stage1_from",
        type=Path,
        metavar="DIR",
        help="folder with latents.npy, tokens.npy, embedding.npy of another decoder, in place of these",
    )
    add_arm_flag(group)
    group.add_argument(
        "--visibility", choices=["released", "causal"], default="released", help="earlier frames that the CMG sees: the first alone, or all"
    )
    group.add_argument(
        "--ablate", choices=["semantic", "structure", "motion"],
        help="part that is left out: an empty prompt, the mean first frame or a still first frame takes its place",
    )  # fmt: skip


def check_flags(args):
    """Raise a UserError for flags that do not go together."""
    if args.fmri and not args.out:
        raise UserError("--fmri needs --out, the folder for the results")
    if args.fmri and (args.stage1_from or args.released_root):
        raise UserError(f"--fmri and --{'stage1_from' if args.stage1_from else 'released_root'} exclude each other; use one of them")
    if args.gt and not (args.fmri or (args.stage1_from and args.out)):
        raise UserError("--gt goes with --fmri, or with --stage1_from and --out; the clips of a data set have their own ground truth")
    if args.stage1_from and (args.ablate in ("structure", "motion") or args.save_stage1_arrays):
        flag = "--save_stage1_arrays" if args.save_stage1_arrays else f"--ablate {args.ablate}"
        raise UserError(f"{flag} is about our decoders, which --stage1_from replaces; leave it out")
    if args.released_root and (named_arm(args), args.split, args.ablate == "structure") != ("full", "test", False):
        given = f"--arm {named_arm(args)} --split {args.split}{' --ablate structure' if args.ablate == 'structure' else ''}"
        raise UserError(f"--released_root has no training data, which {given} would need; leave these flags out")


# ---------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Plan:
    """What is read and written, worked out from the flags."""

    dataset: object  # common.datasets.Dataset
    source: object  # of the clips, a class of Reconstruction.sources
    numbers: list  # of the clips that are reconstructed
    name: str
    outputs: Outputs
    sd_path: str
    sd_config: dict  # of the UNet
    checkpoints: dict  # decoder -> path; empty for --stage1_from


def make_plan(args):
    """Plan of the flags; a UserError where they cannot work."""
    check_flags(args)
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    tree = ReleasedTree(args.released_root, dataset, args.subj_ID) if args.released_root else None
    sd_path = str(tree.stable_diffusion) if tree and not args.sd_path else model_path(args, "sd")
    sd_config = load_sd_config(sd_path, args)
    decoders = () if args.stage1_from else DECODERS
    checkpoints = {name: checkpoint_path(args, dataset, layout, tree, name, sd_config["cross_attention_dim"]) for name in decoders}
    for name, path in checkpoints.items():
        if not path.is_file():
            advice = "its training has not finished: run it again, or use --ckpt best --allow_unfinished"
            known = (path.parent / TRAINING_STATE).exists()
            raise missing(path, advice if known else f"train the {name} decoder, or check --{name}_model_path, --ckpt and --train_seed")
    source = open_source(args, dataset, layout, tree, checkpoints)
    numbers = parse_clips(",".join(args.clips)) if args.clips else list(range(1, source.n + 1))
    if numbers[-1] > source.n:
        raise UserError(f"there is no clip {numbers[-1]}; use --clips with numbers up to {source.n}")
    default = args.out.name if args.out else args.stage1_from.name if args.stage1_from else None
    name = args.name or default or reconstruction_name(named_arm(args), args.ablate, args.seed, args.split)
    has_truth = not isinstance(source, RecordingClips) or args.gt
    return Plan(dataset, source, numbers, name, make_outputs(args, dataset, layout, name, has_truth), sd_path, sd_config, checkpoints)


def checkpoint_path(args, dataset, layout, tree, decoder, token_dim):
    """Path of a decoder's checkpoint: the flag's, the authors', or the one that training wrote."""
    given = getattr(args, f"{decoder}_model_path")
    if given:
        return Path(str(given).replace("{}", str(args.subj_ID)))
    epoch = args.ckpt or dataset.epochs[decoder]
    if tree:
        return find_checkpoint(**tree.checkpoints(decoder), epoch=epoch, token_dim=token_dim)
    stem = f"epoch_{epoch}" if isinstance(epoch, int) else epoch
    return layout.checkpoints(args.subj_ID, arm_name(named_arm(args), training_seed(args)), decoder) / f"{stem}.safetensors"


def training_seed(args):
    return args.seed if args.train_seed is None else args.train_seed


def open_source(args, dataset, layout, tree, checkpoints):
    """The clips: of another recording, of the authors' folder, or of the data set."""
    if args.fmri or (args.stage1_from and args.out):
        masks = [args.mask] if args.mask else sorted(layout.mask(args.subj_ID).parent.glob("mask_*.npy"))
        saved = [statistics_path(path) for path in checkpoints.values()]
        n = None if args.fmri else count_clips(args.stage1_from)
        form = {"n_frames": len(dataset.frame_indices), "times": clip_times(dataset)}
        return RecordingClips(args.fmri, n=n, gt=args.gt, **form, norm=args.fmri_norm, saved=saved, masks=masks)
    if tree:
        return ReleasedClips(tree, dataset)
    return DatasetClips(layout, dataset, args.subj_ID, args.split, args.arm, args.data_root, training_seed(args))


def make_outputs(args, dataset, layout, name, has_truth):
    recons = args.video_save_folder1 or (args.out or layout.recons(args.subj_ID, name)) / "results_recons"
    with_gt = args.video_save_folder2 or recons.with_name(f"{recons.name}_with_gt")
    n_frames = len(dataset.frame_indices)
    facts = {name: getattr(args, name) for name in ("split", "save_stage1", "n_samples")}
    return Outputs(recons, with_gt if has_truth else None, formats=args.format, n_frames=n_frames, **facts)


# ---------------------------------------------------------------------------------------------- stage 1


def run_stage1(args, plan, share, device, is_main):
    """Latents, tokens and embeddings of the clips of a share, Decoded, and {decoder: epoch of its checkpoint}.

    All of the share, whatever is there already, in one batch: a reconstruction that goes on computes the same numbers.
    """
    channels, token_dim = plan.sd_config["in_channels"], plan.sd_config["cross_attention_dim"]
    n_frames, rows = plan.outputs.n_frames, torch.tensor(share, dtype=torch.long) - 1
    if args.stage1_from:
        contents = Layout.of(args).contents("train")
        arrays = load_stage1(args.stage1_from, plan.source.n, n_frames, channels, token_dim, contents)
        return Decoded(*(None if array is None else array[rows] for array in arrays)), {}

    decoders, epochs = load_decoders(
        plan.checkpoints, token_dim, subject=args.subj_ID, dataset=args.dataset, allow_unfinished=args.allow_unfinished
    )
    fmri = torch.from_numpy(np.ascontiguousarray(plan.source.fmri(decoders.semantic.arguments["in_dim"])))  # n v
    log.info("%sfMRI: %d clips x %d vertices, float32", plan.dataset.label, *fmri.shape)
    check_fit(decoders, plan.checkpoints, fmri.shape[1], channels, token_dim)
    mean = torch.from_numpy(mean_first_latent(Layout.of(args), plan.dataset)) if args.ablate == "structure" else None

    options = {"visibility": args.visibility, "ablate": args.ablate, "mean_latent": mean}
    fmri = fmri.to(device)
    for model in decoders:
        model.to(device)
    if args.save_stage1_arrays and is_main:
        save_stage1(plan.outputs.root / "stage1_arrays", decode_fmri(decoders, fmri, n_frames, **options), "Reconstruction/video_recons.py")
    decoded = decode_fmri(decoders, fmri[rows], n_frames, **options) if share else None
    for model in decoders:
        model.cpu()  # stage 2 has the GPU to itself
    return decoded, epochs


# ---------------------------------------------------------------------------------------------- stage 2


def reconstruct(args, plan, record, decoded, share, device):
    """Make the clips of a share that are missing, in batches of the same clips as without them."""
    outputs = plan.outputs
    finished = outputs.finished(share)
    batches = [share[i : i + args.batch_size] for i in range(0, len(share), args.batch_size)]
    batches = [batch for batch in batches if not finished.issuperset(batch)]
    if not batches:
        return
    pipe = load_pipeline(plan.sd_path, device, **pipeline_options(args))
    prompts = encode_prompts(pipe, decoded.tokens.shape[1] + 1)
    if args.stage1_from:
        check_tokens(args.stage1_from, decoded.tokens, prompts.empty[0, 0])
    true_frames, describe = plan.source.true_frames(), plan.source.captions()
    row = {clip: i for i, clip in enumerate(share)}

    def make(batch):
        index = torch.tensor([row[clip] for clip in batch])
        latents = decoded.latents[index]  # b c f h w
        tokens = None if args.ablate == "semantic" else decoded.tokens[index]  # b l d
        before, samples = as_frames(pipe.decode(latents)) if args.save_stage1 else [None] * len(batch), []
        for k in range(1, args.n_samples + 1):
            noise = torch.stack([clip_noise(args.seed, clip, latents.shape[1:], args.noise_shared, k) for clip in batch])
            samples.append(render(pipe, latents, tokens, noise, prompts, **render_options(args)))
        return list(zip(np.stack(samples, axis=1), before, strict=True))

    for seconds, made, failed in render_batches(batches, make, bool(finished), args.debug):
        for clip in sorted(made.keys() - finished):
            (frames, *others), before = made[clip]
            try:
                gt = true_frames(clip) if true_frames else None
            except UserError as error:
                failed[clip] = cli.one_line(error)
                continue
            write_clip(outputs, clip, to_uint8(frames), gt, None if before is None else to_uint8(before), [*map(to_uint8, others)])
            words = describe(clip, None if decoded.embedding is None else decoded.embedding[row[clip]].cpu().numpy())
            facts = {"seconds": round(seconds, 3), "seed": seed_of(args.seed, "noise", clip), "size": frames.shape[1], **words}
            record.log(clip=clip, time=time.time(), **facts, sha256=outputs.sha256(clip))  # last: a clip in the log is whole
        for clip, reason in failed.items():
            record.log(clip=clip, time=time.time(), failed=reason)


# ---------------------------------------------------------------------------------------------- the end


def finish(args, plan, record, models):
    """Write manifest, checksums and gallery. The process that ends last writes metrics.json, or tells which clips failed."""
    outputs, dataset = plan.outputs, plan.dataset
    foreign = isinstance(plan.source, RecordingClips)
    with_gt = os.path.relpath(outputs.with_gt, outputs.root) if outputs.with_gt else None
    folders = {"recons": outputs.recons.name, "with_gt": with_gt, "strips": "strips"}
    facts = {"dataset": None if foreign else args.dataset, "subject": None if foreign else args.subj_ID, "phantom": dataset.simulated}
    facts |= {"name": plan.name, "arm": None if args.stage1_from else args.arm, "ablate": args.ablate, "split": args.split}
    facts |= {"n_clips": plan.source.n, "seed": args.seed}
    facts |= {"settings": record.settings(), "folders": folders, "checkpoints": models, "git": git_revision(), "versions": versions()}
    write_manifest(outputs, facts, range(1, plan.source.n + 1))
    outputs.write_sums()
    gallery = build_gallery(outputs.root, None if foreign else Layout.of(args).metrics(args.subj_ID, plan.name))

    lacking = sorted(set(plan.numbers) - outputs.finished(plan.numbers))
    logged = read_log(outputs.root / "log.jsonl")
    now = [clip for clip in lacking if logged.get(clip, {}).get("failed") and logged[clip]["time"] >= record.began]
    if len(now) < len(lacking):  # another process is still at work
        return
    if lacking:
        for clip in lacking:
            log.error("clip %d failed: %s", clip, logged[clip]["failed"])
        said = f"{len(lacking)} of {len(plan.numbers)} clips failed: {format_clips(lacking)}; the others are in {outputs.recons}"
        print(said, file=sys.stderr)
        sys.exit(1)
    record.finish(clips=len(plan.numbers))
    log.info("%d clips in %s; look at %s", len(plan.numbers), outputs.recons, gallery)


def main(args):
    plan = make_plan(args)
    outputs, every = plan.outputs, range(1, plan.source.n + 1)
    models, content = describe_models(plan.checkpoints, plan.sd_path)
    arrays = [outputs.root / "stage1_arrays" / "latents.npy"] * args.save_stage1_arrays
    results = [*arrays, *(path for clip in plan.numbers for path in outputs.files(clip))]
    if not args.overwrite and not (outputs.root / "args.json").exists() and any(path.exists() for path in results):
        raise UserError(f"{outputs.root} holds clips of something else, without a record; choose another folder, or use --overwrite")
    read = plan.source.inputs if not args.stage1_from else stage1_files(args.stage1_from).values()
    old = outputs.old_files(every) + [outputs.root / "stage1_arrays"] * (not args.stage1_from)  # which may be what is read

    state = PartialState(cpu=cli.choose_device(args.device).type == "cpu")
    with contextlib.ExitStack() as stack:
        with state.main_process_first():
            work = working(outputs.root, args, inputs=[*plan.checkpoints.values(), *read], outputs=results, facts=content, clear=old)
            record = stack.enter_context(work)
        if record is None:
            return
        for path in (outputs.root / "metrics.json", *outputs.sums()):
            path.unlink(missing_ok=True)  # they are of whole results
        state.wait_for_everyone()  # until all have cleared what --overwrite deletes

        share = plan.numbers[state.process_index :: state.num_processes]
        decoded, epochs = run_stage1(args, plan, share, state.device, state.is_main_process)
        reconstruct(args, plan, record, decoded, share, state.device)
        finish(args, plan, record, {name: entry | ({"epoch": epochs[name]} if name in epochs else {}) for name, entry in models.items()})


if __name__ == "__main__":
    cli.run(main, get_parser)
