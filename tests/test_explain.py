"""Explanation: projections against plain products of matrices, shuffles against the metric itself, maps against known areas."""

import csv
import gzip
import json
from argparse import Namespace
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CARD, SMALL, error_of, fails, load_script, run_script

from common.arms import given_columns, named_arm
from common.cortex import N_CORTEX, N_MESH, VISUAL_AREAS, area_labels, area_vertices, mesh_vertices
from common.datasets import DATASETS
from common.files import UserError, read_json, save_array, write_json
from common.layout import Layout
from Evaluation_Metrics.EPE import epe
from Explainable_analysis.Cortical_visualization import drawing, maps
from Explainable_analysis.Cortical_visualization.weight_projection import (
    integrated_gradients,
    project_cmg,
    project_semantic,
    project_structure,
    roi_means,
)
from Explainable_analysis.roi_accuracy import own_fmri_share
from Explainable_analysis.shuffle_test.shuffle_for_CLIP_pcc import cosine_table
from Explainable_analysis.shuffle_test.shuffle_for_CLIP_pcc import look_up as look_up_cosines
from Explainable_analysis.shuffle_test.shuffle_for_EPE import dominant_direction, shuffled_epe, swapped
from Explainable_analysis.shuffle_test.shuffling import p_value, shuffle_frames
from Feature_decoding import training
from models.checkpoints import load_checkpoint
from models.cmg import ConsistencyMotionGenerator
from models.cmg_patch import PatchCMG
from models.layers import blind
from models.retrieval_decoder import LinearDecoder, RetrievalDecoder
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder

PLOT = load_script("Explainable_analysis/Cortical_visualization/plot_cortex.py")
ROI_ACCURACY = load_script("Explainable_analysis/roi_accuracy.py")
STRUCTURE = load_script("Feature_decoding/train_structure_decoder.py")

# ---------------------------------------------------------------------------------------------- weight projection


def plain_product(*layers):
    """Product of transposed weight matrices, vertices x outputs."""
    product = np.eye(layers[0].in_features)
    for layer in layers:
        product = product @ layer.weight.detach().double().numpy().T
    return product


def unit_range(values):
    return (values - values.min()) / (values.max() - values.min())


def decoders():
    torch.manual_seed(0)
    semantic = SemanticDecoder(30, 12, n_blocks=3, n_tokens=4, token_dim=5, projector_dims=(7, 9))
    structure = StructureDecoder(30, 12, latent_shape=(4, 2, 2))
    cmg = ConsistencyMotionGenerator(30, d_model=16, attn_dim=8, d_ff=8, encoder_dim=12)
    chains = [
        [semantic.lin0[0], *(block[0] for block in semantic.mlp), semantic.lin1[2], semantic.lin1[5], semantic.lin1[8]],
        [structure.lin0[0]],
        [cmg.encoder.lin0[0], *(block[0] for block in cmg.encoder.mlp), cmg.encoder.lin1],
    ]
    return list(zip((project_semantic, project_structure, project_cmg), (semantic, structure, cmg), chains, strict=True))


