"""Published models: whole in every form in which people have them, and refused in one line when they are not."""

import json
import re
import shutil
import socket
import time

import numpy as np
import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from tiny import NOISE_SCHEDULE, fails, load_script, make_blip2, make_classifiers
from transformers import CLIPTextModel, CLIPTokenizer

from common.files import UserError
from Data_preprocess.captioning import load_captioner
from Evaluation_Metrics import towers
from models import loading
from models.loading import check_sd, load_clip, load_sd_part, model_files
from models.pipeline import check_steps, make_scheduler, noise_schedule
from Reconstruction.sources import describe_models

CLIPS = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
UNSAFE = ("weights_only", "allow_pickle", "trust_remote_code", "ignore_mismatched", "low_cpu_mem")
ALPHAS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def part(name):
    return lambda folder: load_sd_part(folder.parent, name).state_dict()


MODELS = {  # folder, its file of weights, an entry of it, and what gives a state dict or predictions
    "unet": ("sd/unet", "diffusion_pytorch_model.safetensors", "conv_out.weight", part("unet")),
    "vae": ("sd/vae", "diffusion_pytorch_model.safetensors", "decoder.conv_out.weight", part("vae")),
    "text_encoder": ("sd/text_encoder", "model.safetensors", "final_layer_norm.weight", part("text_encoder")),
    "clip": ("clip", "open_clip_model.safetensors", "visual.proj", lambda folder: load_clip(str(folder))[0].state_dict()),
    "image": ("image_classifier", "model.safetensors", "classifier.weight", lambda folder: towers.ImageClassifier(folder)(CLIPS)),
    "video": ("clip_classifier", "model.safetensors", "classifier.weight", lambda folder: towers.ClipClassifier(folder)(CLIPS)),
    "caption": ("blip2", "model.safetensors", "language_projection.weight", lambda folder: load_captioner(folder)(list(CLIPS[0]))),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory, models):
    root = tmp_path_factory.mktemp("published")
    for name, folder in zip(("sd", "clip"), models, strict=True):
        shutil.copytree(folder, root / name)
    make_classifiers(root)
    make_blip2(root / "blip2", "t5")
    return root


@pytest.fixture
def copy(root, tmp_path):
    """Function of a model's name that gives a copy of its folder."""

    def make(name):
        place = MODELS[name][0] if name in MODELS else name
        shutil.copytree(root / place.split("/")[0], tmp_path / place.split("/")[0])
        return tmp_path / place

    return make


def rewrite(file, change):
    save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file, metadata={"format": "pt"})


def settings(file, drop=(), **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if key not in drop}))


def refusal(load):
    with pytest.raises(UserError) as caught:
        load()
    line = str(caught.value)
    assert "\n" not in line and "; " in line and not any(word in line for word in UNSAFE), line
    return line


# ---------------------------------------------------------------------------------------------- not whole

FAULTS = {  # what is done to the entries, and what is said of the one that is touched
    "a prefix": (lambda state, name: {f"net.{key}": value for key, value in state.items()}, r"missing \(.*unexpected \(net\."),
    "an entry less": (lambda state, name: {key: value for key, value in state.items() if key != name}, r"1 missing \(NAME\)"),
    "an entry more": (lambda state, name: state | {"more.weight": torch.ones(2)}, r"1 unexpected \(more\.weight\)"),
    "another shape": (lambda state, name: state | {name: state[name][..., :-1]}, r"1 of another shape \(NAME\b"),
    "NaN": (lambda state, name: state | {name: state[name] * float("nan")}, "NaN or infinity in NAME;"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", MODELS)
def test_weights_that_are_not_whole_are_named(name, fault, copy):
    folder, (_, file, entry, load), (change, said) = copy(name), MODELS[name], FAULTS[fault]
    stored = next(key for key in load_file(folder / file) if key.endswith(entry))
    rewrite(folder / file, lambda state: change(state, stored))
    line = refusal(lambda: load(folder))
    assert str(folder) in line and re.search(said.replace("NAME", re.escape(entry)), line), line


class Harmful:
    def __reduce__(self):
        return (open, (Harmful.trap, "w"))


FILES = {  # what becomes of the file of weights
    "another name": lambda file: file.rename(file.with_name("weights.ckpt")),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-99]),
    "code": lambda file: torch.save(load_file(file) | {"x": Harmful()}, file.with_name(f"{BIN[file.stem]}.bin")) or file.unlink(),
    "a shard alone": lambda file: file.rename(file.with_name(file.name.replace(".", "-00001-of-00002."))),
}  # fmt: skip
BIN = {"diffusion_pytorch_model": "diffusion_pytorch_model", "model": "pytorch_model", "open_clip_model": "open_clip_pytorch_model"}


