"""The inflated UNet against a plain 3-D UNet of the same weights, written here with loops over clips, frames and heads."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from tiny import UNET

from models.inflated_sd import SparseCausalAttnProcessor, inflate_unet

SD2 = UNET | {
    "block_out_channels": (8, 12), "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "layers_per_block": 2, "attention_head_dim": (2, 3), "use_linear_projection": True,
}  # fmt: skip
CONFIGS = {"sd1": UNET, "sd2": SD2}


def make_unet(config=UNET, dtype=torch.float64, seed=0):
    """Random weights everywhere: gains of 1 and biases of 0 would hide mistakes."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(sample_size=8, **config).eval().to(dtype).requires_grad_(False)
    randomize(unet)
    return unet


def randomize(module):
    for parameter in module.parameters():
        parameter.copy_(parameter + 0.2 * torch.randn_like(parameter))


def make_inputs(batch, frames, height=8, width=8, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, frames, height, width, generator=generator, dtype=torch.float64)
    return latents.to(dtype), torch.randn(batch, 5, 12, generator=generator, dtype=torch.float64).to(dtype)


def relative_error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


# ---------------------------------------------------------------------------------------------- plain 3-D UNet


class PlainUNet3D:
    """5-D tensors (clip, channel, frame, height, width) throughout; weights looked up by their diffusers names."""

    def __init__(self, config, weights):
        self.config, self.w = config, weights
        self.heads = config["attention_head_dim"]
        self.heads = self.heads if isinstance(self.heads, tuple) else (self.heads,) * len(config["block_out_channels"])

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def per_frame(self, function, x):
        return torch.stack([torch.stack([function(clip[:, f]) for f in range(clip.shape[1])], dim=1) for clip in x])

    def conv(self, name, x, stride=1):
        weight = self.w[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        return self.per_frame(lambda frame: F.conv2d(frame[None], weight, self.w[f"{name}.bias"], stride, padding)[0], x)

    def affine(self, name, x):
        shape = (-1,) + (1,) * (x.ndim - 1)
        return x * self.w[f"{name}.weight"].view(shape) + self.w[f"{name}.bias"].view(shape)

    def group_norm(self, name, x, eps):
        """x (channels, ...): statistics over a group's channels and everything behind them."""
        groups = x.reshape(self.config["norm_num_groups"], -1)
        mean = groups.mean(dim=1, keepdim=True)
        variance = ((groups - mean) ** 2).mean(dim=1, keepdim=True)
        return self.affine(name, ((groups - mean) / torch.sqrt(variance + eps)).reshape(x.shape))

    def joint_norm(self, name, x):
        return torch.stack([self.group_norm(name, clip, 1e-5) for clip in x])

    def layer_norm(self, name, x):
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def silu(self, x):
        return x / (1 + torch.exp(-x))

    def resnet(self, name, x, emb):
        h = self.conv(f"{name}.conv1", self.silu(self.joint_norm(f"{name}.norm1", x)))
        h = h + self.linear(f"{name}.time_emb_proj", self.silu(emb))[:, :, None, None, None]
        h = self.conv(f"{name}.conv2", self.silu(self.joint_norm(f"{name}.norm2", h)))
        return h + (self.conv(f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in self.w else x)

    def attend(self, name, x, context, heads):
        """One sequence x (tokens, channels) looks at another, head by head."""
        q, k, v = self.linear(f"{name}.to_q", x), self.linear(f"{name}.to_k", context), self.linear(f"{name}.to_v", context)
        width = q.shape[1] // heads
        out = []
        for i in range(heads):
            part = slice(i * width, (i + 1) * width)
            scores = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(width))
            out.append(scores / scores.sum(dim=1, keepdim=True) @ v[:, part])
        return self.linear(f"{name}.to_out.0", torch.cat(out, dim=1))

    def block(self, name, frames, text, heads):
        """frames: list of (tokens, channels)."""
        normed = [self.layer_norm(f"{name}.norm1", x) for x in frames]
        seen = [torch.cat([normed[0], normed[max(i - 1, 0)]]) for i in range(len(frames))]
        frames = [x + self.attend(f"{name}.attn1", n, s, heads) for x, n, s in zip(frames, normed, seen, strict=True)]
        frames = [x + self.attend(f"{name}.attn2", self.layer_norm(f"{name}.norm2", x), text, heads) for x in frames]
        out = []
        for x in frames:
            value, gate = self.linear(f"{name}.ff.net.0.proj", self.layer_norm(f"{name}.norm3", x)).chunk(2, dim=-1)
            gate = gate * (1 + torch.erf(gate / math.sqrt(2))) / 2
            out.append(x + self.linear(f"{name}.ff.net.2", value * gate))
        if f"{name}.norm_temp.weight" in self.w:
            tokens = torch.stack(out)
            for position in range(tokens.shape[1]):
                over_time = self.layer_norm(f"{name}.norm_temp", tokens[:, position].clone())
                tokens[:, position] += self.attend(f"{name}.attn_temp", over_time, over_time, heads)
            out = list(tokens)
        return out

    def transformer(self, name, x, text, heads):
        normed = self.per_frame(lambda frame: self.group_norm(f"{name}.norm", frame, 1e-6), x)
        flat = {
            key: self.w[key].flatten(1) for key in (f"{name}.proj_in.weight", f"{name}.proj_out.weight")
        }  # a 1x1 convolution is a linear layer
        out = []
        for clip, clip_text in zip(normed, text, strict=True):
            frames = [
                clip[:, f].flatten(1).T @ flat[f"{name}.proj_in.weight"].T + self.w[f"{name}.proj_in.bias"] for f in range(clip.shape[1])
            ]
            frames = self.block(f"{name}.transformer_blocks.0", frames, clip_text, heads)
            frames = [f @ flat[f"{name}.proj_out.weight"].T + self.w[f"{name}.proj_out.bias"] for f in frames]
            out.append(torch.stack([f.T.reshape(clip[:, 0].shape) for f in frames], dim=1))
        return x + torch.stack(out)

    def time_embedding(self, timesteps):
        half = self.config["block_out_channels"][0] // 2
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        code = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.w["conv_in.weight"])
        return self.linear("time_embedding.linear_2", self.silu(self.linear("time_embedding.linear_1", code)))

    def __call__(self, x, timesteps, text):
        emb = self.time_embedding(timesteps)
        levels, layers = len(self.config["block_out_channels"]), self.config["layers_per_block"]
        x = self.conv("conv_in", x)
        skips = [x]
        for level, kind in enumerate(self.config["down_block_types"]):
            for i in range(layers):
                x = self.resnet(f"down_blocks.{level}.resnets.{i}", x, emb)
                if kind.startswith("CrossAttn"):
                    x = self.transformer(f"down_blocks.{level}.attentions.{i}", x, text, self.heads[level])
                skips.append(x)
            if level < levels - 1:
                x = self.conv(f"down_blocks.{level}.downsamplers.0.conv", x, stride=2)
                skips.append(x)
        x = self.resnet("mid_block.resnets.0", x, emb)
        x = self.transformer("mid_block.attentions.0", x, text, self.heads[-1])
        x = self.resnet("mid_block.resnets.1", x, emb)
        for level, kind in enumerate(self.config["up_block_types"]):
            for i in range(layers + 1):
                x = self.resnet(f"up_blocks.{level}.resnets.{i}", torch.cat([x, skips.pop()], dim=1), emb)
                if kind.startswith("CrossAttn"):
                    x = self.transformer(f"up_blocks.{level}.attentions.{i}", x, text, self.heads[levels - 1 - level])
            if level < levels - 1:
                height, width = skips[-1].shape[-2:]
                rows = (torch.arange(height) * x.shape[-2]) // height
                columns = (torch.arange(width) * x.shape[-1]) // width
                x = self.conv(f"up_blocks.{level}.upsamplers.0.conv", x[..., rows, :][..., columns])
        return self.conv("conv_out", self.silu(self.joint_norm("conv_norm_out", x)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (2, 8, 8), (3, 5, 7), (5, 4, 6)])
