"""gallery.html of a reconstruction: ground truth and reconstruction side by side, captions, metrics.

Made from the manifest, from pictures that the reconstruction wrote and from what evaluate.py found, without reading a
frame, so that it can be made again whenever metrics arrive.
"""

import csv
from pathlib import Path

import numpy as np

from common.datasets import DATASETS
from common.files import UserError, one_line, read_json
from common.pages import relative, render
from Evaluation_Metrics.results import read_evaluation

_WORD = (str, type(None))
_MANIFEST = {
    "name": str,
    "clips": {...: {"stem": str}},
    "folders": {...: (str, type(None))},
    "settings": dict,
    "split?": _WORD,
    "dataset?": _WORD,
    "arm?": _WORD,
    "ablate?": _WORD,
    "checkpoints?": {...: {"sha256?": str}},
}
SMALL = 256  # pixels below which pictures are enlarged without smoothing
RANKING = ("SSIM", "PSNR", "CLIP-pcc", "2-way-I")  # the first that was scored says which clips are best, median and worst
ARMS = {
    "full": "Decoded from the fMRI.",
    "control": "Control: the decoders were trained on fMRI whose rows were permuted over clips.",
    "oracle": "Oracle: instead of fMRI, the decoders saw the true features of the clips.",
}
ABLATIONS = {
    "semantic": "Ablation: the prompt is empty instead of decoded.",
    "structure": "Ablation: the first frame is the mean latent of the training clips.",
    "motion": "Ablation: the first frame is repeated eight times. (The paper replaced the motion generator by plain MLPs instead.)",
}


# ---------------------------------------------------------------------------------------------- metrics


def read_clip_values(folder):
    """Per-clip values that evaluate.py left in a folder, {clip number: {metric: float}}; empty where there are none."""
    path = Path(folder) / "per_clip.csv"
    if not path.is_file():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            return {int(row.pop("clip")): {name: float(text) for name, text in row.items() if text} for row in csv.DictReader(handle)}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} does not hold values of clips ({one_line(error)}); run evaluate.py again with --overwrite") from None


def read_manifest(folder):
    """manifest.json of a reconstruction, dict."""
    do = "run Reconstruction/video_recons.py again"
    manifest = read_json(Path(folder) / "manifest.json", _MANIFEST, do)
    if strange := [number for number in manifest["clips"] if not number.isdecimal()]:
        raise UserError(f"{folder}/manifest.json has a clip {strange[0]!r}, which is no number; {do}")
    return manifest


