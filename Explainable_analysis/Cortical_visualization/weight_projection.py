"""Importance of vertices for a decoder, by its weight matrices or by its gradients.

What to read first: `project_semantic`. The mean over outputs of a product of matrices is a product with the mean
vector, so that no matrix of vertices times outputs is formed.
"""

import numpy as np
import torch

from models.cmg import ConsistencyMotionGenerator
from models.semantic_decoder import SemanticDecoder
from models.structure_decoder import StructureDecoder

N_AREAS = 360
MAPS = ("released", "rms")
ROWS = 64  # of a matrix that are converted to float64 at a time

# ---------------------------------------------------------------------------------------------- by weights


def _weights(*modules):
    """Weight matrices of all linear layers of modules, in order, tensors (out, in)."""
    linear = [layer for module in modules for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    return [layer.weight.detach().cpu() for layer in linear]


def _project(stem, later, kind):
    """Importance of the inputs of a chain of matrices (out, in), scaled to 0...1, (V,); `stem` (H, V) is the first.

    "released" is the size of the mean over outputs, "rms" the root mean square over outputs.
    """
    if kind not in MAPS:
        raise ValueError(f"kind must be one of {', '.join(MAPS)}, not {kind!r}")
    n_outputs = len([stem, *later][-1])
    if kind == "released":
        row = torch.full((n_outputs,), 1 / n_outputs, dtype=torch.float64)  # mean over outputs, carried to the inputs
        for weight in reversed([stem, *later]):
            row = _times(row, weight)
        importance = row.abs().numpy()
    else:
        stem, product = stem.double(), torch.eye(stem.shape[0], dtype=torch.float64)
        for weight in later:
            product = weight.double() @ product  # (outputs so far, H)
        gram = product.T @ product  # (H, H)
        importance = ((stem * (gram @ stem)).sum(0).clamp(min=0) / n_outputs).sqrt().numpy()
    return to_unit_range(importance)


def _times(row, weight):
    """row @ weight in float64; the matrix is converted a few rows at a time, which stay in the cache."""
    block, product = torch.empty(ROWS, weight.shape[1], dtype=torch.float64), torch.zeros(weight.shape[1], dtype=torch.float64)
    for part, rows in zip(row.split(ROWS), weight.split(ROWS), strict=True):
        product += part @ block[: len(rows)].copy_(rows)
    return product


def to_unit_range(importance):
    """Scale values to 0...1; all equal ones become 0."""
    low, high = importance.min(), importance.max()
    return (importance - low) / (high - low) if high > low else np.zeros_like(importance)


def project_semantic(model, kind="released"):
    """Importance of the vertices for the semantic decoder's tokens: stem, residual blocks and projector.

    Parameters
    ----------
    model : models.semantic_decoder.SemanticDecoder
    kind : str
        "released" or "rms"

    Returns
    -------
    array, shape (V,)
        0...1

    References
    ----------
    Mind-Animator, weight projection: norms, non-linearities and the blocks' shortcuts are ignored.
    """
    stem, *later = _weights(model.lin0, model.mlp, model.lin1)
    return _project(stem, later, kind)


def project_structure(model, kind="released"):
    """Importance for the structure decoder: its stem alone, over the hidden units; otherwise as `project_semantic`."""
    return _project(_weights(model.lin0)[0], [], kind)


def project_cmg(model, kind="released"):
    """Importance for the CMG: its fMRI encoder, over the encoder's outputs; otherwise as `project_semantic`."""
    stem, *later = _weights(model.encoder.lin0, model.encoder.mlp, model.encoder.lin1)
    return _project(stem, later, kind)


PROJECTIONS = {SemanticDecoder: project_semantic, StructureDecoder: project_structure, ConsistencyMotionGenerator: project_cmg}


# ---------------------------------------------------------------------------------------------- by gradients


def integrated_gradients(model, fmri, steps=16, batch_size=32):
    """Importance by integrated gradients through the whole network, averaged over clips.

    What is explained is the output's projection on its own direction, so that nothing outside the model is needed; the
    path goes from zeros, the mean of standardised fMRI.

    Parameters
    ----------
    model : SemanticDecoder, StructureDecoder or ConsistencyMotionGenerator
        of the latter the fMRI encoder
    fmri : tensor, shape (N, V)
    steps : int
        midpoints of the path
    batch_size : int
        clips at a time

    Returns
    -------
    array, shape (V,)
        mean over clips of the size of each vertex's share, scaled to 0...1

    References
    ----------
    Sundararajan et al. 2017, Axiomatic attribution for deep networks.
    """
    function = model.encoder if isinstance(model, ConsistencyMotionGenerator) else model
    total, was_training = np.zeros(fmri.shape[1]), model.training
    model.eval()
    for rows in fmri.split(batch_size):
        shares = torch.zeros_like(rows)
        with torch.no_grad():
            direction = torch.nn.functional.normalize(_output(function, rows), dim=1)
        for step in range(steps):
            point = (rows * ((step + 0.5) / steps)).requires_grad_()
            (gradient,) = torch.autograd.grad((_output(function, point) * direction).sum(), point)
            shares += gradient / steps
        total += (shares * rows).abs().double().sum(0).cpu().numpy()
    model.train(was_training)
    return to_unit_range(total / len(fmri))


def _output(function, rows):
    """What a network makes of fMRI, (B, outputs); the semantic decoder's tokens."""
    output = function(rows)
    return (output[1] if isinstance(output, tuple) else output).flatten(1)


# ---------------------------------------------------------------------------------------------- areas


def roi_means(importance, labels):
    """Mean importance in each area over its vertices that carry any.

    Parameters
    ----------
    importance : array, shape (59412,)
        on the cortex, 0 where there is none
    labels : array, shape (59412,), int
        area of each vertex, 1...360; 0 for none

    Returns
    -------
    array, shape (360,)
        entry k is area k + 1: sum over its vertices divided by the number of those that are not 0; 0 where all are
    """
    importance, labels = np.asarray(importance, np.float64), np.asarray(labels)
    if importance.shape != labels.shape:
        raise ValueError(f"importance has shape {importance.shape} and labels {labels.shape}; both must be one value a vertex")
    if labels.min() < 0 or labels.max() > N_AREAS:
        raise ValueError(f"labels must lie in 0...{N_AREAS}, not {labels.min()}...{labels.max()}")
    sums = np.bincount(labels, weights=importance, minlength=N_AREAS + 1)[1:]
    counts = np.bincount(labels, weights=importance != 0, minlength=N_AREAS + 1)[1:]
    return np.divide(sums, counts, out=np.zeros(N_AREAS), where=counts > 0)
