"""The house itself: no paths of one machine, every command shown parses, one set of versions, imports one way."""

import ast
import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OURS = ("common", "models", "Evaluation_Metrics", "Retrieval", "Explainable_analysis")  # packages
SCRIPT_FOLDERS = ("Data_preprocess", "Feature_extraction", "Feature_decoding", "Reconstruction", *OURS[2:])
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
PYTHON = [path for path in FILES if path.suffix == ".py" and "tests" not in path.parts]
TREES = {path: ast.parse(path.read_text()) for path in PYTHON}
SCRIPTS = [path for path in PYTHON if any(isinstance(node, ast.FunctionDef) and node.name == "get_parser" for node in TREES[path].body)]


def test_the_tree_is_seen():
    assert {"run_pipeline.py", "README.md", "common/files.py", "tests/test_house.py"} <= {relative(path) for path in FILES}
    assert {"run_pipeline.py", "Reconstruction/video_recons.py", "Feature_decoding/train_CMG.py"} <= {relative(path) for path in SCRIPTS}


# ---------------------------------------------------------------------------------------------- no machine of ours

ABSOLUTE = re.compile(r"(?<![\w.~}\])>-])/(home|root|work|tmp|Users|data\d*|nfs|mnt|scratch|opt|media|srv|gpfs)/")
OTHER_MACHINE = re.compile(r"\b[A-Z]:\\\\?\w|cuda" + r":\d")


def machine_paths(text):
    return [match.group() for pattern in (ABSOLUTE, OTHER_MACHINE) for match in pattern.finditer(text)]


@pytest.mark.parametrize("text", ['open("/home/me/x.npy")', "root=/data0/cc2017/", "see C:\\Users", 'device("cuda' + ':0")', "`/tmp/x`"])
def test_machine_paths_are_recognised(text):
    assert machine_paths(text)


@pytest.mark.parametrize("text", ["https://example.org/home/x", "outputs/tmp/x", "{data_root}/work/x", "cuda or cpu", "a/b", "3:4"])
def test_other_paths_are_not(text):
    assert not machine_paths(text)


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
            spec = importlib.util.spec_from_file_location("house_" + module_name(path).replace(".", "_"), path)
            modules[relative(path)] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[relative(path)])
    lines = [line for line in printed.getvalue().splitlines() if "Warning" not in line and not line.startswith(" ")]  # of libraries
    return modules, lines, list(folder.rglob("*"))


def test_importing_a_script_runs_nothing(loaded):
    _, lines, files = loaded
    assert lines == [] and files == []


@pytest.mark.parametrize("path", [path for path in PYTHON if path.name != "__init__.py"], ids=relative)
def test_top_level_only_defines(path):
    """No loop, no `with`, no call for its effect stands outside functions; but for the guard, last."""
    body = TREES[path].body
    assert ast.get_docstring(TREES[path])
    guards = [node for node in body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
    assert guards in ([], body[-1:])
    if path in SCRIPTS:
        assert ast.unparse(guards[0].body[-1]) == "cli.run(main, get_parser)"
    effects = [node for node in body[1:] if isinstance(node, (ast.For, ast.While, ast.With, ast.Expr)) and node not in guards]
    assert [ast.unparse(node) for node in effects if not isinstance(getattr(node, "value", None), ast.Constant)] == []


def test_every_help_builds_and_explains_every_flag(loaded):
    silent = {}
    for name, module in loaded[0].items():
        parser = module.get_parser()
        assert parser.format_help().startswith("usage:"), name
        assert {"--seed", "--config", "--overwrite", "--debug"} <= set(parser._option_string_actions), name
        if unexplained := [action.dest for action in parser._actions if not action.help]:
            silent[name] = unexplained
    assert not silent


def commands(text):
    """Command lines of a text: list of (script, flags)."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for launcher in LAUNCHERS:
            if (line := line.strip()).startswith(" ".join(launcher) + " ") and ".py" in line:
                words = shlex.split(line, comments=True)[len(launcher) :]
                found.append((words[0], words[1:]))
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


def test_commands_are_found():
    assert commands("x\n  python a.py --b 'c d' \\\n   --e  # note\naccelerate launch f.py\nmake g") == [
        ("a.py", ["--b", "c d", "--e"]),
        ("f.py", []),
    ]
    assert len([shown for shown in SHOWN if shown[0] == "README.md"]) >= 10


def own_data_sets():
    """The registry entries that docs/own_data.md tells its reader to write, by name."""
    from common import datasets

    names = {"OwnDataset": datasets.OwnDataset}
    exec(code_blocks(ROOT / "docs/own_data.md", "python")[0], names)
    return {entry.name: entry for entry in names["OWN"]}


@pytest.mark.parametrize("place, script, flags", RUNNABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_command_parses(place, script, flags, loaded, capsys, monkeypatch):
    from common import cli, datasets

    assert script in loaded[0], f"{place} shows {script}, which is no script of ours"
    monkeypatch.setattr(datasets, "DATASETS", datasets.DATASETS | own_data_sets())
    monkeypatch.chdir(ROOT)
    try:
        cli.parse(loaded[0][script].get_parser, flags, Path(script).stem)
    except SystemExit:
        pytest.fail(f"{place}: {script} {' '.join(flags)}: {capsys.readouterr().err.splitlines()[-1]}")


@pytest.mark.parametrize("path", SCRIPTS, ids=relative)
def test_script_shows_how_to_call_it(path):
    assert relative(path) in [script for script, _ in commands(ast.get_docstring(TREES[path]))]


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


def test_everything_imported_is_declared():
    """Third-party packages that our code imports stand in pyproject.toml."""
    import sys

    names = {  # import name -> distribution, where they differ
        "cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml",
        "open_clip": "open-clip-torch",
    }  # fmt: skip
    # their absence is caught where they are used, or another declared package needs them
    indirect = {"huggingface_hub", "tokenizers", "tensorboard", "packaging", "psutil"}
    ours = {*OURS, "run_pipeline", *SCRIPT_FOLDERS} | {path.stem for path in PYTHON}
    _, _, project = read_versions()
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    roots = {name.split(".")[0] for tree in TREES.values() for name, _, _ in imports(tree)} - ours - set(sys.stdlib_module_names) - indirect
    assert {canonicalize_name(names.get(root, root)) for root in roots} <= declared


# ---------------------------------------------------------------------------------------------- arrows


def imports(tree):
    """(module, imported name or None, name it gets) of every import, those inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, None, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(node.module, alias.name, alias.asname or alias.name) for alias in node.names]
    return found


