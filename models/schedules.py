"""Schedules of learning rates and of loss weights."""

import numpy as np


def noam_lr(step, d_model, warmup):
    """Learning rate that rises linearly over `warmup` steps and then falls with the root of the step.

    Parameters
    ----------
    step : int
        optimiser step, from 1
    d_model : int
        width of the model
    warmup : int
        steps

    Returns
    -------
    float, d_model^-0.5 * min(step^-0.5, step * warmup^-1.5)

    References
    ----------
    Vaswani et al. 2017, section 5.3.
    """
    if step < 1:
        raise ValueError(f"step: expected 1 or more, given {step}")
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def compounding_decay(w0, rate, n_epochs):
    """Weights that after each epoch e = 0, 1, ... are multiplied by exp(-rate * e).

    Parameters
    ----------
    w0 : float
    rate : float
    n_epochs : int

    Returns
    -------
    (n_epochs + 1,) float64, the weights used at epochs 0 to n_epochs; the second equals the first, since the factor
    after epoch 0 is 1
    """
    epoch = np.arange(n_epochs + 1, dtype=np.float64)
    return w0 * np.exp(-rate * epoch * (epoch - 1) / 2)
