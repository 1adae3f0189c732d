"""Number formats of a GPU's arithmetic."""

import torch


def allow_tf32(allowed):
    """Let a GPU compute products and convolutions of float32 in TensorFloat-32 (10 bits of mantissa), which is faster, or not.

    PyTorch's own default allows it for convolutions alone.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
