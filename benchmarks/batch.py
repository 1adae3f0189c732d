"""Time per clip of stage 2 when several clips share a UNet call, on the phantom's generator.

A few guided steps of denoising, of latents of several sizes (the phantom's are of 16 x 16); all batches take turns in every
round, so that what else the machine does disturbs them alike. Sharing pays while the ratio to one clip at a time rises.

Reads    the phantom's models
Writes   nothing; prints a Markdown table

    python benchmarks/batch.py
    python benchmarks/batch.py --threads 2 --sizes 16

About 4 minutes of one core, 1.2 GB.
"""

import time
from statistics import median, quantiles

import torch
from tqdm import tqdm

from common import cli
from Evaluation_Metrics.tables import table_lines
from models.encoders import N_TOKENS
from models.pipeline import encode_prompts
from Reconstruction.stage2 import load_pipeline

STEPS = {"num_inference_steps": 50, "start_timestep": 21, "guidance_scale": 5.0, "output_type": "latent"}  # two of the 50


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("benchmark")
    group.add_argument(
        "--batches", type=cli.one_or_more, nargs="+", default=[1, 2, 4, 8, 16], help="clips of a call, the first compared with"
    )
    group.add_argument("--sizes", type=cli.one_or_more, nargs="+", default=[8, 16, 32], help="height and width of the latents")
    group.add_argument("--rounds", type=cli.whole(2), default=5, help="number of rounds; the first is not counted")
    group.add_argument("--threads", type=cli.one_or_more, default=1, help="number of threads")
    return parser


def measure(pipe, size, batches, rounds, seed):
    """Seconds per clip of every round but the first, {batch: list}."""
    generator = torch.Generator().manual_seed(seed)
    prompts, seconds = encode_prompts(pipe, N_TOKENS), {batch: [] for batch in batches}
    for number in tqdm(range(rounds), desc=f"{size} x {size}", disable=None):
        for batch in batches:
            latents = torch.randn(batch, 4, 8, size, size, generator=generator)
            began = time.perf_counter()
            pipe(latents=latents, prompt_embeds=prompts.empty, negative_prompt_embeds=prompts.negative, **STEPS)
            if number:
                seconds[batch].append((time.perf_counter() - began) / batch)
    return seconds


def table(found):
    """Markdown lines of {size: {batch: seconds}}: times as fast as the first batch, with the quartiles over rounds."""
    batches = list(next(iter(found.values())))
    rows = []
    for size, seconds in found.items():
        alone = seconds[batches[0]]
        row = [f"{size} x {size}", f"{1000 * median(alone):.0f}"]
        for batch in batches[1:]:
            ratios = [a / b for a, b in zip(alone, seconds[batch], strict=True)]
            low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            row.append(f"{median(ratios):.2f} ({low:.2f} to {high:.2f})")
        rows.append(row)
    return table_lines(["latents", f"ms a clip, {batches[0]} at a time", *(f"{batch} at a time" for batch in batches[1:])], rows)


def main(args):
    torch.set_num_threads(args.threads)
    pipe = load_pipeline(cli.PROJECT / "phantom/models/sd", torch.device("cpu"))
    pipe.set_progress_bar_config(disable=True)
    found = {size: measure(pipe, size, args.batches, args.rounds, args.seed) for size in args.sizes}
    print(
        f"\nphantom's UNet, two guided steps of 8 frames, {args.threads} threads, {args.rounds - 1} rounds; times as fast per clip, quartiles\n"
    )
    print("\n".join(table(found)))


if __name__ == "__main__":
    cli.run(main, get_parser)
