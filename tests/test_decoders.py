"""The fMRI decoders against plain implementations: numpy, loops over samples, frames and heads, nothing cached."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from models import losses
from models.cmg import ConsistencyMotionGenerator, sparse_causal_mask
from models.cmg_patch import PatchCMG
from models.layers import TokenAttention
from models.retrieval_decoder import RetrievalDecoder
from models.schedules import compounding_decay, noam_lr
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder

CMG_SIZES = dict(in_dim=6, d_model=32, n_layers=2, n_heads=4, attn_dim=16, d_ff=12, encoder_dim=10, encoder_blocks=2)
PATCH_SIZES = dict(input_size=6, patch_size=2, in_channels=3, in_dim=5, hidden_dim=16, depth=2, n_heads=4, mlp_ratio=2.0, n_frames=4)
SEMANTIC_SIZES = dict(in_dim=6, hidden_dim=8, n_blocks=3, n_tokens=3, token_dim=5, projector_dims=(7, 9))


# ---------------------------------------------------------------------------------------------- plain implementations


def weights_of(model):
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def layer_norm(x, gain=1.0, bias=0.0, eps=1e-5):
    return gain * (x - x.mean()) / math.sqrt(np.mean((x - x.mean()) ** 2) + eps) + bias


def named_norm(w, name, x):
    return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])


def branch_norm(w, name, x):
    deviation = math.sqrt(np.sum((x - x.mean()) ** 2) / (len(x) - 1))
    return w[f"{name}.a_2"] * (x - x.mean()) / (deviation + 1e-6) + w[f"{name}.b_2"]


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def plain_stem(w, prefix, n_blocks, fmri):
    """Linear, LayerNorm, GELU and residual blocks of the same."""
    x = gelu(named_norm(w, f"{prefix}lin0.1", linear(w, f"{prefix}lin0.0", fmri)))
    for b in range(n_blocks):
        x = gelu(named_norm(w, f"{prefix}mlp.{b}.1", linear(w, f"{prefix}mlp.{b}.0", x))) + x
    return x


def plain_attention(w, name, n_heads, queries, memory, mask):
    """queries, memory: lists of vectors; mask[i][j] True where i may see j."""
    q = [linear(w, f"{name}.linears.0", x) for x in queries]
    k = [linear(w, f"{name}.linears.1", x) for x in memory]
    v = [linear(w, f"{name}.linears.2", x) for x in memory]
    width = len(q[0]) // n_heads
    out = []
    for i in range(len(queries)):
        heads = []
        for h in range(n_heads):
            part = slice(h * width, (h + 1) * width)
            scores = np.array([q[i][part] @ k[j][part] / math.sqrt(width) if mask[i][j] else -1e9 for j in range(len(memory))])
            heads.append(sum(p * v[j][part] for j, p in enumerate(softmax(scores))))
        out.append(linear(w, f"{name}.linears1", np.concatenate(heads)))
    return out


def plain_cmg(w, fmri, frames, mask, n_layers, n_heads, encoder_blocks):
    """One clip: fmri (V,), frames (F, D), mask (F, F)."""
    memory = [linear(w, "encoder.lin1", plain_stem(w, "encoder.", encoder_blocks, fmri))]
    dim = frames.shape[1]
    xs = []
    for position, frame in enumerate(frames):
        angles = [position / 10000 ** (c // 2 * 2 / dim) for c in range(dim)]
        xs.append(frame + np.array([math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)]))
    for layer in range(n_layers):
        name = f"decoder.layers.{layer}"
        branch = plain_attention(w, f"{name}.self_attn", n_heads, xs, xs, mask)
        xs = [x + branch_norm(w, f"{name}.sublayer.0.norm", b) for x, b in zip(xs, branch, strict=True)]
        branch = plain_attention(w, f"{name}.src_attn", n_heads, xs, memory, [[True]] * len(xs))
        xs = [x + branch_norm(w, f"{name}.sublayer.1.norm", b) for x, b in zip(xs, branch, strict=True)]
        branch = [linear(w, f"{name}.feed_forward.w_2", np.maximum(linear(w, f"{name}.feed_forward.w_1", x), 0)) for x in xs]
        xs = [x + branch_norm(w, f"{name}.sublayer.2.norm", b) for x, b in zip(xs, branch, strict=True)]
    return np.array([branch_norm(w, "decoder.norm", x) for x in xs])


def plain_patch_cmg(w, fmri, frames, mask, patch, n_heads, depth):
    """One clip: fmri (V,), frames (T, C, H, W), mask (T, T)."""
    n_times, channels, size, _ = frames.shape
    side, dim = size // patch, len(w["frame_embedder.proj.bias"])
    kernel, bias = w["frame_embedder.proj.weight"], w["frame_embedder.proj.bias"]
    spatial = linear(w, "fMRI_to_spatial.1", fmri / (1 + np.exp(-fmri)))

    def code(position, width):
        angle = [position * 10000 ** (-2 * k / width) for k in range(width // 2)]
        return np.concatenate([np.sin(angle), np.cos(angle)])

    x = {}
    for t in range(n_times):
        for p in range(side * side):
            row, column = divmod(p, side)
            cut = frames[t][:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            embedded = np.array([np.sum(kernel[d] * cut) for d in range(dim)]) + bias
            x[t, p] = embedded + np.concatenate([code(column, dim // 2), code(row, dim // 2)]) + code(t, dim)
    for b in range(depth):
        new = {}
        for p in range(side * side):
            qkv = [linear(w, f"blocks.{b}.temporal_attention.qkv", x[t, p]).reshape(3, n_heads, -1) for t in range(n_times)]
            for t in range(n_times):
                heads = []
                for h in range(n_heads):
                    scores = [qkv[t][0, h] @ qkv[s][1, h] * (dim / n_heads) ** -0.5 if mask[t][s] else -1e9 for s in range(n_times)]
                    heads.append(sum(a * qkv[s][2, h] for s, a in enumerate(softmax(np.array(scores)))))
                new[t, p] = x[t, p] + linear(w, f"blocks.{b}.temporal_attention.proj", np.concatenate(heads))
        for t, p in new:
            query = layer_norm(new[t, p], eps=1e-6)
            attended = plain_attention(w, f"blocks.{b}.spatial_attention", n_heads, [query], [spatial], [[True]])[0]
            y = new[t, p] + attended
            hidden = tanh_gelu(linear(w, f"blocks.{b}.mlp.fc1", layer_norm(y, eps=1e-6)))
            x[t, p] = y + linear(w, f"blocks.{b}.mlp.fc2", hidden)
    out = np.zeros_like(frames)
    for t, p in x:
        row, column = divmod(p, side)
        vector = linear(w, "final_layer.linear", layer_norm(x[t, p], eps=1e-6))
        for i in range(patch):
            for j in range(patch):
                for c in range(channels):
                    out[t, c, row * patch + i, column * patch + j] = vector[(i * patch + j) * channels + c]
    return out


def released_row(size):
    """Which columns a row sees when the released greedy loop asks for keep ratio 0."""
    return [[j <= i and (i < 2 or j == 0) for j in range(size)] for i in range(size)]


def causal_row(size):
    return [[j <= i for j in range(size)] for i in range(size)]


# ---------------------------------------------------------------------------------------------- helpers


def randomise(model, seed=0):
    """Give every trained parameter random values, so that no gain is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return np.abs(a - b).max() / np.abs(b).max()