MODULES = {module_name(path) for path in PYTHON}


def our_imports(path):
    """Our modules that a file imports, `from package import module` resolved."""
    found = set()
    for module, name, _ in imports(TREES[path]):
        whole = f"{module}.{name}" if name else module
        found |= {candidate for candidate in (whole, module) if candidate in MODULES and candidate.count(".")} or (
            {module} if module.split(".")[0] in {name.split(".")[0] for name in MODULES} else set()
        )
    return found


def files_below(folder):
    return [path for path in PYTHON if relative(path).startswith(folder + "/")]


def test_imports_are_resolved():
    assert {"common.cli", "common.datasets"} <= our_imports(ROOT / "run_pipeline.py")
    assert "Evaluation_Metrics.per_clip" in our_imports(ROOT / "Evaluation_Metrics/SSIM.py")


def test_models_import_only_models_and_files():
    for path in files_below("models"):
        others = {name for name in our_imports(path) if not name.startswith("models")}
        assert others <= {"common.files"}, relative(path)
        assert "argparse" not in {module for module, _, _ in imports(TREES[path])}, relative(path)


def test_common_imports_no_scripts():
    for path in files_below("common"):
        assert {name.split(".")[0] for name in our_imports(path)} <= {"common", "models"}, relative(path)


def test_metrics_know_nothing_of_training():
    for path in files_below("Evaluation_Metrics"):
        used = our_imports(path)
        assert {name.split(".")[0] for name in used} <= {"common", "models", "Evaluation_Metrics"}, relative(path)
        assert not used & {"Feature_decoding.training", "Feature_decoding.contrastive", "models.losses", "models.schedules"}, relative(path)


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_no_module_uses_anothers_privates(path):
    private, bound = [], set()
    for module, name, alias in imports(TREES[path]):
        if module.split(".")[0] in {known.split(".")[0] for known in MODULES}:
            bound.add(alias)
            private += [f"{module}.{name}"] if name and name.startswith("_") else []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
            private += [f"{node.value.id}.{node.attr}"] if node.attr.startswith("_") and not node.attr.startswith("__") else []
    assert private == []


def test_nothing_is_unpickled():
    """np.load, torch.load and pickle: arrays and weights alone."""
    for path in PYTHON:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                flags = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert flags.get("weights_only") == "True" or (ast.unparse(node.func) == "np.load" and flags.get("allow_pickle", "False") == "False"), (
                    f"{relative(path)}: {ast.unparse(node)}"
                )
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("pickle.load", "pickle.loads")), relative(path)


def test_names_of_scripts_are_unique_within_a_run():
    """Config sections and run_pipeline go by a script's bare name."""
    names = [path.stem for path in SCRIPTS if not relative(path).startswith(("Data_preprocess/", "benchmarks/"))]
    assert len(names) == len(set(names))
