"""Print the paper's tables with our values beside the published ones.

Reads    the folders that evaluate.py, the retrieval scripts and the shuffle test wrote, reference_values.json
Writes   {table}.md, {table}.csv, {table}.tex   main, subjects, ablation, retrieval, shuffle, later, neuroclips: those that apply
         differences.csv                        our other rows against our method: paired intervals, released test
         all below --out (default: metrics/tables)

    python Evaluation_Metrics/paper_tables.py --dataset phantom
    python Evaluation_Metrics/paper_tables.py --dataset CC2017 --results outputs/CC2017/metrics --names full full_seed1

Best value bold, second underlined, among published methods and the first of --names. Stars: our method
differs from that row of ours by the released bootstrap-Wilcoxon test; the interval over clips stands in differences.csv.
A few seconds.
"""

import csv
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.files import atomic_path, load_npz, missing, read_json, write_text
from common.layout import Layout
from Evaluation_Metrics.bootstrap_with_wilcoxon import bootstrap_wilcoxon, paired_interval, stars
from Evaluation_Metrics.compare import align, read_result
from Evaluation_Metrics.evaluate import LOWER_IS_BETTER, PROTOCOLS
from Evaluation_Metrics.per_clip import summarise

log = logging.getLogger(__name__)

REFERENCES = Path(__file__).parent / "reference_values.json"
MAIN = ("2-way-I", "2-way-V", "VIFI-score", "SSIM", "PSNR", "Hue-pcc", "CLIP-pcc", "EPE")  # the paper's columns


@dataclass
class Row:
    """One line of a table.

    Attributes
    ----------
    method, subject : what stands on the left
    values : {column: number}
    spread : {column: standard deviation}
    source : {column: tag of the publication}; empty for ours
    marks : {column: stars}
    ranked : takes part in best and second
    """

    method: str
    subject: str = ""
    values: dict = field(default_factory=dict)
    spread: dict = field(default_factory=dict)
    source: dict = field(default_factory=dict)
    marks: dict = field(default_factory=dict)
    ranked: bool = True


@dataclass
class Table:
    """A table and the name of its files."""

    file: str
    title: str
    columns: list
    rows: list
    notes: list


# ---------------------------------------------------------------------------------------------- published


def published_rows(table, **where):
    """Rows of a table of reference_values.json whose entries are as given.

    Parameters
    ----------
    table : dict
    **where : entry=value that the row must have
    """
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
                {column: cell["value"] for column, cell in entry["values"].items()},
                {column: cell["std"] for column, cell in entry["values"].items() if "std" in cell},
                {column: cell["source"] for column, cell in entry["values"].items()},
            )
        )
    return rows


# ---------------------------------------------------------------------------------------------- ours


def find_results(folder, protocol):
    """Evaluations below a metrics folder: {name: {subject: folder}}."""
    found = {}
    for path in sorted(Path(folder).glob("sub*/*")):
        match = re.fullmatch(r"sub(\d+)", path.parent.name)
        path = path if protocol == "paper" else path / protocol
        if match and (path / "metrics.json").exists() and (path / "per_clip.npz").exists():
            found.setdefault(path.name if protocol == "paper" else path.parent.name, {})[int(match[1])] = path
    return found


def load_method(folders):
    """Per-clip values of a method: {subject: (clips, columns)}."""
    return {subject: read_result(folder)[1:] for subject, folder in folders.items()}


def load_baselines(folders):
    """Per-clip values of the baselines beside a method: {baseline: {subject: (clips, columns)}}."""
    made = {}
    for subject, folder in folders.items():
        for path in sorted((folder / "baselines").glob("*.npz")):
            columns = load_npz(path, "run Evaluation_Metrics/evaluate.py again with --overwrite")
            made.setdefault(path.stem.replace("_", " "), {})[subject] = (columns.pop("clip"), columns)
    return made


def our_rows(label, subjects, columns, ranked=True):
    """A row per subject and, for several, their mean.

    Parameters
    ----------
    label : of the method
    subjects : {subject: (clips, {column: values})}
    columns : wanted
    ranked : as in Row
    """
    rows = []
    for subject, (_, values) in sorted(subjects.items()):
        summary = {column: summarise(values[column]) for column in columns if column in values}
        summary = {column: entry for column, entry in summary.items() if entry["n"]}
        means, spread = ({column: entry[key] for column, entry in summary.items()} for key in ("mean", "std"))
        rows.append(Row(label, str(subject), means, spread, ranked=ranked and len(subjects) == 1))
    if len(rows) > 1:
        everywhere = [column for column in columns if all(column in row.values for row in rows)]
        means = {column: float(np.mean([row.values[column] for row in rows])) for column in everywhere}
        rows.append(Row(label, "mean", means, ranked=ranked))
    return rows


