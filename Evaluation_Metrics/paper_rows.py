"""Rows of the paper's tables: published ones, and those of this project's evaluations."""

import logging
import re
from pathlib import Path

import numpy as np

from common.files import UserError, missing
from common.readers import natural_key
from Evaluation_Metrics.bootstrap_with_wilcoxon import bootstrap_wilcoxon, paired_interval, stars
from Evaluation_Metrics.results import align, count_samples, differing, read_per_clip, read_result, summarise
from Evaluation_Metrics.samples import spread_of
from Evaluation_Metrics.tables import Row

log = logging.getLogger(__name__)

MAIN = ("2-way-I", "2-way-V", "VIFI-score", "SSIM", "PSNR", "Hue-pcc", "CLIP-pcc", "EPE")  # the paper's columns
STAR_NOTE = (
    "Stars: differs from our method by the released bootstrap-Wilcoxon test (* p < 0.05, ** 0.01, *** 0.001), "
    "and the paired 95 % interval over clips excludes 0."
)


# ---------------------------------------------------------------------------------------------- published


def published_rows(table, **where):
    """Rows of a table of reference_values.json whose entries are as given by `where`, entry=value."""
    rows = []
    for entry in table["rows"]:
        if any(entry.get(key) != value for key, value in where.items()):
            continue
        training = f", {entry['training']}" if "training" in entry else ""
        subject = f"{entry['subject']}" if "subject" in entry else f"panel {entry['panel']}" if "panel" in entry else ""
        rows.append(
            Row(
                entry["method"] + training,
                subject,
                values={column: cell["value"] for column, cell in entry["values"].items()},
                spread={column: cell["std"] for column, cell in entry["values"].items() if "std" in cell},
                source={column: cell["source"] for column, cell in entry["values"].items()},
            )
        )
    return rows


# ---------------------------------------------------------------------------------------------- ours


def find_results(folder, protocol):
    """Evaluations below a metrics folder: {name: {subject: folder}}."""
    found = {}
    for path in sorted(Path(folder).glob("sub*/*"), key=natural_key):
        name, subject = path.name, path.parent.name.removeprefix("sub")
        path = path if protocol == "paper" else path / protocol
        if (path / "metrics.json").exists() and (path / "per_clip.npz").exists():
            found.setdefault(name, {})[subject] = path
    return found


class Method:
    """A method's evaluations, `folders` {subject: folder}, of one data set under one protocol.

    `reference` are facts that the others must share, or their rows say in what they differ: `remarks` {subject: words, "" for
    nothing}. `facts` is the first subject's metrics.json, `values` {subject: (clips, columns)}.
    """

    def __init__(self, folders, dataset, protocol, reference=None):
        self.folders, self.values, self.remarks, self.facts = folders, {}, {}, None
        for subject, folder in folders.items():
            facts, *self.values[subject] = read_result(folder)
            wanted = {"dataset": dataset.name, "phantom": dataset.simulated, "subject": subject, "protocol": protocol}
            for key, value in wanted.items():
                if key in facts and str(facts[key]) != str(value):
                    raise UserError(f"{folder} is an evaluation of {key} {facts[key]}, not {value}; choose another --results")
            self.facts = self.facts or facts
            found = differing(reference or self.facts, facts, ignore=("subject",))
            if versions := found.get("version of the protocol"):
                raise UserError(
                    f"{folder} has version {versions[1]} of protocol {protocol}, others {versions[0]}; run evaluate.py again for all"
                )
            self.remarks[subject] = ", ".join(f"other {what}" for what in found)

    def rows(self, label, columns, dataset, ranked=True):
        """A row per subject and, for several, their mean."""
        return rows_of(label, self.values, columns, dataset, self.remarks, ranked)


def rows_of(label, subjects, columns, dataset, remarks, ranked=True):
    """A row per subject and, for several, their mean.

    `label` is the method's, `subjects` {subject: (clips, {column: values})}, `remarks` {subject: what its label says besides}.
    """
    rows = []
    for subject, (_, values) in subjects.items():
        summaries = {column: summarise(values[column]) for column in columns if column in values}
        method = f"{label} ({remarks[subject]})" if remarks.get(subject) else label
        row = Row.of(method, subject, summaries, ranked=ranked and len(subjects) == 1, key=label)
        scored = (~np.isnan(np.stack(list(values.values())))).any(0).sum()
        if scored < dataset.n_test:
            row.whole, row.clips = False, f"{row.clips} of {dataset.n_test}"
        rows.append(row)
    if len(rows) > 1:
        everywhere = [column for column in columns if all(column in row.values for row in rows)]
        means = {column: float(np.mean([row.values[column] for row in rows])) for column in everywhere}
        complete = {str(subject) for subject in dataset.subjects} == {row.subject for row in rows}
        who = "mean" if complete else "mean of " + ", ".join(row.subject for row in rows)
        said = ", ".join(dict.fromkeys(filter(None, (remarks.get(subject) for subject in subjects))))
        counts = " / ".join(dict.fromkeys(row.clips for row in rows))
        whole = all(row.whole for row in rows)
        rows.append(Row(f"{label} ({said})" if said else label, who, counts, means, ranked=ranked, whole=whole, key=label))
    return rows


