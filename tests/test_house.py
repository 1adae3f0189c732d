"""The house itself: no paths of one machine, every command shown parses, one set of versions, imports one way."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "common", "models", "phantom", "Data_preprocess", "Feature_extraction", "Feature_decoding", "Reconstruction", "Retrieval",
    "Evaluation_Metrics", "Explainable_analysis", "jobs",
)  # fmt: skip
LAUNCHERS = (["python"], ["accelerate", "launch"])


def tracked():
    """Files of the tree that are or would be committed."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in (ROOT / name for name in names.splitlines()) if path.is_file()]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def module_name(path):
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


FILES = tracked()
PYTHON = [path for path in FILES if path.suffix == ".py" and "tests" not in path.parts and path.stat().st_size]
TREES = {path: ast.parse(path.read_text()) for path in PYTHON}
SCRIPTS = [path for path in PYTHON if re.search(r"^(def )?get_parser\b", path.read_text(), re.MULTILINE)]


# ---------------------------------------------------------------------------------------------- no machine of ours

ABSOLUTE = re.compile(r"(?<![\w.~}\])>-])/(home|root|work|tmp|Users|data\d*|nfs|mnt|scratch|opt|media|srv|gpfs)/")
OTHER_MACHINE = re.compile(r"\b[A-Z]:\\\\?\w|cuda" + r":\d")


def machine_paths(text):
    return [match.group() for pattern in (ABSOLUTE, OTHER_MACHINE) for match in pattern.finditer(text)]


def test_no_absolute_path_and_no_fixed_device():
    found = {}
    for path in FILES:
        if path.name in ("test_house.py", ".gitignore"):
            continue
        with contextlib.suppress(UnicodeDecodeError):  # pictures and weights
            if hits := machine_paths(path.read_text(encoding="utf-8")):
                found[relative(path)] = hits
    assert not found


# ---------------------------------------------------------------------------------------------- scripts


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Every script as a module, imported in an empty folder; what they print and what they leave there."""
    folder, printed, modules = tmp_path_factory.mktemp("import"), io.StringIO(), {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for path in SCRIPTS:
            sys.path.insert(0, str(path.parent))  # as Python does for a script
            try:
                modules[relative(path)] = importlib.import_module(module_name(path))
            finally:
                sys.path.remove(str(path.parent))
    lines = [line for line in printed.getvalue().splitlines() if "Warning" not in line and not line.startswith(" ")]  # of libraries
    return modules, lines, list(folder.rglob("*"))


def test_importing_a_script_runs_nothing(loaded):
    _, lines, files = loaded
    assert lines == [] and files == []


def test_a_script_ends_with_its_guard():
    for path in SCRIPTS:
        guard = TREES[path].body[-1]
        assert isinstance(guard, ast.If) and "__name__" in ast.unparse(guard.test), relative(path)
        assert "benchmarks" in path.parts or ast.unparse(guard.body[-1]) == "cli.run(main, get_parser)", relative(path)


def test_every_help_explains_every_flag(loaded):
    for name, module in loaded[0].items():
        if name.startswith("benchmarks/"):
            continue
        parser = module.get_parser()
        shown = parser.format_help()
        assert shown.startswith("usage:") and "(default: None)" not in shown, name
        assert {"--seed", "--config", "--overwrite", "--debug"} <= set(parser._option_string_actions), name
        assert [action.dest for action in parser._actions if not action.help] == [], name


def test_functions_and_scripts_are_short():
    """A function fits on a screen, a script is read in one go, and common/ holds no more than two stages share."""
    long = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (n := node.end_lineno - node.lineno + 1) > 60:
                long[f"{relative(path)}:{node.name}"] = n
        if path in SCRIPTS and (n := path.read_text().count("\n")) > 400:
            long[relative(path)] = n
    assert long == {}
    assert sum(path.read_text().count("\n") for path in PYTHON if relative(path).startswith("common/")) <= 4000


def commands(text):
    """Command lines of a text: list of (script, flags)."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for launcher in LAUNCHERS:
            if (line := line.strip()).startswith(" ".join(launcher) + " ") and ".py" in line:
                words = shlex.split(line, comments=True)[len(launcher) :]
                place = next(i for i, word in enumerate(words) if word.endswith(".py"))  # behind the launcher's own flags
                found.append((words[place], words[place + 1 :]))
    return found