def typical_clips(clips, values):
    """Clips to show first: the best, the median and the worst one.

    Parameters
    ----------
    clips : iterable of int
        numbers of the clips that there are
    values : dict, clip -> {metric: float}

    Returns
    -------
    metric : str or None
        by which they were ranked; None without metrics, when the first three clips are taken
    {clip: words that say why it is shown}
    """
    clips = sorted(clips)
    for metric in RANKING:
        ranked = [clip for clip in clips if np.isfinite(values.get(clip, {}).get(metric, np.nan))]
        if ranked:
            ranked.sort(key=lambda clip: -values[clip][metric])
            places = {"best": 0, "median": len(ranked) // 2, "worst": -1}
            chosen = {}
            for word, place in places.items():
                chosen.setdefault(ranked[place], f"{word}, {metric} {values[ranked[place]][metric]:.3g}")
            return metric, chosen
    return None, dict.fromkeys(clips[:3], "")


# ---------------------------------------------------------------------------------------------- the page


def note_of(facts):
    """What pages must say of a result's data: the note of its data set, where they are simulated."""
    known = DATASETS.get(facts.get("dataset"))
    return "" if not facts.get("phantom") else known.note if known else "Simulated data. Nothing here is a result about brains."


def about(manifest):
    """Sentences on what a reconstruction was made from."""
    areas = [
        f"The decoders were given {words} {' '.join(manifest['settings'][flag])}."
        for flag, words in (("roi", "only the voxels of"), ("without_roi", "all voxels but those of"))
        if isinstance(manifest["settings"].get(flag), list)
    ]
    return [words for words in (ARMS.get(manifest.get("arm")), *areas, ABLATIONS.get(manifest.get("ablate"))) if words]


def build_gallery(folder, metrics_folder=None):
    """Write gallery.html into a reconstruction's folder.

    Parameters
    ----------
    folder : Path
        that holds manifest.json
    metrics_folder : Path, optional
        of its evaluation

    Returns
    -------
    Path of the page
    """
    folder = Path(folder)
    path = folder / "gallery.html"
    manifest = read_manifest(folder)
    clips = {int(number): clip for number, clip in manifest["clips"].items()}
    values = read_clip_values(metrics_folder) if metrics_folder else {}
    evaluation = Path(metrics_folder or folder, "metrics.json")
    facts = read_evaluation(evaluation) if metrics_folder and evaluation.exists() else {}
    means = facts["rows"][facts["method"]] if {"rows", "method"} <= facts.keys() else {}
    cards = {number: _card(folder, path, manifest, number, clips[number], values.get(number, {})) for number in sorted(clips)}
    metric, chosen = typical_clips(clips, values)
    return render(
        "gallery.html",
        path,
        title=_title(manifest),
        subtitle=_subtitle(manifest, len(clips)),
        note=note_of(manifest),
        pages=subject_pages(folder.parent, folder.name),
        docs=("reconstruction", "evaluation", "beyond"),
        remarks=about(manifest),
        metrics=[(name, row["mean"], row["se"], row["n"], facts.get("chance", {}).get(name)) for name, row in means.items() if row],
        protocol=facts.get("title", ""),
        files=result_files(metrics_folder, path) if metrics_folder else [],
        semantics=_semantics(manifest, clips),
        settings=_settings(manifest),
        checkpoints=[(name, entry.get("file"), entry.get("sha256", "")[:16]) for name, entry in manifest.get("checkpoints", {}).items()],
        ranked_by=metric,
        typical=[(words, cards[number]) for number, words in chosen.items()] if metric else [],
        clips=list(cards.values()),
    )


def _title(manifest):
    who = [manifest.get("dataset"), manifest.get("subject") is not None and f"subject {manifest['subject']}"]
    return f"{', '.join(word for word in who if word) or 'reconstruction'}: {manifest['name']}"


def _subtitle(manifest, n):
    of = f" of {manifest['n_clips']}" if manifest.get("n_clips", n) != n else ""
    kind = f" {manifest['split']}" if manifest.get("split") else ""
    sides = (
        "Left or above: ground truth; right or below: reconstruction."
        if manifest["folders"].get("with_gt")
        else "The true clips are not known."
    )
    return f"{n}{of}{kind} clips. {sides}"


def subject_pages(recons, here=""):
    """A subject's report and galleries, where they are: (label, Path or None for the page itself).

    Parameters
    ----------
    recons : Path
        folder of the subject's reconstructions, recons/sub{ID}; of any other there are no pages
    here : str
        name of the reconstruction whose gallery the page is
    """
    if recons.parent.name != "recons":
        return []
    report = recons.parent.parent / f"report_{recons.name}.html"
    names = sorted({path.parent.name for path in recons.glob("*/manifest.json")})  # each has its gallery, or gets it next
    galleries = [(f"gallery: {name}", None if name == here else recons / name / "gallery.html") for name in names]
    return [("report", report)] * report.is_file() + galleries


def result_files(folder, page):
    """Links to the files of an evaluation, (name, address)."""
    names = ("table.md", "per_clip.csv", "metrics.json", "distributions.png")
    names += ("closeness/table.md", "closeness/closeness.png", "../brain_score/areas.csv")
    compared = sorted(Path(folder).glob("compare_*/gallery.html"))
    links = [(name.removeprefix("../"), relative(Path(folder) / name, page)) for name in names if (Path(folder) / name).is_file()]
    return links + [(f"against {other.parent.name.removeprefix('compare_')}", relative(other, page)) for other in compared]


def _semantics(manifest, clips):
    """How often a clip's own caption is the nearest one."""
    ranked = [clip for clip in clips.values() if clip.get("rank")]
    if not ranked:
        return ""
    ranks, n = [clip["rank"] for clip in ranked], ranked[0]["n_captions"]
    return (
        f"Decoded semantics against the {n} different captions of the {manifest.get('split')} clips: the clip's own caption is the nearest "
        f"for {ranks.count(1)} of {len(ranks)} clips (by chance {len(ranks) / n:.1f}), median rank {np.median(ranks):g}."
    )


def _settings(manifest):
    settings = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in manifest["settings"].items()}
    seconds = manifest.get("seconds_per_clip")
    return [*settings.items(), ("seconds per clip", f"{seconds:.2f}" if seconds else None)]


def is_small(clip):
    """Whether a clip's pictures are to be enlarged without smoothing."""
    return clip.get("size", SMALL) < SMALL


def _card(folder, page, manifest, number, clip, values):
    """One clip, as the template shows it; pictures that are not there are left out."""
    folders = manifest["folders"]

    def address(kind, name):
        path = folder / folders[kind] / name if folders.get(kind) and name else None
        return relative(path, page) if path and path.is_file() else ""

    return {
        "number": number,
        "what": clip.get("caption") or f"clip {number}",
        "small": is_small(clip),
        "pair": address("with_gt", clip.get("pair") and f"{clip['pair']}.gif"),
        "movie": address("recons", f"{clip['stem']}.gif"),
        "strip": address("strips", f"{clip['stem']}.png"),
        "caption": clip.get("caption"),
        "nearest": clip.get("nearest_caption"),
        "rank": clip.get("rank"),
        "n_captions": clip.get("n_captions"),
        "scores": list(values.items()),
    }
