"""torch.compile, channels last and bf16 give the phantom's frames: few steps of what benchmarks/precision_flags.py measures in full."""

import shutil

import numpy as np
import pytest
import torch
from tiny import load_script

from common.datasets import PHANTOM
from common.randomness import numpy_generator
from phantom import world as phantom_world

flags = load_script("benchmarks/precision_flags.py")
FEW = {"phantom": {"start_timestep": 61}, "released": {"start_timestep": 101}}  # four steps; six up and six down


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_pipe(**changes):
    return flags.load_pipeline(flags.SD, torch.device("cpu"), **flags.pipeline_options(flags.recipe("phantom", **changes)))


def check(made, label):
    frames, plain = made[label][0], made[flags.PLAIN][0]
    assert frames.shape == plain.shape == (2, 8, 64, 64, 3) and plain.std() > 0.1
    largest, psnr = flags.difference(frames, plain)
    assert flags.missed_bar(label, largest, psnr) is None
    assert largest.min() > 0  # the flag did something


@pytest.mark.parametrize("recipe", FEW)
def test_channels_last_and_bf16(recipe):
    made = flags.compare(recipe, 2, 2, 42, (flags.DOUBLE, "channels last", "bf16"), **FEW[recipe])
    for label in (flags.DOUBLE, "channels last", "bf16"):
        check(made, label)
    assert flags.difference(made[flags.DOUBLE][0], made[flags.PLAIN][0])[0].max() < 1e-5  # rounding is not what is seen here


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compile():
    """About 50 s of one core where PyTorch's cache of compiled kernels is empty."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    made = flags.compare("phantom", 2, 1, 42, ("compile",), **FEW["phantom"])
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]  # the whole UNet in one, used for both clips
    check(made, "compile")
    torch._dynamo.reset()


def test_flags_reach_the_models():
    for label, change in flags.FLAGS.items():
        pipe = plain_pipe(**change)
        parts = (pipe.unet, pipe.vae, pipe.text_encoder)
        kernel = pipe.unet.conv_in.weight
        assert {part.dtype for part in parts} == {torch.bfloat16 if label == "bf16" else torch.float32}
        assert kernel.is_contiguous(memory_format=torch.channels_last) == (label == "channels last")
        assert (pipe.unet._compiled_call_impl is not None) == (label == "compile")


def test_clips_are_those_of_the_phantoms_world():
    """Decoding the latents gives the drawn frames back, up to what the VAE loses."""
    pipe = plain_pipe()
    latents, tokens = flags.make_clips(pipe, 2, 42)
    rng = numpy_generator(42, "scenes")
    drawn = np.stack([phantom_world.render(phantom_world.random_scene(rng), PHANTOM.frame_indices) for _ in range(2)]) / 255
    _, psnr = flags.difference(pipe.decode(latents).permute(0, 2, 3, 4, 1).numpy(), drawn)
    assert psnr.min() > 18 and tokens.shape == (2, 19, 96)
    assert np.abs(drawn[0] - drawn[1]).mean() > 0.05


def test_bars_can_be_missed():
    frames = np.full((2, 8, 4, 4, 3), 0.5, np.float32)
    worse = frames.copy()
    worse[1] += 0.04  # 28 dB in the second clip alone
    largest, psnr = flags.difference(worse, frames)
    assert np.allclose(largest, [0, 0.04]) and psnr[0] == np.inf and abs(psnr[1] - 10 * np.log10(1 / 0.04**2)) < 1e-3
    assert "28.0 dB" in flags.missed_bar("bf16", largest, psnr) and "4.0e-02" in flags.missed_bar("compile", largest, psnr)
    unknown = np.array([0, np.nan])
    assert flags.missed_bar("bf16", unknown, unknown) and flags.missed_bar("channels last", unknown, unknown)
    assert flags.missed_bar("bf16", largest, psnr + 3) is None and flags.missed_bar("compile", largest / 500, psnr) is None
