"""Schedules of learning rates and of loss weights."""

import numpy as np


def noam_lr(step, d_model, warmup):
    """d_model^-0.5 * min(step^-0.5, step * warmup^-1.5): rises linearly over `warmup` steps, then falls with the root of the step.

    `step` is the optimiser's, from 1; `d_model` the width of the model.

    References
    ----------
    Vaswani et al. 2017, section 5.3.
    """
    if step < 1:
        raise ValueError(f"step: expected 1 or more, given {step}")
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def compounding_decay(w0, rate, n_epochs):
    """Weights from w0 on that after each epoch e = 0, 1, ... are multiplied by exp(-rate * e).

    Returns
    -------
    (n_epochs + 1,) float64, the weights used at epochs 0 to n_epochs; the second equals the first, since the factor
    after epoch 0 is 1
    """
    epoch = np.arange(n_epochs + 1, dtype=np.float64)
    return w0 * np.exp(-rate * epoch * (epoch - 1) / 2)
