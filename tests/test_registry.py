"""The registry: a data set is one file, and what is not there for it is said in a sentence."""

import argparse
import importlib
import re
import sys
from dataclasses import replace

import pytest
from test_house import PYTHON, SCRIPTS, relative
from tiny import ROOT

from common import cli, datasets
from common.datasets import ALGONAUTS, CC2017, DATASETS, HCP, OwnDataset
from common.files import UserError
from common.model_sources import model_path


@pytest.mark.parametrize(
    "dataset, word, subject",
    [
        (CC2017, "2", 2), (CC2017, 2, 2), (CC2017, "sub-02", 2), (HCP, "100610", 100610), (HCP, "sub102816", 102816), (ALGONAUTS, "1", 1),
        (ALGONAUTS, "sub01", 1), (ALGONAUTS, "sub10", 10), (replace(CC2017, subjects=("anna", "sub-b")), "anna", "anna"),
        (replace(CC2017, subjects=("anna", "sub-b")), "b", "sub-b"),
    ],
)  # fmt: skip
def test_participants_are_called_what_people_call_them(dataset, word, subject):
    assert dataset.find_subject(word) == subject


@pytest.mark.parametrize("dataset, word", [(CC2017, "4"), (CC2017, "0"), (HCP, "1"), (ALGONAUTS, "sub11"), (CC2017, ""), (CC2017, "one")])
def test_an_unknown_participant(dataset, word):
    with pytest.raises(UserError, match=f"{dataset.name} has no subject {word}; choose from {dataset.subjects[0]}"):
        dataset.find_subject(word)


def test_models_come_from_the_flag_or_the_data_set():
    args = argparse.Namespace(dataset="phantom", sd_path=None, image_classifier="mine", clip_classifier=None)
    assert model_path(args, "image_classifier") == "mine"
    for name in ("sd", "clip", "clip_classifier"):
        assert model_path(args, name) == str(ROOT / "phantom/models" / name)
    args.dataset, args.sd_path = "CC2017", "elsewhere"
    assert (
        model_path(args, "sd") == "elsewhere"
        and model_path(args, "clip") == "ViT-B-32:openai"
        and model_path(args, "clip_classifier") is None
    )


def test_a_data_set_is_one_file(tmp_path, monkeypatch):
    """A file more in the registry's folder, and every script offers what it defines."""
    (tmp_path / "one_more.py").write_text(
        "from dataclasses import replace\nfrom common.datasets.cc2017 import CC2017\nOTHER = (replace(CC2017, name='one more'),)\n"
    )
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "common.datasets.one_more", raising=False)
    assert datasets._find_entries().keys() == {*DATASETS, "one more"}


ENTRY = "from dataclasses import replace\nfrom common.datasets import CC2017, OwnDataset\n"