@pytest.mark.parametrize("number", range(3))
def test_projection_is_the_product_of_the_matrices(number):
    project, model, chain = decoders()[number]
    product = plain_product(*chain)
    np.testing.assert_allclose(project(model), unit_range(np.abs(product.mean(1))), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(project(model, "rms"), unit_range(np.sqrt((product**2).mean(1))), rtol=1e-5, atol=1e-9)
    with pytest.raises(ValueError, match="released, rms"):
        project(model, "mean")


def test_gradients_of_a_linear_network_are_its_contributions():
    torch.manual_seed(1)
    model = StructureDecoder(10, 6, n_blocks=0, latent_shape=(1, 2, 3))
    model.lin1 = model.lin1[2]  # stem and head alone: linear, so that integration is exact
    for layer in (model.lin0[0], model.lin1):
        torch.nn.init.zeros_(layer.bias)
    fmri = torch.randn(5, 10)
    with torch.no_grad():
        output = model.eval()(fmri).flatten(1)
        weights = (model.lin1.weight @ model.lin0[0].weight).numpy()  # (6, 10)
        direction = torch.nn.functional.normalize(output, dim=1).numpy()
    shares = np.abs((direction @ weights) * fmri.numpy()).mean(0)
    np.testing.assert_allclose(integrated_gradients(model, fmri, steps=3, batch_size=2), unit_range(shares), rtol=1e-4, atol=1e-5)


def test_mean_of_an_area_counts_the_vertices_that_carry_something():
    values, labels = np.zeros(8), np.array([0, 1, 1, 2, 2, 2, 360, 360])
    values[[0, 1, 3, 4, 7]] = 9, 4, 1, 2, 5
    means = roi_means(values, labels)
    assert means.shape == (360,) and means[0] == 4 and means[1] == 1.5 and means[2] == 0 and means[359] == 5
    with pytest.raises(ValueError, match="one value a vertex"):
        roi_means(values, labels[:-1])
    with pytest.raises(ValueError, match="361"):
        roi_means(values, labels + 1)


# ---------------------------------------------------------------------------------------------- areas that decoders are given


def read_fmri(model, fmri):
    """Some output of a decoder that its fMRI decides."""
    if isinstance(model, PatchCMG):
        return model.generate(fmri, torch.ones(len(fmri), 4, 8, 8), 3)
    output = (model.encoder if isinstance(model, ConsistencyMotionGenerator) else model)(fmri)
    return output[1] if isinstance(output, tuple) else output


@pytest.mark.parametrize(
    "make",
    [
        *(lambda number=number: decoders()[number][1] for number in range(3)),
        lambda: PatchCMG(8, 4, 4, in_dim=30, hidden_dim=16, depth=1, n_heads=2),
        lambda: RetrievalDecoder(30, 12),
        lambda: LinearDecoder(30, 12),
    ],
)
def test_a_blind_decoder_stays_blind_in_training(make):
    torch.manual_seed(0)
    model, hidden = make(), torch.arange(30) >= 20
    blind(model, hidden)
    fmri = torch.randn(6, 30) * ~hidden
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3 * (not isinstance(model, PatchCMG))):  # which generates without gradients
        optimizer.zero_grad()
        (read_fmri(model.train(), fmri).square().mean() + 0.01 * sum(p.abs().sum() for p in model.parameters())).backward()
        optimizer.step()
    model.eval()
    other, changed = torch.randn(6, 30) * hidden, torch.randn(6, 30) * ~hidden
    with torch.no_grad():
        torch.testing.assert_close(read_fmri(model, fmri + 9 * other), read_fmri(model, fmri), rtol=0, atol=0)
        assert isinstance(model, PatchCMG) or (read_fmri(model, fmri + changed) - read_fmri(model, fmri)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="29"):
        blind(model, hidden[:29])


def area_flags(roi=None, without_roi=None, arm="full"):
    return Namespace(roi=roi, without_roi=without_roi, arm=arm, subj_ID=1)


def test_areas_are_columns_of_the_mask_or_of_the_list_of_rois(tmp_path):
    layout, chosen = Layout(tmp_path), np.sort(np.concatenate([area_vertices(["V1"])[::9], area_vertices(["MT", "MST"])[::5]]))
    save_array(layout.mask(1), np.isin(np.arange(N_CORTEX), chosen).astype(np.uint8), **CARD)
    is_v1 = np.isin(chosen, area_vertices(["V1"]))
    np.testing.assert_array_equal(given_columns(area_flags(["V1"]), layout), is_v1)
    np.testing.assert_array_equal(given_columns(area_flags(None, ["V1", "MT"]), layout), np.isin(chosen, area_vertices(["MST"])))
    assert given_columns(area_flags(), layout) is None and named_arm(area_flags()) == "full"
    assert named_arm(area_flags(None, ["V1", "MT"]), "control") == "control_without_V1_MT"
    for flags, words in (
        (area_flags(["V1", "V9"]), r"--roi V9: no selected voxel .* MST \(\d+\), MT \(\d+\), V1 \(\d+\)$"),
        (area_flags(None, ["V1", "MT", "MST"]), "leaves no voxel"),
        (area_flags(["V1"], arm="oracle"), "no areas; leave out --roi"),
    ):
        with pytest.raises(UserError, match=words):
            given_columns(flags, layout)
    write_json(layout.roi_columns(1), {"EBA": [0, 2], "FFA": [2, 5]})
    assert given_columns(area_flags(["FFA"]), layout).tolist() == [False, False, True, True, True]


