"""The protocols of protocols.json: which metrics, of which frames, read how."""

import json
from pathlib import Path

from common.clip_frames import clip_times
from Evaluation_Metrics import EPE, PSNR, SSIM, CLIP_consist, VIFI_score, hue_pcc, n_way
from Evaluation_Metrics.towers import KINDS

PROTOCOLS = json.loads((Path(__file__).parent / "protocols.json").read_text(encoding="utf-8"))
METRICS = {  # what a protocol's row may call
    "ssim": SSIM.metric,
    "psnr": PSNR.metric,
    "hue_pcc": hue_pcc.metric,
    "epe": EPE.metric,
    "clip_pcc": CLIP_consist.metric,
    "vifi_score": VIFI_score.metric,
    "n_way_frames": n_way.metric_of_frames,
    "n_way_clips": n_way.metric_of_clips,
}


def protocol_metrics(protocol):
    """Metrics of a protocol, list of Metric."""
    metrics = []
    for entry in PROTOCOLS[protocol]["metrics"]:
        options = {key: value for key, value in entry.items() if key != "metric"}
        metrics.append(METRICS[entry["metric"]](**options))
    return metrics


def protocol_form(protocol, dataset):
    """How a protocol reads clips: keywords of metric_script.open_pairs. No frame is larger than the data set's."""
    row = PROTOCOLS[protocol]
    form = {key: row[key] for key in ("layout", "borders", "n_frames", "resize")}
    return form | {"size": min(row["size"], dataset.frame_size), "times": clip_times(dataset)}


def split_by_models(metrics, towers):
    """Metrics that can be computed, and why the others cannot, dict column -> reason."""
    able, unable = [], {}
    for metric in metrics:
        absent = [KINDS[kind][0] for kind in dict(metric.needs) if kind not in towers]
        if absent:
            unable |= {column: "no " + ", ".join(f"--{flag}" for flag in absent) for column in metric.columns}
        else:
            able.append(metric)
    return able, unable
