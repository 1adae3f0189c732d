"""Checkpoints: our format, the released one, what is refused, and the conversion of a folder."""

import json
import os
import pickle
import re
import signal

import numpy as np
import pytest
import torch
from torch import nn

from common import cli
from common.files import UserError, read_json, write_json
from common.workers import remove_partial
from models import released
from models.checkpoints import KINDS, load_checkpoint, load_released, save_checkpoint
from models.cmg import ConsistencyMotionGenerator, sparse_causal_mask
from models.cmg_patch import PatchCMG
from models.structure_decoder import StructureDecoder
from Reconstruction import convert_released

SMALL = {
    "SemanticDecoder": dict(in_dim=6, hidden_dim=8, n_blocks=2, n_tokens=3, token_dim=5, projector_dims=(7, 9)),
    "StructureDecoder": dict(in_dim=6, hidden_dim=8, n_blocks=1, latent_shape=(4, 3, 3)),
    "ConsistencyMotionGenerator": dict(
        in_dim=6, d_model=36, n_layers=3, n_heads=4, attn_dim=8, d_ff=5, encoder_dim=7, encoder_blocks=2, max_len=9
    ),
    "PatchCMG": dict(input_size=6, patch_size=2, in_channels=4, in_dim=6, hidden_dim=16, depth=3, n_heads=8, mlp_ratio=2.5, n_frames=5),
    "RetrievalDecoder": dict(in_dim=6, hidden_dim=8, n_blocks=3),
    "LinearDecoder": dict(in_dim=6, hidden_dim=5),
}
RELEASED = [kind for kind in KINDS if kind != "LinearDecoder"]  # which is ours alone


