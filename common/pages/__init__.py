"""Building blocks of static HTML pages: no server, no script; they open from disk.

Every helper takes plain text or `Html`; plain text is escaped.

    write_text(path, page("Report", [section("Loss", paragraph("Two runs."), plot(fig, "Loss over epochs"))]))
"""

import base64
import html
import io
import os
from pathlib import Path
from urllib.parse import quote


class Html(str):
    """Text that is HTML already and is not escaped again."""


STYLE = """
:root { --paper:#fff; --card:#f6f7f9; --ink:#1b1f24; --faint:#626b76; --line:#dde1e6; --accent:#2457a6;
  --good:#1a7f47; --good-back:#e0f3e7; --bad:#b3261e; --bad-back:#fbe4e2; --note:#7a5200; --note-back:#fff3d6; }
@media (prefers-color-scheme: dark) { :root { --paper:#14171b; --card:#1d2126; --ink:#e4e7eb; --faint:#99a2ad; --line:#343a42;
  --accent:#8ab4f8; --good:#7fd6a0; --good-back:#173625; --bad:#ff9d95; --bad-back:#43201e; --note:#f5cf7a; --note-back:#3a2f14; } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif }
main { max-width:1400px; margin:0 auto; padding:1.5rem 1.25rem 4rem }
h1 { font-size:1.75rem; line-height:1.2; margin:.25rem 0 }
h2 { font-size:1.25rem; margin:2.5rem 0 .75rem; padding-bottom:.3rem; border-bottom:1px solid var(--line) }
h3 { font-size:1rem; margin:1.25rem 0 .4rem }
p, ul { max-width:50rem; margin:.5rem 0 }
a { color:var(--accent) }
code { font-size:.88em; overflow-wrap:anywhere }
.faint { color:var(--faint) }
.banner { background:var(--note-back); color:var(--note);
  border-left:4px solid currentColor; border-radius:4px; padding:.6rem 1rem; margin:.75rem 0 }
.scroll { overflow-x:auto; margin:.75rem 0 }
table { border-collapse:collapse; font-size:.92rem; font-variant-numeric:tabular-nums }
caption { caption-side:bottom; text-align:left; color:var(--faint); padding-top:.4rem; font-size:.88rem }
th, td { padding:.35rem .8rem; border-bottom:1px solid var(--line); text-align:left; vertical-align:top }
th { color:var(--faint); font-weight:600; border-bottom-width:2px }
td.number { text-align:right; white-space:nowrap }
.badge { display:inline-block; border-radius:999px; padding:0 .6rem; font-size:.85rem; font-weight:600;
  background:var(--card); color:var(--faint) }
.badge.good { background:var(--good-back); color:var(--good) }
.badge.bad { background:var(--bad-back); color:var(--bad) }
figure { margin:0 }
figure img { display:block; max-width:100%; height:auto }
img.pixelated { image-rendering:pixelated }
figcaption { color:var(--faint); font-size:.88rem; margin-top:.35rem }
.grid { display:grid; gap:1rem; align-items:start; margin:1rem 0;
  grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--least)),1fr)) }
.card { background:var(--card); border:1px solid var(--line); border-radius:8px; padding:.9rem; min-width:0;
  content-visibility:auto; contain-intrinsic-size:auto 30rem }
.card h3 { margin:0 0 .5rem }
.beside { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr)); gap:.9rem; margin-bottom:.6rem }
dl.stacked { grid-template-columns:minmax(0,1fr); margin-top:0 }
.stacked dt { font-size:.8rem }
.stacked dd { margin-bottom:.35rem }
.halves { display:grid; grid-template-columns:1fr 1fr; gap:.4rem }
.halves img { width:100%; aspect-ratio:1; object-fit:cover }
.plot { background:#fff; border-radius:6px; width:fit-content; max-width:100% }
dl { display:grid; grid-template-columns:fit-content(65%) minmax(4rem,1fr); gap:.1rem .9rem; margin:.6rem 0; font-size:.92rem }
dt { color:var(--faint) }
dd { margin:0; min-width:0; overflow-wrap:anywhere }
details { margin:.75rem 0 }
summary { cursor:pointer; color:var(--accent) }
"""


# ---------------------------------------------------------------------------------------------- text


def text(content):
    """HTML of plain text, a number or Html."""
    return content if isinstance(content, Html) else Html(html.escape(_spell(content)))


def _spell(value):
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def tag(name, *content, **attributes):
    """An element; an attribute that is None or False is left out, `class_` stands for class."""
    written = "".join(f' {key.rstrip("_")}="{html.escape(str(value))}"' for key, value in attributes.items() if value not in (None, False))
    return Html(f"<{name}{written}>{''.join(map(text, content))}</{name}>")


