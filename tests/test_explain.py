"""Explanation: projections against plain products of matrices, shuffles against the metric itself, maps against known areas."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import fails, load_script, run_script

from common.cortex import N_CORTEX, N_MESH, VISUAL_AREAS, area_labels, area_vertices, mesh_vertices
from common.files import UserError
from Evaluation_Metrics.EPE import epe
from Explainable_analysis.Cortical_visualization import drawing, maps
from Explainable_analysis.Cortical_visualization.weight_projection import (
    integrated_gradients,
    project_cmg,
    project_semantic,
    project_structure,
    roi_means,
)
from Explainable_analysis.shuffle_test.shuffle_for_CLIP_pcc import cosine_table
from Explainable_analysis.shuffle_test.shuffle_for_CLIP_pcc import look_up as look_up_cosines
from Explainable_analysis.shuffle_test.shuffle_for_EPE import dominant_direction, shuffled_epe, swapped
from Explainable_analysis.shuffle_test.shuffling import p_value, shuffle_frames
from models.cmg import ConsistencyMotionGenerator
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder

PLOT = load_script("Explainable_analysis/Cortical_visualization/plot_cortex.py")

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


def test_left_v1_shows_at_the_left_occipital_pole_alone(tmp_path):
    drawing.draw_views(tmp_path / "cortex", known_map(), "a map", "value")
    drawing.draw_flat(tmp_path / "flat", known_map(), "a map", "value")
    assert (tmp_path / "cortex.svg").stat().st_size < 2e6 and (tmp_path / "flat.svg").stat().st_size < 2e6
    picture = np.asarray(Image.open(tmp_path / "cortex.png").convert("RGB")).astype(int)
    yellow = (picture[..., 0] > 200) & (picture[..., 1] > 190) & (picture[..., 2] < 120)
    yellow[:, int(0.9 * picture.shape[1]) :] = False  # the colour bar
    rows, columns = np.nonzero(yellow)
    quarters = columns / (0.9 * picture.shape[1]) * 4
    # left, medial: the occipital pole is on the left of that view; next to nothing in the views of the right hemisphere
    assert len(rows) > 200 and np.mean((quarters > 0.9) & (quarters < 1.6)) > 0.9 and np.mean(quarters > 2) < 0.01


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
    for name in ("cortex.npy", "meshes.npy", "all.npy", "map.dscalar.nii", "map.dtseries.nii"):
        np.testing.assert_allclose(maps.read_map(tmp_path / name), values, rtol=1e-6)
    read = maps.read_map(tmp_path / "map.R.func.gii")
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
    np.save(tmp_path / "map.npy", np.where(np.isnan(known_map()), -0.5, known_map()))
    run_script(PLOT, tmp_path / "map.npy", "--out", tmp_path / "figures", "--areas", "V1", "MT")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    figures = {f"{name}.{ending}" for name in ("cortex", "flat") for ending in ("png", "svg")}
    assert names == figures | {"cortex.html", "areas.csv", "map.dscalar.nii", "map.dtseries.nii", "map.L.func.gii", "map.R.func.gii"}
    page = (tmp_path / "figures" / "cortex.html").read_text()
    assert "L_V1" in page and "medial wall" in page and 'src="http' not in page
    with open(tmp_path / "figures" / "areas.csv", newline="") as handle:
        rows = {row["area"]: row for row in csv.DictReader(handle)}
    assert len(rows) == 360 and float(rows["L_V1"]["value"]) == 1 and float(rows["R_V1"]["value"]) == -0.5
    fails(PLOT, tmp_path / "map.npy", "--out", tmp_path / "figures", "--areas", "V9")
    assert "no such MMP area" in capsys.readouterr().err


def test_colours_are_symmetric_where_both_signs_occur():
    assert drawing.choose_colours(np.array([-1.0, 3, np.nan]))["vmin"] == -3
    assert drawing.choose_colours(np.array([0.5, 3]))["vmin"] == 0 and len(VISUAL_AREAS) == 12
    assert json.dumps(drawing.choose_colours(np.array([-2.0, -1])))  # plain numbers