def test_own_fmri_is_told_from_that_of_others():
    class Continues:
        """Every frame is the first plus what the fMRI says, times `gain`."""

        def __init__(self, gain):
            self.gain = gain

        def generate(self, fmri, first, n_frames, visibility):
            return first[:, None] + self.gain * fmri[:, :1, None] * torch.arange(n_frames)[:, None]

    n = 70  # more than a batch
    fmri, first = torch.arange(float(n))[:, None], torch.randn(n, 2, 1, 3, 3)
    contents = (first + fmri.view(n, 1, 1, 1, 1) * torch.arange(4).view(1, 1, 4, 1, 1)).numpy()
    assert own_fmri_share(Continues(1), fmri, contents, "causal").tolist() == [1] * n
    assert own_fmri_share(Continues(0), fmri, contents, "causal").tolist() == [0.5] * n


def test_the_areas_that_carry_something_are_found(tmp_path, monkeypatch, capsys):
    """Latents that depend on the voxels of area A alone, decoded from A and from B."""
    rng, n, n_test = np.random.default_rng(0), 240, 60
    world = replace(
        SMALL, n_train=n, n_train_runs=2, clips_per_train_run=n // 2, n_test=n_test, n_test_runs=2, clips_per_test_run=n_test // 2
    )
    monkeypatch.setitem(DATASETS, "phantom", world)
    layout, mixing = Layout(tmp_path / "phantom"), rng.standard_normal((12, 4 * 8 * 8))
    for split, rows in (("train", n), ("test", n_test)):
        fmri = rng.standard_normal((rows, 30))
        latents = np.repeat((fmri[:, :12] @ mixing).reshape(rows, 4, 1, 8, 8), 8, axis=2)
        save_array(layout.masked_fmri(1, split, 30), fmri.astype(np.float32), **CARD)
        save_array(layout.contents(split), latents.astype(np.float32), **CARD)
        save_array(layout.text_embeddings_clip(split), np.eye(rows, 10, dtype=np.float32), **CARD)
    write_json(layout.roi_columns(1), {"A": [0, 12], "B": [12, 30]})
    data = ["--dataset", "phantom", "--out_root", tmp_path, "--device", "cpu"]
    train = [*data, "--epoch", 12, "--lr", 3e-3, "--hidden_dim", 32, "--n_blocks", 0, "--w", 0, "--batch_size", 16]
    assert "run one of the training scripts with --roi" in error_of(capsys, ROI_ACCURACY, *data, "--ckpt", "last")
    monkeypatch.setattr(training, "draw_losses", lambda *_: None)
    for areas in ([], ["--roi", "A"], ["--roi", "B"], ["--without_roi", "A"]):
        run_script(STRUCTURE, *train, *areas)
    path = layout.checkpoints(1, "full_roi_A", "structure") / "last.safetensors"
    model, record = load_checkpoint(path)
    assert record["roi"] == ["A"] and (model.lin0[0].weight[:, 12:] == 0).all() and (model.lin0[0].weight[:, :12] != 0).all()

    run_script(ROI_ACCURACY, *data, "--ckpt", "last")
    folder = layout.explain(1) / "roi_accuracy"
    rows = {(row["given"], row["areas"]): row for row in read_json(folder / "metrics.json")["rows"]}
    assert rows["only", "A"]["voxels"] == 12 and rows["all but", "A"]["voxels"] == 18 and rows["full", ""]["voxels"] == 30
    assert rows["full", ""]["low"] > 0.8 and rows["only", "A"]["low"] > 0.8
    for key in (("only", "B"), ("all but", "A")):
        assert rows[key]["low"] < 0.5 < rows[key]["high"] < 0.65
    assert {path.name for path in folder.iterdir()} >= {"accuracy.csv", "accuracy.md", "accuracy.png", "accuracy.svg"}


# ---------------------------------------------------------------------------------------------- shuffles


def drifting_clips(n, seed=0):
    """Smooth pictures that move by another step each, (n, 4, 40, 40, 3)."""
    rng, clips = np.random.default_rng(seed), []
    for _ in range(n):
        still = np.array(Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((64, 64), Image.BICUBIC))
        dx, dy = rng.integers(-3, 4, 2)
        clips.append([still[12 + t * dy : 52 + t * dy, 12 + t * dx : 52 + t * dx] for t in range(4)])
    return np.array(clips)


