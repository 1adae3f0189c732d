"""Evaluate a blind comparison: which method do people prefer, by question, and do they agree?

Reads    blind_key.json, which compare.py --blind_page left beside the page, and the CSVs that raters saved
Writes   preference.md, preference.csv   per question: share that prefers A with its exact 95 % interval, p, agreement
         beside the key, or below --out

    python Evaluation_Metrics/preference.py comparison/blind_key.json answers_*.csv

A second.
"""

import csv
import io
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from common import cli
from common.files import UserError, read_bytes, read_json, write_text
from Evaluation_Metrics.results import write_dicts
from Evaluation_Metrics.tables import table_lines

COLUMNS = ("page", "rater", "item", "question", "side")
_KEY = {"page": str, "names": {...: str}, "questions": [str], "items": [{"item": int, "clip": int, "left": str}]}


def share_preferred(chosen):
    """Share of one or more answers (N,) bool that prefer A, with its exact (Clopper-Pearson) 95 % interval and two-sided p against 1/2."""
    test = binomtest(int(np.sum(chosen)), len(chosen))
    low, high = test.proportion_ci(0.95, "exact")
    return {"share": float(np.mean(chosen)), "low": float(low), "high": float(high), "p": float(test.pvalue), "n": len(chosen)}


def agreement(answers):
    """Share of pairs of raters' answers to the same item that agree, and Krippendorff's alpha (nominal); None without such pairs.

    `answers` {rater: {item: bool}}.
    """
    items = {item for of in answers.values() for item in of}
    given = [[of[item] for of in answers.values() if item in of] for item in items]
    given = [of for of in given if len(of) > 1]
    if not given:
        return {"agreement": None, "alpha": None, "pairs": 0}
    pairs = [a == b for of in given for a, b in combinations(of, 2)]
    n, n_a = sum(map(len, given)), sum(map(sum, given))
    observed = sum(2 * sum(of) * (len(of) - sum(of)) / (len(of) - 1) for of in given) / n
    expected = 2 * n_a * (n - n_a) / (n * (n - 1))
    return {"agreement": float(np.mean(pairs)), "alpha": 1 - observed / expected if expected else None, "pairs": len(pairs)}


def read_answers(path, key):
    """Answers of one CSV, {question: {(rater, item): whether A is preferred}}; a UserError for another page or unknown columns."""
    do = "give the CSV as the page saved it"
    try:
        rows = list(csv.DictReader(io.StringIO(read_bytes(path, 2**24, do).decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is not a CSV file in UTF-8; {do}") from None
    found = list(rows[0]) if rows else []
    if rows and (None in rows[0] or set(found) != set(COLUMNS)):
        raise UserError(f"{path} has the columns {', '.join(map(str, found))}, not {', '.join(COLUMNS)}; {do}")
    left = {str(item["item"]): item["left"] for item in key["items"]}
    answers = {question: {} for question in key["questions"]}
    for number, row in enumerate(rows, 2):
        if row["page"] != key["page"]:
            raise UserError(
                f"{path} line {number} is of page {row['page']}, the key of {key['page']}; give the key beside the page that was shown"
            )
        if row["item"] not in left or row["question"] not in answers or row["side"] not in ("left", "right"):
            raise UserError(
                f"{path} line {number} has item {row['item']}, question {row['question']}, side {row['side']}, which the page lacks; {do}"
            )
        answers[row["question"]][row["rater"], row["item"]] = (row["side"] == "left") == (left[row["item"]] == "A")
    if not rows:
        raise UserError(f"{path} holds no answer; {do}")
    return answers


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("preference")
    group.add_argument("key", type=Path, metavar="blind_key.json", help="key of the page")
    group.add_argument("answers", nargs="+", type=Path, metavar="ANSWERS.csv", help="files that raters saved")
    group.add_argument("--out", type=Path, help="folder for the results; default: beside the key")
    return parser


def main(args):
    key = read_json(args.key, _KEY, "give the blind_key.json beside the page")
    merged, of_file = {question: {} for question in key["questions"]}, {}
    for path in args.answers:
        for question, of in read_answers(path, key).items():
            for rater, _ in of:
                if of_file.setdefault(rater, path) != path:
                    raise UserError(f"{path} and {of_file[rater]} are both of rater {rater!r}; give one of them, or rename the rater")
            merged[question] |= of
    rows = []
    for question, of in merged.items():
        if of:
            raters = {rater: {item: a for (who, item), a in of.items() if who == rater} for rater, _ in of}
            rows.append({"question": question, **share_preferred(list(of.values())), "raters": len(raters), **agreement(raters)})
    a, b = key["names"]["A"], key["names"]["B"]
    head, cells = ("question", "share", "exact 95 % interval", "p", "answers", "raters", "agreement", "alpha"), []
    for row in rows:
        pair = [f"{row[name]:.2f}" if row[name] is not None else "–" for name in ("agreement", "alpha")]
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        cells.append([row["question"], f"{row['share']:.3f}", interval, f"{row['p']:.3g}", row["n"], row["raters"], *pair])
    note = "The interval takes answers as independent: with several raters of the same clips it is too narrow. Agreement: share of pairs of raters "
    text = "\n".join(
        [f"# Preferred: {a} over {b}", "", *table_lines(head, cells), "", note + "who chose alike; alpha: Krippendorff's, 0 by chance."]
    )
    print(text)
    out = args.out or args.key.parent
    write_text(out / "preference.md", text + "\n")
    write_dicts(out / "preference.csv", rows)
    print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