@pytest.mark.parametrize(
    "content, says",
    [
        ("1 / 0", "ZeroDivisionError"), ("OWN = (OwnDataset(", "SyntaxError"), ("import nothing_of_this_name", "ModuleNotFoundError"), ("exit()", "SystemExit"),
        (f"{ENTRY}OWN = (OwnDataset(name='x'),)", "TypeError"), (f"{ENTRY}X = replace(CC2017, n_test=7)", "another entry has this name"),
        *((f"{ENTRY}X = replace(CC2017, name='broken', {change})", says) for change, says in (
            ("n_train='2400'", "n_train is '2400', and must be of type int"), ("subjects=1", "subjects is 1, and must be of type tuple"),
            ("tr=0", "tr is 0, and must be greater than 0"), ("fps=0", "fps is 0"), ("tr=float('nan')", "tr is nan"), ("subjects=()", "there is no participant"),
            ("subjects=(1, 1)", "a participant is there twice"), ("subjects=('../a',)", "has a '/'"), ("frame_indices=tuple(range(7))", "eight ascending frames"),
            ("frame_indices=(0, 8, 16, 24, 32, 40, 48, 60)", "below clip_frames"), ("middle_frame=25", "middle_frame one of them"),
        )),
        *((f"{ENTRY}X = [OwnDataset('broken', (1, 2), 4, 2, 1.5, 20, 60, tuple(range(0, 64, 8)), 24, 512, 0, {change})]", says) for change, says in (
            ("series='{run}.npy'", "must have {run} and, with several subjects, {subject}"), ("series='{subject}{session}.npy'", "must have {run}"),
            ("lag_seconds=4000.0", "lag_seconds is 4000.0, and must be from -60 to 60"),
        )),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_left_out_and_says_why(tmp_path, monkeypatch, capsys, content, says):
    (tmp_path / "broken_one.py").write_text(content)
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    monkeypatch.setattr(datasets, "BROKEN", {})
    monkeypatch.delitem(sys.modules, "common.datasets.broken_one", raising=False)
    assert datasets._find_entries() == DATASETS
    with pytest.raises(UserError) as error:
        datasets.get_dataset("broken")
    assert says in str(error.value) and "common/datasets/broken_one.py" in str(error.value)
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda args: None, lambda: cli.add_data_flags(parser := cli.make_parser("")) and parser, ["--dataset", "broken"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and says in said and said.count("\n") == 1


def test_a_config_file_that_names_no_data_set_is_named(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("dataset: nothing")
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda args: None, lambda: cli.add_data_flags(parser := cli.make_parser("")) and parser, ["--config", tmp_path / "c.yaml"])
    assert stopped.value.code == 2 and "c.yaml: argument --dataset: there is no data set 'nothing'" in capsys.readouterr().err


def test_nothing_outside_the_registry_asks_which_data_set_it_is():
    """No name of a data set in a comparison, no is_phantom; a script may ask for the kind of tree that it reads."""
    names = "|".join(name for name, dataset in DATASETS.items() if not isinstance(dataset, OwnDataset))  # which a user calls what they like
    branch = re.compile(rf"is_phantom|(?:==|!=|\bin) *[(\[]?[\"'](?:{names})[\"']|isinstance\(.*dataset, ")
    for path in PYTHON:
        if "datasets" not in path.parts and "benchmarks" not in path.parts:  # whose recipes are named after data sets
            assert not branch.search(path.read_text()), relative(path)


OWN = OwnDataset(
    name="own", subjects=("anna",), n_train=8, n_test=4, tr=1.0, fps=10, clip_frames=10, frame_indices=tuple(range(8)), middle_frame=4,
    frame_size=32, n_vertices=0,
)  # fmt: skip
GIVEN = {  # what a script needs beside the data set
    "Evaluation_Metrics/bootstrap_with_wilcoxon.py": ["nowhere.npz", "nowhere.npz"],
    "Evaluation_Metrics/compare.py": ["nowhere"],
    "Reconstruction/convert_released.py": ["--released_root", "nowhere"],
}
CALLED = [path for path in SCRIPTS if not relative(path).startswith(("benchmarks/", "examples/"))]


@pytest.mark.parametrize("name", ["HCP", "Algonauts2021", "own"])
@pytest.mark.parametrize("path", CALLED, ids=relative)
def test_a_script_says_what_it_lacks(path, name, tmp_path, capsys, monkeypatch):
    """On an empty folder: one line, no traceback; a script without data sets is no part of this."""
    monkeypatch.setitem(datasets.DATASETS, "own", OWN)
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module(relative(path).removesuffix(".py").replace("/", "."))
    known = script.get_parser()._option_string_actions
    if "--dataset" not in known:
        return
    flags = ["--dataset", name, *GIVEN.get(relative(path), [])]
    if "--subj_ID" in known:
        flags += ["--subj_ID", str(DATASETS[name].subjects[0])]
    if "--sd_path" in known:
        flags += ["--sd_path", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit) as stopped:
        cli.run(script.main, script.get_parser, flags)
    said = capsys.readouterr()
    assert stopped.value.code in (1, 2) and "Traceback" not in said.err
    assert said.err.count("error: ") == (stopped.value.code == 2), said.err