@pytest.mark.parametrize("fault", FILES)
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("vae", "video")])  # read as the UNet, the image model
def test_broken_files_of_weights_are_one_line(name, fault, copy, tmp_path):
    folder, (_, file, _, load) = copy(name), MODELS[name]
    Harmful.trap = str(tmp_path / "trap")
    FILES[fault](folder / file)
    if (name, fault) == ("clip", "a shard alone"):  # a name as good as any to open_clip
        assert load(folder)
        return
    assert str(folder) in refusal(lambda: load(folder)) and not (tmp_path / "trap").exists()


def test_a_shard_that_lacks_an_entry_is_not_filled_at_random(copy):
    for name, kind in (("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel)):
        folder = copy(name)
        model = kind.from_pretrained(folder)
        shutil.rmtree(folder)
        model.save_pretrained(folder, max_shard_size="100KB" if name == "unet" else "5KB")
        shard = sorted(folder.glob("*-of-*.safetensors"))[0]
        lost = sorted(load_file(shard))[0]
        rewrite(shard, lambda state, lost=lost: {key: value for key, value in state.items() if key != lost})
        assert re.search(
            rf"1 missing \({lost.removeprefix('text_model.')}\)", refusal(lambda name=name, folder=folder: MODELS[name][3](folder))
        )
        shutil.rmtree(folder.parent)


def test_layers_of_tune_a_video_are_not_dropped(copy):
    folder = copy("unet")
    rewrite(
        folder / MODELS["unet"][1],
        lambda state: state | {"mid_block.attentions.0.transformer_blocks.0.attn_temp.to_q.weight": torch.ones(2, 2)},
    )
    assert "Tune-A-Video" in refusal(lambda: load_sd_part(folder.parent, "unet"))


def test_a_vifi_checkpoint_is_whole(tmp_path):
    torch.manual_seed(0)
    tower = VisionTransformer(image_size=28, patch_size=14, width=64, layers=1, heads=1, mlp_ratio=4, output_dim=8)
    state = {f"module.image_encoder.{name}": value for name, value in tower.state_dict().items()}
    path, entry = tmp_path / "k400.pth", "module.image_encoder.proj"
    for form in (state, {"model": state}, {name: value.half() for name, value in state.items()}):
        torch.save(form, path)
        torch.testing.assert_close(towers.VifiTower(path).model.proj, tower.proj, atol=1e-3, rtol=0)
    for change, said in (
        (lambda s: {name: value for name, value in s.items() if not name.endswith("ln_post.bias")}, r"1 missing \(ln_post.bias\)"),
        (lambda s: s | {"module.image_encoder.VPT": torch.zeros(2)}, r"1 unexpected \(VPT\)"),
        (lambda s: s | {entry: s[entry] * float("nan")}, "NaN.*proj"),
        (lambda s: s | {entry: Harmful()}, "not unpickled"),
    ):
        torch.save(change(state), path)
        assert re.search(said, refusal(lambda: towers.VifiTower(path)))


# ---------------------------------------------------------------------------------------------- forms that people have


def saved_as(kind, half=False, **options):
    def change(folder):
        model = kind.from_pretrained(folder)
        shutil.rmtree(folder)
        (model.half() if half else model).save_pretrained(folder, **options)

    return change


def as_bin(name):
    def change(folder):
        (file,) = folder.glob("*.safetensors")
        torch.save(load_file(file), folder / name)
        file.unlink()

    return change


def entries(rule, **more):
    """Rename the entries, or add some."""

    def change(folder):
        (file,) = folder.glob("*.safetensors")
        rewrite(file, lambda state: {rule(name): value for name, value in state.items()} | more)

    return change


def of_type(dtype):
    def change(folder):
        (file,) = folder.glob("*.safetensors")
        rewrite(file, lambda state: {name: value.to(dtype) for name, value in state.items()})

    return change


def old_attention(name):
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".{new}.", f".{old}.") if "attentions" in name else name
    return name


def same(name):
    return name


FORMS = [  # model, form, what makes it
    ("unet", "fp16 variant", saved_as(UNet2DConditionModel, True, variant="fp16")),
    ("unet", "shards", saved_as(UNet2DConditionModel, max_shard_size="100KB")),
    ("unet", "shards of a variant", saved_as(UNet2DConditionModel, True, variant="fp16", max_shard_size="50KB")),
    ("unet", ".bin", as_bin("diffusion_pytorch_model.bin")),
    ("unet", "fp16 .bin variant", saved_as(UNet2DConditionModel, True, variant="fp16", safe_serialization=False)),
    ("unet", "double precision", of_type(torch.float64)),
    ("vae", "fp16 variant", saved_as(AutoencoderKL, True, variant="fp16")),
    ("vae", "names of the first versions", entries(old_attention)),
    ("text_encoder", "fp16 variant", saved_as(CLIPTextModel, True, variant="fp16")),
    ("text_encoder", ".bin", as_bin("pytorch_model.bin")),
    ("text_encoder", "a prefix and position_ids", entries(
        lambda name: f"text_model.{name.removeprefix('text_model.')}", **{"text_model.embeddings.position_ids": torch.arange(77)[None]})),
    ("text_encoder", "a whole CLIP", entries(
        same, **{"vision_model.x": torch.ones(1), "visual_projection.weight": torch.ones(1), "text_projection.weight": torch.ones(1), "logit_scale": torch.ones(())})),
    ("clip", ".bin", as_bin("open_clip_pytorch_model.bin")),
    ("clip", ".pth of any name", as_bin("epoch_32.pth")),
    ("image", "half precision", of_type(torch.float16)),
    ("image", ".bin", as_bin("pytorch_model.bin")),
    ("image", "a pooler", entries(same, **{"vit.pooler.dense.bias": torch.ones(2)})),
    ("video", "half precision", of_type(torch.float16)),
    ("caption", "half precision", of_type(torch.float16)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "form", "change"), FORMS, ids=[f"{name}, {form}" for name, form, _ in FORMS])
def test_forms_of_the_same_weights_give_the_same_model(name, form, change, copy):
    folder, load = copy(name), MODELS[name][3]
    before = load(folder)
    change(folder)
    after = load(folder)
    if name == "caption":
        assert after == before
    elif isinstance(before, dict):
        assert after.keys() == before.keys()
        for key, value in before.items():
            torch.testing.assert_close(after[key], value, atol=2e-3, rtol=0)
    else:
        np.testing.assert_allclose(after, before, atol=2e-3)


def blind(folder):
    rewrite(
        folder / MODELS["caption"][1], lambda state: {name: value * (not name.startswith("language_proj")) for name, value in state.items()}
    )


SEES = {  # what becomes of a BLIP-2's pictures: the change, and what is said; nothing where the captions stay those of the pictures
    "fewer places in the prompt": (lambda folder: settings(folder / "processor_config.json", num_query_tokens=3), ""),
    "no number of places": (lambda folder: settings(folder / "processor_config.json", num_query_tokens=None), ""),
    "no token of a picture": (lambda folder: settings(folder / CONFIG, drop=("image_token_index",)), ""),
    "another token of a picture": (lambda folder: settings(folder / CONFIG, image_token_index=5), "picture token is .*, and the model's is 5"),
    "blind": (blind, "the same answer to every picture"),
}  # fmt: skip


@pytest.mark.parametrize("change", SEES)
def test_a_caption_model_sees_its_pictures(change, copy):
    folder, (spoil, said) = copy("caption"), SEES[change]
    captions = load_captioner(folder)(list(CLIPS[0]))
    spoil(folder)
    if said:
        assert re.search(said, refusal(lambda: load_captioner(folder)))
    else:
        assert load_captioner(folder)(list(CLIPS[0])) == captions


def test_the_record_covers_shards_and_their_index(copy):
    folder = copy("unet")
    saved_as(UNet2DConditionModel, max_shard_size="100KB")(folder)
    (folder / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"a variant that is not read")
    names = [path.name for path in model_files(folder.parent, "unet")]
    shards = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert names == ["config.json", *shards, "diffusion_pytorch_model.safetensors.index.json"]
    before = describe_models({}, folder.parent)[1]["stable_diffusion"]
    rewrite(folder / shards[1], lambda state: {name: 2 * value for name, value in state.items()})
    assert describe_models({}, folder.parent)[1]["stable_diffusion"] != before


def test_the_record_covers_a_file_that_a_name_stands_before(copy):
    file = copy("clip") / MODELS["clip"][1]
    for source in (file, f"ViT-B-32:{file}"):
        before = towers.source_sha256(source)
        assert model_files(source) == [file] and len(before) == 64
        rewrite(file, lambda state: {name: 2 * value for name, value in state.items()})
        assert towers.source_sha256(source) != before
    assert model_files("ViT-B-32:openai") == [] and towers.source_sha256("ViT-B-32:openai") is None


# ---------------------------------------------------------------------------------------------- Stable Diffusion's parts

CONFIG, SCHEDULER = "config.json", "scheduler/scheduler_config.json"
OTHERS = {  # file, what it says, what is said of it
    "SDXL": ("unet/" + CONFIG, {"addition_embed_type": "text_time"}, "addition_embed_type=text_time"),
    "a distilled UNet": ("unet/" + CONFIG, {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256"),
    "9 channels": ("unet/" + CONFIG, {"in_channels": 9}, "takes 9 channels and gives 4"),
    "Tune-A-Video": ("unet/" + CONFIG, {"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
    "another text width": ("unet/" + CONFIG, {"cross_attention_dim": 16}, "width 16.*have 12"),
    "SDXL's VAE": ("vae/" + CONFIG, {"scaling_factor": 0.13025}, "scales latents by 0.13025.*by 0.18215"),
    "16 channels": ("vae/" + CONFIG, {"latent_channels": 16}, "16 channels, not 4"),
    "SD 3's VAE": ("vae/" + CONFIG, {"shift_factor": 0.0609}, "shift_factor"),
    "normalised latents": ("vae/" + CONFIG, {"latents_mean": [1.0, 0, 0, 0]}, "latents_mean"),
    "a tiny VAE": ("vae/" + CONFIG, {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
    "T5": ("text_encoder/" + CONFIG, {"model_type": "t5"}, "type t5"),
    "a small vocabulary": ("text_encoder/" + CONFIG, {"vocab_size": 20}, "tokens up to 57, and the text encoder 20"),
    "flow matching": (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler", "beta_start": None, "beta_end": None}, "FlowMatchEuler.*no beta_start"),
    "flow sigmas": (SCHEDULER, {"use_flow_sigmas": True}, "use_flow_sigmas"),
    "flow prediction": (SCHEDULER, {"prediction_type": "flow_prediction"}, "flow_prediction"),
    "betas above 1": (SCHEDULER, {"beta_end": 1.4}, "do not rise"),
    "too few trained betas": (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "do not rise"),
    "100 noise levels": (SCHEDULER, {"num_train_timesteps": 100}, "no noise level 200; use one from 0 to 99"),
    "a list": (SCHEDULER, None, "is a list"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_other_models_are_refused_before_anything_is_made(what, copy, tmp_path, capsys):
    sd, (file, changes, said) = copy("sd"), OTHERS[what]
    settings(sd / file, **changes) if changes else (sd / file).write_text("[1]")
    script = load_script("Reconstruction/video_recons.py")
    fails(script, "--dataset", "phantom", "--config", "none", "--out_root", tmp_path / "out", "--sd_path", sd)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: --sd_path {sd}") and re.search(said, error), error
    assert not (tmp_path / "out").exists()


def test_what_first_versions_do_not_say(copy, caplog):
    sd = copy("sd")
    settings(sd / "vae" / CONFIG, drop=("scaling_factor",))
    settings(sd / SCHEDULER, drop=("prediction_type", "rescale_betas_zero_snr"))
    settings(sd / "unet" / CONFIG, invented=3)
    configs = check_sd(sd)
    assert configs["vae"]["scaling_factor"] == 0.18215 and configs["unet"]["in_channels"] == 4
    assert load_sd_part(sd, "scheduler").config.prediction_type == "epsilon" and "invented=3" in caplog.text


@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "EulerDiscreteScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"]
)
@pytest.mark.parametrize("sampling", [{}, {"thresholding": True, "clip_sample": True, "timestep_spacing": "trailing", "steps_offset": 3}])
def test_of_a_scheduler_the_noise_levels_count_and_nothing_else(name, sampling):
    config = {"_class_name": name, "num_train_timesteps": 1000, **NOISE_SCHEDULE, "prediction_type": "v_prediction", **sampling}
    for kind in ("ddim", "dpmsolver++"):
        scheduler = make_scheduler(kind, config)
        np.testing.assert_allclose(scheduler.alphas_cumprod, ALPHAS, rtol=1e-5)
        scheduler.set_timesteps(50)
        assert scheduler.timesteps.tolist() == list(range(981, 0, -20))
        assert scheduler.config.prediction_type == "v_prediction" and not scheduler.config.thresholding
    ddim = make_scheduler("ddim", config)
    assert not ddim.config.clip_sample and float(ddim.final_alpha_cumprod) == pytest.approx(ALPHAS[0])
    assert noise_schedule(config).keys() == {"num_train_timesteps", *NOISE_SCHEDULE, "prediction_type"}


def test_steps_that_a_schedule_does_not_have():
    config = {"num_train_timesteps": 1000, **NOISE_SCHEDULE}
    check_steps(config, 999, 999)
    for arguments, said in (((1000, 200), "at most 999"), ((50, 1000), "from 0 to 999")):
        with pytest.raises(ValueError, match=said):
            check_steps(config, *arguments)
    zero_snr = config | {"rescale_betas_zero_snr": True}
    check_steps(zero_snr, 50, 200)
    with pytest.raises(ValueError, match="step 999 of 500 steps is pure noise"):
        check_steps(zero_snr, 500, 200)
    check_steps(zero_snr, 500, 200, start_timestep=800)


@pytest.mark.parametrize("n_merges", [0, 2, 3])
def test_a_tokenizer_that_would_spell_is_refused(n_merges, tmp_path):
    pieces = ["<|startoftext|>", "<|endoftext|>", *"abcd", "c</w>", "d</w>", "ab", "abc</w>", "abd</w>"]
    merges = [("a", "b"), ("ab", "c</w>"), ("ab", "d</w>")][:n_merges]
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges).save_pretrained(tmp_path / "tokenizer")
    if n_merges == 3:
        assert load_sd_part(tmp_path, "tokenizer")("abd abc").input_ids == [0, 10, 9, 1]
    else:
        assert "does not join the letters of 'ab" in refusal(lambda: load_sd_part(tmp_path, "tokenizer"))
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    assert "has no vocabulary" in refusal(lambda: load_sd_part(tmp_path, "tokenizer"))


# ---------------------------------------------------------------------------------------------- CLIP


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("ViT-B-32:openai", ("ViT-B-32", "openai", True)),
        ("ViT-B/32:laion400m_e32", ("ViT-B-32", "laion400m_e32", True)),
        ("ViT-B-32:laion2b_s34b_b79k", ("ViT-B-32", "laion2b_s34b_b79k", False)),
        ("ViT-B-32-quickgelu:metaclip_400m", ("ViT-B-32-quickgelu", "metaclip_400m", True)),
        ("ViT-H-14:dfn5b", ("ViT-H-14", "dfn5b", True)),
    ],
)
def test_the_activation_is_that_of_the_tag(source, asked, monkeypatch):
    calls = []

    def create(name, pretrained, force_quick_gelu):
        calls.append((name, pretrained, force_quick_gelu))
        raise RuntimeError("seen")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    monkeypatch.setattr(loading, "_on_hub", lambda *_: ("", ()))
    refusal(lambda: load_clip(source))
    assert calls == [asked]


def test_the_activation_of_a_file_is_said_by_the_name(root, tmp_path, caplog):
    config = json.loads((root / "clip/open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny.json")
    file, words = root / "clip/open_clip_model.safetensors", open_clip.SimpleTokenizer()(["a red circle"])
    for name, quick in (("tiny", False), ("tiny-quickgelu", True)):
        expected = open_clip.CLIP(**config, quick_gelu=quick).eval()
        expected.load_state_dict(load_file(file))
        with caplog.at_level("INFO"), torch.no_grad():
            torch.testing.assert_close(load_clip(f"{name}:{file}")[0].encode_text(words), expected.encode_text(words))
        assert f"{file}: {'quick ' * quick}GELU, as the name {name} says" in caplog.text


def test_a_clip_that_open_clip_would_change_or_choose_is_refused(copy):
    folder = copy("clip")
    shutil.copy(folder / "open_clip_model.safetensors", folder / "a.safetensors")
    (folder / "open_clip_model.safetensors").rename(folder / "b.safetensors")
    assert "several files of weights (a.safetensors, b.safetensors)" in refusal(lambda: load_clip(folder))
    (folder / "b.safetensors").unlink()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = 64
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert "from (2, 2) to (4, 4)" in refusal(lambda: load_clip(folder))
    for source, said in (
        ("ViT-B-32:opnai", "its tags are openai"),
        ("ViT-Q:openai", "no model ViT-Q"),
        ("ViT-B-32:/no/file.pt", "file not found: /no/file.pt"),
    ):
        assert said in refusal(lambda source=source: load_clip(source))


# ---------------------------------------------------------------------------------------------- where models are


@pytest.mark.parametrize("name", ["sd", "image", "video", "caption", "clip"])
def test_what_is_no_folder(name, tmp_path):
    load = {"sd": lambda place: load_sd_part(place, "unet"), "clip": load_clip}.get(name) or MODELS[name][3]
    file = tmp_path / "v1-5-pruned.safetensors"
    file.write_bytes(b"all in one")
    for place, said in ((file, "is a single file"), (tmp_path / "none", "file not found"), ("a/b/c", "file not found: a/b/c")):
        assert said in refusal(lambda place=place: load(str(place)))
    (tmp_path / "folder").mkdir()
    shutil.move(file, tmp_path / "folder")
    line = refusal(lambda: load(str(tmp_path / "folder")))
    assert name != "sd" or "has no folder unet, only v1-5-pruned.safetensors, which diffusers'" in line


@pytest.mark.parametrize("answer", ["refused", "none", "nonsense"])
def test_a_hub_that_does_not_answer_costs_little_time(answer, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(loading, "HUB_SECONDS", 1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answer != "refused":
            server.listen()  # and never reads
        monkeypatch.setattr(constants, "ENDPOINT", f"{'ftp' if answer == 'nonsense' else 'http'}://127.0.0.1:{server.getsockname()[1]}")
        start = time.monotonic()
        for load in (
            lambda: load_sd_part("nobody/sd", "unet"),
            lambda: load_clip("hf-hub:nobody/clip"),
            lambda: load_captioner("nobody/blip2", "v1"),
        ):
            assert re.search("nobody/.* could not be downloaded from .*127.0.0.1", refusal(load))
        assert time.monotonic() - start < 20
