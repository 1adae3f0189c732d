"""README and docs: links lead somewhere, every command is tested or marked, published numbers are those of the reference file."""

import ast
import json
import re
import tomllib

import pytest
import yaml
from test_house import FILES, PYTHON, ROOT, commands, relative

PAGES = [path for path in FILES if path.suffix == ".md"]
SITE = [path for path in PAGES if relative(path).startswith("docs/")]
CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
REFERENCE = json.loads((ROOT / "Evaluation_Metrics/reference_values.json").read_text())["tables"]


def by_name(path):
    return relative(path)


# ---------------------------------------------------------------------------------------------- links


def anchors(page):
    """Anchors of a page's headings, as GitHub and MkDocs both make them of plain words."""
    titles = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", title).lower() for title in titles]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip()) for title in plain}


def links(page):
    """Targets of a page's links and pictures that are not on the web."""
    text = re.sub(r"`[^`\n]*`", "", CODE.sub("", page.read_text()))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        found = there in FILES and (not anchor or anchor in anchors(there))
        assert found, f"{relative(page)} links to {target}, which is no file or no heading of the repository"
        assert page not in SITE or there.is_relative_to(ROOT / "docs"), f"{relative(page)}: {target} is outside the site"


def test_the_site_has_every_page_once():
    def pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages(value)

    shown = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(shown) == sorted(relative(page).removeprefix("docs/") for page in SITE)
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in links(page)}
    pictures = {path for path in FILES if relative(path).startswith("docs/") and path.suffix in (".png", ".svg", ".webp")}
    assert pictures <= linked, "pictures that no page shows"


def test_the_api_pages_name_what_there_is():
    for page in SITE:
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE):
            parts = name.split(".")
            path = next(ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(len(parts), 0, -1)
                        if ROOT.joinpath(*parts[:n]).with_suffix(".py").is_file() or ROOT.joinpath(*parts[:n]).is_dir())  # fmt: skip
            rest = parts[len(relative(path.with_suffix("")).split("/")) :]
            path = path if path.is_file() else path.with_suffix("") / "__init__.py"
            defined = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
            found = path in PYTHON and set(rest) <= defined
            assert found, f"{relative(page)}: {name}"


# ---------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_commands_are_tested_or_marked(page):
    """A block of commands says what it needs, or which tests call its scripts; test_house.py parses the flags of both."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for language, rest, block in BLOCK.findall(page.read_text()):
        assert language == "bash" or not commands(block), f"{relative(page)}: commands belong into a block of bash: {block.splitlines()[0]}"
        if language != "bash":
            continue
        mark = re.fullmatch(r' title="(needs|tested:) ([^"]+)"', rest)
        assert mark, f"{relative(page)}: no mark on the block that begins {block.splitlines()[0]}"
        assert set(re.findall(r"^make (\w+)", block, re.MULTILINE)) <= {*targets}
        if mark[1] == "tested:":
            tests = "".join((ROOT / file).read_text() for file in re.findall(r"tests/test_\w+\.py", mark[2]))
            names = [script.rpartition("/")[2].removesuffix(".py") for script, _ in commands(block)]
            missing = [name for name in names if name not in tests and relative(page) not in tests]  # a test may run the page's own blocks
            assert missing == [], f"{relative(page)}: {mark[2]}"


def test_flags_in_the_text_exist():
    words = {node.value: path for path in PYTHON for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    models = {f"--{word}" for word in words if word.endswith(("_path", "_classifier"))}  # spelled f"--{flag}" in the code
    models |= {f"--{decoder}_model_path" for decoder in ("semantic", "structure", "CMG")}
    others = {  # of pip, accelerate, torchrun, sbatch, squeue
        "--no-deps", "--index-url", "--multi_gpu", "--num_machines", "--num_processes", "--machine_rank", "--main_process_ip", "--main_process_port",
        "--account", "--mem", "--cpus-per-task", "--config_file", "--nproc_per_node", "--me", "--requeue", "--dependency", "--help",
    }  # fmt: skip
    known = {*words} | models | others
    shown = [(relative(page), flag) for page in PAGES for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", page.read_text())]
    unknown = [place for place in shown if place[1] not in known]
    assert unknown == []


# ---------------------------------------------------------------------------------------------- numbers and versions


def published_tables():
    """(page, table's name, cells of a row by column) of every table that is marked as taken from the reference file."""
    for page in PAGES:
        for name, table in re.findall(r"<!-- reference_values\.json: (\w+) -->\n\n((?:\|.*\n)+)", page.read_text()):
            head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
            for row in rows:
                yield relative(page), name, dict(zip(head, row, strict=True))


def test_published_numbers_are_those_of_the_reference_file():
    found = list(published_tables())
    for page, name, cells in found:
        method, external = re.fullmatch(r"([^,]+)(, EV)?", cells.pop("")).groups()
        if method == "ours":
            continue
        gallery = cells.pop("set", None)
        rows = [row for row in REFERENCE[name]["rows"] if row["method"].startswith(method) and row.get("gallery") == gallery
                and bool(external) == ("EV" in row.get("training", ""))]  # fmt: skip
        assert len(rows) == 1, f"{page}: {method} in {name}"
        values = {column.removesuffix(" ↓"): cell for column, cell in cells.items()}
        for column, cell in values.items():
            published = rows[0]["values"].get(column, {}).get("value")
            assert (None if cell == "–" else float(cell)) == published, f"{page}: {method}, {column}"
    assert {name for _, name, _ in found} >= {"CC2017", "retrieval", "ablation", "shuffle"}


def test_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == version == changes[0]


def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") < 200
