"""Parameters, memory and operations of every stage at full size, computed without weights; writes docs/memory.md.

Models of the published sizes are built on PyTorch's meta device, which knows shapes and holds no numbers. Every operation of
a pass is counted: its floating-point operations, and the bytes of all tensors that are alive at its end. Attention is
counted as the fused kernel computes it, which holds no matrix of scores. Small models are also run here (--measure).

Reads    nothing
Writes   docs/memory.md

    python benchmarks/memory.py
    python benchmarks/memory.py --measure

About 2 minutes and 1 GB; 5 minutes and 6 GB with --measure.
"""

import math
import resource
import time
import weakref
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from common import cli
from common.files import write_text
from common.workers import n_cores
from Evaluation_Metrics.tables import table_lines
from Feature_decoding import train_CMG
from models.inflated_sd import inflate_unet
from models.losses import l1_norm
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder

VOXELS, FRAMES, SIZE, LATENT, TOKENS = 4500, 8, 512, (4, 64, 64), 20  # of CC2017
BATCH = 64  # of the trainings
PEAK, SHARE = {"fp32": 19.5, "tf32": 156.0, "fp16": 312.0}, 0.4  # TFLOP/s that NVIDIA publishes of an A100, and the share that is taken

# ---------------------------------------------------------------------------------------------- counting


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are alive: now, and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):  # what was there before, as weights, is no work of an operation
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tensor.untyped_storage())
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def free(self, n):
        self.now -= n


class FusedAttention(TorchFunctionMode):
    """Attention without gradients as a fused kernel does it: its output, its operations, and no matrix of scores."""

    flops = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not F.scaled_dot_product_attention or torch.is_grad_enabled():
            return function(*args, **(kwargs or {}))
        query, key, value = args[:3] if len(args) > 2 else [(kwargs or {})[name] for name in ("query", "key", "value")]
        self.flops += 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def count(function):
    """Bytes at the peak, weights not counted, and operations of a call."""
    with LiveBytes() as live, FusedAttention() as attention, FlopCounterMode(display=False) as counter:
        function()
    return live.peak, counter.get_total_flops() + attention.flops


def build(make, dtype=torch.float32):
    """A model on the meta device."""
    with torch.device("meta"):
        return make().to(dtype).eval()


def empty(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


# ---------------------------------------------------------------------------------------------- models of the published sizes


def make_unet():
    from diffusers import UNet2DConditionModel

    return inflate_unet(UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))


def make_vae():
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512, **blocks)


def make_text_encoder():
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))


def make_clip():
    import open_clip

    return open_clip.create_model("ViT-B-32-quickgelu", pretrained=None, device="meta")


