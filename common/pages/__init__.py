"""Static HTML pages: no server, nothing from elsewhere; they open from disk and name other files by relative links.

Templates lie in templates/ (Jinja2, autoescaped); all of them extend base.html, take their parts from macros.html and
their looks from style.css.

    render("report.html", path, title="Subject 1", note=dataset.note, ...)
"""

import functools
import os
from pathlib import Path
from urllib.parse import quote

import jinja2

from common.files import write_text

PROJECT = Path(__file__).resolve().parents[2]


def render(template, path, *, title, subtitle="", note="", pages=(), docs=(), forward="", **values):
    """Write a page and return its path.

    Parameters
    ----------
    template : str
        file name in templates/
    note : str
        what nobody should overlook, such as that the data are simulated
    pages : sequence of (str, Path or None or "")
        other pages, linked on top; None for the page itself, "" for a word before the next ones
    docs : sequence of str
        names of pages in docs/ that explain this one, linked at the end as far as they are there: as the site has them, if it was built
    forward : str
        address to which the page forwards
    **values
        what else the template shows
    """
    pages = [(label, target and relative(target, path)) for label, target in pages]
    found = {name: next(filter(Path.is_file, (PROJECT / f"site/{name}.html", PROJECT / f"docs/{name}.md")), None) for name in docs}
    docs = [(name.replace("_", " "), relative(file, path)) for name, file in found.items() if file]
    text = _environment().get_template(template).render(
        title=title, subtitle=subtitle, note=note, pages=pages, docs=docs, forward=forward, **values
    )  # fmt: skip
    write_text(path, text)
    return path


def relative(path, page):
    """Address of a file as seen from a page on the same disk."""
    return quote(Path(os.path.relpath(path, Path(page).parent)).as_posix())


def number(value, digits=4):
    """A value as pages show it: floats with four digits, None as a dash, text as it is."""
    return f"{value:.{digits}g}" if isinstance(value, float) else "–" if value is None else value


@functools.cache
def _environment():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment
