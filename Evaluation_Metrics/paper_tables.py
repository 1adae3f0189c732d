"""Print the paper's tables with our values beside the published ones.

A data set's published tables are those that its registry entry names; simulated data stand beside no published value.

Reads    the folders that evaluate.py, the retrieval scripts and the shuffle test wrote, reference_values.json
Writes   {table}.md, {table}.csv, {table}.tex   main, subjects, ablation, retrieval, shuffle, later, neuroclips: those that apply
         differences.csv                        our other rows against our method: paired intervals, released test
         all below --out (default: metrics/tables)

    python Evaluation_Metrics/paper_tables.py --dataset phantom
    python Evaluation_Metrics/paper_tables.py --dataset CC2017 --results outputs/CC2017/metrics --names full full_seed1 --columns SSIM EPE

Best value bold, second underlined, among published methods and the first of --names, if it has all test clips; in later and
neuroclips, which show means over subjects, ours takes part with its mean; in ablation, published rows alone; in retrieval and
shuffle, nothing is marked. Stars: our method differs from that row of ours by the released bootstrap-Wilcoxon test, and the
interval over clips (differences.csv) excludes 0.
A few seconds.
"""

from pathlib import Path

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.files import UserError, read_json
from common.layout import Layout
from common.readers import natural_key
from Evaluation_Metrics.paper_rows import Ours, published_rows
from Evaluation_Metrics.protocols import PROTOCOLS
from Evaluation_Metrics.results import write_dicts
from Evaluation_Metrics.tables import Row, Table, write_table

REFERENCES = Path(__file__).parent / "reference_values.json"
PUBLISHED = {"reconstruction": "CC2017", "hcp": "HCP", "algonauts": "Algonauts2021"}  # entry of dataset.tables -> main table

# ---------------------------------------------------------------------------------------------- the paper's tables


def notes_of(reference, rows, *more):
    """Notes below a table: those given, and what the tags of its sources mean."""
    tags = sorted({tag for row in rows for tag in row.source.values()})
    return [note for note in more if note] + [f"{tag}: {reference['sources'][tag]}." for tag in tags]


def title_of(title, ours, published=True):
    """Title of a table that says whose values are whose."""
    subjects = list(ours.main.folders)
    whose = f"subject{'s' * (len(subjects) > 1)} {', '.join(subjects)}"
    return f"{title} (published); {whose} (ours)" if published else f"{title}: {whose}"


def main_table(reference, ours, wanted=None):
    """The paper's main table of a data set; ours alone where nothing is published."""
    key = next((PUBLISHED[name] for name in ours.dataset.tables if name in PUBLISHED), None)
    table = reference["tables"].get(key, {"title": ours.dataset.name, "rows": [], "note": "Nothing is published for this data set."})
    columns = ours.columns(wanted)
    chance = Row("chance", values=ours.facts["chance"], ranked=False)
    rows = [*published_rows(table), *ours.rows(columns), chance]
    title = title_of(table["title"], ours, bool(key))
    return Table("main", title, columns, rows, notes_of(reference, rows, table.get("note"), *ours.notes()))


def further_table(reference, ours, key, file, ranked_subjects, wanted=None):
    """Another table of published values, `key` in reference_values.json, with our rows below.

    Best and second are sought among `ranked_subjects`, entries of the subject column; `wanted` are the columns, all by default.
    """
    table = reference["tables"][key]
    columns = [column for column in table["columns"] if not wanted or column in wanted]
    rows = published_rows(table) + ours.rows(columns)
    for row in rows:
        row.ranked = row.subject in ranked_subjects and row.method not in ours.free
    return Table(file, title_of(table["title"], ours), columns, rows, notes_of(reference, rows, table.get("note"), *ours.notes()))


def ablation_table(reference, ours, wanted=None):
    """The ablations that were reconstructed and evaluated."""
    table = reference["tables"]["ablation"]
    published = "reconstruction" in ours.dataset.tables
    rows, columns = published_rows(table) if published else [], [column for column in table["columns"] if not wanted or column in wanted]
    for name, method in ours.ablations.items():
        label = f"this project, {name}" if method.facts.get("of_project", True) else name
        rows += method.rows(label, columns, ours.dataset, ranked=False)
    title = title_of(table["title"] if published else f"{ours.dataset.label}Ablation", ours, published)
    return Table("ablation", title, columns, rows, notes_of(reference, rows, table["note"], *ours.notes()))


def own_facts(path, dataset):
    """metrics.json of another stage; a UserError when it is of another data set."""
    facts = read_json(path)
    if facts.get("dataset", dataset.name) != dataset.name or facts.get("phantom", dataset.simulated) != dataset.simulated:
        raise UserError(f"{path} is of {facts.get('dataset', 'other data')}, not of {dataset.name}; choose another --results")
    return facts