def differences(main, others, columns, seed):
    """Our method against our other rows, per subject, clip by clip.

    Parameters
    ----------
    main : {subject: (clips, columns)}
    others : {label: {subject: (clips, columns)}}
    columns : wanted
    seed : int

    Returns
    -------
    list of dict: row, subject, metric, clips, difference, low, high, p
    """
    table = []
    for label, subjects in others.items():
        for subject in sorted(set(subjects) & set(main)):
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


def mark(rows, table):
    """Set the stars of rows from a table of differences."""
    for entry in table:
        for row in rows:
            if (row.method, row.subject) == (entry["row"], entry["subject"]):
                row.marks[entry["metric"]] = stars(entry["p"])


# ---------------------------------------------------------------------------------------------- how a table looks


def places(rows, column):
    """Indices of the best and the second best ranked rows in a column."""
    ranked = [(row.values[column], i) for i, row in enumerate(rows) if row.ranked and column in row.values]
    levels = sorted({round(value, 3) for value, _ in ranked}, reverse=column not in LOWER_IS_BETTER)
    best, second = ([i for value, i in ranked if round(value, 3) == level] for level in [*levels, None, None][:2])
    return (best, second) if len(ranked) > 1 else ([], [])


def number(value, column):
    """A value as the paper prints it."""
    return f"{value:.2f}" if "top-" in column else f"{value:.3f}"


@dataclass(frozen=True)
class Style:
    """How a format writes the best, the second best, a missing value, a deviation and a star."""

    best: str
    second: str
    dash: str
    plus_minus: str
    star: str


MARKDOWN = Style("**{}**", "<u>{}</u>", "–", " ± ", "\\*")
LATEX = Style(r"\textbf{{{}}}", r"\underline{{{}}}", "--", r"$\pm$", r"$^*$")


def styled(table, style):
    """Cells of a table as text, one list per row."""
    cells = [[style.dash] * len(table.columns) for _ in table.rows]
    for j, column in enumerate(table.columns):
        best, second = places(table.rows, column)
        for i, row in enumerate(table.rows):
            if column in row.values:
                template = style.best if i in best else style.second if i in second else "{}"
                spread = f"{style.plus_minus}{row.spread[column]:.3g}" if column in row.spread else ""
                cells[i][j] = template.format(number(row.values[column], column)) + spread + style.star * len(row.marks.get(column, ""))
    return cells


