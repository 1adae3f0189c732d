"""What a GPU does with this project: one command for a machine that has one. Writes benchmarks/GPU.md.

1. The same numbers as the CPU: stage 2 on the phantom's models, decoders of full size, each against the CPU's with a bar.
2. An inflated UNet of Stable Diffusion 1.5's size with random weights, in fp16 and bf16, compiled or not, 1 to 8 clips a call.
3. Stage 2 whole, from latents to frames, with that UNet and a VAE of its size, by the paper's recipe and the fast one.
4. Training steps of the full-size CMG in fp32, TF32 and bf16.
5. Extraction, training and reconstruction by the scripts themselves, at CC2017's size on random data and weights (full_size.py).
6. The whole chain on the phantom (run_pipeline.py), and its reconstruction again by two processes where there are two GPUs.

Reads    the phantom's models
Writes   benchmarks/GPU.md, of which parts that are not asked for stay as they are; a temporary folder of up to 15 GB

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts same unet training

About half an hour on an H100 (summed over parts), a third of it for compiling; 18 GB of GPU memory were seen in use.
"""

import copy
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import full_size
import numpy as np
import torch
from timing import build_unet
from torch._dynamo.exc import TorchDynamoException

from common import cli
from common.files import UserError, one_line, read_json, write_text
from common.workers import n_cores
from Evaluation_Metrics.tables import table_lines
from Feature_decoding import train_CMG
from models.encoders import N_TOKENS
from models.inflated_sd import inflate_unet
from models.loading import load_sd_part
from models.losses import structure_loss
from models.pipeline import InflatedSDPipeline, Prompts, encode_prompts, make_scheduler, render
from models.precision import allow_tf32
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder
from phantom.perfect_decoding import decode_perfectly
from Reconstruction import video_recons
from Reconstruction.stage2 import PRECISIONS, clip_noise, load_pipeline, pipeline_options, render_options

PAGE = cli.PROJECT / "benchmarks/GPU.md"
TITLES = {
    "same": "The CPU's numbers", "unet": "A guided step of an SD-1.5-size UNet", "recipes": "Stage 2 of that size, by flags of video_recons",
    "training": "A step of the full-size CMG",
    "scripts": "The scripts at CC2017's size", "chain": "The phantom",
}  # fmt: skip
FP16, TF32, FOUR = ("--precision", "fp16"), ("--tf32",), ("--batch_size", "4")
RECIPES = (FP16, (*FP16, *FOUR, "--preset", "fast"), (*FP16, *FOUR), TF32, (), (*FP16, *FOUR, "--channels_last"))  # flags of video_recons
VOXELS, LATENT, BATCH = 4500, (4, 64, 64), 64
SAME = 1e-3  # largest difference from the CPU's numbers, of frames in 0...1 and relative to the largest value of outputs
OUT_OF_MEMORY = "does not fit"


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("benchmark")
    group.add_argument("--parts", nargs="+", choices=list(TITLES), default=list(TITLES), help="parts to run")
    group.add_argument("--clips", type=cli.one_or_more, nargs="+", default=[1, 2, 4, 8], help="clips of a UNet call")
    group.add_argument("--rounds", type=cli.one_or_more, default=5, help="number of timed calls")
    group.add_argument("--page", type=Path, default=PAGE, help="page that is written")
    return parser


def timed(function, device, rounds):
    """Median seconds of a call after two untimed ones, and peak bytes on the GPU; None for both where memory does not suffice."""
    on_gpu = device.type == "cuda"
    try:
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        seconds = []
        for _ in range(rounds + 2):
            began = time.perf_counter()
            function()
            if on_gpu:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
    except torch.cuda.OutOfMemoryError:
        return None, None
    return median(seconds[2:]), torch.cuda.max_memory_allocated(device) if on_gpu else 0


def cells(seconds, peak, per=1):
    """Milliseconds of one of `per`, and gigabytes, as a table shows them."""
    return [OUT_OF_MEMORY, ""] if seconds is None else [f"{1000 * seconds / per:.1f}", f"{peak / 1e9:.2f}"]


# ---------------------------------------------------------------------------------------------- 1. the same numbers


@torch.no_grad()
def same_numbers(device, seed, clips=2, **recipe):
    """Rows (what, largest difference from the CPU, bar); `recipe` changes the phantom's profile of stage 2."""
    args = cli.parse(video_recons.get_parser, ["--dataset", "phantom"], "Reconstruction/video_recons")
    vars(args).update(recipe)
    sd, cpu, rows, frames = cli.PROJECT / "phantom/models/sd", torch.device("cpu"), [], []
    truth = None
    for where in (cpu, device):
        pipe = load_pipeline(sd, where, **pipeline_options(args))
        if truth is None:
            truth, latents, tokens = decode_perfectly(pipe, clips, seed)
            noise = torch.stack([clip_noise(seed, clip, latents.shape[1:], args.noise_shared) for clip in range(1, clips + 1)])
        options = render_options(args)
        frames.append(render(pipe, latents.to(where), tokens.to(where), noise, encode_prompts(pipe, N_TOKENS), **options))
    rows.append(("stage 2 on the phantom's models, frames in 0...1", np.abs(frames[0] - frames[1]).max(), SAME))
    fmri = torch.randn(4, VOXELS, generator=torch.Generator().manual_seed(seed))
    for kind in (SemanticDecoder, StructureDecoder):
        torch.manual_seed(seed)
        model = kind().eval()
        expected = torch.as_tensor(first(model(fmri)))
        found = first(copy.deepcopy(model).to(device)(fmri.to(device))).cpu()
        rows.append((f"{kind.__name__}, relative", ((found - expected).abs().max() / expected.abs().max()).item(), SAME))
    return rows