# ---------------------------------------------------------------------------------------------- names and sizes


def test_parameter_counts_are_the_released_ones():
    expected = {SemanticDecoder: 72_336_641, StructureDecoder: 23_503_872, ConsistencyMotionGenerator: 335_758_336, PatchCMG: 24_769_600}
    for kind, count in expected.items():
        with torch.device("meta"):
            assert sum(parameter.numel() for parameter in kind().parameters()) == count


def both(name):
    return {f"{name}.weight", f"{name}.bias"}


def test_state_dicts_have_the_released_names():
    stem = {"logit_scale"} | both("lin0.0") | both("lin0.1")
    blocks = set().union(*(both(f"mlp.{b}.{i}") for b in range(3) for i in (0, 1)))
    projector = set().union(*(both(f"lin1.{i}") for i in (0, 2, 3, 5, 6, 8)))
    assert set(SemanticDecoder(**SEMANTIC_SIZES).state_dict()) == stem | blocks | projector
    assert set(RetrievalDecoder(in_dim=4, hidden_dim=8, n_blocks=3).state_dict()) == stem | blocks
    structure = StructureDecoder(in_dim=4, hidden_dim=8, n_blocks=2, latent_shape=(4, 2, 2))
    assert set(structure.state_dict()) == both("lin0.0") | both("mlp.0.0") | both("mlp.1.0") | both("lin1.0") | both("lin1.2")

    cmg = both("encoder.lin0.0") | both("encoder.lin0.1") | both("encoder.lin1")
    cmg |= {"tgt_embed.1.pe", "decoder.norm.a_2", "decoder.norm.b_2"}
    cmg |= set().union(*(both(f"encoder.mlp.{b}.{i}") for b in range(2) for i in (0, 1)))
    for layer in (f"decoder.layers.{n}" for n in range(2)):
        cmg |= both(f"{layer}.feed_forward.w_1") | both(f"{layer}.feed_forward.w_2")
        for attention in ("self_attn", "src_attn"):
            cmg |= set().union(*(both(f"{layer}.{attention}.{part}") for part in ("linears.0", "linears.1", "linears.2", "linears1")))
        cmg |= {f"{layer}.sublayer.{n}.norm.{part}" for n in range(3) for part in ("a_2", "b_2")}
    state = ConsistencyMotionGenerator(**CMG_SIZES).state_dict()
    assert set(state) == cmg
    assert state["tgt_embed.1.pe"].shape == (1, 10, 32)

    parts = "spatial_attention.linears.0 spatial_attention.linears.1 spatial_attention.linears.2 spatial_attention.linears1 mlp.fc1 mlp.fc2"
    parts += " adaLN_modulation.1 temporal_norm1 temporal_attention.qkv temporal_attention.proj temporal_fc"
    patch = {"pos_embed", "time_embed"} | both("frame_embedder.proj") | both("fMRI_to_spatial.1") | both("fMRI_to_temporal.1")
    patch |= both("final_layer.linear") | set().union(*(both(f"blocks.{b}.{part}") for b in range(2) for part in parts.split()))
    state = PatchCMG(**PATCH_SIZES).state_dict()
    assert set(state) == patch
    assert state["pos_embed"].shape == (1, 9, 16) and state["time_embed"].shape == (1, 4, 16)
    assert state["blocks.0.adaLN_modulation.1.weight"].shape == (32, 16)


