"""Channels last and bf16 give the phantom's frames: few steps of what benchmarks/precision_flags.py measures in full.

And what benchmarks/gpu.py and memory.py compute, at a size for a CPU.
"""

import pytest
import torch
import torch.nn.functional as F
from tiny import error_of, load_script

flags, gpu, memory = (load_script(f"benchmarks/{name}.py") for name in ("precision_flags", "gpu", "memory"))


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


# ---------------------------------------------------------------------------------------------- benchmarks


def test_gpu_benchmark_at_a_size_for_a_cpu(tmp_path, capsys):
    cpu = torch.device("cpu")
    rows = gpu.same_numbers(cpu, 42, clips=1, start_timestep=21)
    assert [difference for _, difference, _ in rows] == [0, 0, 0]  # the CPU against itself
    rows = gpu.unet_rows(cpu, [1, 2], 1, channels=(32, 32, 32, 32), size=8, dtypes=("fp32", "bf16"), compiled=(False,))
    assert [(name, clips, finite) for name, _, clips, *_, finite in rows] == [(k, n, "yes") for k in ("fp32", "bf16") for n in (1, 2)]
    rows = list(gpu.training_rows(cpu, 1, "--attn_dim", 8, "--d_ff", 8, "--encoder_dim", 8, voxels=6, latent=(1, 4, 4), batch=3))
    assert [row[0] for row in rows] == ["fp32", "tf32", "bf16"] and all(float(ms) > 0 for _, ms, _ in rows)

    small, tiny = ("--steps", 3, "--batch_size", 2), {"unet": (32, 32, 32, 32), "vae": (32, 32, 32, 32), "size": 8}
    rows = list(gpu.recipe_rows(cpu, [list(map(str, flags)) for flags in (small, (*small, "--channels_last"))], **tiny))
    assert [row[0].split()[-1] for row in rows] == ["2", "--channels_last"] and all(float(s) > 0 and f == "yes" for _, s, _, f in rows)

    page = tmp_path / "kept.md"  # parts that are not asked for stay
    page.write_text(f"{gpu.HEAD}\n\n## One\n\nmachine\n\n| a |\n\n## Two\n\nmachine\n")
    assert (
        gpu.read_sections(page) == {"One": ["machine", "", "| a |"], "Two": ["machine"]} and gpu.read_sections(tmp_path / "none.md") == {}
    )

    def out_of_memory():
        raise torch.cuda.OutOfMemoryError

    assert gpu.cells(*gpu.timed(out_of_memory, cpu, 1)) == ["does not fit", ""] and gpu.cells(0.5, 2e9, per=4) == ["125.0", "2.00"]
    if not torch.cuda.is_available():
        assert "there is no GPU that PyTorch can use; run this on a machine with one" in error_of(
            capsys, gpu, "--page", tmp_path / "page.md"
        )
        assert not (tmp_path / "page.md").exists()


@torch.no_grad()
def test_operations_and_bytes_are_counted():
    """By hand: a product, what is alive at its end, attention without a matrix of scores; sizes of the published models."""
    x, weight = memory.empty(3, 4), memory.empty(5, 4)
    assert memory.count(lambda: F.linear(x, weight)) == (3 * 5 * 4, 2 * 3 * 4 * 5)
    assert memory.count(lambda: F.linear(x, weight).relu().sum())[0] == 2 * 3 * 5 * 4  # the first is gone when the sum comes
    query, key = memory.empty(2, 1, 7, 4), memory.empty(2, 1, 100, 4)
    used = memory.count(lambda: F.scaled_dot_product_attention(query, key, key))
    assert used == (2 * 7 * 4 * 4, 2 * 2 * 2 * 7 * 100 * 4)
    assert memory.parameters(memory.build(memory.make_unet)) == 859_520_964
    assert memory.parameters(memory.build(memory.make_vae)) == 83_653_863