def our_retrieval(folder, gallery, size, dataset):
    """Our retrieval accuracies in %, of retrieval/sub{ID}/*/metrics.json: a row a method and target, the default one first."""
    rows, of_subjects = {}, {}
    for path in sorted(Path(folder).glob("sub*/*/metrics.json"), key=natural_key):
        facts, subject = own_facts(path, dataset), path.parent.parent.name.removeprefix("sub")
        if facts.get("gallery", path.parent.name) != gallery or "accuracy" not in facts:
            continue
        target = f"{facts['target']} target" if "target" in facts else ""
        words = ["this project", facts.get("method"), target, facts.get("arm", "full").replace("full", "")]
        words += [f"{key} {facts[key]}" for key in ("ties", "seed") if key in facts]
        label, pool = ", ".join(filter(None, words)), str(facts.get("pool", size))
        row = rows.setdefault((label, pool), Row(label, pool, str(facts.get("clips", dataset.n_test)), ranked=False))
        for k, share in facts["accuracy"].items():
            row.values[f"S{subject} top-{k}"] = 100 * share
            of_subjects.setdefault(((label, pool), f"mean top-{k}"), []).append(100 * share)
    for (key, column), shares in of_subjects.items():
        if len(shares) == len(dataset.subjects):
            rows[key].values[column] = float(np.mean(shares))
    return sorted(rows.values(), key=lambda row: "contrastive" not in row.method)


def retrieval_table(reference, folder, dataset):
    """Retrieval accuracy in the small and the large gallery."""
    table = reference["tables"]["retrieval"]
    published, rows = "retrieval" in dataset.tables, []
    for gallery, size in table["galleries"].items():
        part = published_rows(table, gallery=gallery) if published else []
        for row in part:
            row.subject, row.ranked = str(size), False
        part += our_retrieval(folder, "small_set" if gallery == "small" else "Large_set", size, dataset)
        for pool in dict.fromkeys(row.subject for row in part):
            columns = {column for row in part if row.subject == pool for column in row.values}
            shares = {column: 100 * min(1, int(column.split("-")[-1]) / int(pool)) for column in columns}
            part.append(Row("chance (k / pool)", pool, values=shares, ranked=False))
        rows += part
    there = set().union(*(row.values for row in rows))
    known = [column for column in table["columns"] if column in there] if published else []
    columns = known + sorted(there - set(known), key=natural_key)
    title = dataset.label + (table["title"] if published else "Retrieval, accuracy in %")
    return Table(
        "retrieval", title, columns, rows, notes_of(reference, rows, table["note"] if published else dataset.note), digits=2, second="pool"
    )


def our_shuffle(folder, dataset):
    """Our shuffle test, of explain/sub{ID}/shuffle_test/metrics.json with `p` {metric: {column: [mean, std]}}."""
    rows = []
    for path in sorted(Path(folder).glob("sub*/shuffle_test/metrics.json"), key=natural_key):
        facts = own_facts(path, dataset)
        for metric, arms in facts.get("p", {}).items():
            means, spread = ({arm: values[i] for arm, values in arms.items()} for i in (0, 1))
            subject = path.parent.parent.name.removeprefix("sub")
            rows.append(Row(f"{metric}, this project", subject, str(facts.get("clips", "")), means, spread))
    return rows


def shuffle_table(reference, folder, dataset):
    """The frame-shuffle test."""
    table = reference["tables"]["shuffle"]
    published = "reconstruction" in dataset.tables
    rows = (published_rows(table) if published else []) + our_shuffle(folder, dataset)
    for row in rows:
        row.ranked = False
    title = dataset.label + (table["title"] if published else "Frame-shuffle test, p")
    return Table("shuffle", title, table["columns"], rows, notes_of(reference, rows, table["note"] if published else dataset.note))


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser)
    group = parser.add_argument_group("tables")
    group.add_argument("--results", type=Path, help="folder that holds sub{ID}/{name}; default: metrics below --out_root")
    group.add_argument("--names", nargs="+", default=["full"], help="reconstructions to show, the method itself first")
    group.add_argument("--protocol", choices=list(PROTOCOLS), default="paper", help="protocol of the evaluations")
    group.add_argument("--columns", nargs="+", metavar="METRIC", help="metrics to show; default: the paper's and the protocol's others")
    group.add_argument(
        "--baselines", nargs="+", metavar="NAME", default=["all"], help="free baselines to show: all, none, or names such as black"
    )
    group.add_argument("--digits", type=cli.whole(0, 10), default=3, help="decimals")
    group.add_argument("--out", type=Path, help="folder for the tables; default: tables in --results")
    return parser


def main(args):
    dataset, place = get_dataset(args.dataset), Layout.of(args)
    results = args.results or place.root / "metrics"
    out = args.out or results / ("tables" if args.protocol == "paper" else f"tables_{args.protocol}")
    reference = read_json(REFERENCES)
    ours = Ours(results, dataset, args.names, args.protocol, args.baselines, args.seed)

    tables = [main_table(reference, ours, args.columns)]
    published = "reconstruction" in dataset.tables
    if published and args.protocol == "neuroclips":
        tables.append(further_table(reference, ours, "CC2017_neuroclips", "neuroclips", ("", "mean"), args.columns))
    elif published:
        tables.append(further_table(reference, ours, "CC2017_subjects", "subjects", ("1",), args.columns))
        tables.append(further_table(reference, ours, "CC2017_later", "later", ("", "mean"), args.columns))
    if published or len(ours.ablations) > 1:
        tables.append(ablation_table(reference, ours, args.columns))
    for table in tables:
        table.digits = args.digits
    tables.append(retrieval_table(reference, results.parent / "retrieval", dataset))
    tables.append(shuffle_table(reference, results.parent / "explain", dataset))
    for table in tables:
        table.of = dataset.name if args.protocol == "paper" else f"{dataset.name}-{args.protocol}"
        if table.rows and table.columns:
            write_table(out, table)
    if ours.differences:
        write_dicts(out / "differences.csv", ours.differences)
    print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