@pytest.mark.parametrize(
    "build", [lambda: SemanticDecoder(64, 32, 3, 4, 48, (64, 96)), lambda: StructureDecoder(64, 32), lambda: RetrievalDecoder(64, 32)]
)
def test_weights_start_xavier_uniform(build):
    torch.manual_seed(0)
    for name, parameter in build().named_parameters():
        if parameter.ndim > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert parameter.abs().max() <= bound, name
            assert abs(parameter.std().item() / (bound / math.sqrt(3)) - 1) < 0.1, name
        if name == "logit_scale":
            assert parameter.ndim == 0 and math.isclose(parameter.exp().item(), 1 / 0.07, rel_tol=1e-6)


def test_dropout_rates():
    def rates(model):
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    assert rates(SemanticDecoder(**SEMANTIC_SIZES)) == [0.3, 0.15, 0.15, 0.15]
    assert rates(RetrievalDecoder(in_dim=4, hidden_dim=8)) == [0.3, 0.15, 0.15]
    assert rates(StructureDecoder(in_dim=4, hidden_dim=8, latent_shape=(4, 2, 2))) == [0.2, 0.2, 0.2]
    layer = [0.15, 0.15, 0.2, 0.2, 0.2, 0.2]  # two attentions, feed-forward, three branches
    assert sorted(rates(ConsistencyMotionGenerator(**CMG_SIZES))) == sorted([0.3, 0.15, 0.15, 0.2] + 2 * layer)
    assert rates(PatchCMG(**PATCH_SIZES)) == [0.15, 0.15]


# ---------------------------------------------------------------------------------------------- MLP decoders


def test_semantic_decoder_is_the_formula():
    model = randomise(SemanticDecoder(**SEMANTIC_SIZES)).double()
    w, fmri = weights_of(model), draw(4, 6).double()
    with torch.no_grad():
        embedding, tokens = model(fmri)
    for i, row in enumerate(fmri.numpy()):
        x = plain_stem(w, "", 3, row)
        assert relative_error(embedding[i], x) < 1e-12
        for n in (0, 3, 6):
            x = linear(w, f"lin1.{n + 2}", gelu(named_norm(w, f"lin1.{n}", x)))
        assert relative_error(tokens[i], x.reshape(3, 5)) < 1e-12