def test_shuffled_epe_is_the_metric_on_reordered_frames():
    pred, gt = drifting_clips(3), drifting_clips(3, seed=1)
    orders = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
    expected = [epe(pred[:, order], gt)[0].mean() for order in orders]
    np.testing.assert_allclose(shuffled_epe(pred, gt, orders), expected, rtol=1e-12)
    for wrong in ([[0, 1, 2]], [[0, 1, 2, 2]], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="order of the 4 frames"):
            shuffled_epe(pred, gt, wrong)


def test_p_counts_as_released_or_with_the_true_order_itself():
    others = np.array([1.0, 2, 3, 4])
    assert p_value(others, 2, lower_is_better=True, released=True) == 0.5 and p_value(others, 2, lower_is_better=True) == 3 / 5
    assert p_value(others, 0, lower_is_better=True, released=True) == 0 and p_value(others, 0, lower_is_better=True) == 1 / 5
    assert p_value(others, 4, lower_is_better=False, released=True) == 0.25
    assert p_value(1 - np.arange(4) * 1e-9, 1, lower_is_better=False) == 1  # equal but for rounding
    assert p_value(1 - np.arange(4) * 1e-4, 1, lower_is_better=False) == 2 / 5


def test_order_matters_where_frames_move_and_not_where_they_stand():
    gt = drifting_clips(6, seed=2)
    settings = {"lower_is_better": True, "seed": 0, "n_permutations": 40, "n_repeats": 2}
    moving = shuffle_frames(lambda orders: shuffled_epe(gt, gt, orders), 4, **settings)
    still = shuffle_frames(lambda orders: shuffled_epe(np.repeat(gt[:, :1], 4, axis=1), gt, orders), 4, **settings)
    assert moving["value"] == 0 and moving["p_mean"] < 0.15 and moving["reversed"] > 0  # one order in 24 is the true one
    assert still["p"] == [1.0, 1.0] and still["value"] == still["reversed"]


def test_cosines_of_frames_and_swapped_clips():
    features = np.array([[[1.0, 0], [0, 2], [3, 0]]])
    table = cosine_table(features)
    np.testing.assert_allclose(look_up_cosines(table, [[0, 1, 2], [0, 2, 1]]), [0, 0.5])
    flow = np.zeros((3, 2, 4, 4, 2))
    flow[1, ..., 0], flow[2, ..., 1] = 3, 4
    np.testing.assert_allclose(swapped(flow, flow), [0, (3 + 5 + 4) / 3, (4 + 3 + 5) / 3])


@pytest.mark.parametrize(
    "flow, expected",
    [
        ((2, 0.5), (0, True)),
        ((-2, 0), (1, True)),
        ((0, 2), (2, True)),
        ((0.1, -2), (3, True)),
        ((1, 0.9), (0, False)),
        ((0.01, 0), (0, False)),
    ],
)
def test_direction_is_that_of_the_mean_flow_where_one_dominates(flow, expected):
    assert dominant_direction(np.broadcast_to(flow, (7, 5, 5, 2))) == expected


# ---------------------------------------------------------------------------------------------- maps


def test_areas_go_by_name():
    values = np.zeros(N_CORTEX)
    values[area_labels() == "L_V1"] = 2
    values[area_labels() == "R_MT"] = 3
    means = maps.area_means(values)
    assert len(means) == 360 and {name for name, mean in means.items() if mean} == {"L_V1", "R_MT"} and means["R_MT"] == 3


def known_map():
    values = np.full(N_CORTEX, np.nan)
    values[area_labels() == "L_V1"] = 1.0
    return values


def write_cifti(path, structures, values):
    axes = [nib.cifti2.BrainModelAxis.from_surface(vertices, n, name=name) for name, vertices, n in structures]
    models = axes[0]
    for axis in axes[1:]:
        models = models + axis
    nib.save(nib.Cifti2Image(np.asarray(values, np.float32)[None], header=(nib.cifti2.ScalarAxis(["x"]), models)), path)


