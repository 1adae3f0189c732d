"""Channels last and bf16 give the phantom's frames: few steps of what benchmarks/precision_flags.py measures in full."""

import pytest
import torch
from tiny import load_script

flags = load_script("benchmarks/precision_flags.py")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_channels_last_and_bf16():
    """Three guided steps; fp64 shows that rounding is not what is seen here."""
    labels = (flags.DOUBLE, "channels last", "bf16")
    made = flags.compare("phantom", 1, 1, 42, labels, start_timestep=41)
    plain = made[flags.PLAIN][0]
    assert plain.shape == (1, 8, 64, 64, 3) and plain.std() > 0.1
    for label in labels:
        largest, psnr = flags.difference(made[label][0], plain)
        assert flags.missed_bar(label, largest, psnr) is None and largest.min() > 0  # the flag did something
        assert label != flags.DOUBLE or largest.max() < 1e-5
    assert flags.missed_bar("bf16", largest, psnr - 40) and flags.missed_bar("compile", largest + 0.01, psnr)


def test_flags_reach_the_models():
    for label, change in flags.FLAGS.items():
        pipe = flags.load_pipeline(flags.SD, torch.device("cpu"), **flags.pipeline_options(flags.recipe("phantom", **change)))
        kernel = pipe.unet.conv_in.weight
        assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16 if label == "bf16" else torch.float32}
        assert kernel.is_contiguous(memory_format=torch.channels_last) == (label == "channels last")
        assert (pipe.unet._compiled_call_impl is not None) == (label == "compile")
