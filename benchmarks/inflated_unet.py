"""Time and memory of the inflated UNet against the stock 2-D UNet on as many independent frames.

The UNet has the configuration of Stable Diffusion 1.5 and random weights, built here. After one untimed pass each, both
run one forward pass of one clip, in turn, over the same storage. What inflation has to compute on top is the attention
to two frames instead of one: its operations, counted on the meta device, are taken at the stock UNet's mean rate, which
is strict, because attention reaches fewer operations per second than convolutions.

Reads    nothing
Writes   nothing; prints a table

    python benchmarks/inflated_unet.py
    python benchmarks/inflated_unet.py --size 16 --frames 4 --channels 64 128 256 256

About 2 minutes on two cores with bfloat16 instructions, 4 GB.
"""

import resource
import statistics
import time

import numpy as np
import torch
from einops import rearrange
from timing import TEXT_WIDTH, build_unet
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from common import cli
from models.inflated_sd import inflate_unet

N_TOKENS = 20  # of the decoded prompt of one clip
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BAR = 1.15  # times (stock forward + doubled keys)


def share_weights(unet, channels):
    """A second UNet over the storage of the first."""
    other = build_unet(channels, "meta", unet.dtype)
    other.load_state_dict(unet.state_dict(), assign=True)
    return other.requires_grad_(False)


def stock_inputs(latents, text):
    return rearrange(latents, "b c f h w -> (b f) c h w"), 500, text.repeat_interleave(latents.shape[2], dim=0)


def count_flops(unet, *inputs):
    with FlopCounterMode(display=False) as counter:
        unet(*inputs)
    return counter.get_total_flops()


def storage(unet):
    return {tensor.data_ptr() for tensor in unet.state_dict().values()}


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_gigabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def seconds(function, *inputs):
    """Elapsed seconds and processor seconds, which other programs on the machine disturb less."""
    start, start_cpu = time.perf_counter(), time.process_time()
    function(*inputs)
    return time.perf_counter() - start, time.process_time() - start_cpu


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--channels", type=cli.one_or_more, nargs=4, default=[320, 640, 1280, 1280], help="channels of the four levels")
    group.add_argument("--frames", type=cli.one_or_more, default=8, help="frames of the clip")
    group.add_argument("--size", type=cli.one_or_more, default=64, help="height and width of the latents")
    group.add_argument("--precision", choices=list(DTYPES), default="bf16", help="number format of weights and latents")
    group.add_argument("--rounds", type=cli.one_or_more, default=3, help="number of timed passes of each, in turn")
    group.add_argument("--threads", type=cli.one_or_more, default=2, help="number of threads")
    group.add_argument("--channels_last", action="store_true", help="weights and activations with channels last")
    return parser


@torch.no_grad()
def main(args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dtype, channels = DTYPES[args.precision], tuple(args.channels)
    latents = torch.randn(1, 4, args.frames, args.size, args.size, dtype=dtype)
    text = torch.randn(1, N_TOKENS, TEXT_WIDTH, dtype=dtype)

    meta = build_unet(channels, "meta", dtype)
    stock_flops = count_flops(meta, *stock_inputs(latents.to("meta"), text.to("meta")))
    extra_flops = count_flops(inflate_unet(meta), latents.to("meta"), 500, text.to("meta")) - stock_flops

    stock = build_unet(channels, "cpu", dtype)
    if args.channels_last:
        stock.to(memory_format=torch.channels_last)
    weights = sum(parameter.nbytes for parameter in stock.parameters())
    inflated = share_weights(stock, channels)
    before = resident_bytes()
    inflate_unet(inflated)
    added = resident_bytes() - before
    shared = storage(inflated) == storage(stock)

    inflated(latents, 500, text)  # the first call of each also builds its kernels and touches its memory: not timed
    peak = peak_gigabytes()
    stock(*stock_inputs(latents, text))
    runs = {"inflated": [], "stock": []}
    for _ in tqdm(range(args.rounds), desc="rounds", disable=None):
        runs["inflated"].append(seconds(inflated, latents, 500, text))
        runs["stock"].append(seconds(stock, *stock_inputs(latents, text)))

    share = extra_flops / stock_flops
    print(f"UNet {channels}, {weights / 1e9:.2f} GB of {args.precision} weights, {args.threads} threads")
    print(f"{args.frames} frames of {args.size}x{args.size} latents, {args.rounds} rounds; medians:")
    for name, values in runs.items():
        elapsed, processor = zip(*values, strict=True)
        times = ", ".join(f"{value:.2f}" for value in elapsed)
        print(f"{name}: {statistics.median(elapsed):.2f} s a forward ({times}), {statistics.median(processor):.1f} processor seconds")
    print(f"peak memory of the process at the inflated forward: {peak:.2f} GB")
    print(f"added by inflating: {added / 1e6:.1f} MB, {100 * added / weights:.3f} % of the weights; storage shared: {shared}")
    print(f"doubled keys: {extra_flops / 1e9:.1f} GFLOP on top of {stock_flops / 1e9:.1f}, {share:.1%}")
    for kind, name in enumerate(("elapsed", "processor")):
        ratio = np.array(runs["inflated"])[:, kind] / np.array(runs["stock"])[:, kind]
        spread = f"({ratio.min():.3f} to {ratio.max():.3f} in {len(ratio)} rounds)"
        print(
            f"{name} time: {np.median(ratio):.3f} x stock {spread}, {np.median(ratio) / (1 + share):.3f} x (stock + doubled keys), bar {BAR}"
        )


if __name__ == "__main__":
    cli.run(main, get_parser)
