"""Ridge regression of the retrieval embedding, with the penalty chosen by cross-validation, as a LinearDecoder."""

import logging

import numpy as np
import torch
from himalaya.kernel_ridge import KernelRidgeCV
from sklearn.model_selection import KFold

from common.files import UserError
from models.checkpoints import save_checkpoint
from models.losses import embedding_loss
from models.retrieval_decoder import LinearDecoder

log = logging.getLogger(__name__)

PENALTIES = np.logspace(0, 8, 17)
FOLDS = 5  # of neighbouring clips: shuffled ones would let a clip's neighbours tell of it


def fit_ridge(fmri, target):
    """Fit a linear map with one penalty for each feature of the target.

    Parameters
    ----------
    fmri : array, shape (N, V), float32
    target : array, shape (N, D), float32

    Returns
    -------
    LinearDecoder
    array, shape (D,)
        penalties that cross-validation chose

    References
    ----------
    Dupré la Tour et al. 2022, himalaya.
    """
    if len(fmri) < FOLDS:
        raise UserError(f"--solver ridge needs at least {FOLDS} training clips, not {len(fmri)}; use a smaller --n_val")
    mean_fmri, mean_target = fmri.mean(0), target.mean(0)
    centred = (fmri - mean_fmri).astype(np.float64)
    ridge = KernelRidgeCV(alphas=PENALTIES, cv=KFold(FOLDS), kernel="linear", warn=False).fit(centred, target - mean_target)
    weights = centred.T @ ridge.dual_coef_  # (V, D)
    model = LinearDecoder(*weights.shape).eval()
    with torch.no_grad():
        model.linear.weight.copy_(torch.from_numpy(weights.T))
        model.linear.bias.copy_(torch.from_numpy(mean_target - mean_fmri @ weights))
    return model, ridge.best_alphas_


@torch.no_grad()
def train_ridge(plan, record, task):
    """Fit on the training clips, and write what a training by gradient writes: `last`, and metrics.json with both losses."""
    fmri, image = task.fmri.numpy(), task.stored["image"].numpy()
    rows = {"train": plan.train_clips, "validation": plan.val_clips}
    model, penalties = fit_ridge(fmri[plan.train_clips], image[plan.train_clips])
    at_edge = np.isclose(penalties[:, None], PENALTIES[[0, -1]]).any(1).mean()  # himalaya returns them rounded
    log.info("ridge: median penalty %.3g; the largest or smallest for %.0f %% of the features", np.median(penalties), 100 * at_edge)
    losses = {split: {"total": embedding_loss(model(task.fmri[of]), task.stored["image"][of])[0].item()} for split, of in rows.items()}
    save_checkpoint(plan.last, model, **plan.facts, solver="ridge", finished=True)
    record.finish(**losses, median_penalty=float(np.median(penalties)), share_at_edge=float(at_edge))
    log.info("%s: validation loss %.4g", plan.folder, losses["validation"]["total"])
