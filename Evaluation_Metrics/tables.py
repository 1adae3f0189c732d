"""Tables of methods and metrics as Markdown, CSV and LaTeX: best bold, second underlined, stars."""

import re
from dataclasses import dataclass, field

from common.files import write_text
from Evaluation_Metrics.results import LOWER_IS_BETTER, UNRANKED, write_dicts

HERE = "scored here"  # source of a value that is not published


@dataclass
class Row:
    """One line of a table: method, subject and number of clips ("" where it is not known) on the left, then by column
    values, spread (standard deviation), source (tag of the publication; empty for ours) and marks (stars).

    `ranked` rows take part in best and second if they are of the `whole` test set; `key` is the method's name alone, of rows that are ours.
    """

    method: str
    subject: str = ""
    clips: str = ""
    values: dict = field(default_factory=dict)
    spread: dict = field(default_factory=dict)
    source: dict = field(default_factory=dict)
    marks: dict = field(default_factory=dict)
    ranked: bool = True
    whole: bool = True
    key: str = ""

    @classmethod
    def of(cls, method, subject, summaries, **more):
        """Row of summaries {column: results.summarise}; columns without a value stay empty."""
        there = {column: summary for column, summary in summaries.items() if summary["n"]}
        means, spread = ({column: summary[key] for column, summary in there.items()} for key in ("mean", "std"))
        n = max((summary["n"] for summary in there.values()), default=0)
        return cls(method, str(subject), str(n), means, spread, **more)


@dataclass
class Table:
    """A table, the name of its files, the decimals of its numbers, and what its LaTeX label says besides the name."""

    file: str
    title: str
    columns: list
    rows: list
    notes: list
    digits: int = 3
    of: str = ""
    second: str = "subject"  # what a row's `subject` is in this table


@dataclass(frozen=True)
class Style:
    """How a format writes the best, the second best, a missing value, a deviation and stars."""

    best: str
    second: str
    dash: str
    plus_minus: str
    star: str
    minus: str = "-"
    around_stars: str = "{}"


MARKDOWN = Style("**{}**", "<u>{}</u>", "–", " ± ", "\\*")
LATEX = Style(r"\textbf{{{}}}", r"\underline{{{}}}", "--", r"$\pm$", "*", "$-$", "$^{{{}}}$")


def places(table, column):
    """Indices of the best and the second best ranked rows in a column, as rounded."""
    ranked = [
        (round(row.values[column], table.digits), i)
        for i, row in enumerate(table.rows)
        if row.ranked and row.whole and column in row.values
    ]
    ranked = [] if column in UNRANKED else ranked
    levels = sorted({value for value, _ in ranked}, reverse=column not in LOWER_IS_BETTER)
    best, second = ([i for value, i in ranked if value == level] for level in [*levels, None, None][:2])
    return (best, second) if len(ranked) > 1 else ([], [])


def styled(table, style):
    """Cells of a table as text, one list per row."""
    cells = [[style.dash] * len(table.columns) for _ in table.rows]
    for j, column in enumerate(table.columns):
        best, second = places(table, column)
        for i, row in enumerate(table.rows):
            if column in row.values:
                number = f"{row.values[column]:.{table.digits}f}".replace("-", style.minus)
                number = (style.best if i in best else style.second if i in second else "{}").format(number)
                spread = f"{style.plus_minus}{row.spread[column]:.{table.digits}f}" if column in row.spread else ""
                stars = style.star * len(row.marks.get(column, ""))
                cells[i][j] = number + spread + (style.around_stars.format(stars) if stars else "")
    return cells


def _heads(table):
    return ["method", table.second, "clips", *(column + (" ↓" if column in LOWER_IS_BETTER else "") for column in table.columns)]


def _heads_and_rows(table, style, write=str):
    """Heads and rows, as text; where something is published, the last column names its source. `write` writes plain text."""
    sources = [", ".join(sorted(set(row.source.values()))) or (HERE if row.values else "") for row in table.rows]
    with_sources = set(sources) - {HERE, ""} != set()
    heads = [*_heads(table), *["source"] * with_sources]
    rows = [
        [*map(write, (row.method, row.subject, row.clips)), *cells, *[write(source)] * with_sources]
        for row, cells, source in zip(table.rows, styled(table, style), sources, strict=True)
    ]
    return [*map(write, heads)], rows


def table_lines(head, rows):
    """Lines of a Markdown table."""
    return [f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows]]


def to_markdown(table):
    """A table as Markdown."""
    heads, rows = _heads_and_rows(table, MARKDOWN)
    return "\n".join([f"### {table.title}", "", *table_lines(heads, rows), "", *(note.replace("*", r"\*") + "  " for note in table.notes)])


def escape(text):
    """Plain text for LaTeX."""
    text = re.sub(r"([&%$#_{}])", r"\\\1", str(text).replace("\\", "/"))
    for plain, written in (
        ("~", r"\textasciitilde{}"),
        ("^", r"\textasciicircum{}"),
        ("↓", r"$\downarrow$"),
        ("±", r"$\pm$"),
        ("–", "--"),
        ("<", "$<$"),
        ("×", r"$\times$"),
    ):
        text = text.replace(plain, written)
    return text


def to_latex(table):
    """A table as LaTeX, shrunk to the width of the text where it is wider."""
    heads, rows = _heads_and_rows(table, LATEX, escape)
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(' '.join([table.title + '.', *table.notes]))}}}",
        rf"\label{{tab:{'-'.join(filter(None, (table.of, table.file)))}}}",
    ]
    lines += [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{lll{'c' * (len(heads) - 3)}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in rows),
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"])


def write_table(folder, table):
    """Write a table as Markdown, CSV and LaTeX and print it."""
    text = to_markdown(table)
    print(text + "\n")
    write_text(folder / f"{table.file}.md", text + "\n")
    write_text(folder / f"{table.file}.tex", to_latex(table) + "\n")
    cells = []
    for row in table.rows:
        for column in table.columns:
            cell = {"method": row.method, table.second: row.subject, "clips": row.clips, "metric": column}
            cell |= {"value": row.values.get(column, ""), "std": row.spread.get(column, "")}
            source = row.source.get(column, HERE if column in row.values else "")
            cells.append(cell | {"source": source, "stars": row.marks.get(column, "")})
    write_dicts(folder / f"{table.file}.csv", cells)
