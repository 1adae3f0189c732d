"""The report of a subject and the overview of a data set: static, they open from disk, made from the files that the stages left."""

import math
from pathlib import Path

from common.files import read_json
from common.layout import DEFAULT_SEED, arm_name, reconstruction_name
from common.pages import relative, render
from Evaluation_Metrics.compare import compare_columns
from Evaluation_Metrics.gallery import (
    ARMS,
    about,
    build_gallery,
    is_small,
    read_clip_values,
    read_manifest,
    result_files,
    trained,
    typical_clips,
)
from Evaluation_Metrics.results import PROTOCOLS, align, differing, made_by_phantom, read_evaluation, read_result, short

EXPLAINED_IN = ("evaluation", "reconstruction", "retrieval", "explain", "beyond", "glossary", "troubleshooting")  # pages in docs/
HEADLINES = 6  # metrics on the overview's card of a subject
CLAIM_FIGURES = {  # below explain/, shown beside a claim's own
    "localisation": [f"Cortical_visualization/{name}/cortex.png" for name in ("CMG", "semantic_rms")],
    "shuffle test": ["shuffle_test/shuffle_test.png"],
}
FIGURES = {  # of an explanation, and what they show
    "shuffle_test.png": "p of the frames' order", "accuracy.png": "accuracy of decoders by area", "noise_ceiling.png": "noise ceiling",
    "cortex.png": "importance of vertices", "roi_ranking.png": "importance of areas",
}  # fmt: skip
FILES = {
    "accuracy.md": "table", "accuracy.csv": "CSV", "cortex.svg": "SVG", "flat.png": "flat map", "noise_ceiling_flat.png": "flat map",
    "areas.csv": "all areas", "importance.dscalar.nii": "CIFTI", "EPE/metrics.json": "EPE", "CLIP-pcc/metrics.json": "CLIP-pcc",
}  # fmt: skip


_PREPARATION = {"vertices?": {"all": int, "selected": [int], "what?": str}, "inter_repetition_correlation?": dict}
_CHECKS = {"seed?": int, "checks?": [{"claim": str, "held": (bool, type(None))}]}


def _read(path, kind=dict):
    return read_json(path, kind) if path.is_file() else None


def _words(path):
    return path.stem.replace("_", " ")


# ---------------------------------------------------------------------------------------------- what was found


def _figure_words(path):
    """Name of a figure; with its folder's where that says more."""
    return _words(path) if path.stem != "cortex" else f"{_words(path.parent)}: importance of vertices"


def _main_first(names, seed):
    """Names of reconstructions: those of this seed's arms first, then the others."""
    arms = [reconstruction_name(arm, seed=seed) for arm in ARMS]
    return sorted(names, key=lambda name: (arms.index(name) if name in arms else len(arms), name))


def _reconstructions(layout, subject, seed):
    """Folders and manifests of a subject's reconstructions."""
    parent = layout.recons(subject, "any").parent
    names = _main_first([path.parent.name for path in parent.glob("*/manifest.json")], seed)
    return [(parent / name, read_manifest(parent / name)) for name in names]


def _evaluations(layout, subject, seed):
    """Folders and facts of a subject's evaluations, by the main protocol and by others."""
    parent = layout.metrics(subject, "any").parent
    folders = [parent / name for name in _main_first([path.name for path in parent.glob("*") if path.is_dir()], seed)]
    places = [place for folder in folders for place in (folder, *sorted(path.parent for path in folder.glob("*/metrics.json")))]
    found = [(place, read_evaluation(place / "metrics.json")) for place in places if (place / "metrics.json").is_file()]
    return [(place, facts) for place, facts in found if facts and {"rows", "columns", "method"} <= set(facts)]


def _checks(layout, dataset, subject, seed):
    """Names and facts of the checks against a known truth, those of this seed first."""
    found = []
    for stem in (Path(script).stem for script in dataset.checks):
        names = sorted(path.parent.name for path in layout.metrics(subject, "any").parent.glob(f"{stem}*/metrics.json"))
        main = arm_name(stem, seed)
        found += [(name, read_json(layout.metrics(subject, name) / "metrics.json", _CHECKS)) for name in [main] * (main in names) + names]
    found = dict(found).items()
    return [(name, facts) for name, facts in found if "checks" in facts]


def claims_held(layout, dataset, subject, seed):
    """Words on how many claims hold of a data set whose truth is known, list of str; those of `seed` first."""
    return [words for words, _ in _summary(_checks(layout, dataset, subject, seed))]


def _summary(checks):
    """Badges that say how many claims hold, (words, good)."""
    badges = []
    for _, facts in checks:
        held = [check["held"] for check in facts["checks"] if check["held"] is not None]
        whose = f", seed {facts['seed']}" if len(checks) > 1 else ""
        badges += [(f"{sum(held)} of {len(held)} claims hold{whose}", all(held))] * bool(held)
    return badges