def test_equals_plain_3d_unet(name, frames, height, width):
    unet = inflate_unet(make_unet(CONFIGS[name]))
    latents, text = make_inputs(2, frames, height, width)
    timesteps = torch.tensor([981, 21])
    expected = PlainUNet3D(CONFIGS[name], unet.state_dict())(latents, timesteps, text)
    assert relative_error(unet(latents, timesteps, text).sample, expected) < 1e-6


@pytest.mark.parametrize("name", CONFIGS)
def test_temporal_attention_equals_plain_3d_unet(name):
    unet = inflate_unet(make_unet(CONFIGS[name]), temporal_attention=True)
    latents, text = make_inputs(2, 4, 4, 4)
    timesteps = torch.tensor([501, 501])
    without = PlainUNet3D(CONFIGS[name], {k: v for k, v in unet.state_dict().items() if "_temp." not in k})(latents, timesteps, text)
    assert relative_error(unet(latents, timesteps, text).sample, without) < 1e-6  # untrained: an identity
    fine_tuned = {k: torch.randn_like(v) if "_temp." in k else v for k, v in unet.state_dict().items()}
    unet.load_state_dict(fine_tuned)
    expected = PlainUNet3D(CONFIGS[name], fine_tuned)(latents, timesteps, text)
    assert relative_error(expected, without) > 1e-2
    assert relative_error(unet(latents, timesteps, text).sample, expected) < 1e-6


