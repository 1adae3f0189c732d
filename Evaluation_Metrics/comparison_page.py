"""gallery.html of a comparison: the differences, and the clips where two methods differ most."""

from pathlib import Path

import numpy as np

from common.pages import relative, render
from Evaluation_Metrics.gallery import is_small
from Evaluation_Metrics.movie_strip import write_strip, zoom


def side(letter, name):
    """Words for A or B: letter and name, once where they are the same."""
    return letter if name == letter else f"{letter}: {name}"


def who_is_who(names):
    """Which method A is and which B; "" where they are called so."""
    return "; ".join(side(letter, name) for letter, name in zip("AB", names, strict=True)) if [*names] != ["A", "B"] else ""


def most_different(a, b, n):
    """Indices of the clips where two methods differ most, largest first; clips without a value are left out."""
    gap = np.abs(a - b)
    order = np.argsort(-np.nan_to_num(gap, nan=-1.0), kind="stable")
    return [int(i) for i in order[:n] if not np.isnan(gap[i])]


def write_strips(pictures):
    """Write movie strips, {path: (reader, clip)}; returns the width of a frame, which is that of all, as they are read in one form."""
    width = None
    for picture, (reader, clip) in pictures.items():
        frames = reader.read(clip)
        write_strip(picture, frames)
        width = frames.shape[2]
    return width


def build_comparison(out, title, names, table, clips, pairs, readers, *, n_clips=4, lower_is_better=(), note="", pages=(), made=()):
    """Write gallery.html, and below strips/ the pictures that it shows; returns the page's path.

    Parameters
    ----------
    table : list of dict
        metric, clips, a, b, difference, low, high, better; a `note` says how the two sides differ
    clips : array, (N,) int
        clip numbers
    pairs : dict
        metric to show -> (values of A, values of B), (N,) each
    readers : dict
        "truth", "A", "B" -> reader of clips
    n_clips : int
        clips per metric
    pages : sequence of (str, Path)
        other pages, linked on top
    made : sequence of str
        what A and B were made from, as far as it is known
    """
    out = Path(out)
    path = out / "gallery.html"
    words = {"truth": "ground truth", "A": side("A", names[0]), "B": side("B", names[1])}
    shown = {metric: most_different(a, b, n_clips) for metric, (a, b) in pairs.items()}
    strips = {(i, who): out / "strips" / f"clip{clips[i]}_{who}.png" for indices in shown.values() for i in indices for who in words}
    width = write_strips({picture: (readers[who], int(clips[i])) for (i, who), picture in strips.items()})

    def card(i, a, b):
        pictures = [(relative(strips[i, who], path), what) for who, what in words.items()]
        facts = [("A", float(a[i])), ("B", float(b[i])), ("A − B", float(a[i] - b[i]))]
        form = {"zoom": zoom(width), "small": is_small({"size": width})}
        return {"number": int(clips[i]), "pictures": pictures, "facts": facts, **form}

    return render(
        "comparison.html",
        path,
        title=title,
        subtitle=who_is_who(names),
        note=note,
        pages=pages,
        docs=("evaluation", "beyond"),
        table=table,
        made=[f"{letter}: {words}" for letter, words in zip("AB", made, strict=False) if words],
        remarks=list(dict.fromkeys(row["note"] for row in table if row.get("note"))),
        lower_is_better=lower_is_better,
        metrics=[(metric, [card(i, *pairs[metric]) for i in indices]) for metric, indices in shown.items() if indices],
        files=[(name, name) for name in ("comparison.md", "comparison.csv", "differences.csv") if (out / name).exists()],
    )