def build(kind, seed=0):
    torch.manual_seed(seed)
    model = KINDS[kind](**SMALL[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


@torch.no_grad()
def output(model):
    fmri = torch.linspace(-1, 1, 12).reshape(2, 6)
    if isinstance(model, ConsistencyMotionGenerator):
        return model(fmri, torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 36), sparse_causal_mask(3, 1.0))
    if isinstance(model, PatchCMG):
        return model(fmri, torch.linspace(-1, 1, 2 * 3 * 144).reshape(2, 3, 4, 6, 6), sparse_causal_mask(3, 1.0))
    decoded = model(fmri)
    return torch.cat([part.flatten() for part in decoded]) if isinstance(decoded, tuple) else decoded


def same_state(model, state):
    return all(torch.equal(model.state_dict()[name], state[name]) for name in state)


def one_line(error):
    assert "\n" not in cli.one_line(error) and len(cli.one_line(error)) > 20
    return cli.one_line(error)


# ---------------------------------------------------------------------------------------------- our format


@pytest.mark.parametrize("kind", KINDS)
def test_saved_model_comes_back_from_its_json_alone(kind, tmp_path):
    model, path = build(kind), tmp_path / "deep/epoch_3.safetensors"
    save_checkpoint(path, model, epoch=3, seed=42, dataset="phantom", subject=1, git="abc", loss=np.float32(0.5))
    loaded, record = load_checkpoint(path)
    assert type(loaded) is type(model) and not loaded.training
    assert same_state(loaded, model.state_dict()) and set(loaded.state_dict()) == set(model.state_dict())
    assert torch.equal(output(loaded), output(model))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert record == read_json(path.with_suffix(".json"))
    assert {"epoch": 3, "seed": 42, "dataset": "phantom", "subject": 1, "git": "abc", "loss": 0.5}.items() <= record.items()
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ in record["versions"]["torch"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["epoch_3.json", "epoch_3.safetensors"]
    assert path.stat().st_mode == path.with_suffix(".json").stat().st_mode


def test_a_failed_save_leaves_the_old_pair(tmp_path, monkeypatch):
    path, model = tmp_path / "last.safetensors", build("StructureDecoder")
    save_checkpoint(path, model, epoch=1)
    monkeypatch.setattr("models.checkpoints.sha256", lambda p: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        save_checkpoint(path, build("StructureDecoder", seed=1), epoch=2)
    monkeypatch.undo()
    loaded, record = load_checkpoint(path)
    assert record["epoch"] == 1 and same_state(loaded, model.state_dict())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.json", "last.safetensors"]


def test_a_kill_between_the_two_names_is_seen(tmp_path, monkeypatch):
    """New weights beside the record of the old ones: refused, until both are written again."""
    path, replace = tmp_path / "best.safetensors", os.replace
    save_checkpoint(path, build("StructureDecoder"), epoch=1)

    def killed(source, target):
        if os.path.basename(target) == "best.json":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        save_checkpoint(path, build("StructureDecoder", seed=1), epoch=2)
    assert json.loads(path.with_suffix(".json").read_text())["epoch"] == 1
    with pytest.raises(UserError, match="does not match its checksum in best.json"):
        load_checkpoint(path)
    save_checkpoint(path, build("StructureDecoder", seed=1), epoch=2)
    loaded, record = load_checkpoint(path)
    assert record["epoch"] == 2 and same_state(loaded, build("StructureDecoder", seed=1).state_dict())


def test_what_a_kill_in_mid_save_leaves_goes_with_the_next_start(tmp_path, monkeypatch):
    def save_half(state, path):
        os.close(os.open(f"{path}.tmp", os.O_CREAT))  # as safetensors does
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("models.checkpoints.save_file", save_half)
    if not (child := os.fork()):
        save_checkpoint(tmp_path / "best.safetensors", build("StructureDecoder"))
        os._exit(0)
    os.waitpid(child, 0)
    assert any(tmp_path.rglob("*.tmp"))
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def rewrite(path, **changes):
    record = read_json(path)
    record["arguments"] |= changes.pop("arguments", {})
    write_json(path, record | changes)


DAMAGE = {
    "truncated weights": lambda w, j: w.write_bytes(w.read_bytes()[:-9]),
    "a flipped byte": lambda w, j: w.write_bytes(w.read_bytes()[:-9] + b"\xff" + w.read_bytes()[-8:]),
    "no weights": lambda w, j: w.unlink(), "no JSON": lambda w, j: j.unlink(), "cut JSON": lambda w, j: j.write_text(j.read_text()[:40]),
    "unknown kind": lambda w, j: rewrite(j, kind="Transformer"), "unknown argument": lambda w, j: rewrite(j, arguments={"n_wheels": 4}),
    "an argument of a wrong type": lambda w, j: rewrite(j, arguments={"in_dim": "six"}),
    "one block more": lambda w, j: rewrite(j, arguments={"n_blocks": 4}),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints_give_one_line(damage, tmp_path):
    path = tmp_path / "epoch_1.safetensors"
    save_checkpoint(path, build("RetrievalDecoder"))
    DAMAGE[damage](path, path.with_suffix(".json"))
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "epoch_1" in one_line(caught.value)


# ---------------------------------------------------------------------------------------------- the released format


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", RELEASED)
def test_released_state_dicts_load(kind, prefix, tmp_path):
    source, model = build(kind), build(kind, seed=1)
    torch.save({prefix + name: value for name, value in source.state_dict().items()}, tmp_path / "a.pth")
    assert load_released(model, tmp_path / "a.pth") is model
    assert same_state(model, source.state_dict()) and torch.equal(output(model), output(source))


class Harmful:
    def __reduce__(self):
        return (open, (Harmful.trap, "w"))


def test_bad_released_files_are_refused_and_change_nothing(tmp_path):
    model = build("RetrievalDecoder")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    good = build("RetrievalDecoder", seed=1).state_dict()
    path, Harmful.trap = tmp_path / "a.pth", str(tmp_path / "trap")

    def without(name):
        return {key: value for key, value in good.items() if key != name}

    cases = [
        (without("mlp.0.0.bias"), r"1 missing \(mlp\.0\.0\.bias\)"),
        (good | {"lin9.weight": torch.zeros(2)}, r"1 unexpected \(lin9\.weight\)"),
        (good | {"lin0.0.weight": torch.zeros(8, 7)}, r"1 of another shape \(lin0\.0\.weight \(8, 7\) for \(8, 6\)\)"),
        (good | {"mlp.2.0.bias": torch.zeros(8, dtype=torch.int64)}, r"mlp\.2\.0\.bias"),
        (good | {"mlp.2.0.bias": torch.full((8,), 1e300, dtype=torch.float64)}, r"infinity.*mlp\.2\.0\.bias"),
        (good | {"mlp.2.0.bias": torch.ones(8).to_sparse()}, r"not plain tensors \(mlp\.2\.0\.bias\)"),
        ({"state_dict": good, "epoch": 3}, "state_dict, epoch"), ([1, 2], "list"), ({}, "empty state dict"),
        ({"mlp": Harmful()}, "not unpickled"), (model, "not unpickled"),
    ]  # fmt: skip
    for content, message in cases:
        torch.save(content, path)
        with pytest.raises(UserError) as caught:
            load_released(model, path)
        assert re.search(message, one_line(caught.value)), one_line(caught.value)
        assert same_state(model, before)
    assert not (tmp_path / "trap").exists()

    torch.save(good, path)
    whole = path.read_bytes()
    torch.save(good, path, _use_new_zipfile_serialization=False)
    old_format = path.read_bytes()
    at = whole.index(good["lin0.0.weight"].numpy().tobytes())
    contents = [b"", b"not a checkpoint", whole[: len(whole) // 2], old_format[: len(old_format) // 2], pickle.dumps(Harmful(), 2)]
    contents.append(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])  # a flipped bit, which the zip's checksum shows
    torch.jit.script(nn.Linear(2, 2)).save(path)
    contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_released(model, path)
        assert re.search("broken|not unpickled", one_line(caught.value)) and "weights_only" not in one_line(caught.value)
        assert same_state(model, before)
    assert not (tmp_path / "trap").exists()
    with pytest.raises(UserError, match="file not found"):
        load_released(model, tmp_path / "none.pth")

    path.write_bytes(old_format)  # the same weights as written by old versions of PyTorch
    assert same_state(load_released(model, path), good)


# ---------------------------------------------------------------------------------------------- finding out what is what


@pytest.mark.parametrize("kind", RELEASED)
def test_sizes_follow_from_the_entries(kind):
    found, arguments = released.infer(build(kind).state_dict(), token_dim=5)
    assert found == kind
    assert KINDS[kind](**arguments).arguments == KINDS[kind](**SMALL[kind]).arguments
    with torch.device("meta"):
        full = KINDS[kind]()
    assert released.infer(full.state_dict())[0] == kind and full.arguments | released.infer(full.state_dict())[1] == full.arguments


def test_foreign_weights_are_no_decoder():
    assert released.infer({"conv1.weight": torch.zeros(3, 3)}) is None
    assert released.infer({"lin0.0.weight": torch.zeros(3, 3)}) is None
    assert released.infer(build("SemanticDecoder").state_dict(), token_dim=768) is None


@pytest.mark.parametrize(
    "path, subject, epoch, kind",
    [
        ("Reconstruction_task/sub1/Semantic_decoder_epoch30.pth", 1, 30, "SemanticDecoder"),
        ("Reconstruction_task/structure_sub02_75.pth", 2, 75, "StructureDecoder"),
        ("CMG/subj3_CMG_model_epoch_70.pth", 3, 70, "ConsistencyMotionGenerator"),
        ("Retrieval_task/subject-2/model_20.pth", 2, 20, "RetrievalDecoder"),
        ("motion/semantic_sub_1.pth", 1, None, "SemanticDecoder"),
        ("weights/substitute.pth", None, None, None),
    ],
)
def test_names_tell_subject_epoch_and_kind(path, subject, epoch, kind):
    assert released.subject_of(path) == subject and released.epoch_of(path) == epoch
    assert kind in released.kinds_of_name(path) if kind else released.kinds_of_name(path) == tuple(KINDS)


# ---------------------------------------------------------------------------------------------- conversion of a folder


def write_released_tree(root):
    """A tree like the authors' download, with tiny models of both tasks in the released names."""
    files = {
        "Reconstruction_task/sub1/semantic_decoder_epoch30.pth": build("SemanticDecoder", 1),
        "Reconstruction_task/sub1/structure_decoder_epoch75.pth": build("StructureDecoder", 2),
        "Reconstruction_task/sub1/CMG_epoch70.pth": build("ConsistencyMotionGenerator", 3),
        "Reconstruction_task/sub2/semantic_30.pth": build("SemanticDecoder", 4),
        "Retrieval_task/sub2_20.pth": build("RetrievalDecoder", 5),
    }
    for name, model in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, root / name)
    (root / "Stable_diffusion_ckpt").mkdir()
    torch.save({"conv_in.weight": torch.zeros(2, 2)}, root / "Stable_diffusion_ckpt/extra.pth")
    return files


def convert(tmp_path, *flags):
    argv = ["--released_root", tmp_path / "released", "--out_root", tmp_path / "out", "--token_dim", 5, *flags]
    args = cli.parse(convert_released.get_parser, [str(word) for word in argv], "Reconstruction/convert_released")
    convert_released.main(args)


def test_a_folder_is_converted_and_verified(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    files = write_released_tree(tmp_path / "released")
    convert(tmp_path)
    printed = capsys.readouterr().out
    assert "5 checkpoints converted and verified, 0 already done" in printed
    folder = tmp_path / "out/CC2017/checkpoints"
    places = {
        "sub1/released/semantic/epoch_30": "Reconstruction_task/sub1/semantic_decoder_epoch30.pth",
        "sub1/released/structure/epoch_75": "Reconstruction_task/sub1/structure_decoder_epoch75.pth",
        "sub1/released/CMG/epoch_70": "Reconstruction_task/sub1/CMG_epoch70.pth",
        "sub2/released/semantic/epoch_30": "Reconstruction_task/sub2/semantic_30.pth",
        "sub2/released/retrieval/epoch_20": "Retrieval_task/sub2_20.pth",
    }
    assert sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.safetensors")) == sorted(places)
    for place, source in places.items():
        model, record = load_checkpoint(folder / f"{place}.safetensors")
        assert torch.equal(output(model), output(files[source]))
        assert record["source"] == source.split("/")[-1] and record["subject"] == int(place[3])
        assert f"{source}: {record['kind']}(" in printed
    assert (folder / "converted_released/metrics.json").exists()

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    convert(tmp_path)
    assert "already done" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before

    torch.save(build("RetrievalDecoder").state_dict(), tmp_path / "released/Retrieval_task/sub3_40.pth")  # a further file
    convert(tmp_path)
    assert "1 checkpoints converted and verified, 5 already done" in capsys.readouterr().out
    torch.save(build("RetrievalDecoder", 9).state_dict(), tmp_path / "released/Retrieval_task/sub3_40.pth")
    with pytest.raises(UserError, match=r"sub3_40\.pth.*--overwrite"):
        convert(tmp_path)


def test_other_data_sets_are_kept_apart(tmp_path, capsys):
    for folder in ("HCP/sub102816", "HCP/sub3", "CC2017/sub1", "Algonauts/sub10"):
        name = f"{folder}/structure_75.pth"
        (tmp_path / "released" / name).parent.mkdir(parents=True)
        torch.save(build("StructureDecoder").state_dict(), tmp_path / "released" / name)
    for dataset, n in (("CC2017", 1), ("HCP", 2), ("Algonauts2021", 1)):
        convert(tmp_path, "--dataset", dataset)
        assert f"{n} checkpoints converted" in capsys.readouterr().out
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.safetensors"))
    places = [("Algonauts2021", 10), ("CC2017", 1), ("HCP", 102816), ("HCP", 104416)]
    assert made == [f"{name}/checkpoints/sub{subject}/released/structure/epoch_75.safetensors" for name, subject in places]


def test_conversion_refuses_what_it_cannot_place(tmp_path):
    root = tmp_path / "released"
    with pytest.raises(UserError, match="not found"):
        convert(tmp_path)
    root.mkdir()
    with pytest.raises(UserError, match="no .pth file"):
        convert(tmp_path)
    torch.save(build("RetrievalDecoder").state_dict(), root / "retrieval.pth")
    with pytest.raises(UserError, match="--subj_ID"):
        convert(tmp_path)
    with pytest.raises(UserError, match="no subject 7; choose from 1, 2, 3"):
        convert(tmp_path, "--subj_ID", 7)
    torch.save(build("RetrievalDecoder").state_dict(), root / "retrieval_copy.pth")
    with pytest.raises(UserError, match="would both become"):
        convert(tmp_path, "--subj_ID", 1)
    (root / "retrieval_copy.pth").write_bytes((root / "retrieval.pth").read_bytes()[:300])
    with pytest.raises(UserError, match="retrieval_copy"):
        convert(tmp_path, "--subj_ID", 1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_misleading_name_is_said(tmp_path, caplog):
    torch.save(build("StructureDecoder").state_dict(), tmp_path / "semantic_sub1_epoch3.pth")
    (found,) = released.find_released(tmp_path)
    assert found.kind == "StructureDecoder" and "its name says SemanticDecoder" in caplog.text
    assert isinstance(found.load(), StructureDecoder)
