"""Speed of the explanations against their plain forms, side by side in one run.

Prints   weight projection of the full-size semantic decoder: mean vector from the right against the product of all matrices, in float64 and float32
         shuffle test: flows from a table against flows computed for each order

    python benchmarks/explain.py

The plain shuffles are timed on --plain_orders orders and scaled to 500. About 3 min on one core; 3 GB.
"""

import argparse

import cv2
import numpy as np
import torch
from timing import compare

from Evaluation_Metrics.EPE import epe
from Explainable_analysis.Cortical_visualization.weight_projection import project_semantic, to_unit_range
from Explainable_analysis.shuffle_test.shuffle_for_EPE import shuffled_epe
from models.semantic_decoder import SemanticDecoder

N_ORDERS = 500  # 5 repeats of 100


def plain_projection(model, dtype):
    """The whole product of the transposed matrices, 4500 x 14592, then its mean; scaled to 0...1."""
    product = torch.eye(model.in_dim, dtype=dtype)
    for module in (model.lin0, model.mlp, model.lin1):
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                product = product @ layer.weight.detach().to(dtype).T
    return to_unit_range(product.mean(1).abs().numpy())


def compare_projections():
    """Plain products and ours, in turn."""
    torch.manual_seed(0)
    model = SemanticDecoder().eval()
    for dtype in (torch.float32, torch.float64):
        expected, found = compare(
            f"weight projection, plain product in {str(dtype).removeprefix('torch.')}",
            lambda dtype=dtype: plain_projection(model, dtype),
            lambda: project_semantic(model),
            repeats=3,
        )
        print(f"  largest difference {np.abs(found - expected).max():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain_orders", type=int, default=10, help="orders that the plain shuffles are timed on (default: 10)")
    args = parser.parse_args()
    compare_projections()
    rng = np.random.default_rng(0)
    still = cv2.resize(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), (600, 600), interpolation=cv2.INTER_CUBIC)
    gt = np.stack([[still[5 * t : 5 * t + 512, 3 * t : 3 * t + 512] for t in range(8)]])
    pred = np.stack([[still[4 * t : 4 * t + 512, 5 * t : 5 * t + 512] for t in range(8)]])
    orders = np.stack([rng.permutation(8) for _ in range(N_ORDERS)])
    few = orders[: args.plain_orders]
    expected, found = compare(
        f"shuffle test, {N_ORDERS} orders of a clip of 8 x 512 x 512",
        lambda: np.array([epe(pred[:, order], gt)[0].mean() for order in few]),
        lambda: shuffled_epe(pred, gt, orders),
        repeats=3,
        scale=N_ORDERS / len(few),
    )
    print(f"  largest difference {np.abs(found[: len(few)] - expected).max():.1e}")


if __name__ == "__main__":
    main()