def differences(main, others, columns, seed):
    """Our method, {subject: (clips, columns)}, against our other rows, {label: the same}, per subject, clip by clip.

    Returns
    -------
    list of dict
        row, subject, metric, clips, difference, low, high, p
    """
    table = []
    for label, subjects in others.items():
        for subject in [subject for subject in subjects if subject in main]:
            for column, (x, y) in align(main[subject], subjects[subject])[1].items():
                both = ~(np.isnan(x) | np.isnan(y))
                if column not in columns or both.sum() < 2 or not np.any(x[both] != y[both]):
                    continue
                x, y = x[both], y[both]
                mean, low, high = paired_interval(x, y, rng=np.random.default_rng(seed))
                p = bootstrap_wilcoxon(x, y, rng=np.random.RandomState(seed))[1]
                entry = {"row": label, "subject": str(subject), "metric": column, "clips": len(x)}
                table.append(entry | {"difference": mean, "low": low, "high": high, "p": p})
    return table


class Ours:
    """This project's values of one data set under one protocol.

    Parameters
    ----------
    results : Path
        metrics folder
    names : list of str
        reconstructions to show, the method itself first
    protocol : str
        of the evaluations
    baselines : list of str
        free baselines to show, or "all", or "none"
    seed : int
        of the bootstraps
    """

    def __init__(self, results, dataset, names, protocol, baselines, seed):
        found = find_results(results, protocol)
        if names[0] not in found:
            raise missing(
                Path(results) / f"sub{dataset.subjects[0]}" / names[0], "run Evaluation_Metrics/evaluate.py first, or check --protocol"
            )
        absent = [name for name in names if name not in found]
        if absent:
            log.warning("not evaluated: %s", ", ".join(absent))
        self.dataset, self.protocol, self.main = dataset, protocol, Method(found[names[0]], dataset, protocol)
        self.facts = self.main.facts
        methods = {names[0]: self.main} | {name: Method(found[name], dataset, protocol, self.facts) for name in names[1:] if name in found}
        own = {name: self._label(method.facts, name) for name, method in methods.items()}
        said = list(own.values())  # two results.zip are told apart by their folders
        labels = {name: label if said.count(label) == 1 else f"{label}, {name}" for name, label in own.items()}
        self.label = labels[names[0]]
        self.others = {labels[name]: method for name, method in methods.items() if name != names[0]}
        self.free = self._baselines(baselines)
        ablation = re.compile(re.escape(names[0]) + r"(_ablate_\w+)?")
        self.ablations = {name: Method(of, dataset, protocol, self.facts) for name, of in found.items() if ablation.fullmatch(name)}
        compared = {label: method.values for label, method in self.others.items()} | self.free
        self.differences = differences(self.main.values, compared, self.facts["columns"], seed)

    @staticmethod
    def _label(facts, name):
        """Name of a method in the tables: its own, or that of one of this project's reconstructions."""
        own = facts.get("method", name)
        return own if own != name or not facts.get("of_project", True) else "this project" if name == "full" else f"this project, {name}"

    def _baselines(self, shown):
        """Per-clip values of the baselines beside the method: {baseline: {subject: (clips, columns)}}."""
        made = {}
        for subject, folder in self.main.folders.items():
            for path in sorted((folder / "baselines").glob("*.npz")):
                made.setdefault(path.stem.replace("_", " "), {})[subject] = read_per_clip(path)
        if shown == ["none"]:
            return {}
        if unknown := set(shown) - {"all", *made}:
            raise UserError(f"--baselines {' '.join(sorted(unknown))}: not evaluated; choose from all, none, {', '.join(made)}")
        return {name: values for name, values in made.items() if shown == ["all"] or name in shown}

    def columns(self, wanted=None):
        """The paper's columns, then the protocol's others that have values; or those that are wanted."""
        there = set().union(*(columns for _, columns in self.main.values.values()))
        every = [*MAIN, *(column for column in self.facts["columns"] if column in there and column not in MAIN)]
        if unknown := set(wanted or ()) - set(every):
            raise UserError(f"--columns {' '.join(sorted(unknown))}: not in these evaluations; choose from {', '.join(every)}")
        return list(wanted or every)

    def rows(self, columns):
        """The method, our other rows and the free baselines."""
        rows = self.main.rows(self.label, columns, self.dataset)
        for label, method in self.others.items():
            rows += method.rows(label, columns, self.dataset, ranked=False)
        for label, subjects in self.free.items():
            rows += rows_of(label, subjects, columns, self.dataset, self.main.remarks, ranked=False)
        for entry in self.differences:
            for row in rows:
                excludes_0 = not entry["low"] <= 0 <= entry["high"]
                if (row.key, row.subject) == (entry["row"], entry["subject"]) and excludes_0:
                    row.marks[entry["metric"]] = stars(entry["p"])
        return rows

    def notes(self):
        """What stands below every table of our reconstructions."""
        n = [
            f"{(~np.isnan(np.stack(list(columns.values())))).any(0).sum()} clips of subject {s}"
            for s, (_, columns) in self.main.values.items()
        ]
        spread = {column: spread_of(self.facts, column) for column in self.facts["columns"]}
        words = ", ".join(f"{column} {value:.4f}" for column, value in spread.items() if value is not None)
        samples = (
            f"Mean over {count_samples(self.facts)} samples of a clip, between which the standard deviation is {words}." if words else ""
        )
        return [self.dataset.note, f"Scored here: {', '.join(n)}; protocol {self.protocol}.", samples, STAR_NOTE if self.differences else ""]