def test_maps_of_every_form_are_read_alike(tmp_path):
    rng = np.random.default_rng(0)
    values, (left, right) = rng.standard_normal(N_CORTEX), mesh_vertices()
    meshes = np.zeros(2 * N_MESH)
    meshes[left], meshes[N_MESH + right] = values[: len(left)], values[len(left) :]
    np.save(tmp_path / "cortex.npy", values)
    np.save(tmp_path / "meshes.npy", meshes)
    np.save(tmp_path / "all.npy", np.concatenate([values, rng.standard_normal(91282 - N_CORTEX)])[None])
    maps.write_maps(tmp_path, "map", values)
    for name in ("map.dscalar.nii", "map.R.func.gii"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes(), 1))
    for name in ("cortex.npy", "meshes.npy", "all.npy", "map.dscalar.nii", "map.dscalar.nii.gz", "map.dtseries.nii"):
        np.testing.assert_allclose(maps.read_map(tmp_path / name), values, rtol=1e-6)
    for name in ("map.R.func.gii", "map.R.func.gii.gz"):
        read = maps.read_map(tmp_path / name)
        np.testing.assert_allclose(read[len(left) :], values[len(left) :], rtol=1e-6)
        assert np.isnan(read[: len(left)]).all()
    mask = np.zeros(N_CORTEX, np.uint8)
    mask[area_vertices(["V1"])] = 1
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "some.npy", values[mask == 1])
    read = maps.read_map(tmp_path / "some.npy", tmp_path / "mask.npy")
    np.testing.assert_array_equal(read[mask == 1], values[mask == 1])
    assert np.isnan(read[mask == 0]).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: np.save(path, np.zeros(100)), "has 100 values"),
        (lambda path: np.save(path, np.zeros((3, N_CORTEX))), "not one value a vertex"),
        (lambda path: np.save(path, np.full(N_CORTEX, np.nan)), "no finite value"),
        (lambda path: path.with_suffix(".dscalar.nii").write_bytes(b"no CIFTI"), "not a readable CIFTI"),
        (
            lambda path: write_cifti(path.with_suffix(".dscalar.nii"), [("CortexLeft", mesh_vertices()[0], N_MESH)], np.zeros(29696)),
            "CORTEX_RIGHT",
        ),
        (
            lambda path: write_cifti(
                path.with_suffix(".dscalar.nii"), [("CortexLeft", [0, 40000], 163842), ("CortexRight", [1], N_MESH)], [1, 2, 3]
            ),
            "fs_LR 32k",
        ),
    ],
)
def test_what_is_no_map_is_one_sentence(make, words, tmp_path):
    make(tmp_path / "map.npy")
    (path,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=words) as stopped:
        maps.read_map(path)
    assert str(path) in str(stopped.value) and "\n" not in str(stopped.value)


def test_a_mask_of_another_length_is_named(tmp_path):
    np.save(tmp_path / "mask.npy", np.eye(1, N_CORTEX, dtype=np.uint8)[0])
    np.save(tmp_path / "map.npy", np.zeros(5))
    with pytest.raises(UserError, match="5 values and .*mask.npy selects 1"):
        maps.read_map(tmp_path / "map.npy", tmp_path / "mask.npy")


def test_plot_cortex_writes_all_that_it_says(tmp_path, capsys):
    """Left V1, the one area above the threshold, shows at the left occipital pole alone."""
    np.save(tmp_path / "map.npy", np.where(np.isnan(known_map()), 0.25, known_map()))
    run_script(PLOT, tmp_path / "map.npy", "--out", tmp_path / "figures", "--areas", "V1", "MT", "--threshold", 0.5)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    figures = {f"{name}.{ending}" for name in ("cortex", "flat") for ending in ("png", "svg")}
    assert names == figures | {"cortex.html", "areas.csv", "map.dscalar.nii", "map.dtseries.nii", "map.L.func.gii", "map.R.func.gii"}
    assert all((tmp_path / "figures" / f"{name}.svg").stat().st_size < 2e6 for name in ("cortex", "flat"))
    picture = np.asarray(Image.open(tmp_path / "figures/cortex.png").convert("RGB")).astype(int)
    yellow = (picture[..., 0] > 200) & (picture[..., 1] > 190) & (picture[..., 2] < 120)
    yellow[:, int(0.9 * picture.shape[1]) :] = False  # the colour bar
    rows, columns = np.nonzero(yellow)
    across, upper = columns / (0.9 * picture.shape[1]), rows < picture.shape[0] / 2
    # left, medial: the occipital pole is on the left of that view; next to nothing in the views of the right hemisphere
    assert len(rows) > 200 and np.mean(upper & (across > 0.5) & (across < 0.75)) > 0.9 and np.mean(~upper) < 0.01
    page = (tmp_path / "figures" / "cortex.html").read_text()
    assert "L_V1" in page and "medial wall" in page and 'src="http' not in page
    with open(tmp_path / "figures" / "areas.csv", newline="") as handle:
        rows = {row["area"]: row for row in csv.DictReader(handle)}
    assert len(rows) == 360 and float(rows["L_V1"]["value"]) == 1 and float(rows["R_V1"]["value"]) == 0.25
    fails(PLOT, tmp_path / "map.npy", "--out", tmp_path / "figures", "--areas", "V9")
    assert "no such MMP area" in capsys.readouterr().err


