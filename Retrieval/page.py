"""Figures of a retrieval and its page: per query the true clip and the first that were retrieved, playing."""

import textwrap

import numpy as np

from common.figures import panels, save_figure
from common.pages import relative, render

COLOURS = {"full": "#2457a6", "control": "#8a929b", "oracle": "#1a7f47", "chance": "#d98c2b"}


def panels_of_directions(title, found):
    """A figure with a panel for each direction: the figure, and [(axis, direction, entry)]."""
    figure, axes = panels(len(found), 5.6, 3.2, columns=1)
    figure.suptitle(textwrap.fill(title, 70), fontsize=10)
    return figure, [(axis, direction, entry) for axis, (direction, entry) in zip(axes, found.items(), strict=True)]


def draw_ranks(path, title, found):
    """Histogram of ranks, of each arm and by chance; `found` as `search` returns it."""
    figure, parts = panels_of_directions(title, found)
    for axis, direction, entry in parts:
        edges = np.linspace(0.5, entry["pool"] + 0.5, min(24, entry["pool"]) + 1)
        for arm, of_clips in entry["ranks"].items():
            axis.hist(of_clips, edges, color=COLOURS[arm], alpha=0.65, label=f"{arm}, {len(of_clips)} clips")
        by_chance = entry["chance_ranks"]
        axis.hist(by_chance, edges, weights=np.full(len(by_chance), len(of_clips) / len(by_chance)), histtype="step", color=COLOURS["chance"],
                  label="chance")  # fmt: skip
        axis.set(xlabel=f"rank among {entry['pool']}", ylabel="clips", title=direction)
        axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path, dpi=130)


def draw_top_k(path, title, found):
    """Share of clips found among the first k, over k, of each arm and by chance."""
    figure, parts = panels_of_directions(title, found)
    for axis, direction, entry in parts:
        ks = np.unique(np.geomspace(1, entry["pool"], 200).astype(int))
        for name, of_clips in {**entry["ranks"], "chance": entry["chance_ranks"]}.items():
            shares = np.searchsorted(np.sort(of_clips), ks, side="right") / len(of_clips)
            axis.plot(ks, 100 * shares, color=COLOURS[name], ls="--" if name == "chance" else "-", label=name)
        axis.set(xscale="log", xlabel=f"k, of {entry['pool']}", ylabel="found among the first k (%)", title=direction, ylim=(0, 102))
        axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path, dpi=130)


def score_rows(found):
    """Rows of the page's table: direction and arm, then the scores with their intervals."""
    rows = []
    for direction, entry in found.items():
        for arm, scores in entry["scores"].items():
            cells = [
                f"{100 * share:.1f} [{100 * scores['accuracy_interval'][k][0]:.1f}, {100 * scores['accuracy_interval'][k][1]:.1f}]"
                for k, share in scores["accuracy"].items()
            ]
            ranks = [f"{scores['mean_rank']:.1f}", f"{scores['median_rank']:g}", f"{scores['mean_reciprocal_rank']:.3f}"]
            rows.append([f"{direction}, {arm}", entry["pool"], *cells, *ranks])
        rows.append([f"{direction}, chance", entry["pool"], *(f"{100 * share:.1f}" for share in entry["chance"].values()), "", "", ""])
    return rows


def list_queries(path, gallery, ranks, nearest):
    """What the page shows of each test clip, list of dict; ranks (N,), the rest as in `build_page`."""
    rows, cosines = nearest

    def entry(row, cosine=None, own=False):
        movie = gallery.movies[row]
        return {
            "name": gallery.names[row],
            "caption": gallery.captions[row],
            "movie": relative(movie, path) if movie and movie.is_file() else "",
            "cosine": None if cosine is None else f"{cosine:.3f}",
            "own": own,
        }

    return [
        {
            "number": clip + 1,
            "rank": f"{ranks[clip]:g}",
            "good": bool(ranks[clip] <= rows.shape[1]),
            "truth": entry(clip),
            "retrieved": [entry(row, cosine, row == clip) for row, cosine in zip(rows[clip], cosines[clip], strict=True)],
        }
        for clip in range(len(rows))
    ]


def build_page(path, title, note, facts, gallery, found, nearest, report=None):
    """Write the page.

    Parameters
    ----------
    facts : dict
        of metrics.json
    gallery : Retrieval.galleries.Entries
        the test clips first
    found : dict
        as `search` returns it
    nearest : (array, shape (N, n), int; array, shape (N, n))
        entries that were retrieved first, and their cosines
    report : Path, optional
        the subject's report, linked
    """
    ranks = found["video from fMRI"]["ranks"][facts["arm"]]
    queries = list_queries(path, gallery, ranks, nearest)
    order = np.argsort(ranks, kind="stable")
    further = f", these and those of {', '.join(facts['distractors'])}" if facts["distractors"] else ""
    typical = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    return render(
        "retrieval.html",
        path,
        title=title,
        subtitle=f"{facts['clips']} test clips, searched among {facts['pool']} entries{further}; ties: {facts['ties']}; seed {facts['seed']}.",
        controlled=any("control" in entry["scores"] for entry in found.values()),
        note=note,
        pages=[("report", report), ("retrieval", None)] if report else [],
        docs=("retrieval",),
        header=[
            "",
            "pool",
            *(f"top-{k} (%)" for k in next(iter(found.values()))["chance"]),
            "mean rank",
            "median rank",
            "mean reciprocal rank",
        ],
        rows=score_rows(found),
        repeated=facts["repeated_captions"],
        pool=facts["pool"],
        typical=[(role, queries[clip]) for role, clip in typical.items()],
        queries=queries,
        figures=[("top_k.png", "Clips found among the first k."), ("ranks.png", "Ranks of the true entries.")],
        files=[(name, name) for name in ("metrics.json", "ranks.csv")],
    )
