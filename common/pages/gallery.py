"""gallery.html of a reconstruction: ground truth and reconstruction side by side, captions, metrics.

Made from the manifest, from pictures that the reconstruction wrote and from the per-clip tables of the metrics, without
reading a frame, so that it can be made again whenever metrics arrive.
"""

import csv
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from common import pages
from common.files import atomic_path, read_json, write_text

STRIP_FRAME = 96  # pixels to which a frame of a film strip is shrunk
SMALL = 256  # pixels below which pictures are enlarged without smoothing
ARMS = {
    "control": "Control: the decoders were trained on fMRI whose rows were permuted over clips.",
    "oracle": "Oracle: instead of fMRI, the decoders saw the true features of the clips.",
}
ABLATIONS = {
    "semantic": "Ablation: the prompt is empty instead of decoded.",
    "structure": "Ablation: the first frame is the mean latent of the training clips.",
    "motion": "Ablation: the first frame is repeated eight times. (The paper replaced the motion generator by plain MLPs instead.)",
}


# ---------------------------------------------------------------------------------------------- pictures


def write_strip(path, gt, frames):
    """Write a film strip: all frames in a row, ground truth above, reconstruction below.

    Parameters
    ----------
    path : of the PNG
    gt, frames : (F, H, W, 3) uint8 of one shape
    """
    strips = []
    for clip in (gt, frames):
        if clip.shape[2] > STRIP_FRAME:
            size = (STRIP_FRAME, round(STRIP_FRAME * clip.shape[1] / clip.shape[2]))
            clip = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip])
        opaque = np.concatenate([clip, np.full_like(clip[..., :1], 255)], axis=-1)
        gap = max(1, clip.shape[2] // 32)  # transparent, below and right of every frame
        strips.append(np.concatenate(list(np.pad(opaque, ((0, 0), (0, gap), (0, gap), (0, 0)))), axis=1))  # h (f w) c
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(strips)).save(temporary)


# ---------------------------------------------------------------------------------------------- metrics


def read_clip_values(folder):
    """Per-clip values of the metrics, out of all CSV files of a folder whose first column is `clip`.

    Parameters
    ----------
    folder : path, need not exist

    Returns
    -------
    dict, clip number -> {metric: float}
    """
    values = {}
    for path in sorted(Path(folder).glob("*.csv")):
        with open(path, newline="") as handle:
            reader = csv.DictReader(handle)
            if not reader.fieldnames or reader.fieldnames[0] != "clip":
                continue
            for row in reader:
                numbers = {name: _number(text) for name, text in row.items() if name and name != "clip"}
                values.setdefault(int(row["clip"]), {}).update({name: number for name, number in numbers.items() if number is not None})
    return values


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


# ---------------------------------------------------------------------------------------------- the page


def build_gallery(folder, metrics_folder=None):
    """Write gallery.html into a reconstruction's folder.

    Parameters
    ----------
    folder : path that holds manifest.json
    metrics_folder : path of per-clip CSV files, optional

    Returns
    -------
    Path of the page
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    clips = {int(number): clip for number, clip in manifest["clips"].items()}
    values = read_clip_values(metrics_folder) if metrics_folder else {}
    evaluation = Path(metrics_folder or folder, "metrics.json")
    facts = read_json(evaluation) if metrics_folder and evaluation.exists() else {}
    path = folder / "gallery.html"
    whose = f"subject {manifest['subject']}" if manifest["phantom"] else f"{manifest['dataset']}, subject {manifest['subject']}"
    title = f"Reconstructions '{manifest['name']}', {whose}"
    notes = [note for note in (ARMS.get(manifest["arm"]), ABLATIONS.get(manifest["ablate"])) if note]
    cards = [_card(folder, path, manifest, number, clips[number], values.get(number, {})) for number in sorted(clips)]
    content = [
        *(pages.paragraph(note) for note in notes),
        *_summary(manifest, clips, values, facts.get("chance", {}), facts.get("title")),
        pages.section("Clips", pages.grid(cards, least="34rem")),
    ]
    subtitle = (
        f"{len(clips)} of {manifest['n_clips']} {manifest['split']} clips. Left or above: ground truth; right or below: reconstruction."
    )
    write_text(path, pages.page(title, content, subtitle=subtitle, phantom=manifest["phantom"]))
    return path


def _summary(manifest, clips, values, chance, protocol):
    """Mean metrics with chance levels, what they are by, settings and checkpoints."""
    parts = []
    scored = [values[number] for number in clips if number in values]
    names = dict.fromkeys(name for row in scored for name in row)
    rows = [(*_mean_row(name, [row.get(name, np.nan) for row in scored]), chance.get(name)) for name in names]
    if rows:
        parts.append(pages.table(("metric", "mean", "standard error", "clips", "chance"), rows, protocol))
    ranks = [clip["rank"] for clip in clips.values() if clip.get("rank")]
    if ranks:
        n = next(clip["n_captions"] for clip in clips.values() if clip.get("rank"))
        first = sum(rank == 1 for rank in ranks)
        parts.append(pages.paragraph(
            f"Decoded semantics against the {n} different captions of the {manifest['split']} clips: the clip's own caption is the nearest "
            f"for {first} of {len(ranks)} clips (by chance {len(ranks) / n:.1f}), median rank {np.median(ranks):g}."
        ))  # fmt: skip
    checkpoints = [(name, pages.code(entry["file"]), pages.code(entry["sha256"][:16])) for name, entry in manifest["checkpoints"].items()]
    settings = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in manifest["settings"].items()}
    seconds = manifest["seconds_per_clip"]
    facts = settings | {"seconds per clip": f"{seconds:.2f}" if seconds else None}
    return [*parts, pages.details("Settings and checkpoints", pages.facts(facts), pages.table(("model", "file", "SHA-256"), checkpoints))]


def _mean_row(name, values):
    """Name, mean, standard error and number of the values that are there."""
    values = np.array(values)[np.isfinite(values)]
    n = len(values)
    return name, values.mean() if n else None, float(f"{values.std(ddof=1) / n**0.5:.2g}") if n > 1 else None, n


def _card(folder, page_path, manifest, number, clip, values):
    """One clip."""
    pixelated = clip["size"] < SMALL
    pair = folder / manifest["folders"]["with_gt"] / f"{clip['pair']}.gif"
    strip = folder / manifest["folders"]["strips"] / f"{clip['stem']}.png"
    what = clip.get("caption") or f"clip {number}"
    source = pages.relative(pair, page_path)
    halves = [
        pages.half(source, side, name, alt=f"{name}: {what}", pixelated=pixelated)
        for side, name in (("left", "ground truth"), ("right", "reconstruction"))
    ]
    still = pages.figure(pages.relative(strip, page_path), alt=f"frames of {what}", pixelated=pixelated, width="100%")
    words = []
    if clip.get("caption"):
        words.append(("caption", clip["caption"]))
    if clip.get("nearest_caption"):
        rank = pages.badge(f"own caption: rank {clip['rank']} of {clip['n_captions']}", clip["rank"] == 1 or None)
        words.append(("nearest to the decoded semantics", pages.Html(f"{pages.text(clip['nearest_caption'])}<br>{rank}")))
    beside = [pages.facts(words, stacked=True), *([pages.facts(values)] if values else [])]
    return pages.card(
        pages.tag("h3", f"Clip {number}"),
        pages.beside(pages.tag("div", *halves, class_="halves"), pages.tag("div", *beside)),
        still,
        id=f"clip{number}",
    )