# ---------------------------------------------------------------------------------------------- against diffusers


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_one_frame_is_the_2d_unet(name, size):
    flat = make_unet(CONFIGS[name])
    latents, text = make_inputs(2, 1, *size)
    expected = flat(latents[:, :, 0], 201, text).sample
    assert relative_error(inflate_unet(flat)(latents, 201, text).sample[:, :, 0], expected) < 1e-12


# ---------------------------------------------------------------------------------------------- in place


def test_same_object_same_weights():
    unet = make_unet(dtype=torch.bfloat16)
    config, names = dict(unet.config), {name: tensor.data_ptr() for name, tensor in unet.state_dict().items()}
    inflated = inflate_unet(unet)
    assert inflated is unet and isinstance(inflated, UNet2DConditionModel)
    assert dict(inflated.config) == config
    assert inflated.dtype == torch.bfloat16 and inflated.device == torch.device("cpu")
    assert {name: tensor.data_ptr() for name, tensor in inflated.state_dict().items()} == names


def test_temporal_names_and_zero_output():
    stock = make_unet(SD2, torch.float32)
    before = set(stock.state_dict())
    unet = inflate_unet(stock, temporal_attention=True)
    blocks = {name.rsplit(".attn1", 1)[0] for name in before if ".attn1." in name}
    suffixes = [f"attn_temp.{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0")]
    suffixes += ["attn_temp.to_out.0.bias", "norm_temp.weight", "norm_temp.bias"]
    assert set(unet.state_dict()) - before == {f"{block}.{suffix}" for block in blocks for suffix in suffixes}
    assert len(blocks) == 2 * 2 + 1 + 2 * 3
    for name, tensor in unet.state_dict().items():
        if "attn_temp.to_out" in name:
            assert not tensor.any()
        if ".attn_temp.to_q." in name:
            assert tensor.shape == unet.state_dict()[name.replace("attn_temp", "attn1")].shape


@pytest.mark.parametrize(
    ("latents", "timestep", "text"),
    [
        (torch.zeros(2, 4, 8, 8), 1, torch.zeros(2, 5, 12)),
        (torch.zeros(2, 4, 3, 8, 8), 1, torch.zeros(6, 5, 12)),
        (torch.zeros(2, 4, 3, 8, 8), 1, torch.zeros(2, 12)),
        (torch.zeros(2, 4, 3, 8, 8), torch.tensor([1, 2, 3]), torch.zeros(2, 5, 12)),
    ],
)
def test_shapes_that_do_not_fit(latents, timestep, text):
    with pytest.raises(ValueError, match=r"must have the shape \(.*not \("):
        inflate_unet(make_unet(dtype=torch.float32))(latents, timestep, text)


# ---------------------------------------------------------------------------------------------- options for speed and memory


def test_attention_slicing_keeps_the_frames_together():
    unet = inflate_unet(make_unet())
    latents, text = make_inputs(2, 4)
    expected = unet(latents, 101, text).sample
    unet.set_attention_slice(1)
    assert relative_error(unet(latents, 101, text).sample, expected) < 1e-12
    processors = unet.attn_processors
    assert all(isinstance(processor, SparseCausalAttnProcessor) for name, processor in processors.items() if ".attn1." in name)
    assert all(type(processor).__name__ == "SlicedAttnProcessor" for name, processor in processors.items() if ".attn2." in name)


def test_bfloat16_weights():
    """Rounding to 8 bits of mantissa is what may differ, as it does in the 2-D UNet."""
    unet = make_unet(dtype=torch.float32)
    half = copy.deepcopy(unet).bfloat16()
    latents, text = make_inputs(2, 3, dtype=torch.float32)
    frames, texts = latents.transpose(1, 2).flatten(0, 1), text.repeat_interleave(3, dim=0)
    stock_error = relative_error(half(frames.bfloat16(), 101, texts.bfloat16()).sample.float(), unet(frames, 101, texts).sample)
    expected = inflate_unet(unet)(latents, 101, text).sample
    out = inflate_unet(half)(latents.bfloat16(), 101, text.bfloat16()).sample
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), expected) < max(2 * stock_error, 0.05)