def make_blip2():
    """BLIP-2 on Flan-T5-XXL."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, T5Config

    text = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    return Blip2ForConditionalGeneration(Blip2Config(text_config=text.to_dict()))


def make_cmg():
    args = train_CMG.get_parser().parse_args([])
    return train_CMG.build_cmg(args, VOXELS, FRAMES, LATENT, whole_frames=True)


# ---------------------------------------------------------------------------------------------- passes


@torch.no_grad()
def unet_pass(unet, clips):
    """One denoising step with guidance: two passes in one call."""
    dtype = next(unet.parameters()).dtype
    return count(lambda: unet(empty(2 * clips, 4, FRAMES, 64, 64, dtype=dtype), 500, empty(2 * clips, TOKENS, 768, dtype=dtype)).sample)


def training_step(model, forward, loss):
    """Forward and backward pass of a batch."""
    model.train()

    def step():
        loss(forward()).backward()

    return count(step)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def make_row(what, model, used, per, precision="fp32"):
    """A row of the page; `used` bytes and operations."""
    return {"what": what, "parameters": parameters(model), "bytes": used[0], "flops": used[1], "per": per, "precision": precision}


@torch.no_grad()
def inference_rows():
    """Passes without training: dicts of what, parameters, activations (bytes), flops, per, precision."""
    rows = []

    def add(*cells):
        rows.append(make_row(*cells))

    add("captions: BLIP-2 Flan-T5-XXL, weights alone", build(make_blip2, torch.float16), (None, None), "", "fp16")
    clip, text = build(make_clip), build(make_text_encoder)
    add("targets: CLIP ViT-B/32", clip, count(lambda: clip.encode_image(empty(64, 3, 224, 224))), "64 frames")
    add("targets: text encoder", text, count(lambda: text(torch.zeros(64, TOKENS, dtype=torch.long, device="meta"))), "64 captions")
    cmg = build(make_cmg)
    add("reconstruction: CMG", cmg, count(lambda: cmg.generate(empty(128, VOXELS), empty(128, math.prod(LATENT)), FRAMES)), "128 clips")
    for dtype, name in ((torch.float32, "fp32"), (torch.float16, "fp16")):
        vae, unet = build(make_vae, dtype), build(make_unet, dtype)
        pixels, latents = empty(FRAMES, 3, SIZE, SIZE, dtype=dtype), empty(FRAMES, *LATENT, dtype=dtype)
        if name == "fp32":
            add("targets: VAE encoder", vae, count(lambda: vae.encode(pixels)), "clip")  # noqa: B023
        add("reconstruction: VAE decoder", vae, count(lambda: vae.decode(latents)), "clip", name)  # noqa: B023
        add("the same with `--vae_slicing`", vae, count(lambda: [vae.decode(frame[None]) for frame in latents]), "clip", name)  # noqa: B023
        for clips in (1, 2, 4, 8):
            add("reconstruction: UNet, step with guidance", unet, unet_pass(unet, clips), f"{clips} clip{'s' * (clips > 1)}", name)
    return rows


def training_rows():
    """As `inference_rows`, a step of each training, whose activations hold the gradients too."""
    rows = []
    for name, (make, forward) in TRAININGS.items():
        model = build(make)
        penalised = [] if name.startswith("semantic") else list(model.parameters())  # L1 gives every weight a gradient

        def loss(out, penalised=penalised):
            return sum(part.square().mean() for part in out) + (l1_norm(penalised) if penalised else 0)

        used = training_step(model, lambda: forward(model, "meta"), loss)  # noqa: B023
        rows.append(make_row(f"training: {name}", model, used, f"{BATCH} clips"))
    return rows


def _cmg_forward(model, device):
    frames = torch.zeros(BATCH, FRAMES - 1, math.prod(LATENT), device=device)
    mask = torch.ones(BATCH, FRAMES - 1, FRAMES - 1, dtype=torch.bool, device=device)
    return (model(torch.zeros(BATCH, VOXELS, device=device), frames, mask),)


TRAININGS = {  # how each model is made, and what a forward pass on zeros gives
    "semantic decoder": (SemanticDecoder, lambda model, device: model(torch.zeros(BATCH, VOXELS, device=device))),
    "structure decoder": (StructureDecoder, lambda model, device: (model(torch.zeros(BATCH, VOXELS, device=device)),)),
    "CMG": (make_cmg, _cmg_forward),
}

# ---------------------------------------------------------------------------------------------- measured here


def measure(name):
    """Run one thing in a process of its own; seconds of a processor and peak bytes of the process."""
    torch.set_num_threads(1)
    if name in TRAININGS:
        make, forward = TRAININGS[name]
        model = make()
        optimizer, inputs = torch.optim.Adam(model.parameters(), fused=True), None
    else:
        model, inputs = MEASURED[name]
        model, inputs = model().to(inputs[0].dtype).eval(), inputs
    began = time.process_time()
    if inputs is None:
        sum(part.square().mean() for part in forward(model, "cpu")).backward()
        optimizer.step()
    else:
        with torch.no_grad():
            (model.decode if hasattr(model, "decode") else model)(*inputs)
    return time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MEASURED = {
    "VAE decoder, one frame, fp32": (make_vae, (torch.zeros(1, *LATENT),)),
    "UNet, one frame, bf16": (
        make_unet,
        (torch.zeros(1, 4, 1, 64, 64, dtype=torch.bfloat16), 500, torch.zeros(1, TOKENS, 768, dtype=torch.bfloat16)),
    ),
}

# ---------------------------------------------------------------------------------------------- the page


def computed_table():
    lines = []
    for row in inference_rows() + training_rows():
        size = 2 if row["precision"] == "fp16" else 4
        training = row["what"].startswith("training")
        weights = row["parameters"] * (size + 8 * training)  # Adam's two moments
        whose = ", ".join(filter(None, (row["per"], row["precision"])))
        cells = [row["what"], whose, f"{row['parameters'] / 1e6:.0f} M", f"{weights / 1e9:.2f} GB"]
        if row["flops"] is None:
            cells += ["", "", "", ""]
        else:
            seconds = row["flops"] / (PEAK[row["precision"]] * 1e12 * SHARE)
            time_of = f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
            cells += [f"{row['bytes'] / 1e9:.2f} GB", f"{(weights + row['bytes']) / 1e9:.1f} GB", f"{row['flops'] / 1e12:.2f}", time_of]
        lines.append(cells)
    return table_lines(("what", "for", "parameters", "weights", "activations", "together", "TFLOP", "an A100"), lines)


def measured_table():
    rows = []
    for name in tqdm([*TRAININGS, *MEASURED], desc="measured", disable=None):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # a process each, for a peak each
            seconds, peak = pool.submit(measure, name).result()
        what = f"{name}, training step of {BATCH} clips" if name in TRAININGS else name
        rows.append((what, f"{seconds:.1f}", f"{peak / 1e9:.1f} GB"))
    return table_lines(("what", "seconds of one processor", "peak of the process"), rows)


def recipe_line():
    """Operations of a clip by the paper's recipe."""
    with torch.no_grad():
        unet, vae = build(make_unet), build(make_vae)
        up = count(lambda: unet(empty(1, 4, FRAMES, 64, 64), 500, empty(1, 77, 768)).sample)[1]
        down, decoding = unet_pass(unet, 1)[1], count(lambda: vae.decode(empty(FRAMES, *LATENT)))[1]
    total = 50 * (up + down) + decoding
    hours = {name: 1200 * total / (rate * 1e12 * SHARE) / 3600 for name, rate in PEAK.items()}
    times = ", ".join(f"{value:.1f} h in {name}" for name, value in hours.items())
    return f"A clip by the paper's recipe, 50 steps up and 50 down with guidance: {total / 1e15:.2f} PFLOP. The 1200 test clips of a participant: {times} (computed)."


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("benchmark")
    group.add_argument("--measure", action="store_true", help="small models run here as well")
    group.add_argument("--page", type=Path, default=cli.PROJECT / "docs/memory.md", help="page that is written")
    return parser


