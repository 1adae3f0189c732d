"""The protocols of protocols.json: which metrics, of which frames, read how.

Its version is major.minor: values of another major version do not compare, a minor one adds columns.
"""

import importlib

from common.clip_frames import clip_times
from Evaluation_Metrics.metric_script import make_metric
from Evaluation_Metrics.results import PROTOCOLS, VERSION  # noqa: F401
from Evaluation_Metrics.towers import KINDS, why_absent


def metric_maker(name):
    """Function that makes the metric of a row: `metric` of that file here, or the one named after a dot."""
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"Evaluation_Metrics.{module}"), function or "metric")


def protocol_metrics(protocol, dataset):
    """Metrics of a protocol for clips of a data set, list of Metric."""
    metrics = []
    for entry in PROTOCOLS[protocol]["metrics"]:
        options = {key: value for key, value in entry.items() if key not in ("metric", "better")}
        metrics.append(make_metric(metric_maker(entry["metric"]), dataset, **options))
    return metrics


def protocol_form(protocol, dataset):
    """How a protocol reads clips: keywords of metric_script.open_pairs. No frame is larger than the data set's."""
    row = PROTOCOLS[protocol]
    form = {key: row[key] for key in ("layout", "borders", "n_frames", "resize")}
    largest = dataset.frame_size
    size = min(row["size"], largest) if isinstance(row["size"], int) else [min(side, largest) for side in row["size"]]
    return form | {"size": size, "times": clip_times(dataset)}


def split_by_needs(metrics, towers, n_clips):
    """Metrics that can be computed of so many clips, and why the others cannot, dict column -> reason."""
    able, unable = [], {}
    for metric in metrics:
        absent = [why_absent(kind) for kind in KINDS if kind in metric.models and kind not in towers]
        if n_clips < metric.least_clips:
            unable |= dict.fromkeys(metric.shown, f"{n_clips} clip, and {metric.least_clips} are needed")
        elif absent:
            unable |= dict.fromkeys(metric.shown, ", ".join(absent))
        else:
            able.append(metric)
    return able, unable
