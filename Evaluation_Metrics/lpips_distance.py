"""LPIPS of reconstructed and true frames, by AlexNet; lower is better.

Needs the package lpips, an optional extra (pip install --no-deps lpips==0.1.4), which holds the weights of its layers.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), AlexNet
Writes   LPIPS.npy (N,) float64 and LPIPS.csv, one value per clip, below --out

    python Evaluation_Metrics/lpips_distance.py --recons_dir results --alexnet_path alexnet-owt-7be5be79.pth

About 1 s per clip of 8 frames of 512 x 512 on one CPU core.
"""

from common import cli
from Evaluation_Metrics import metric_script, per_clip


def _as_it_is(distances):
    return distances


def metric(columns=("LPIPS",)):
    """The metric as a column of a protocol."""
    return per_clip.Metric(tuple(columns), _as_it_is, (("lpips", "both"),))


get_parser, main = metric_script.script(__doc__, metric, "lpips")

if __name__ == "__main__":
    cli.run(main, get_parser)
