"""Readers that misbehave, for the processes of common.apart, which import little."""

import os

import numpy as np


def loop(path):
    while path:
        pass


def fill(path):
    return {"a": np.ones(2**31)}


def crash(path):
    os.abort()