def first(output):
    return output[0] if isinstance(output, tuple) else output


# ---------------------------------------------------------------------------------------------- 2. the UNet


@torch.no_grad()
def unet_rows(device, clips, rounds, channels=(320, 640, 1280, 1280), size=64, dtypes=("fp16", "bf16"), compiled=(False, True)):
    """Rows (format, compiled, clips, ms a clip, GB, finite) of a step with guidance, one after another: two passes over eight frames a clip."""
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    for name in dtypes:
        for compile_it in compiled:
            torch.manual_seed(0)
            torch.compiler.reset()  # what was compiled holds the UNet before
            unet = None  # the one before goes
            unet = inflate_unet(build_unet(channels, device, kinds[name]))
            if compile_it:
                unet.compile()
            for n in clips:
                latents = torch.randn(2 * n, 4, 8, size, size, device=device, dtype=kinds[name])
                text = torch.randn(2 * n, N_TOKENS, 768, device=device, dtype=kinds[name])
                timestep = torch.tensor(500, device=device)
                try:
                    seconds, peak = timed(lambda: unet(latents, timestep, text), device, rounds)  # noqa: B023
                except TorchDynamoException as error:  # Triton needs a C compiler, for instance
                    yield name, f"fails ({one_line(error)[:80]})", n, "", "", ""
                    break
                finite = seconds and ("yes" if unet(latents, timestep, text).sample.isfinite().all() else "no")
                yield name, "yes" if compile_it else "no", n, *cells(seconds, peak, n), finite or ""


# ---------------------------------------------------------------------------------------------- 3. stage 2


@torch.no_grad()
def recipe_rows(device, recipes, unet=full_size.UNET, vae=full_size.VAE, size=64, width=768):
    """Rows (flags, seconds a clip, GB, finite), one after another: one timed call of `render`, after one of two steps."""
    config, made = load_sd_part(cli.PROJECT / "phantom/models/sd", "scheduler").config, None
    for flags in recipes:
        args = cli.parse(video_recons.get_parser, ["--dataset", full_size.DATASET, *flags], "Reconstruction/video_recons")
        if made is None or made[0] != args.precision:
            made = None  # the models before go
            dtype = PRECISIONS[args.precision]
            made = args.precision, build_unet(unet, device, dtype), full_size.build_vae(vae).to(device, dtype)
        pipe = InflatedSDPipeline(made[2], None, None, made[1], make_scheduler(args.scheduler, config))
        pipe.set_progress_bar_config(disable=True)
        pipe.unet.to(memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
        allow_tf32(args.tf32)
        n, options = args.batch_size, render_options(args)
        latents, noise = torch.randn(2, n, 4, 8, size, size, device=device)
        tokens = torch.randn(n, N_TOKENS - 1, width, device=device)
        prompts = Prompts(*(torch.randn(1, length, width, device=device) for length in (77, N_TOKENS, N_TOKENS)))
        seconds, frames = [], None
        for steps in (2, options["n_steps"]):
            few = {"n_steps": steps, "inversion_steps": min(steps, options["inversion_steps"] or steps)}
            began = time.perf_counter()
            frames = render(pipe, latents, tokens, noise, prompts, **options | few)  # ends on the CPU
            seconds.append(time.perf_counter() - began)
            if steps == 2 and device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        yield (
            " ".join(flags) or "none: the paper's",
            f"{seconds[-1] / n:.2f}",
            f"{peak / 1e9:.2f}",
            "yes" if np.isfinite(frames).all() else "no",
        )
    allow_tf32(False)


# ---------------------------------------------------------------------------------------------- 4. training


def training_rows(device, rounds, *flags, voxels=VOXELS, latent=LATENT, batch=BATCH):
    """Rows (format, ms a step, GB) of forward, backward and Adam of the CMG, one after another; `flags` are train_CMG's."""
    args = train_CMG.get_parser().parse_args([str(flag) for flag in flags])
    model = train_CMG.build_cmg(args, voxels, 8, latent, whole_frames=True).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    frames = torch.randn(batch, 8, latent[0] * latent[1] * latent[2], device=device)
    fmri, mask = torch.randn(batch, voxels, device=device), torch.ones(batch, 7, 7, dtype=torch.bool, device=device)

    def step(bf16):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            made = model(fmri, frames[:, :-1], mask)
        optimizer.zero_grad()
        structure_loss(made.float(), frames[:, 1:], model.parameters(), 6e-7)[0].backward()
        optimizer.step()

    for name in ("fp32", "tf32", "bf16"):
        allow_tf32(name == "tf32")
        yield name, *cells(*timed(lambda: step(name == "bf16"), device, rounds))  # noqa: B023
    allow_tf32(False)


# ---------------------------------------------------------------------------------------------- 6. the chain


def claims(path):
    """How many claims of the phantom's report hold, in words; `path` of phantom_checks' metrics.json."""
    rows = [row for row in read_json(path)["checks"] if row["held"] is not None]  # others are shown without a bar
    missed = [row["statement"] for row in rows if not row["held"]]
    return f"{len(rows) - len(missed)} of {len(rows)} claims hold" + (f"; missed: {'; '.join(missed)}" if missed else "")


def chain_rows(folder, n_gpus, n_clips=8):
    """Rows (what, seconds, finding) of the phantom's chain, and of two processes against it."""
    places = ["--dataset", "phantom", "--data_root", folder / "data", "--out_root", folder / "outputs"]
    seconds, _ = full_size.run("run_pipeline.py", *places)
    rows = [("run_pipeline.py", f"{seconds:.0f}", claims(folder / "outputs/phantom/metrics/sub1/phantom_checks/metrics.json"))]
    if n_gpus < 2:
        return [*rows, ("two processes", "", f"not run: {n_gpus} GPU")]
    two = folder / "two"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "Reconstruction/video_recons.py"]
    seconds, _ = full_size.run(*launch, *places, "--out", two, "--clips", f"1-{n_clips}")
    one, largest = folder / "outputs/phantom/recons/sub1/full/results_recons", 0
    for clip in range(1, n_clips + 1):
        frames = [np.load(path / f"test{clip}.npz")["frames"].astype(int) for path in (one, two / "results_recons")]
        largest = max(largest, np.abs(frames[0] - frames[1]).max())
    return [*rows, (f"video_recons.py, {n_clips} clips, two processes", f"{seconds:.0f}", f"largest difference from one: {largest} of 255")]