def test_retrieval_decoder_is_the_semantic_stem():
    model = randomise(RetrievalDecoder(in_dim=6, hidden_dim=8, n_blocks=2)).double()
    w, fmri = weights_of(model), draw(4, 6).double()
    with torch.no_grad():
        embedding = model(fmri)
    assert relative_error(embedding, [plain_stem(w, "", 2, row) for row in fmri.numpy()]) < 1e-12


def test_structure_decoder_is_the_formula():
    model = randomise(StructureDecoder(in_dim=6, hidden_dim=8, n_blocks=2, latent_shape=(4, 2, 3))).double()
    w, fmri = weights_of(model), draw(4, 6).double()
    with torch.no_grad():
        latent = model(fmri)
    for i, row in enumerate(fmri.numpy()):
        x = linear(w, "lin0.0", row)
        for b in range(2):
            x = linear(w, f"mlp.{b}.0", x) + x
        x = linear(w, "lin1.2", np.maximum(named_norm(w, "lin1.0", x), 0))
        assert relative_error(latent[i], x.reshape(4, 2, 3)) < 1e-12


# ---------------------------------------------------------------------------------------------- CMG


@pytest.mark.parametrize("keep_ratio", [0.0, 0.5, 1.0])
def test_cmg_forward_is_the_formula(keep_ratio):
    model = randomise(ConsistencyMotionGenerator(**CMG_SIZES)).double()
    w, fmri, frames = weights_of(model), draw(3, 6).double(), draw(3, 5, 32).double()
    generator = torch.Generator().manual_seed(0)
    mask = torch.cat([sparse_causal_mask(5, keep_ratio, generator) for _ in range(3)])
    with torch.no_grad():
        predicted = model(fmri, frames, mask)
        single = model(fmri, frames, mask[:1])
    for b in range(3):
        expected = plain_cmg(w, fmri[b].numpy(), frames[b].numpy(), mask[b].numpy(), 2, 4, 2)
        assert relative_error(predicted[b], expected) < 1e-6  # the position code is a float32 buffer
    assert torch.allclose(single[0], predicted[0])


@pytest.mark.parametrize("visibility, keep_ratio", [("released", 0.0), ("causal", 1.0)])
@pytest.mark.parametrize("sizes", [CMG_SIZES, dict(CMG_SIZES, d_model=256, attn_dim=64, n_layers=3, encoder_blocks=1)])
def test_generate_equals_forward_on_the_growing_sequence(visibility, keep_ratio, sizes):
    model = randomise(ConsistencyMotionGenerator(**sizes))
    fmri, first = draw(5, 6), draw(5, sizes["d_model"])
    frames = first[:, None]
    with torch.no_grad():
        for size in range(1, 11):
            frames = torch.cat([frames, model(fmri, frames, sparse_causal_mask(size, keep_ratio))[:, -1:]], 1)
    for n_frames in (1, 2, 3, 8, 11):
        for chunk_size in (2, 64):
            generated = model.generate(fmri, first, n_frames, visibility, chunk_size=chunk_size)
            assert relative_error(generated, frames[:, :n_frames]) < 1e-5


def test_generate_leaves_inputs_and_mode_alone_and_has_no_dropout():
    model = randomise(ConsistencyMotionGenerator(**CMG_SIZES))
    fmri, first = draw(2, 6), draw(2, 32)
    expected = model.generate(fmri, first)
    copies = fmri.clone(), first.clone()
    model.train()
    assert torch.equal(model.generate(fmri, first), expected)
    assert model.training and model.encoder.training
    assert torch.equal(fmri, copies[0]) and torch.equal(first, copies[1])
    assert torch.equal(expected[:, 0], first)


def test_attention_to_one_token_in_training_drops_whole_heads_per_query():
    torch.manual_seed(0)
    attention = TokenAttention(8, 8, 4, dropout=0.15).train()
    nn.init.eye_(attention.linears1.weight)
    nn.init.zeros_(attention.linears1.bias)
    memory = draw(2, 8)
    with torch.no_grad():
        out = attention(memory, 2000)
        value = attention.linears[2](memory)[:, None]
    ratio = (out / value).unflatten(-1, (4, 2))
    assert torch.allclose(ratio[..., 0], ratio[..., 1], atol=1e-4)  # a head goes as a whole
    kept = ratio[..., 0] > 0.5
    assert torch.allclose(ratio[..., 0][kept], torch.tensor(1 / 0.85), atol=1e-4)
    share = kept.double().mean().item()
    assert abs(share - 0.85) < 4 * math.sqrt(0.85 * 0.15 / kept.numel())