def to_markdown(table):
    """A table as Markdown, best bold, second underlined."""
    heads = ["method", "subject", *(column + (" ↓" if column in LOWER_IS_BETTER else "") for column in table.columns), "source"]
    lines = [f"### {table.title}", "", "| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for row, cells in zip(table.rows, styled(table, MARKDOWN), strict=True):
        source = ", ".join(sorted(set(row.source.values()))) or ("ours" if row.values else "")
        lines.append("| " + " | ".join([row.method, row.subject, *cells, source]) + " |")
    return "\n".join([*lines, "", *(note.replace("*", r"\*") + "  " for note in table.notes)])


def to_latex(table):
    """A table as LaTeX (booktabs), best bold, second underlined."""

    def escape(text):
        return re.sub(r"([&%$#_])", r"\\\1", str(text)).replace("↓", r"$\downarrow$").replace("±", r"$\pm$").replace("–", "--")

    heads = ["method", "subject", *(column + (" ↓" if column in LOWER_IS_BETTER else "") for column in table.columns)]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(' '.join([table.title + '.', *table.notes]))}}}"]
    lines += [rf"\begin{{tabular}}{{ll{'c' * len(table.columns)}}}", r"\toprule", " & ".join(map(escape, heads)) + r" \\", r"\midrule"]
    for row, cells in zip(table.rows, styled(table, LATEX), strict=True):
        lines.append(" & ".join([escape(row.method), escape(row.subject), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def write_table(folder, table):
    """Write a table as Markdown, CSV and LaTeX and print it."""
    text = to_markdown(table)
    print(text + "\n")
    write_text(folder / f"{table.file}.md", text + "\n")
    write_text(folder / f"{table.file}.tex", to_latex(table) + "\n")
    with atomic_path(folder / f"{table.file}.csv") as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["method", "subject", "metric", "value", "std", "source", "stars"])
        for row in table.rows:
            for column in table.columns:
                source = row.source.get(column, "ours" if column in row.values else "")
                numbers = [row.values.get(column, ""), row.spread.get(column, "")]
                writer.writerow([row.method, row.subject, column, *numbers, source, row.marks.get(column, "")])


# ---------------------------------------------------------------------------------------------- the paper's tables

STAR_NOTE = "Stars: differs from this project's method, released bootstrap-Wilcoxon test (* p < 0.05, ** 0.01, *** 0.001)."


class Ours:
    """This project's values of one data set under one protocol.

    Parameters
    ----------
    results : metrics folder
    names : reconstructions to show, the method itself first
    protocol : of the evaluations
    seed : of the bootstraps
    """

    def __init__(self, results, names, protocol, seed):
        found = find_results(results, protocol)
        if names[0] not in found:
            what = f"an evaluation by protocol {protocol}"
            raise missing(Path(results) / "sub1" / names[0], what, "run Evaluation_Metrics/evaluate.py first")
        absent = [name for name in names if name not in found]
        if absent:
            log.warning("not evaluated: %s", ", ".join(absent))
        self.name, self.protocol = names[0], protocol
        self.label = "this project" if names[0] == "full" else f"this project, {names[0]}"
        self.facts = read_json(next(iter(found[names[0]].values())) / "metrics.json")
        self.main = load_method(found[names[0]])
        self.others = {f"this project, {name}": load_method(found[name]) for name in names[1:] if name in found}
        self.free = load_baselines(found[names[0]])
        ablation = re.compile(re.escape(names[0]) + r"(_ablate_\w+)?")
        self.ablations = {name: load_method(folders) for name, folders in found.items() if ablation.fullmatch(name)}
        self.differences = differences(self.main, self.others | self.free, self.facts["columns"], seed)

    def columns(self):
        """The paper's columns, then the protocol's others that have values."""
        there = set().union(*(columns for _, columns in self.main.values()))
        return [*MAIN, *(column for column in self.facts["columns"] if column in there and column not in MAIN)]

    def rows(self, columns):
        """The method, our other rows and the free baselines."""
        rows = our_rows(self.label, self.main, columns)
        for other, subjects in self.others.items():
            rows += our_rows(other, subjects, columns, ranked=False)
        for baseline, subjects in self.free.items():
            rows += our_rows(baseline, subjects, columns, ranked=False)
        mark(rows, self.differences)
        return rows


def notes_of(reference, rows, *more):
    """Notes below a table: those given, and what the tags of its sources mean."""
    tags = sorted({tag for row in rows for tag in row.source.values()})
    return [note for note in more if note] + [f"{tag}: {reference['sources'][tag]}." for tag in tags]


def main_table(reference, ours, dataset, phantom):
    """The paper's main table of a data set; ours alone where nothing is published."""
    table = reference["tables"].get(dataset.name, {"title": dataset.name, "rows": [], "note": "Nothing is published for this data set."})
    columns = ours.columns()
    chance = Row("chance", "", ours.facts["chance"], ranked=False)
    rows = [*published_rows(table), *ours.rows(columns), chance]
    title = f"{phantom}{table['title']}, ours by protocol {ours.protocol}"
    return Table("main", title, columns, rows, notes_of(reference, rows, table.get("note"), STAR_NOTE if ours.differences else ""))


def further_table(reference, ours, key, file, ranked_subjects):
    """Another table of published values with our rows below.

    Parameters
    ----------
    key : in reference_values.json
    ranked_subjects : entries of the subject column among which best and second are sought
    """
    table = reference["tables"][key]
    rows = published_rows(table) + ours.rows(table["columns"])
    for row in rows:
        row.ranked = row.subject in ranked_subjects and row.method not in ours.free
    title = f"{table['title']}, ours by protocol {ours.protocol}"
    return Table(file, title, table["columns"], rows, notes_of(reference, rows, table.get("note"), STAR_NOTE if ours.differences else ""))


def ablation_table(reference, ours, dataset, phantom):
    """The ablations that were reconstructed and evaluated."""
    table = reference["tables"]["ablation"]
    published = dataset.name == "CC2017"
    rows = published_rows(table) if published else []
    for name, subjects in ours.ablations.items():
        rows += our_rows(f"this project, {name}", subjects, table["columns"], ranked=False)
    title = f"{phantom}{table['title'] if published else 'Ablation'}, ours by protocol {ours.protocol}"
    return Table("ablation", title, table["columns"], rows, notes_of(reference, rows, table["note"]))


def our_retrieval(folder, gallery, n_subjects):
    """Our retrieval accuracies in %, of retrieval/sub{ID}/{small_set,Large_set}/metrics.json with `accuracy` {k: share}."""
    row, of_subjects = Row("this project"), {}
    for path in sorted(Path(folder).glob(f"sub*/{'small_set' if gallery == 'small' else 'Large_set'}/metrics.json")):
        subject = path.parent.parent.name.removeprefix("sub")
        for k, share in read_json(path).get("accuracy", {}).items():
            row.values[f"S{subject} top-{k}"] = 100 * share
            of_subjects.setdefault(f"mean top-{k}", []).append(100 * share)
    row.values |= {column: float(np.mean(shares)) for column, shares in of_subjects.items() if len(shares) == n_subjects}
    return [row] if row.values else []


def retrieval_table(reference, folder, dataset, phantom):
    """Retrieval accuracy in the small and the large gallery."""
    table = reference["tables"]["retrieval"]
    published, rows = dataset.name == "CC2017", []
    for gallery, size in table["galleries"].items():
        part = (published_rows(table, gallery=gallery) if published else []) + our_retrieval(folder, gallery, len(dataset.subjects))
        if published:
            part.append(Row("chance", values={f"mean top-{k}": 100 * k / size for k in (10, 100)}))
        for row in part:
            row.subject, row.ranked = f"{gallery} set", False
        rows += part
    there = set().union(*(row.values for row in rows))
    columns = [column for column in table["columns"] if column in there] + sorted(there - set(table["columns"]))
    title = phantom + (table["title"] if published else "Retrieval, accuracy in %")
    return Table("retrieval", title, columns, rows, notes_of(reference, rows, table["note"] if published else ""))


def our_shuffle(folder):
    """Our shuffle test, of explain/sub{ID}/shuffle_test/metrics.json with `p` {metric: {column: [mean, std]}}."""
    rows = []
    for path in sorted(Path(folder).glob("sub*/shuffle_test/metrics.json")):
        for metric, arms in read_json(path).get("p", {}).items():
            means, spread = ({arm: values[i] for arm, values in arms.items()} for i in (0, 1))
            rows.append(Row(f"{metric}, this project", path.parent.parent.name.removeprefix("sub"), means, spread))
    return rows


def shuffle_table(reference, folder, dataset, phantom):
    """The frame-shuffle test."""
    table = reference["tables"]["shuffle"]
    published = dataset.name == "CC2017"
    rows = (published_rows(table) if published else []) + our_shuffle(folder)
    for row in rows:
        row.ranked = False
    title = phantom + (table["title"] if published else "Frame-shuffle test, p")
    return Table("shuffle", title, table["columns"], rows, notes_of(reference, rows, table["note"] if published else ""))


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser)
    group = parser.add_argument_group("tables")
    group.add_argument("--results", type=Path, help="folder that holds sub{ID}/{name}; default: metrics below --out_root")
    group.add_argument("--names", nargs="+", default=["full"], help="reconstructions to show, the method itself first")
    group.add_argument("--protocol", choices=list(PROTOCOLS), default="paper", help="of the evaluations")
    group.add_argument("--out", type=Path, help="folder for the tables; default: tables in --results")
    return parser


def main(args):
    dataset, place = get_dataset(args.dataset), Layout.of(args)
    results = args.results or place.root / "metrics"
    out = args.out or results / ("tables" if args.protocol == "paper" else f"tables_{args.protocol}")
    reference = read_json(REFERENCES)
    ours = Ours(results, args.names, args.protocol, args.seed)
    phantom = "Phantom. " if dataset.is_phantom else ""

    tables = [main_table(reference, ours, dataset, phantom)]
    if dataset.name == "CC2017" and args.protocol == "neuroclips":
        tables.append(further_table(reference, ours, "CC2017_neuroclips", "neuroclips", ("", "mean")))
    elif dataset.name == "CC2017":
        tables.append(further_table(reference, ours, "CC2017_subjects", "subjects", ("1",)))
        tables.append(further_table(reference, ours, "CC2017_later", "later", ("", "mean")))
    if dataset.name == "CC2017" or len(ours.ablations) > 1:
        tables.append(ablation_table(reference, ours, dataset, phantom))
    tables.append(retrieval_table(reference, results.parent / "retrieval", dataset, phantom))
    tables.append(shuffle_table(reference, results.parent / "explain", dataset, phantom))
    for table in tables:
        if table.rows:
            write_table(out, table)
    if ours.differences:
        with atomic_path(out / "differences.csv") as temporary, open(temporary, "w", newline="") as handle:
            writer = csv.DictWriter(handle, list(ours.differences[0]))
            writer.writeheader()
            writer.writerows(ours.differences)
    print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
