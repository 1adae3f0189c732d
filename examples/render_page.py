"""Write a script in percent format as a Markdown page: its text cells as text, its code cells as code.

python examples/render_page.py examples/phantom_tour.py docs/tour.md
"""

import re
from pathlib import Path

from common import cli
from common.files import write_text


def to_markdown(script):
    """Text of a script in percent format -> text of the page."""
    _, *cells = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)
    parts = []
    for kind, cell in zip(cells[::2], cells[1::2], strict=True):
        is_text = kind.strip() == "[markdown]"
        parts.append(re.sub(r"^# ?", "", cell.strip(), flags=re.MULTILINE) if is_text else f"```python\n{cell.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def get_parser():
    parser = cli.make_parser(__doc__)
    parser.add_argument("script", type=Path, help="script whose cells begin with # %%%%")
    parser.add_argument("page", type=Path, help="page to write")
    return parser


def main(args):
    write_text(args.page, to_markdown(args.script.read_text(encoding="utf-8")))
    print(f"wrote {args.page}; its pictures come from running {args.script}")


if __name__ == "__main__":
    cli.run(main, get_parser)
