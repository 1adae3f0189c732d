"""End-point error and angular error of the optical flow of reconstructed and true clips.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt)
Writes   EPE.npy, angular-error.npy (N,) float64 and EPE.csv, one row per clip, below --out

    python Evaluation_Metrics/EPE.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/EPE.py --dataset phantom --subj_ID 1 --channel_order rgb --out scores_rgb

About 0.9 s per clip of 8 frames of 512 x 512 on one core.
"""

from functools import partial
from hashlib import blake2b

import cv2
import numpy as np

from common import cli
from Evaluation_Metrics import metric_script, per_clip

# pyramid scale, levels, window, iterations, polynomial neighbourhood and sigma, flags: the released code's
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
CHANNEL_ORDERS = {"released": cv2.COLOR_BGR2GRAY, "rgb": cv2.COLOR_RGB2GRAY}


def grey_frames(clip, channel_order="released"):
    """Grey frames (F, H, W) uint8 of a clip (F, H, W, 3) uint8 RGB.

    "released" weighs the channels as if they were blue, green, red; "rgb" as they are.
    """
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order must be one of {', '.join(CHANNEL_ORDERS)}, got {channel_order!r}")
    return np.stack([cv2.cvtColor(frame, CHANNEL_ORDERS[channel_order]) for frame in clip])


def flow_between(first, second):
    """Farneback flow from one grey frame to another, (H, W, 2) float32: pixels to the right, pixels down."""
    return cv2.calcOpticalFlowFarneback(first, second, None, *FARNEBACK)


_RECENT = {}  # flows of clips, the latest last: several metrics ask for those of one pair, and many methods for those of the truth
_RECENT_BYTES = 64 * 2**20  # at most, beyond a pair


def flows(clip, channel_order="released"):
    """Flow between successive frames of a clip (F, H, W, 3) uint8 RGB: (F - 1, H, W, 2) float32, pixels to the right and down per frame.

    That of a clip which was among the last ones is not computed again, and not to be written into.
    """
    key = channel_order, clip.shape, blake2b(np.ascontiguousarray(clip)).digest()
    flow = _RECENT.pop(key, None)
    if flow is None:
        grey = grey_frames(clip, channel_order)
        flow = np.stack([flow_between(a, b) for a, b in zip(grey[:-1], grey[1:], strict=True)])
        flow.flags.writeable = False
        while len(_RECENT) > 1 and flow.nbytes + sum(known.nbytes for known in _RECENT.values()) > _RECENT_BYTES:
            _RECENT.pop(next(iter(_RECENT)))
    _RECENT[key] = flow
    return flow


def flow_errors(flow, true_flow):
    """Mean end-point error, pixels, and mean angle, degrees, between two flows (..., 2); a pixel without flow on either side counts 90."""
    # component by component: numpy is slow at sums over an axis of two
    (ux, uy), (vx, vy) = (np.moveaxis(np.asarray(field, np.float64), -1, 0) for field in (flow, true_flow))
    epe = np.sqrt((ux - vx) ** 2 + (uy - vy) ** 2).mean()
    lengths = np.sqrt(ux**2 + uy**2) * np.sqrt(vx**2 + vy**2)
    cosine = np.clip((ux * vx + uy * vy) / (lengths + 1e-8), -1, 1)
    return float(epe), float(np.degrees(np.arccos(cosine).mean()))


def epe(pred, gt, channel_order="released"):
    """End-point and angular error of the flow, averaged over pixels and pairs of successive frames.

    Parameters
    ----------
    pred, gt : arrays, (N, F, H, W, 3) uint8
        RGB
    channel_order : str
        "released" or "rgb", how grey is taken before the flow

    Returns
    -------
    epe : array, (N,) float64
        pixels per frame
    angular_error : array, (N,) float64
        degrees

    Raises
    ------
    ValueError
        shapes or types differ, fewer than two frames, or the channel order is unknown
    """
    per_clip.check_pairs(pred, gt)
    if pred.shape[1] < 2:
        raise ValueError(f"optical flow needs two frames or more, got clips of {pred.shape[1]}")
    errors = np.empty((len(pred), pred.shape[1] - 1, 2))
    for clip, (p, g) in enumerate(zip(pred, gt, strict=True)):
        errors[clip] = [flow_errors(u, v) for u, v in zip(flows(p, channel_order), flows(g, channel_order), strict=True)]
    distance, angle = np.moveaxis(errors.mean(1), -1, 0)
    return distance.copy(), angle.copy()


def metric(columns=("EPE", "angular-error"), channel_order="released"):
    """The metric as columns of a protocol."""
    return per_clip.Metric(tuple(columns), partial(epe, channel_order=channel_order))


def get_parser():
    parser = metric_script.metric_parser(__doc__)
    parser.add_argument(
        "--channel_order",
        choices=list(CHANNEL_ORDERS),
        default="released",
        help="conversion to grey: BGR weights on RGB frames, as released, or RGB weights",
    )
    return parser


def main(args):
    metric_script.main(args, [metric(channel_order=args.channel_order)])


if __name__ == "__main__":
    cli.run(main, get_parser)
