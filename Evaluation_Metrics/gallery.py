"""gallery.html of a reconstruction: all its clips to sort, filter, play and compare with other reconstructions of the subject.

Made from the manifests, from the movie strips that the reconstructions wrote and from what evaluate.py found, without
reading a frame, so that it can be made again whenever metrics arrive. The page holds all that it shows as one JSON
block; of the pictures it loads those that are in sight.
"""

import contextlib
import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from common.datasets import DATASETS
from common.files import UserError, one_line, read_json
from common.pages import relative, render
from Evaluation_Metrics.movie_strip import STRIP_FRAME, zoom
from Evaluation_Metrics.results import LOWER_IS_BETTER, differing, read_evaluation, short

_WORD = (str, type(None))
_MANIFEST = {
    "name": str,
    "clips": {
        ...: {"stem": str, "caption?": _WORD, "rank?": int, "n_captions?": int, "nearest_captions?": {...: (float, int)}, "size?": int}
    },
    "folders": {...: (str, type(None))},
    "settings": dict,
    "split?": _WORD,
    "dataset?": _WORD,
    "arm?": _WORD,
    "ablate?": _WORD,
    "checkpoints?": {...: {"sha256?": str, "epoch?": (int, type(None))}},
}
SMALL = 256  # pixels below which pictures are enlarged without smoothing
RANKING = ("SSIM", "PSNR", "CLIP-pcc", "2-way-I")  # the first that was scored says which clips are best, median and worst
ARMS = {
    "full": "Decoded from the fMRI.",
    "control": "Control: the decoders were trained on fMRI whose rows were permuted over clips.",
    "oracle": "Oracle: instead of fMRI, the decoders saw the true features of the clips.",
}
DECODERS = ("semantic", "structure", "CMG")
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

    `values` {clip: {metric: float}}. Returns the metric by which they were ranked, and {clip: words that say why it is shown}; None
    and the first three clips where there are no metrics.
    """
    clips = sorted(clips)
    for metric in RANKING:
        ranked = [clip for clip in clips if np.isfinite(values.get(clip, {}).get(metric, np.nan))]
        if ranked:
            ranked.sort(key=lambda clip: -values[clip][metric])
            places = {"best": 0, "median": len(ranked) // 2, "worst": -1}
            chosen = {}
            for word, place in places.items():
                chosen.setdefault(ranked[place], f"{word}, {metric} {short(values[ranked[place]][metric])}")
            return metric, chosen
    return None, dict.fromkeys(clips[:3], "")


# ---------------------------------------------------------------------------------------------- the page


def note_of(facts):
    """What pages must say of a result's data: the note of its data set, where they are simulated."""
    known = DATASETS.get(facts.get("dataset"))
    return "" if not facts.get("phantom") else known.note if known else "Simulated data. Nothing here is a result about brains."


def trained(manifest):
    """How long the decoders of a reconstruction were trained, a sentence; "" where it is not known."""
    entries = manifest.get("checkpoints") or {}
    epochs = [f"{entries[name]['epoch']} ({name})" for name in DECODERS if entries.get(name, {}).get("epoch") is not None]
    return f"Epochs of its decoders: {', '.join(epochs)}." if epochs else ""


def about(manifest):
    """Sentences on what a reconstruction was made from."""
    areas = [
        f"The decoders were given {words} {' '.join(manifest['settings'][flag])}."
        for flag, words in (("roi", "only the voxels of"), ("without_roi", "all voxels but those of"))
        if isinstance(manifest["settings"].get(flag), list)
    ]
    elsewhere = f"Stage 1 by another decoder, of {arrays}." if (arrays := manifest["settings"].get("stage1_from")) else None
    files = {name: Path(str(entry.get("file"))) for name, entry in (manifest.get("checkpoints") or {}).items() if name in DECODERS}
    named = [f"Its {name} decoder is {path}." for name, path in files.items() if "checkpoints" not in path.parts]
    parts = (ARMS.get(manifest.get("arm")), elsewhere, *named, trained(manifest), *areas, ABLATIONS.get(manifest.get("ablate")))
    return [words for words in parts if words]


