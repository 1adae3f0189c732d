"""Readers that misbehave, for the processes of common.apart, which import little."""

import os

import numpy as np


def loop(path):
    while path:
        pass


def fill(path):
    np.zeros(2**33 + 1, np.uint8)
    return {"a": np.ones(1)}


def crash(path):
    os.abort()
