"""Ways to sample faster, against the paper's recipe: time, and what each costs in every metric of the paper's protocol.

The phantom's generator makes clips of random scenes from their own latents and captions, as if the decoders made no
mistake. Every batch goes through all ways in turn, so that what else the machine does disturbs them alike; the first batch of
each is left out of the time. A loss is the mean over clips of the difference from the full recipe on the same clip, with its
standard error: of 24 clips, less than two of these is nothing.

Reads    the phantom's models and profile
Writes   nothing but a temporary folder; prints a Markdown table a recipe

    python benchmarks/sampling.py
    python benchmarks/sampling.py --recipes phantom --clips 8

About 25 minutes of one core for 24 clips and both recipes, 1.5 GB.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tqdm import tqdm

from common import cli
from common.datasets import PHANTOM
from common.readers import ArrayClips
from Evaluation_Metrics.metric_script import metric_parser
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.per_clip import score_pairs, split_truth
from Evaluation_Metrics.protocols import protocol_metrics, split_by_needs
from Evaluation_Metrics.results import LOWER_IS_BETTER
from Evaluation_Metrics.tables import table_lines
from Evaluation_Metrics.towers import KINDS, Towers
from models.encoders import N_TOKENS
from models.pipeline import encode_prompts, render
from phantom.perfect_decoding import decode_perfectly
from Reconstruction import video_recons
from Reconstruction.outputs import to_uint8
from Reconstruction.stage2 import clip_noise, load_pipeline, pipeline_options, render_options

RECIPES = {"paper": ["--preset", "paper"], "phantom": ["--steps", "50"]}
FULL = "50 steps of DDIM"
WAYS = {
    FULL: [],
    "DPM-Solver++, 20 steps": ["--scheduler", "dpmsolver++", "--steps", "20"],
    "DPM-Solver++, 20 steps, inversion of 10": ["--scheduler", "dpmsolver++", "--steps", "20", "--inversion_steps", "10"],
    "DDIM, 20 steps": ["--steps", "20"],
    "inversion of 25 steps": ["--inversion_steps", "25"],
    "inversion of 10 steps": ["--inversion_steps", "10"],
    "guidance from 400 up": ["--guidance_interval", "400", "999"],
    "guidance from 200 to 800": ["--guidance_interval", "200", "800"],
    "guidance up to 600": ["--guidance_interval", "0", "600"],
    "deep blocks in every 2nd step": ["--deep_every", "2"],
    "deep blocks in every 4th step": ["--deep_every", "4"],
    "--preset fast": ["--preset", "fast"],
}
NOT_WITHOUT_INVERSION = ("inversion of", "--preset")  # in the names of ways that the phantom's profile has no use for


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("benchmark")
    group.add_argument("--clips", type=cli.whole(2), default=24, help="number of clips")
    group.add_argument("--batch_size", type=cli.one_or_more, default=4, help="clips per UNet call")
    group.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="settings that the ways change")
    group.add_argument("--threads", type=cli.one_or_more, default=1, help="number of threads")
    return parser


def flags_of(recipe, way):
    """Arguments of video_recons for a way to sample."""
    return cli.parse(video_recons.get_parser, ["--dataset", "phantom", *RECIPES[recipe], *WAYS[way]], "Reconstruction/video_recons")


def make_all(recipe, ways, clips, batch_size, seed):
    """True frames (clips, F, H, W, 3) uint8, and frames of all ways, each batch by one after another: {way: (frames, [s of each batch])}."""
    settings = {way: flags_of(recipe, way) for way in ways}
    pipes = {
        way: load_pipeline(cli.PROJECT / "phantom/models/sd", torch.device("cpu"), **pipeline_options(a)) for way, a in settings.items()
    }
    truth, latents, tokens = decode_perfectly(pipes[FULL], clips, seed)
    prompts, made = encode_prompts(pipes[FULL], N_TOKENS), {way: ([], []) for way in ways}
    shared = settings[FULL].noise_shared
    noise = torch.stack([clip_noise(seed, clip, latents.shape[1:], shared) for clip in range(1, clips + 1)])
    for start in tqdm(range(0, clips, batch_size), desc=recipe, unit="batch", disable=None):
        part = slice(start, start + batch_size)
        for way, (frames, seconds) in made.items():
            began = time.perf_counter()
            frames.append(to_uint8(render(pipes[way], latents[part], tokens[part], noise[part], prompts, **render_options(settings[way]))))
            seconds.append((time.perf_counter() - began) / len(frames[-1]))
    return truth, {way: (np.concatenate(frames), seconds) for way, (frames, seconds) in made.items()}


def score_all(truth, made, folder):
    """Values of every clip by the paper's protocol, {way: {column: (N,)}}."""
    args = cli.parse(lambda: metric_parser(None, *KINDS), ["--dataset", "phantom"], "evaluate")
    towers = Towers.of(args)
    metrics, _ = split_by_needs(protocol_metrics("paper", PHANTOM), towers, len(truth))
    np.save(folder / "truth.npy", truth)
    values = {}
    for number, (way, (frames, _)) in enumerate(made.items()):
        np.save(folder / f"{number}.npy", frames)
        pairs = Pairs(ArrayClips(folder / f"{number}.npy"), ArrayClips(folder / "truth.npy"))
        values[way] = split_truth(score_pairs(pairs, metrics, towers, workers=1, desc=way)[0])[0]
    return values


def table(made, values):
    """Markdown lines: the full recipe's means, and the other ways' differences from it."""
    columns = list(values[FULL])
    speed = {way: median(seconds[1:] or seconds) for way, (_, seconds) in made.items()}
    rows = []
    for way, scores in values.items():
        if way == FULL:
            cells = [f"{np.nanmean(scores[column]):.3f}" for column in columns]
        else:
            differences = [scores[column] - values[FULL][column] for column in columns]
            cells = [f"{np.nanmean(d):+.3f} ± {np.nanstd(d, ddof=1) / np.isfinite(d).sum() ** 0.5:.3f}" for d in differences]
        rows.append([way, f"{speed[way]:.2f}", f"{speed[FULL] / speed[way]:.1f}", *cells])
    heads = [column + (" ↓" if column in LOWER_IS_BETTER else "") for column in columns]
    return table_lines(["", "s a clip", "times as fast", *heads], rows)


def main(args):
    torch.set_num_threads(args.threads)
    for recipe in args.recipes:
        ways = [way for way in WAYS if recipe == "paper" or not any(part in way for part in NOT_WITHOUT_INVERSION)]
        truth, made = make_all(recipe, ways, args.clips, args.batch_size, args.seed)
        with tempfile.TemporaryDirectory() as folder:
            values = score_all(truth, made, Path(folder))
        print(f"\nphantom, {recipe} recipe, {args.clips} clips, batches of {args.batch_size}, seed {args.seed}, {args.threads} threads\n")
        print("\n".join(table(made, values)))


if __name__ == "__main__":
    cli.run(main, get_parser)