# ---------------------------------------------------------------------------------------------- the page


def read_sections(page):
    """Sections of the page that an earlier run left, {title: lines}."""
    if not page.exists():
        return {}
    _, *sections = page.read_text().split("\n## ")
    return {section.splitlines()[0]: section.rstrip().splitlines()[2:] for section in sections}


def table_of(part, args, device, folder):
    """Head, rows and missed bars of one part; rows as they come."""
    missed = []
    if part == "same":
        found = same_numbers(device, args.seed)
        missed = [what for what, difference, bar in found if not difference <= bar]  # nor if it is NaN
        return ("what", "largest difference", "bar"), [(what, f"{difference:.1e}", f"{bar:.0e}") for what, difference, bar in found], missed
    if part == "unet":
        return ("weights", "compiled", "clips", "ms a clip", "GB", "finite"), unet_rows(device, args.clips, args.rounds), missed
    if part == "recipes":
        return ("flags", "seconds a clip", "GB", "finite"), recipe_rows(device, RECIPES), missed
    if part == "training":
        return ("format", f"ms for {BATCH} clips", "GB"), training_rows(device, args.rounds), missed
    if part == "scripts":
        return (
            ("script", "per", "seconds", "GB", "whole run, seconds"),
            full_size.script_rows(folder, device, (RECIPES[0], RECIPES[1])),
            missed,
        )
    return ("what", "seconds", "finding"), chain_rows(folder, torch.cuda.device_count()), missed


def main(args):
    if not torch.cuda.is_available():
        raise UserError("there is no GPU that PyTorch can use; run this on a machine with one, and commit benchmarks/GPU.md")
    device, properties = torch.device("cuda"), torch.cuda.get_device_properties(0)
    allow_tf32(False)
    machine = (
        f"Measured on {date.today()}: {torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 1e9:.0f} GB, PyTorch "
        f"{torch.__version__}, CUDA {torch.version.cuda}, {platform.system()}, {n_cores()} cores."
    )
    sections, missed = read_sections(args.page), []
    for part in dict.fromkeys(args.parts):
        with tempfile.TemporaryDirectory() as folder:
            head, rows, late = table_of(part, args, device, Path(folder))
            missed += late
            done = []
            for row in rows:
                done.append(row)
                sections[TITLES[part]] = [machine, "", *table_lines(head, done)]
                ordered = [title for title in TITLES.values() if title in sections]
                lines = [HEAD, *(line for title in ordered for line in ("", f"## {title}", "", *sections[title]))]
                write_text(args.page, "\n".join(lines) + "\n")  # after every row: a later one may fail
                print(f"{TITLES[part]}: {', '.join(map(str, row))}", flush=True)
    if missed:
        print(f"differs from the CPU: {', '.join(missed)}")
        sys.exit(1)


HEAD = """# On a GPU

<!-- tables by benchmarks/gpu.py, a part at a time; sentences below them, and the phantom's table while it is not of the whole chain, by hand -->

Stable Diffusion, CLIP and decoders of the published sizes with random weights, on random data, and the phantom: speed and memory, not results."""


if __name__ == "__main__":
    cli.run(main, get_parser)