def build_gallery(folder, metrics_folder=None):
    """Write gallery.html into a reconstruction's folder, with what its evaluation's folder holds; returns the page's path."""
    folder = Path(folder)
    path = folder / "gallery.html"
    own = Shown.read(folder, metrics_folder)
    metric, chosen = typical_clips(own.clips, own.values)
    means = own.facts["rows"][own.facts["method"]] if {"rows", "method"} <= own.facts.keys() else {}
    return render(
        "gallery.html",
        path,
        title=_title(own.manifest),
        subtitle=_subtitle(own.manifest, len(own.clips)),
        note=note_of(own.manifest),
        pages=subject_pages(folder.parent, folder.name),
        docs=("reconstruction", "evaluation", "beyond"),
        name=own.manifest["name"],
        metrics=[(name, row["mean"], row["se"], row["n"], own.facts.get("chance", {}).get(name)) for name, row in means.items() if row],
        protocol=". ".join(filter(None, [own.facts.get("title", ""), own.facts.get("stand_ins", "")])),
        files=result_files(metrics_folder, path) if metrics_folder else [],
        semantics=_semantics(own.manifest, own.clips),
        settings=_settings(own.manifest),
        checkpoints=[
            (name, entry.get("file"), entry.get("sha256", "")[:16]) for name, entry in own.manifest.get("checkpoints", {}).items()
        ],
        data=page_data(path, [own, *_beside(own, metrics_folder)], metric, chosen),
    )


@dataclass(frozen=True)
class Shown:
    """A reconstruction that the page shows."""

    folder: Path
    manifest: dict
    clips: dict  # number -> entry of the manifest
    values: dict  # number -> {metric: float}
    facts: dict  # of its evaluation
    remark: str = ""  # why it has no values

    @classmethod
    def read(cls, folder, metrics_folder):
        manifest = read_manifest(folder)
        clips = {int(number): manifest["clips"][number] for number in sorted(manifest["clips"], key=int)}
        evaluation = Path(metrics_folder or folder, "metrics.json")
        facts = read_evaluation(evaluation) if metrics_folder and evaluation.exists() else {}
        return cls(folder, manifest, clips, read_clip_values(metrics_folder) if metrics_folder else {}, facts)


def _beside(own, metrics_folder):
    """The subject's other reconstructions of the same clips; without values where these were scored in another way."""
    others = []
    if own.folder.parent.parent.name != "recons":
        return others
    for path in sorted(own.folder.parent.glob("*/manifest.json")):
        with contextlib.suppress(UserError):  # a damaged one is named where it is the page's own
            if path.parent != own.folder:
                other = Shown.read(path.parent, metrics_folder and Path(metrics_folder).parent / path.parent.name)
                if all(other.manifest.get(key) == own.manifest.get(key) for key in ("dataset", "subject", "split")):
                    others.append(other)
    for i, other in enumerate(others):
        if own.facts and other.facts and (found := differing(own.facts, other.facts, ignore=("clips",))):
            others[i] = replace(other, values={}, remark=f"Its metrics are not shown: scored with another {', '.join(found)}.")
    return others