def test_colours_are_symmetric_where_both_signs_occur():
    assert drawing.choose_colours(np.array([-1.0, 3, np.nan]))["vmin"] == -3
    assert drawing.choose_colours(np.array([0.5, 3]))["vmin"] == 0 and len(VISUAL_AREAS) == 12
    assert json.dumps(drawing.choose_colours(np.array([-2.0, -1])))  # plain numbers


@pytest.mark.parametrize(
    "name, seed, with_cmg, without",
    [
        (None, 42, "full", "full_ablate_motion"), (None, 43, "full_seed43", "full_ablate_motion_seed43"),
        ("full_seed43", 43, "full_seed43", "full_ablate_motion_seed43"), ("mine", 43, "mine", "mine_ablate_motion"),
    ],
)  # fmt: skip
def test_what_a_shuffle_test_compares_is_of_one_seed(name, seed, with_cmg, without):
    from types import SimpleNamespace

    from Explainable_analysis.shuffle_test import shuffling

    names = shuffling._names(SimpleNamespace(name=name, seed=seed))
    assert (names[shuffling.WITH], names[shuffling.WITHOUT]) == (with_cmg, without)


@pytest.mark.parametrize(
    "other",
    [{}, {"clips": 2, "clip_numbers": [4, 5]}, {"clip_numbers": [4, 5, 7]}, {"name": "control"}, {"seed": 1}, {"dataset": "phantom"}],
)
def test_shuffle_tests_of_other_things_do_not_stand_in_one_figure(tmp_path, capsys, other):
    draw_picture = load_script("Explainable_analysis/shuffle_test/draw_picture.py")
    facts = {"dataset": "CC2017", "phantom": False, "subject": 1, "name": "full", "clips": 3, "clip_numbers": [4, 5, 6], "n_permutations": 9,
             "n_repeats": 2, "seed": 42, "count": "r / K", "tests": {"control": {"p_mean": 0.5, "p_std": 0.1}}}  # fmt: skip
    for metric, found in (("EPE", facts), ("CLIP-pcc", facts | other)):
        write_json(tmp_path / metric / "metrics.json", found)
    if other:
        line = error_of(capsys, draw_picture, "--out", tmp_path)
        assert "CLIP-pcc/metrics.json is of other " in line and all(key in line for key in other)
    else:
        run_script(draw_picture, "--out", tmp_path)
        assert read_json(tmp_path / "metrics.json")["clips"] == 3
    assert "is of other dataset, phantom" in error_of(capsys, draw_picture, "--out", tmp_path, "--dataset", "phantom", "--overwrite")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf1-3,\r\n7 9\n", b"1\n\xff\xfe2", b"", b"9" * 5000, b"1\0"])
def test_clips_of_a_text_file(tmp_path, content):
    from Explainable_analysis.shuffle_test import shuffling

    (tmp_path / "clips.txt").write_bytes(content)
    if content.startswith(b"\xef"):
        assert shuffling.choose_clips(Namespace(clips=[f"{tmp_path}/clips.txt"]), None, None) == ([1, 2, 3, 7, 9], "given")
    else:
        with pytest.raises(UserError, match="is no clip number"):
            shuffling.choose_clips(Namespace(clips=[f"{tmp_path}/clips.txt"]), None, None)


def test_a_shuffle_test_reads_both_sides_at_the_registrys_times(tmp_path):
    from Explainable_analysis.shuffle_test import shuffling

    movie = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    for name, frames in (("gt", movie), ("recons", movie[::8])):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "test1.npz", frames=frames)
    given = {"gt": tmp_path / "gt", "recons_dir": tmp_path / "recons", "without_cmg": None, "name": None, "seed": 42, "subj_ID": 1}
    args, dataset = Namespace(dataset="CC2017", sd_path=None, device="cpu", **given), DATASETS["CC2017"]
    tested = shuffling.open_tested(args, dataset, Layout(tmp_path / "out"), [1])
    np.testing.assert_array_equal(*tested[shuffling.WITH].read(1))