# ---------------------------------------------------------------------------------------------- the report's parts


def _decimals(numbers):
    """Decimals of the numbers of a row: four digits of the largest, at most four decimals."""
    largest = max((abs(number) for number in numbers if number), default=0)
    return 4 if largest < 1 else max(0, 3 - int(math.log10(largest)))


def _claims(layout, dataset, subject, checks, page):
    """Tables of claims, the rows of one claim together, and its figure."""
    parts = []
    for name, facts in checks:
        folder = layout.metrics(subject, name)
        claims = {}
        for check in facts["checks"]:
            new = {"name": check["claim"], "note": check.get("note", ""), "rows": [], "figures": []}
            claim = claims.setdefault(check["claim"], new)
            row = {key: check.get(key) for key in ("held", "statement", "value", "se", "bar", "margin", "chance", "n", "compared_with")}
            numbers = [check.get(key) for key in ("value", "control", "chance")]
            claim["rows"].append(row | {"reference": check.get("control"), "decimals": _decimals(numbers)})
        for claim in claims.values():
            further = (layout.explain(subject) / path for path in CLAIM_FIGURES.get(claim["name"], ()))
            paths = [path for path in (folder / f"{claim['name'].replace(' ', '_')}.png", *further) if path.is_file()]
            claim["figures"] = [(relative(path, page), f"{dataset.label}{_figure_words(path)}", path.parent != folder) for path in paths]
        clips = f", {facts['n_clips']} reconstructed clips" if facts.get("n_clips") else ""
        parts.append({
            "name": name,
            "claims": list(claims.values()),
            "about": facts.get("about", ""),
            "caption": f"{dataset.name}, subject {subject}, seed {facts['seed']}{clips}.",
        })  # fmt: skip
    return parts


def _cards(layout, dataset, found, subject, page):
    """A card for every reconstruction, with strips of the same clips, and the sentence that says which."""
    cards, chosen, metric = [], {}, None
    for folder, manifest in found:
        clips = {int(number): clip for number, clip in manifest["clips"].items()}
        values = read_clip_values(layout.metrics(subject, folder.name))
        if not chosen:
            first, (metric, chosen) = folder.name, typical_clips(clips, values)
        shown = {number: words for number, words in chosen.items() if number in clips}
        strips, link = [], relative(folder / "gallery.html", page)
        for number in shown or typical_clips(clips, values)[1]:
            path = folder / (manifest["folders"].get("strips") or "") / f"{clips[number]['stem']}.png"
            score = values.get(number, {}).get(metric)
            words = f"{dataset.label}clip {number}" + (f", {metric} {short(score)}" if score is not None else "")
            if path.is_file():
                strips.append((relative(path, page), words, is_small(clips[number]), f"{link}#clip={number}"))
        cards.append({"name": folder.name, "link": link, "about": " ".join([*about(manifest), f"{len(clips)} clips."]), "strips": strips})
    rows = "True frames above, reconstructed frames below. " if any(m["folders"].get("with_gt") for _, m in found) else ""
    which = f"the best, the median and the worst clip of {first} by {metric}" if metric else "the first clips"
    caution = " SSIM looks at texture everywhere: its best clip can lack the object." if metric == "SSIM" else ""
    return cards, f"{rows}Shown for every reconstruction: {which}.{caution} Names lead to the galleries of all clips." if cards else ""


def _tables(evaluations):
    """Tables of metrics; what was scored on the same clips in the same way stands in one."""
    groups = []
    for _, facts in evaluations:
        alike = [members for members in groups if members[0]["columns"] == facts["columns"] and not differing(members[0], facts)]
        groups += [] if alike else [[]]
        (alike or groups)[-1].append(facts)
    tables = []
    for members in groups:
        first, rows, skipped = members[0], {}, {}
        for facts in members:
            of_method = {f"{name} (of {facts['method']})" if name == "clip-shuffled" else name: row for name, row in facts["rows"].items()}
            rows = {**rows, **{name: row for name, row in of_method.items() if name not in rows}}
            skipped |= facts.get("not_scored", {})
        columns, lower = first["columns"], first.get("lower_is_better", ())
        levels = [("chance", first.get("chance", {})), ("a still", first.get("still", {}))]
        title = first.get("title", "").replace(f", {first['method']},", ",")
        about = PROTOCOLS.get(first.get("protocol"), {}).get("about", "")
        caption = f"{title}{about and f' ({about})'}. Mean ± standard deviation over clips; below the reconstructions, free baselines."
        seed = f"Seed {first['seed']}." if "seed" in first else ""
        tables.append({
            "columns": [column + " ↓" * (column in lower) for column in columns],
            "rows": [_table_row(name, rows[name], columns) for name in _methods_first(rows, [facts["method"] for facts in members])],
            "levels": [(words, [level.get(column) for column in columns]) for words, level in levels if level.keys() & set(columns)],
            "caption": " ".join(filter(None, [caption, seed, first.get("stand_ins"), made_by_phantom(first), *(f"{column}: {reason}." for column, reason in skipped.items())])),
        })  # fmt: skip
    return tables