def page_data(page, shown, ranked_by, typical):
    """What the page's script reads; lists over clips have one entry for each of `numbers`, None where a reconstruction lacks it.

    `shown` has the page's own first; `ranked_by` and `typical` are those of `typical_clips`.
    """
    numbers = sorted({number for one in shown for number in one.clips})
    captions = {number: clip["caption"] for one in shown for number, clip in one.clips.items() if clip.get("caption")}
    sentences = {words: None for one in shown for clip in one.clips.values() for words in clip.get("nearest_captions", ())}
    place = {words: i for i, words in enumerate(sentences)}
    columns = {name: None for one in shown for scores in one.values.values() for name in scores}
    chance = {name: level for one in reversed(shown) for name, level in one.facts.get("chance", {}).items()}
    return {
        "numbers": numbers,
        "captions": [captions.get(number) for number in numbers],
        "ranked_by": ranked_by,
        "typical": [typical.get(number, "").partition(",")[0] or None for number in numbers],
        "sentences": list(sentences),
        "metrics": [{"name": name, "lower": name in LOWER_IS_BETTER, "chance": _rounded(chance.get(name))} for name in columns],
        "reconstructions": [_reconstruction(page, one, numbers, place, list(columns)) for one in shown],
    }


def _reconstruction(page, one, numbers, place, columns):
    """One reconstruction, as the page's script reads it; stems of pictures that are not there are None."""
    folders = {kind: one.folder / name for kind, name in one.manifest["folders"].items() if name}
    folders |= {kind: folders["strips"].with_name("strips_stage1") for kind in ["stage1"] if "strips" in folders}
    clips = [one.clips.get(number, {}) for number in numbers]
    size = next((clip["size"] for clip in clips if "size" in clip), STRIP_FRAME)

    def pictures(kind, stem="stem", suffix="png"):
        there = set(os.listdir(folders[kind])) if folders.get(kind) and folders[kind].is_dir() else ()
        names = [f"{clip.get(stem)}.{suffix}" for clip in clips]
        return (
            {"folder": relative(folders[kind], page), "files": [quote(name) if name in there else None for name in names]}
            if there
            else None
        )

    return {
        "name": one.manifest["name"],
        "about": " ".join([*about(one.manifest), *filter(None, [one.remark])]),
        "small": is_small({"size": size}),
        "zoom": zoom(size),
        "rows": 2 if "with_gt" in folders else 1,
        "made": [number in one.clips for number in numbers],
        "strips": pictures("strips"),
        "stage1": pictures("stage1"),
        "movies": pictures("recons", suffix="gif"),
        "pairs": pictures("with_gt", "pair", "gif"),
        "ranks": [clip.get("rank") for clip in clips],
        "captions": next((clip["n_captions"] for clip in clips if clip.get("n_captions")), None),
        "nearest": [[[place[words], cosine] for words, cosine in clip.get("nearest_captions", {}).items()] for clip in clips],
        "values": {name: [_rounded(one.values.get(number, {}).get(name)) for number in numbers] for name in columns if one.values},
    }


def _rounded(value):
    """A number with six digits; None for what is none, as JSON has no NaN."""
    return float(f"{value:.6g}") if value is not None and np.isfinite(value) else None


def _title(manifest):
    who = [manifest.get("dataset"), manifest.get("subject") is not None and f"subject {manifest['subject']}"]
    return f"{', '.join(word for word in who if word) or 'reconstruction'}: {manifest['name']}"


def _subtitle(manifest, n):
    of = f" of {manifest['n_clips']}" if manifest.get("n_clips", n) != n else ""
    kind = f" {manifest['split']}" if manifest.get("split") else ""
    unknown = "" if manifest["folders"].get("with_gt") else " The true clips are not known."
    return f"{n}{of}{kind} clips.{unknown}"


def subject_pages(recons, here=""):
    """A subject's report and galleries, where they are, as `pages` of `render`; `here` names the reconstruction whose gallery the page is.

    `recons` is recons/sub{ID}; any other folder has no pages.
    """
    if recons.parent.name != "recons":
        return []
    report = recons.parent.parent / f"report_{recons.name}.html"
    names = sorted({path.parent.name for path in recons.glob("*/manifest.json")})  # each has its gallery, or gets it next
    galleries = [(name, None if name == here else recons / name / "gallery.html") for name in names]
    return [("report", report)] * report.is_file() + [("galleries:", "")] * bool(names) + galleries


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