def main(args):
    parts = [HEAD, *computed_table(), "", recipe_line()]
    if args.measure:
        parts += ["", MEASURED_HERE.format(threads=n_cores(), torch=torch.__version__), "", *measured_table()]
    write_text(args.page, "\n".join(parts) + "\n")
    print(f"wrote {args.page}")


HEAD = f"""# Memory and operations at full size

<!-- written by benchmarks/memory.py -->

**Computed**, not measured: models of the published sizes on PyTorch's meta device, for {VOXELS} voxels, {FRAMES} frames of {SIZE} x {SIZE}.
*Activations* are the tensors alive at the peak of a pass beyond the weights (in training with the gradients; *weights* then hold
Adam's moments too); a GPU needs half a gigabyte for itself, and kernels some workspace. *An A100* is operations at {SHARE:.0%} of its
published rate: {", ".join(f"{rate:g} TFLOP/s in {name}" for name, rate in PEAK.items())}. What one H100 took is in `benchmarks/GPU.md`: within 4 %
of the bytes computed here for the UNet in fp16 and the CMG's training, while whole scripts, with PyTorch's reserve, CUDA and cuDNN, took 1.2 to 1.9 times as much.
"""

MEASURED_HERE = """## Measured here

**Measured** on a CPU ({threads} cores at hand, one used, PyTorch {torch}): seconds of the processor, and all that the process held.
"""

if __name__ == "__main__":
    cli.run(main, get_parser)
