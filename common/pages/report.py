"""The report of a run: static, opens from disk, made from the files that the stages left."""

from common import pages
from common.files import read_json, write_text
from common.pages.gallery import build_gallery

CLAIM_NOTES = {
    "alignment": "Ridge regression from the selected vertices to the eight factors of a scene. Lags off the peak are not at chance, "
    "because the response lasts longer than a volume and undershoots.",
    "mask": "The control is the share of planted vertices in the whole cortex.",
    "semantics": "The semantic decoder's embedding, ranked by cosine against the CLIP text features of the test captions; equal captions count once. "
    "2-way-I: the three best classes of the true frame against one other, by the phantom's image classifier, after stage 2. Chance is 3/4; "
    "a picture that clearly shows another scene falls below it.",
    "structure": "The first frame as the structure decoder and the VAE give it, before Stable Diffusion.",
    "motion": "Still: the first decoded frame eight times. Direction: the sign of the mean flow of a reconstruction, over four directions. "
    "The end-point error alone would be improved by any smooth motion; the direction cannot be right by chance.",
    "legible": "The image classifier's 96 classes are summed to colours and to backgrounds, and the frames of a clip averaged.",
    "ceiling": "Oracle: the chain with the scenes' true features in place of fMRI.",
    "released recipe": "Inversion, start at timestep 981, guidance 12.5, as published; the phantom's own profile replaces it above, since on "
    "this small generator it makes motion worse.",
}
FIGURES = ("alignment", "semantics", "structure", "motion", "legible")


def _read(path):
    return read_json(path) if path.exists() else None


def _full_first(path):
    """Sorting key of files in folders named by reconstruction: 'full', or 'full_seed1', before the others."""
    return not _is_full(path.parent.name), path.parent.name


def _is_full(name):
    return name == "full" or name.startswith("full_seed")


def _pictures(report, paths, caption, width="100%"):
    """Figures of files that exist, captioned by their name."""
    return [
        pages.figure(pages.relative(path, report), caption.format(path.stem.replace("_", " ")), alt=path.stem, width=width)
        for path in paths
        if path.exists()
    ]


def _checks(layout, subject):
    """Table of claims against what was put in."""
    folder = layout.metrics(subject, "phantom_checks")
    found = _read(folder / "metrics.json")
    if found is None:
        return []
    marks = {True: pages.badge("holds", True), False: pages.badge("missed", False), None: pages.badge("shown")}
    rows = [
        [
            check["claim"],
            check["statement"],
            check["value"],
            check["control"],
            check["bar"],
            check.get("chance"),
            check["n"],
            marks[check["held"]],
        ]
        for check in found["checks"]
    ]
    header = ["claim", "what", "value", "control", "bar", "chance", "n", ""]
    caption = (
        f"Phantom, subject {subject}, seed {found['seed']}; SE over clips, differences paired; stage 2 on {found['n_clips']} test clips."
    )
    notes = pages.details("What the claims mean", pages.bullets(f"{claim}: {note}" for claim, note in CLAIM_NOTES.items()))
    figures = pages.grid(_pictures(layout.report, [folder / f"{name}.png" for name in FIGURES], "phantom: {}"), least="26rem")
    return [pages.section("What was put in, and what came out", pages.table(header, rows, caption), notes, figures)]


def _metrics(layout, subject):
    """Metrics of every evaluated reconstruction, with the baselines of the first."""
    tables = []
    for path in sorted((layout.root / "metrics" / f"sub{subject}").glob("*/table.md"), key=_full_first):
        lines = [line.strip().strip("|").split("|") for line in path.read_text().splitlines() if line.startswith("|")]
        if len(lines) > 2:
            cells = [[cell.strip().strip("*") for cell in line] for line in lines]
            title = next((line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")), path.parent.name)
            tables.append(pages.table(cells[0], cells[2:], f"{path.parent.name}: {title}"))
    return [pages.section("Metrics", *tables)] if tables else []


def _galleries(layout, subject, banner):
    links = []
    for manifest in sorted((layout.root / "recons" / f"sub{subject}").glob("*/manifest.json"), key=_full_first):
        name = manifest.parent.name
        build_gallery(manifest.parent, layout.metrics(subject, name))
        strips = sorted((manifest.parent / "strips").glob("test*.png"), key=lambda path: int(path.stem.removeprefix("test")))[:4]
        shown = _pictures(layout.report, strips if _is_full(name) else [], banner + "{}: true frames above, reconstructed below")
        links.append(
            pages.card(
                pages.tag("h3", pages.link(pages.relative(manifest.parent / "gallery.html", layout.report), f"gallery: {name}")), *shown
            )
        )
    return [pages.section("Reconstructions", pages.grid(links, least="18rem"))] if links else []


def _chain(layout, subject, banner):
    """fMRI, training and their figures."""
    parts = []
    facts = _read(layout.fmri_report(subject))
    if facts:
        repeats = facts.get("inter_repetition_correlation", {}).get("selected")  # not every data set has repetitions
        agreement = f"; their repetitions correlate with r = {repeats['mean']:.3f} on average" if repeats else ""
        parts.append(
            pages.paragraph(
                f"{' or '.join(map(str, facts['vertices']['selected']))} of {facts['vertices']['all']} vertices selected{agreement}. "
                f"Test data standardised by their {facts['test_norm']} statistics."
            )
        )
        figures = sorted((layout.fmri_report(subject).parent / "figures").glob("*.png"))
        parts.append(pages.grid(_pictures(layout.report, figures, banner + "{}"), least="26rem"))
    losses = sorted((layout.root / "checkpoints" / f"sub{subject}").glob("*/figures/*.png"))
    parts.append(
        pages.grid(
            [
                pages.figure(
                    pages.relative(path, layout.report),
                    f"{banner}{path.parents[1].name}: {path.stem.replace('_', ' ')}",
                    alt=path.stem,
                    width="100%",
                )
                for path in losses
            ],
            least="20rem",
        )
    )
    return [pages.section("fMRI and training", *parts)]


def _times(timings):
    rows = [[entry["stage"], name, entry["seconds"], entry["core_seconds"], entry["peak_GB"]] for name, entry in timings.items()]
    total = sum(entry["core_seconds"] for entry in timings.values())
    caption = f"{total / 60:.1f} core-minutes in all. Peak memory is that of the script's largest process."
    return [pages.section("Time and memory", pages.table(["stage", "script", "seconds", "core-seconds", "peak GB"], rows, caption))]


def build_report(layout, dataset, args, timings):
    """Write report.html.

    Parameters
    ----------
    layout : common.layout.Layout
    dataset : registry entry
    args : the pipeline's arguments
    timings : dict script call -> stage, seconds, core_seconds, peak_GB

    Returns
    -------
    path of the page
    """
    subject, banner = args.subj_ID, "phantom, " if dataset.is_phantom else ""
    content = [
        *_checks(layout, subject),
        *_galleries(layout, subject, banner),
        *_metrics(layout, subject),
        *_chain(layout, subject, banner),
        *_times(timings),
    ]
    if dataset.is_phantom:
        content.insert(
            0,
            pages.paragraph(
                "The simulated brain answers with a haemodynamic response that peaks at 3 s. A real one peaks at about 5 s; this departure from "
                "physiology is made because the phantom's scenes change every 2 s (--hrf canonical shows what blur does)."
            ),
        )
    subtitle = f"{dataset.name}, subject {subject}, seed {args.seed}"
    write_text(layout.report, pages.page("Mind-Animator: report of a run", content, subtitle=subtitle, phantom=dataset.is_phantom))
    return layout.report