# ---------------------------------------------------------------------------------------------- mask


def test_mask_limits():
    assert torch.equal(sparse_causal_mask(6, 1.0)[0], torch.tensor(causal_row(6)))
    assert torch.equal(sparse_causal_mask(6, 0.0)[0], torch.tensor(released_row(6)))
    for size in (1, 2):
        assert torch.equal(sparse_causal_mask(size, 0.0)[0], torch.tensor(causal_row(size)))
    with pytest.raises(ValueError, match="0 to 1"):
        sparse_causal_mask(4, 1.5)
    state = torch.get_rng_state()
    first, again = (sparse_causal_mask(7, 0.6, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)


def test_mask_statistics_over_seeds():
    masks = torch.cat([sparse_causal_mask(7, 0.6, torch.Generator().manual_seed(s)) for s in range(2000)])
    assert masks.dtype == torch.bool and masks.shape == (2000, 7, 7)
    share = masks.double().mean(0)
    free = torch.zeros(7, 7, dtype=torch.bool)
    for i in range(2, 7):
        free[i, 1 : i + 1] = True
    assert torch.equal(share[~free], torch.tensor(causal_row(7)).double()[~free])
    assert (share[free] - 0.6).abs().max() < 4.5 * math.sqrt(0.6 * 0.4 / 2000)
    drawn = masks[:, free].double()  # entries are independent of one another
    correlation = np.corrcoef(drawn.numpy().T) - np.eye(free.sum())
    assert np.abs(correlation).max() < 5 / math.sqrt(2000)


# ---------------------------------------------------------------------------------------------- patch CMG


@pytest.mark.parametrize("n_times", [1, 3, 4])
def test_patch_cmg_is_the_formula(n_times):
    model = randomise(PatchCMG(**PATCH_SIZES)).double()
    w, fmri, frames = weights_of(model), draw(2, 5).double(), draw(2, n_times, 3, 6, 6).double()
    mask = torch.cat([sparse_causal_mask(n_times, ratio, torch.Generator().manual_seed(1)) for ratio in (0.4, 1.0)])
    with torch.no_grad():
        predicted = model(fmri, frames, mask)
    for b in range(2):
        expected = plain_patch_cmg(w, fmri[b].numpy(), frames[b].numpy(), mask[b].numpy(), 2, 4, 2)
        assert relative_error(predicted[b], expected) < 1e-6  # the position codes are float32


def test_patch_cmg_generates_as_the_plain_loop_and_leaves_the_first_frame():
    model = randomise(PatchCMG(**PATCH_SIZES)).double()
    w, fmri, first = weights_of(model), draw(3, 5).double(), draw(3, 3, 6, 6).double()
    copy = first.clone()
    generated = model.generate(fmri, first, n_frames=5, chunk_size=2)
    assert torch.equal(first, copy) and torch.equal(generated[:, 0], first)
    frames = first.numpy()[0][None]
    for size in range(1, 5):
        following = plain_patch_cmg(w, fmri[0].numpy(), frames, causal_row(size), 2, 4, 2)[-1:]
        frames = np.concatenate([frames, following])
    assert relative_error(generated[0], frames) < 1e-5
    assert torch.allclose(model.generate(fmri[2:], first[2:], n_frames=5)[0], generated[2])


def test_patch_cmg_starts_at_zero_with_no_bias():
    model = PatchCMG(**PATCH_SIZES)
    assert not model(draw(2, 5), draw(2, 4, 3, 6, 6), sparse_causal_mask(4, 1.0)).any()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
    weight = model.blocks[0].mlp.fc1.weight
    assert weight.abs().max() <= math.sqrt(6 / sum(weight.shape))
    kernel = model.frame_embedder.proj.weight.flatten(1)
    assert kernel.abs().max() <= math.sqrt(6 / sum(kernel.shape)) and kernel.std() > 0


def test_patch_cmgs_unused_weights_are_unused_and_its_codes_fixed():
    model = randomise(PatchCMG(**PATCH_SIZES))
    model(draw(2, 5), draw(2, 4, 3, 6, 6), sparse_causal_mask(4, 1.0)).square().sum().backward()
    idle = r"fMRI_to_temporal|adaLN_modulation|temporal_norm1|temporal_fc|spatial_attention\.linears\.[01]|pos_embed|time_embed"
    for name, parameter in model.named_parameters():
        if re.search(idle, name):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().max() > 0, name
    assert not model.pos_embed.requires_grad and not model.time_embed.requires_grad


# ---------------------------------------------------------------------------------------------- wrong inputs


def test_wrong_shapes_name_expected_and_given():
    cmg, patch = ConsistencyMotionGenerator(**CMG_SIZES), PatchCMG(**PATCH_SIZES)
    mask = sparse_causal_mask(4, 1.0)
    frames, grids = draw(2, 4, 32), draw(2, 4, 3, 6, 6)
    for model in (SemanticDecoder(**SEMANTIC_SIZES), RetrievalDecoder(6, 8), StructureDecoder(6, 8, latent_shape=(4, 2, 2))):
        with pytest.raises(ValueError, match=r"expected shape \(B, 6\), given \(2, 7\)"):
            model(draw(2, 7))
        with pytest.raises(ValueError, match=r"given \(6,\)"):
            model(draw(6))
    wrong = [
        (lambda: cmg(draw(2, 7), frames, mask), r"\(B, 6\), given \(2, 7\)"),
        (lambda: cmg(draw(3, 6), frames, mask), r"\(3, F, 32\), given \(2, 4, 32\)"),
        (lambda: cmg(draw(2, 6), draw(2, 4, 31), mask), r"\(2, F, 32\), given \(2, 4, 31\)"),
        (lambda: cmg(draw(2, 6), draw(2, 11, 32), sparse_causal_mask(11, 1.0)), "at most 10 frames"),
        (lambda: cmg(draw(2, 6), frames, mask[:, :3]), r"\(2 or 1, 4, 4\), given \(1, 3, 4\)"),
        (lambda: cmg(draw(2, 6), frames, mask[0]), r"given \(4, 4\)"), (lambda: cmg(draw(2, 6), frames, mask.float()), "bool"),
        (lambda: cmg.generate(draw(2, 6), draw(2, 4, 32)), r"\(2, 32\), given \(2, 4, 32\)"),
        (lambda: cmg.generate(draw(2, 6), draw(2, 32), n_frames=12), "1 to 11, given 12"),
        (lambda: cmg.generate(draw(2, 6), draw(2, 32), visibility="all"), "'all'"),
        (lambda: patch(draw(2, 5), draw(2, 4, 3, 8, 8), mask), r"\(2, T, 3, 6, 6\), given \(2, 4, 3, 8, 8\)"),
        (lambda: patch(draw(2, 5), draw(2, 5, 3, 6, 6), sparse_causal_mask(5, 1.0)), "at most 4 frames"),
        (lambda: patch(draw(2, 6), grids, mask), r"\(B, 5\), given \(2, 6\)"),
        (lambda: patch.generate(draw(2, 5), grids), r"\(2, 3, 6, 6\)"),
        (lambda: patch.generate(draw(2, 5), grids[:, 0], n_frames=6), "1 to 5, given 6"),
        (lambda: ConsistencyMotionGenerator(**dict(CMG_SIZES, attn_dim=18)), "4 heads"),
        (lambda: PatchCMG(**dict(PATCH_SIZES, patch_size=4)), "patch_size=4"), (lambda: losses.clip_loss(draw(3, 4)), r"\(3, 4\)"),
        (lambda: noam_lr(0, 16, 5), "given 0"),
    ]  # fmt: skip
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()


# ---------------------------------------------------------------------------------------------- losses


def plain_clip_loss(logits):
    n = len(logits)
    rows = -sum(math.log(softmax(logits[i])[i]) for i in range(n)) / n
    columns = -sum(math.log(softmax(logits[:, i])[i]) for i in range(n)) / n
    return (rows + columns) / 2


def plain_contrastive(embedding, target, scale):
    cosine = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in target] for a in embedding]
    return plain_clip_loss(math.exp(scale) * np.array(cosine))