def code_blocks(path, language=""):
    """Code blocks of a page, of one language or of any."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def shown_commands():
    """Every command line that a page's code block or a script's docstring shows, with its place."""
    shown = []
    for path in FILES:
        if path.suffix == ".md":
            shown += [(relative(path), *command) for block in code_blocks(path) for command in commands(block)]
    for path in PYTHON:
        shown += [(relative(path), *command) for command in commands(ast.get_docstring(TREES[path]) or "")]
    return shown


SHOWN = shown_commands()
RUNNABLE = [shown for shown in SHOWN if not shown[1].startswith("benchmarks/")]  # benchmarks have parsers of their own


def own_data_sets():
    """The registry entries that docs/own_data.md tells its reader to write, by name."""
    from common.datasets import OwnDataset

    names = {"OwnDataset": OwnDataset}
    exec(code_blocks(ROOT / "docs/own_data.md", "python")[0], names)
    return {entry.name: entry for entry in names["OWN"]}


@pytest.mark.parametrize("place, script, flags", RUNNABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_command_parses(place, script, flags, loaded, capsys, monkeypatch):
    from common import cli, datasets

    assert script in loaded[0], f"{place} shows {script}, which is no script of ours"
    monkeypatch.setattr(datasets, "DATASETS", datasets.DATASETS | own_data_sets())
    monkeypatch.chdir(ROOT)
    try:
        cli.parse(loaded[0][script].get_parser, flags, script.removesuffix(".py"))
    except SystemExit:
        pytest.fail(f"{place}: {script} {' '.join(flags)}: {capsys.readouterr().err.splitlines()[-1]}")


def test_every_script_shows_how_to_call_it():
    for path in SCRIPTS:
        assert relative(path) in [script for script, _ in commands(ast.get_docstring(TREES[path]))], relative(path)


# ---------------------------------------------------------------------------------------------- versions


def pins(lines):
    """'name==version' lines as canonical name -> version."""
    found = dict(line.split("==") for line in lines if line.strip() and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in found.items()}


def read_versions():
    import tomllib

    lock = pins((ROOT / "requirements.lock").read_text().splitlines())
    conda = yaml.safe_load((ROOT / "environment_MA.yml").read_text())["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return lock, conda, project


def test_environment_pins_what_the_lock_pins():
    lock, conda, project = read_versions()
    pip = pins(next(entry["pip"] for entry in conda if isinstance(entry, dict)))
    assert pip == {name: lock[name] for name in pip}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert set(pip) == {canonicalize_name(Requirement(line).name) for line in wanted}
    python = next(entry for entry in conda if isinstance(entry, str) and entry.startswith("python="))
    assert Requirement("python" + project["requires-python"]).specifier.contains(python.removeprefix("python="))


def test_lock_satisfies_the_bounds():
    lock, _, project = read_versions()
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(lock[canonicalize_name(wanted.name)]), line


def imports(tree):
    """(module, imported name or None) of every import, those inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(node.module, alias.name) for alias in node.names]
    return found


def test_everything_imported_is_declared():
    """Third-party packages that our code imports stand in pyproject.toml."""
    names = {  # import name -> distribution, where they differ
        "cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml",
        "open_clip": "open-clip-torch",
    }  # fmt: skip
    # their absence is caught where they are used, or another declared package needs them
    indirect = {"huggingface_hub", "tokenizers", "tensorboard", "packaging", "psutil", "lpips"}
    _, _, project = read_versions()
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    roots = {module.split(".")[0] for tree in TREES.values() for module, _ in imports(tree)}
    roots -= {*PACKAGES, "run_pipeline", "timing", "full_size", *sys.stdlib_module_names, *indirect}  # two of the benchmarks
    assert {canonicalize_name(names.get(root, root)) for root in roots} <= declared


# ---------------------------------------------------------------------------------------------- arrows


def test_no_arrow_runs_up():
    """The contracts of pyproject.toml's [tool.importlinter]."""
    done = subprocess.run([sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_script_imports_a_script():
    """What two scripts share is a library file; the metrics, which are importable as well as runnable, are one."""
    scripts = {module_name(path) for path in SCRIPTS if not relative(path).startswith("Evaluation_Metrics/")}
    for path in PYTHON:
        used = {module for module, _ in imports(TREES[path])} | {f"{module}.{name}" for module, name in imports(TREES[path]) if name}
        assert not used & scripts or relative(path).startswith("benchmarks/"), relative(path)


def test_no_module_uses_anothers_privates():
    for path in PYTHON:
        private = [f"{module}.{name}" for module, name in imports(TREES[path])
                   if name and name.startswith("_") and module.split(".")[0] in PACKAGES]  # fmt: skip
        assert private == [], relative(path)


def test_nothing_is_unpickled():
    """np.load, torch.load and pickle: arrays and weights alone."""
    for path in PYTHON:
        for node in (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)):
            function, flags = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert function not in ("pickle.load", "pickle.loads"), relative(path)
            assert function != "torch.load" or flags.get("weights_only") == "True", relative(path)
            assert function != "np.load" or flags.get("allow_pickle", "False") == "False", relative(path)