def _against_control(layout, subject, seed, label):
    """Sentences on what the arm full does better than the control, clip by clip; "" where the two were not scored alike."""
    folders = [layout.metrics(subject, reconstruction_name(arm, seed=seed)) for arm in ("full", "control")]
    if not all((folder / name).is_file() for folder in folders for name in ("metrics.json", "per_clip.npz")):
        return ""
    (full, *own), (control, *other) = map(read_result, folders)
    clips, pairs = align(own, other)
    if not len(clips) or differing(full, control, ignore=("clips",)):
        return ""
    found = {"A": [], None: [], "B": []}
    for row in compare_columns(pairs, seed):
        found[row["better"]].append(row["metric"])
    words = [f"{how} by {', '.join(found[who])}" for who, how in (("A", "better"), (None, "undecided"), ("B", "worse")) if found[who]]
    nothing = "" if found["A"] else " Nothing here shows that the clips were read from the fMRI."
    how = f"protocol {full['protocol']}, {len(clips)} clips, 95 % bootstrap interval of the paired difference, not corrected for the number of metrics"
    return f"{label}{full['method']} against {control['method']}, whose decoders learned from fMRI of other clips ({how}): {'; '.join(words)}.{nothing}"


def _methods_first(rows, methods):
    return [*methods, *(name for name in rows if name not in methods)]


def _table_row(name, summaries, columns):
    cells = [summary if summary and summary["n"] else None for summary in map(summaries.get, columns)]
    return {"name": name, "clips": max((cell["n"] for cell in cells if cell), default=None), "cells": cells}


def _fmri(facts):
    """A sentence on the fMRI, from the report of its preparation."""
    if not facts or "vertices" not in facts:
        return ""
    repeats = facts.get("inter_repetition_correlation", {}).get("selected")  # not every data set has repetitions
    agreement = f"; their repetitions correlate with r = {repeats['mean']:.3f} on average" if repeats else ""
    selected = " or ".join(map(str, facts["vertices"]["selected"]))
    standardised = f" Test data standardised by their {facts['test_norm']} statistics." if "test_norm" in facts else ""
    return f"{selected} of {facts['vertices']['all']} {facts['vertices'].get('what', 'vertices')} selected{agreement}.{standardised}"


def _explained(layout, dataset, subject, page):
    """Cards of the explanations: (title, its page or "", figures, further files)."""
    root, cards = layout.explain(subject), []
    for folder in [root / "shuffle_test", root / "roi_accuracy", *sorted((root / "Cortical_visualization").glob("*"))]:
        figures = [
            (relative(folder / name, page), f"{dataset.label}{words}") for name, words in FIGURES.items() if (folder / name).is_file()
        ]
        links = [(words, relative(folder / name, page)) for name, words in FILES.items() if (folder / name).is_file()]
        turned = next((relative(path, page) for path in sorted(folder.glob("*.html"))), "")
        cards += [(_words(folder), turned, figures, links)] * bool(figures)
    return cards


def _searched(layout, dataset, subject, page):
    """Cards of the retrieval results, as those of `_explained`."""
    found = sorted(layout.retrieval(subject).glob("*/gallery.html"))
    figure = {path: path.with_name("top_k.png") for path in found if path.with_name("top_k.png").is_file()}
    words = f"{dataset.label}share of clips found"
    return [(_words(path.parent), relative(path, page), [(relative(top, page), words)], []) for path, top in figure.items()]


def _times(timings):
    if not timings:
        return {}
    rows = [(name, entry["stage"], entry["seconds"], entry["core_seconds"], entry["peak_GB"]) for name, entry in timings.items()]
    total = sum(entry["core_seconds"] for entry in timings.values())
    return {"rows": rows, "caption": f"{total / 60:.1f} core-minutes in all. Peak memory is that of the script's largest process."}


def _metric_files(layout, evaluations, checks, subject, page):
    """Files that hold the numbers, (name, links)."""
    names = [(folder.relative_to(layout.metrics(subject, "any").parent).as_posix(), folder) for folder, _ in evaluations]
    entries = [
        (name, result_files(folder, page)) for name, folder in [*names, *((name, layout.metrics(subject, name)) for name, _ in checks)]
    ]
    tables = sorted(layout.metrics(subject, "any").parents[1].glob("tables*/*.md"))
    entries.append(("tables like the paper's", [(_words(path), relative(path, page)) for path in tables]))
    return [(name, links) for name, links in entries if links]


# ---------------------------------------------------------------------------------------------- the pages