def test_clip_loss_is_the_mean_of_both_cross_entropies():
    logits = draw(5, 5).double()
    assert math.isclose(losses.clip_loss(logits).item(), plain_clip_loss(logits.numpy()), rel_tol=1e-12)
    assert math.isclose(losses.clip_loss(torch.zeros(7, 7)).item(), math.log(7), rel_tol=1e-6)
    assert losses.clip_loss(100 * torch.eye(4)).item() < 1e-6
    assert not torch.isclose(losses.clip_loss(logits), nn.functional.cross_entropy(logits, torch.arange(5)))


def test_total_losses():
    embedding, text, image = draw(4, 6, seed=1).double(), draw(4, 6, seed=2).double(), draw(4, 6, seed=3).double()
    tokens, sd_tokens, scale = draw(4, 3, 5, seed=4).double(), draw(4, 3, 5, seed=5).double(), torch.tensor(1.3, dtype=torch.float64)
    to_text, to_image = (plain_contrastive(embedding.numpy(), target.numpy(), 1.3) for target in (text, image))

    def mse(a, b):
        return np.mean((a.numpy() - b.numpy()) ** 2)

    total, terms = losses.semantic_loss(embedding, tokens, text, image, sd_tokens, scale)
    expected = mse(embedding, text) + 0.01 * (to_text + to_image) / 2 + 0.5 * mse(tokens, sd_tokens)
    assert math.isclose(total.item(), expected, rel_tol=1e-10)
    assert set(terms) == {"embedding", "contrastive", "tokens"}
    total, _ = losses.semantic_loss(embedding, tokens, text, image, sd_tokens, scale, k1=2, k2=3, alpha=0.9)
    expected = mse(embedding, text) + 2 * (0.9 * to_text + 0.1 * to_image) + 3 * mse(tokens, sd_tokens)
    assert math.isclose(total.item(), expected, rel_tol=1e-10)
    total, _ = losses.retrieval_loss(embedding, text, image, scale)
    assert math.isclose(total.item(), (to_text + to_image) / 2 + mse(embedding, image), rel_tol=1e-10)

    model = randomise(StructureDecoder(in_dim=6, hidden_dim=8, latent_shape=(4, 2, 2))).double()
    magnitude = sum(np.abs(value).sum() for value in weights_of(model).values())
    latent, target = draw(3, 4, 2, 2, seed=6).double(), draw(3, 4, 2, 2, seed=7).double()
    total, terms = losses.structure_loss(latent, target, model.parameters(), 4e-3, k=2.0)
    assert math.isclose(total.item(), 2 * mse(latent, target) + 4e-3 * magnitude, rel_tol=1e-10)
    assert math.isclose(terms["l1"].item(), magnitude, rel_tol=1e-10)


