"""Results of several participants, training seeds and ablations as one table: mean and standard deviation over seeds."""

import numpy as np

from common.files import UserError
from common.layout import reconstruction_name
from Evaluation_Metrics.results import differing, read_result
from Evaluation_Metrics.tables import Row, Table, write_table


def gather_sweep(layout, subjects, seeds, variants):
    """Write sweep.md, .csv and .tex beside the reports; results that are not there are named.

    `variants` are (arm, and what is left out of it, or None). Returns the path of the Markdown; None where nothing was scored.
    """
    found, absent = {}, []
    for subject in subjects:
        for seed in seeds:
            for variant in variants:
                folder = layout.metrics(subject, reconstruction_name(*variant, seed))
                if (folder / "metrics.json").is_file():
                    found[subject, seed, variant] = read_result(folder)[0]
                else:
                    absent.append(folder)
    if not found:
        return None
    first = next(iter(found.values()))
    for facts in found.values():
        if unlike := differing(first, facts, ignore=("subject",)):
            raise UserError(f"{facts['title']} and {first['title']} differ in {', '.join(unlike)}; score both alike, with --overwrite")
    rows = []
    for variant in variants:
        of_variant = {subject: [seed for seed in seeds if (subject, seed, variant) in found] for subject in subjects}
        of_variant = {subject: there for subject, there in of_variant.items() if there}
        for subject, there in of_variant.items():
            rows.append(_row(variant, subject, [[found[subject, seed, variant]] for seed in there]))
        common = [seed for seed in seeds if all(seed in there for there in of_variant.values())]
        if len(of_variant) > 1 and common:
            rows.append(_row(variant, "mean", [[found[subject, seed, variant] for subject in of_variant] for seed in common]))
    notes = [
        "Mean over clips, then over training seeds ± standard deviation over seeds (n - 1; none for one seed); row mean: over subjects first.",
        f"Seeds: {', '.join(map(str, seeds))}. Chance: {', '.join(f'{name} {level:.3g}' for name, level in first['chance'].items()) or 'none'}.",
        *(f"Not scored: {path}." for path in absent),
    ]
    label = "Phantom. " if first.get("phantom") else ""
    title = f"{label}{first['dataset']}, protocol {first['protocol']}, {len(seeds)} training seed{'s' * (len(seeds) > 1)}"
    write_table(layout.root, Table("sweep", title, first["columns"], rows, notes))
    return layout.root / "sweep.md"


def _row(variant, subject, per_seed):
    """A row of the results of every seed, list of lists over participants."""
    arm, left_out = variant
    values, spread, n = {}, {}, set()
    for column in per_seed[0][0]["columns"]:
        cells = [[facts["rows"][facts["method"]].get(column) for facts in of_seed] for of_seed in per_seed]
        means = np.array([[cell["mean"] if cell and cell["n"] else np.nan for cell in of_seed] for of_seed in cells])
        if not np.isnan(means).any():
            values[column] = means.mean()
            n |= {cell["n"] for of_seed in cells for cell in of_seed}
            if len(means) > 1:
                spread[column] = means.mean(axis=1).std(ddof=1)
    method = f"{arm}, without {left_out}" if left_out else arm
    return Row(
        f"{method} ({len(per_seed)} seed{'s' * (len(per_seed) > 1)})",
        str(subject),
        "/".join(map(str, sorted(n))),
        values,
        spread,
        ranked=False,
    )