def paragraph(*content, faint=False):
    return tag("p", *content, class_="faint" if faint else None)


def bullets(items):
    return tag("ul", *(tag("li", item) for item in items))


def code(content):
    return tag("code", content)


def link(target, content):
    return tag("a", content, href=target)


def badge(content, good=None):
    """A short verdict: green, red, or grey when `good` is None."""
    return tag("span", content, class_="badge" + {True: " good", False: " bad", None: ""}[None if good is None else bool(good)])


def banner(*content):
    """A line that nobody should overlook."""
    return tag("div", *content, class_="banner")


def facts(pairs, stacked=False):
    """Names and their values, one pair a line.

    Parameters
    ----------
    pairs : dict or iterable of (name, value)
    stacked : the value below its name
    """
    pairs = pairs.items() if isinstance(pairs, dict) else pairs
    return tag(
        "dl", *(part for name, value in pairs for part in (tag("dt", name), tag("dd", value))), class_="stacked" if stacked else None
    )


def table(header, rows, caption=None):
    """A table; cells that are numbers are set right.

    Parameters
    ----------
    header : sequence of column names
    rows : iterable of sequences; floats are shown with four digits, None as a dash
    caption : optional
    """
    head = tag("tr", *(tag("th", name) for name in header))
    body = [tag("tr", *(tag("td", cell, class_="number" if isinstance(cell, (int, float)) else None) for cell in row)) for row in rows]
    return tag(
        "div", tag("table", *([tag("caption", caption)] if caption else []), tag("thead", head), tag("tbody", *body)), class_="scroll"
    )


def details(summary, *content):
    """Content that a click unfolds."""
    return tag("details", tag("summary", summary), *content)


# ---------------------------------------------------------------------------------------------- pictures


def relative(path, page_path):
    """Address of a file as seen from a page on the same disk."""
    return quote(Path(os.path.relpath(path, Path(page_path).parent)).as_posix())


def embedded(content, kind="image/png"):
    """Data address of a file's bytes, for pages that should be one file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def figure(source, caption=None, *, alt="", pixelated=False, width=None):
    """A picture.

    Parameters
    ----------
    source : address, of `relative` or `embedded`
    caption : optional
    alt : what it shows, for those who do not see it
    pixelated : enlarge without smoothing
    width : CSS width, such as "384px"; the picture fills its column when it is "100%"
    """
    return _figure(_image(source, alt, pixelated, f"width:{width}" if width else None), caption)


def half(source, side, caption, *, alt="", pixelated=False):
    """One half of a picture that holds two squares side by side.

    Parameters
    ----------
    source : address
    side : "left" or "right"
    caption, alt, pixelated : as in `figure`
    """
    return _figure(_image(source, alt, pixelated, f"object-position:{side}"), caption)


def plot(fig, caption=None, *, alt="", dpi=120):
    """A matplotlib figure, embedded.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    caption : optional
    alt : what it shows
    dpi : dots per inch of the PNG
    """
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    image = _image(embedded(buffer.getvalue()), alt)
    return _figure(tag("div", image, class_="plot"), caption)


def _image(source, alt, pixelated=False, style=None):
    whole = tag("img", src=source, alt=alt, class_="pixelated" if pixelated else None, style=style, loading="lazy")
    return Html(whole.removesuffix("</img>"))


def _figure(image, caption):
    return tag("figure", image, *([tag("figcaption", caption)] if caption else []))


# ---------------------------------------------------------------------------------------------- the page


def card(*content, id=None):
    return tag("div", *content, class_="card", id=id)


def grid(cards, least="22rem"):
    """Cards in as many columns as fit; `least` is the smallest width of one."""
    return tag("div", *cards, class_="grid", style=f"--least:{least}")


def beside(left, right):
    """Two parts next to each other."""
    return tag("div", tag("div", left), tag("div", right), class_="beside")


def section(title, *content, id=None):
    return tag("section", tag("h2", title), *content, id=id)


def page(title, content, *, subtitle=None, phantom=False):
    """A whole page.

    Parameters
    ----------
    title : plain text
    content : iterable of sections or other Html
    subtitle : optional line below the title
    phantom : say in the title and on top that the data are the digital phantom's

    Returns
    -------
    str, to be written as UTF-8
    """
    if phantom:
        title = f"{title} (phantom)"
    top = [tag("h1", title), *([paragraph(subtitle, faint=True)] if subtitle else [])]
    if phantom:
        top.append(
            banner(
                tag("b", "Phantom."),
                " Made from the digital phantom: simulated fMRI of drawn films. Nothing here is a result about brains.",
            )
        )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>{tag("main", *top, *content)}</body></html>\n'
    )