def test_l1_takes_trained_parameters_and_its_gradient_is_the_sign():
    model = PatchCMG(**PATCH_SIZES)
    norm = losses.l1_norm(model.parameters())
    trained = [p for name, p in model.named_parameters() if name not in ("pos_embed", "time_embed")]
    assert math.isclose(norm.item(), sum(p.double().abs().sum().item() for p in trained), rel_tol=1e-5)
    norm.backward()
    for parameter in trained:
        assert torch.equal(parameter.grad, parameter.sign())


# ---------------------------------------------------------------------------------------------- schedules


def test_noam_rises_linearly_and_falls_with_the_root():
    rates = np.array([noam_lr(step, 16384, 50) for step in range(1, 301)])
    assert rates.argmax() == 49  # step 50
    assert math.isclose(rates[49], 16384**-0.5 * 50**-0.5, rel_tol=1e-12)
    assert np.allclose(rates[:50] / rates[0], np.arange(1, 51))
    assert np.allclose(rates[49:] * np.sqrt(np.arange(50, 301)), 16384**-0.5)


@pytest.mark.parametrize("w0, rate, n_epochs", [(4e-6, 5e-5, 400), (6e-7, 1e-3, 300), (1.0, 0.1, 0)])
def test_compounding_decay_is_the_loop(w0, rate, n_epochs):
    expected, weight = [w0], w0
    for epoch in range(n_epochs):
        weight *= math.exp(-rate * epoch)
        expected.append(weight)
    values = compounding_decay(w0, rate, n_epochs)
    assert values.shape == (n_epochs + 1,)
    assert np.allclose(values, expected, rtol=1e-10)
    if n_epochs:
        assert values[0] == values[1] == w0 and values[2] < w0