def build_report(layout, dataset, subject, seed, timings):
    """Write report_sub{ID}.html and, with all metrics, the galleries that it links; returns the page's path.

    Reconstructions of `seed` stand first; `timings` {call of a script: stage, seconds, core_seconds, peak_GB}.
    """
    page = layout.subject_report(subject)
    found, evaluations = _reconstructions(layout, subject, seed), _evaluations(layout, subject, seed)
    checks = _checks(layout, dataset, subject, seed)
    cards, legend = _cards(layout, dataset, found, subject, page)
    maps = sorted((layout.fmri_report(subject).parent / "figures").glob("*.png"))
    trained = layout.root / "checkpoints" / f"sub{subject}"
    arms = _main_first([path.name for path in trained.glob("*")], seed)
    losses = [path for arm in arms for path in sorted((trained / arm / "figures").glob("*.png"))]
    others = [layout.recons(other, "any").parent for other in dataset.subjects if other != subject]
    overview = [("all subjects", layout.report)] if any(folder.is_dir() for folder in others) else []
    render(
        "report.html",
        page,
        title=f"{dataset.name}, subject {subject}: report",
        subtitle=f"Mind-Animator, seed {seed}",
        note=dataset.note,
        pages=[
            *overview,
            ("report", None),
            *[("galleries:", "")][: len(found)],
            *((folder.name, folder / "gallery.html") for folder, _ in found),
        ],
        docs=(dataset.name.lower(), *EXPLAINED_IN),
        summary=_summary(checks),
        checks=_claims(layout, dataset, subject, checks, page),
        reconstructions=cards,
        legend=legend,
        tables=_tables(evaluations),
        against=_against_control(layout, subject, seed, dataset.label),
        metric_files=_metric_files(layout, evaluations, checks, subject, page),
        distributions=[
            (relative(folder / "distributions.png", page), f"{dataset.label}{facts['method']}: every clip")
            for folder, facts in evaluations[:1]
            if (folder / "distributions.png").is_file()
        ],
        explained=_explained(layout, dataset, subject, page),
        searched=_searched(layout, dataset, subject, page),
        fmri=_fmri(_read(layout.fmri_report(subject), _PREPARATION)),
        fmri_figures=[(relative(path, page), f"{dataset.label}{_words(path)}") for path in maps],
        losses=[(relative(path, page), f"{dataset.label}{path.parents[1].name}: {_words(path)}") for path in losses],
        times=_times(timings),
    )
    for folder, _ in found:
        build_gallery(folder, layout.metrics(subject, folder.name))
    return page


def _subject_card(layout, dataset, subject, page):
    """A subject on the overview: claims held, headline numbers, the median clip."""
    summary = _summary(_checks(layout, dataset, subject, DEFAULT_SEED))
    card = {"name": subject, "link": relative(layout.subject_report(subject), page), "summary": summary}
    evaluations = [
        facts for folder, facts in _evaluations(layout, subject, DEFAULT_SEED) if folder.parent == layout.metrics(subject, "any").parent
    ]
    facts = evaluations[0] if evaluations else {"columns": [], "rows": {}}
    means = facts["rows"].get(facts.get("method"), {})
    lines = [(column, f"{means[column]['mean']:.3f}") for column in facts["columns"] if (means.get(column) or {}).get("n")]
    evaluated = [facts.get("title"), "clips" in facts and f"{facts['clips']['scored']} clips"]
    card |= {"headline": lines[:HEADLINES], "evaluated": ", ".join(filter(None, evaluated)), "strip": None, "trained": ""}
    for folder, manifest in _reconstructions(layout, subject, DEFAULT_SEED)[:1]:
        clips, card["trained"] = {int(number): clip for number, clip in manifest["clips"].items()}, trained(manifest)
        metric, chosen = typical_clips(clips, read_clip_values(layout.metrics(subject, folder.name)))
        number = list(chosen)[len(chosen) // 2] if chosen else None
        path = number and folder / (manifest["folders"].get("strips") or "") / f"{clips[number]['stem']}.png"
        if path and path.is_file():
            words = f"{dataset.label}clip {number} of {folder.name}" + (f": {chosen[number]}" if metric else "")
            card["strip"] = (relative(path, page), words, is_small(clips[number]))
    return card


def build_overview(layout, dataset):
    """Write report.html: a card for every subject that has a report; it forwards straight to the only one. Returns the page's path."""
    page = layout.report
    subjects = [subject for subject in dataset.subjects if layout.subject_report(subject).is_file()]
    cards = [_subject_card(layout, dataset, subject, page) for subject in subjects]
    return render(
        "overview.html",
        page,
        title=f"{dataset.name}: reports",
        subtitle="Mind-Animator",
        note=dataset.note,
        forward=cards[0]["link"] if len(cards) == 1 else "",
        subjects=cards,
    )
