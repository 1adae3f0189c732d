"""What the scripts here share: two forms of one computation, timed in turn, the ratio of their times with its spread, and a UNet."""

import time

import numpy as np

TEXT_WIDTH = 768  # of Stable Diffusion 1.5's prompts


def timed(function, *args):
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - began, result


def compare(what, plain, ours, *, repeats=5, scale=1.0):
    """Time two functions in turn and print the ratio: its median, least and most; returns what both of them returned at last.

    `scale` is how much more work `ours` does than `plain`, whose times are multiplied by it.
    """
    times = []
    for _ in range(repeats):
        (plain_seconds, expected), (seconds, found) = timed(plain), timed(ours)
        times.append((plain_seconds * scale, seconds))
    tell(what, *np.array(times).T, extrapolated=scale != 1)
    return expected, found


def tell(what, plain, ours, extrapolated=False):
    """Print the ratio of times that were taken in turn, two arrays of s."""
    ratios, note = np.array(plain) / np.array(ours), " (extrapolated)" if extrapolated else ""
    print(
        f"{what}: plain {np.median(plain):.3g} s{note}, ours {np.median(ours):.3g} s: {np.median(ratios):.3g} times as fast "
        f"({ratios.min():.3g} to {ratios.max():.3g} in {len(ratios)} repetitions)",
        flush=True,
    )


def build_unet(channels, device, dtype):
    """UNet of Stable Diffusion 1.5, of another width if asked for, with random weights."""
    import torch
    from diffusers import UNet2DConditionModel

    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # no float32 copy on the way
    try:
        with torch.device(device):
            unet = UNet2DConditionModel(sample_size=64, block_out_channels=channels, cross_attention_dim=TEXT_WIDTH, attention_head_dim=8)
    finally:
        torch.set_default_dtype(default)
    return unet.eval().requires_grad_(False)
