"""What scripts share: files that are whole or absent, one-line errors, run records, the registry, caption augmentation."""

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections import Counter

import numpy as np
import pytest

from common import augment, cli, cortex, files, workers
from common.datasets import CC2017, DATASETS, get_dataset
from common.files import UserError, atomic_path, card_path, load_array, save_array
from common.records import Record, working
from Feature_extraction.array_writer import ArrayWriter
from phantom.training import atomic_files

CARD = {"rows": "clips", "units": "none", "made_by": "test"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------- whole or absent


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".txt" and temporary.parent == tmp_path
        raise RuntimeError
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"
    files.write_text(tmp_path / "new" / "a.txt", "new")
    assert names(tmp_path / "new") == ["a.txt"]


def test_json_takes_numpy_and_a_failed_one_leaves_nothing(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": np.arange(3), "b": np.float32(0.5), "c": tmp_path / "x"})
    assert files.read_json(tmp_path / "a.json") == {"a": [0, 1, 2], "b": 0.5, "c": f"{tmp_path}/x"}
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "b.json", {"a": object()})
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "file not found"),
        (b"{", "not readable JSON"),
        (b"\0", "not readable JSON"),
        (b"\xff", "not readable JSON"),
        (b"[" * 10**5, "not readable JSON"),
        (b"[1]", "list where a dict"),
    ],
)
def test_missing_or_broken_json_is_one_line(tmp_path, content, says):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        files.read_json(tmp_path / "a.json")
    assert "a.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind, says",
    [
        (dict, ""), ({"n": int}, ""), ({"x": (int, type(None))}, ""), ({"m?": int, "n?": int}, ""), ({"n?": str}, "as 'n'"), ({"runs": {...: [float]}}, ""), ({"runs": {"a": list}}, ""),
        ({"files": [{"file": str}]}, ""),
        ({"m": int}, "has no entry 'm'"), ({"n": str}, "holds a int where a str belongs, as 'n'"), ({"runs": {...: [int]}}, "float where a int belongs, as 0"),
        ({"files": [{"file": int}]}, "str where a int belongs, as 'file'"), ({"n": dict}, "int where a dict"), ({"runs": []}, "dict where a list belongs, as 'runs'"),
    ],
)  # fmt: skip
def test_json_is_of_the_kind_that_is_expected(tmp_path, kind, says):
    (tmp_path / "a.json").write_text('{"n": 3, "x": null, "runs": {"a": [0.5], "b": []}, "files": [{"file": "f"}]}')
    with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
        files.read_json(tmp_path / "a.json", kind)
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n[1]\n{"n": "x"}\n{"n": 2}\n{"n": 3')
    assert files.read_log(tmp_path / "a.jsonl", {"n": int}) == [{"n": 1}, {"n": 2}] and files.read_log(tmp_path / "b.jsonl") == []


def test_sums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a b.txt", "in/c.txt"):
        (tmp_path / name).write_text(name)
    files.write_sums(tmp_path, {name: files.sha256(tmp_path / name) for name in ("in/c.txt", "a b.txt")})
    assert subprocess.run(["sha256sum", "-c", "--quiet", files.SUMS], cwd=tmp_path, capture_output=True).returncode == 0
    assert list(files.read_sums(tmp_path)) == ["a b.txt", "in/c.txt"] and files.read_sums(tmp_path / "in") == {}
    files.check_sum(tmp_path / "in/c.txt", tmp_path)
    files.check_sum(tmp_path / "unknown.txt", content=b"not of ours")
    (tmp_path / "a b.txt").write_text("A b.txt")
    with pytest.raises(UserError, match="a b.txt does not match its checksum"):
        files.check_sum(tmp_path / "a b.txt")
    (tmp_path / files.SUMS).write_text("nonsense\n")
    with pytest.raises(UserError, match="SHA256SUMS, line 1"):
        files.check_sum(tmp_path / "a b.txt")


def make_array(n=12, dtype="float32"):
    return np.random.default_rng(0).standard_normal((n, 5)).astype(dtype)


def write_rows(path, array, *, stop=None, step=5, key="a", **options):
    """Fill an ArrayWriter; `stop` breaks off before that row, as a kill would. Returns the row it began with."""
    with ArrayWriter(path, array.shape, array.dtype, key=key, card=CARD, **options) as out:
        began = out.done
        for i in range(out.done, len(array), step):
            if stop is not None and i >= stop:
                break
            out.write(i, array[i : i + step])
    return began


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, dtype):
    array = (make_array() * 9).astype(dtype)
    write_rows(tmp_path / "whole.npy", array)
    assert write_rows(tmp_path / "a.npy", array, stop=5) == 0
    assert not (tmp_path / "a.npy").exists() and not card_path(tmp_path / "a.npy").exists()
    assert write_rows(tmp_path / "a.npy", array) == 5
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert names(tmp_path) == ["a.npy", "a.npy.json", "whole.npy", "whole.npy.json"]
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    assert load_array(tmp_path / "a.npy", verify=True).dtype == dtype


def test_killed_in_mid_write_resumes_to_the_same_bytes(tmp_path):
    program = (
        "import os, signal, sys, numpy as np\n"
        "from Feature_extraction.array_writer import ArrayWriter\n"
        "with ArrayWriter(sys.argv[1], (12, 5), 'float32', key='a', card=dict(rows='', units='', made_by='')) as out:\n"
        "    out.write(0, np.ones((3, 5)))\n"
        "    out.array[3:5] = 7\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "a.npy"]).returncode == -signal.SIGKILL
    assert not (tmp_path / "a.npy").exists()
    array = np.ones((12, 5), "float32")
    assert write_rows(tmp_path / "a.npy", array, step=3) == 3
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)


@pytest.mark.parametrize("change", ["key", "shape", "dtype", "fresh", "progress", "partial"])
def test_a_half_done_array_of_another_run_is_thrown_away(tmp_path, change):
    path, array, options = tmp_path / "a.npy", make_array(), {}
    write_rows(path, array + 1, stop=5)
    if change == "key":
        options = {"key": "b"}
    elif change == "fresh":
        options = {"fresh": True}
    elif change == "shape":
        array = array[:11]
    elif change == "dtype":
        array = array.astype("float64")
    elif change == "progress":
        (tmp_path / ".partial-a.npy.json").write_text('{"key"')
    else:
        (tmp_path / ".partial-a.npy").write_bytes(b"")
    assert write_rows(path, array, **options) == 0
    assert np.array_equal(np.load(path), array) and names(tmp_path) == ["a.npy", "a.npy.json"]


def test_saved_array_has_a_true_card(tmp_path):
    path = tmp_path / "a.npy"
    save_array(path, make_array()[:, ::2], **CARD, vertices=np.arange(3))
    assert np.array_equal(np.load(path), make_array()[:, ::2])
    card = json.loads((tmp_path / "a.npy.json").read_text())
    assert card["shape"] == [12, 3] and card["dtype"] == "float32" and card["vertices"] == [0, 1, 2]
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_loading_checks(tmp_path):
    path, array = tmp_path / "a.npy", make_array()
    save_array(path, array, **CARD)
    for options in ({}, {"mmap": True}, {"shape": (12, None)}, {"dtype": "float32", "verify": True}):
        assert np.array_equal(load_array(path, **options), array)

    def refused(found, **options):
        with pytest.raises(UserError) as error:
            load_array(path, do="make it again", **options)
        text = str(error.value)
        assert str(path) in text and text.endswith("; make it again") and "\n" not in text and found in text

    refused("has shape (12, 5), not (12, 6)", shape=(12, 6))
    refused("has shape (12, 5), not (12, 5, 1)", shape=(12, 5, 1))
    refused("type float32, not float64", dtype="float64")
    with open(path, "r+b") as handle:  # one number altered
        handle.seek(-4, os.SEEK_END)
        handle.write(b"\0\0\0\0")
    assert load_array(path).shape == (12, 5)
    refused("does not match its checksum in a.npy.json", verify=True)
    np.save(path, array[:7])
    refused("its data card describes [12, 5]")
    card_path(path).unlink()
    assert len(load_array(path)) == 7
    np.save(path, array[:0])
    refused("has shape (0, 5), and nothing in it")
    array[4, 2] = np.nan
    np.save(path, array)
    refused("NaN or infinite values, the first in row 4")
    assert np.isnan(load_array(path, finite=False)[4, 2])
    for size in (len(path.read_bytes()) - 4, 20, 0):
        os.truncate(path, size)
        refused("not a readable .npy array")
    for other in (np.array([{"a": 1}], dtype=object), np.array(["text"]), np.ones(3, complex), np.zeros(2, "datetime64[s]")):
        np.save(path, other)
        refused("a.npy ")
    with open(path, "wb") as handle:
        np.savez(handle, a=array)
    refused("an .npz archive")
    path.unlink()
    refused("file not found")


def test_a_mistake_survives_a_worker_process():
    import pickle

    error = files.missing("a.npy", "make it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "file not found: a.npy; make it"


# ---------------------------------------------------------------------------------------------- command line


def get_parser():
    parser = cli.make_parser("doc")
    parser.add_argument("--epoch", type=cli.one_or_more, default=1)
    parser.add_argument("--lr", type=cli.real(above=0), default=0.5)
    parser.add_argument("--kind", choices=["on", "off"], default="on")
    parser.add_argument("--clips", type=int, nargs="+", default=[1])
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--root")
    return parser


def parse(tmp_path, text, *argv, script="Feature_decoding/train_CMG"):
    (tmp_path / "c.yaml").write_text(text)
    return cli.parse(get_parser, ["--config", str(tmp_path / "c.yaml"), *argv], script)


def test_config_gives_defaults_and_the_command_line_wins(tmp_path):
    text = "epoch: 7\nlr: 1e-4\nclips: [2, 3]\nshared: true\nroot: a\nkind: null\n"
    args = parse(tmp_path, text)
    assert (args.epoch, args.lr, args.clips, args.shared, args.root, args.kind) == (7, 1e-4, [2, 3], True, "a", "on")
    assert (parse(tmp_path, text, "--epoch", "9").epoch, parse(tmp_path, text, "--epoch=9").epoch) == (9, 9)
    assert parse(tmp_path, text, "--clips", "3", "1").clips == [3, 1]
    assert (parse(tmp_path, "root: a").epoch, parse(tmp_path, "root: a").seed) == (1, 42)
    assert parse(tmp_path, text, "--random_seed", "3").seed == parse(tmp_path, text, "--seed", "3").seed == 3  # two names
    roots = [parse(tmp_path, text, *words).root for words in (("--root=~/x",), ("--root", "~/x"), ("--root", "a~/x"))]
    assert roots == [os.path.expanduser("~/x")] * 2 + ["a~/x"]


def test_config_sections_are_of_scripts(tmp_path):
    text = "root: a\nall:\n  epoch: 2\n  batch_size: 4\ntrain_CMG:\n  epoch: 3\n  kind: 'off'\nvideo_recons:\n  guidance: 3\nevaluate:\n"
    assert (parse(tmp_path, text).epoch, parse(tmp_path, text).kind) == (3, "off")
    other = parse(tmp_path, text, script="Feature_decoding/train_semantic_decoder")
    assert (other.epoch, parse(tmp_path, text, script="run_pipeline").kind) == (2, "on")
    assert parse(tmp_path, text, "--epoch", "5").epoch == 5


def test_a_script_under_a_profiler_keeps_its_section(monkeypatch):
    """There, the file of __main__ is the profiler's."""
    monkeypatch.setattr(sys, "argv", [str(cli.PROJECT / "Feature_decoding/train_CMG.py")])
    main = types.FunctionType((lambda args: None).__code__, {"__name__": "__main__"})
    assert main.__module__ == "__main__" and cli.script_name(main) == "Feature_decoding/train_CMG"


@pytest.mark.parametrize(
    "text, named",
    [
        ("epochs: 3", "'epochs'"),
        ("train_CMG:\n  epochs: 3", "epochs"),
        ("train_everything:\n  epoch: 3", "'train_everything'"),
        ("kind: never", "'never'"),
        ("kind: off", "quote words"),  # YAML 1.1 reads a bare off as false
        ("epoch: many", "'many'"),
        ("epoch: 2.5", "'2.5'"),
        ("epoch: 0", "0 is out of range"),
        ("lr: .nan", "'nan' is not a number"),
        ("epoch: [1, 2]", "epoch takes one value"),
        ("shared: maybe", "'maybe'"),
        ("all: 3", "3"),
        ("- epoch", "'flag: value'"),
        ("epoch: [", "not a readable YAML file"),
        ("epoch: 1\nepoch: 2", "'epoch' twice"),
        ("root: &a x\nkind: *a", "an alias"),
        ("[" * 5000, "not a readable YAML file"),
        ("train_CMG:\n  3: x\n  y: z", "has no flag 3, y"),
        ("clips: [[1]]", "'[1]' is no value for clips"),
        ('root: "a\\0b"', "is no value for root"),
        ("2020-01-01: x", "neither a flag"),
        ("root: \xe4", "not a readable YAML file"),
        ("#" * (2**20 + 1), "a file of its kind at most 1048576"),
        ("", "is a folder"),
        (None, "file not found"),
    ],
)
def test_wrong_config_is_one_line(tmp_path, capsys, text, named):
    if text:
        (tmp_path / "c.yaml").write_bytes(text.encode("latin-1"))
    elif text is not None:
        (tmp_path / "c.yaml").mkdir()
    with pytest.raises(SystemExit) as stopped, cli.one_line_errors():
        cli.parse(get_parser, ["--root", "a", "--config", str(tmp_path / "c.yaml")], "Feature_decoding/train_CMG")
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert re.fullmatch(r"error: .*c\.yaml.*; .*\n", error) and named in error


@pytest.fixture
def handlers():
    """Put the signal handlers back that cli.run sets."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXFSZ)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class LibraryError(Exception):
    pass


def fail_with(error):
    if error == signal.SIGTERM:
        os.kill(os.getpid(), signal.SIGTERM)
    raise error


@pytest.mark.parametrize(
    "error, status, says",
    [
        (LibraryError("No space left on device"), 2, "free space"),
        (UserError("a.npy is\n  broken (\x1b[2J); make it again"), 2, "error: a.npy is broken (\\x1b[2J); make it again\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.npy"),
            2,
            "error: cannot write out/a.npy: No space left on device; free space",
        ),
        (OSError(errno.EACCES, "Permission denied", "out/a.npy"), 2, "Permission denied"),
        (FileExistsError(errno.EEXIST, "File exists", "out"), 2, "cannot write out: File exists"),  # a file where a folder belongs
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out/a.npy"), 2, "cannot write out/a.npy: Is a directory"),
        (MemoryError("Unable to allocate 9 TiB"), 2, "not enough memory (Unable to allocate 9 TiB); use a machine with more memory"),
        (KeyboardInterrupt(), 130, "stopped; run the same command again"),
        (signal.SIGTERM, 143, "terminated; run the same command again"),
    ],
)
def test_exit_status(error, status, says, capsys, handlers):
    def main(args):
        fail_with(error)

    with pytest.raises(SystemExit) as stopped:
        cli.run(main, lambda: cli.make_parser("doc"), [])
    shown = capsys.readouterr().err
    assert stopped.value.code == status and says in shown and shown.count("\n") == 1


@pytest.mark.parametrize("kind", [LibraryError, UserError])
def test_a_termination_that_a_library_makes_an_error_of(kind, capsys, handlers):
    def main(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError
        except cli.Terminated as error:
            raise kind("broken weights") from error

    with pytest.raises(SystemExit) as stopped:
        cli.run(main, lambda: cli.make_parser("doc"), [])
    assert stopped.value.code == 143 and capsys.readouterr().err == "terminated; run the same command again to continue\n"
    with pytest.raises(SystemExit) as stopped:  # and the next run in this process knows nothing of it
        cli.run(lambda args: fail_with(kind("No space left on device")), lambda: cli.make_parser("doc"), [])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "flags, advice",
    [
        ({"batch_size": 9, "workers": 1, "num_workers": 2}, "use --batch_size 4 or --num_workers 1"),
        ({"batch_size": 1, "workers": 5, "precision": "fp32"}, "use --workers 2 or --precision bf16"),
        ({"batch_size": 1, "precision": "bf16", "vae_slicing": False, "num_workers": 0}, "use --vae_slicing"),
        ({"batch_size": 1, "precision": None}, "use a machine with more memory"),
    ],
)
@pytest.mark.parametrize(
    "error, wrapped",
    [
        (MemoryError(), False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), False),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), False),
        (MemoryError(), True),
    ],
)
def test_want_of_memory_names_the_flag_that_helps(error, wrapped, flags, advice, capsys, handlers):
    def get_parser():
        parser = cli.make_parser("doc")
        for flag, value in flags.items():
            parser.add_argument(f"--{flag}", default=value)
        return parser

    def main(args):
        try:
            raise error
        except Exception:
            if wrapped:
                raise UserError("a.npy is unreadable; make it again") from None
            raise

    with pytest.raises(SystemExit) as stopped:
        cli.run(main, get_parser, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.endswith(advice) and "not enough memory" in line and ("a.npy" in line) == wrapped


def test_other_errors_and_debug_keep_the_traceback(handlers):
    def main(args):
        raise args_error

    for args_error, argv in ((ValueError("ours"), []), (FileNotFoundError(errno.ENOENT, "x"), []), (UserError("a; b"), ["--debug"])):
        with pytest.raises(type(args_error)):
            cli.run(main, lambda: cli.make_parser("doc"), argv)


@pytest.mark.parametrize(
    "error, number",
    [
        (OSError(errno.EDQUOT, "x"), errno.EDQUOT),
        (LibraryError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError("file write failed: errno = 27, error message = 'File too large'"), errno.EFBIG),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['x']"), errno.ENOSPC),
        (LibraryError("os error 281"), None),
        (OSError(errno.ENOENT, "x"), None),
        (UserError("File too large; c"), None),
    ],
)
def test_a_full_disk_is_known_whoever_says_it(error, number, tmp_path):
    assert files.full_disk(error) == number
    with pytest.raises(OSError if number else type(error)) as raised, atomic_path(tmp_path / "a.npy"):
        raise error
    assert raised.value is error if number is None else (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "a.npy"))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--seed", "-1"], "from 0 to 4294967295"), (["--seed", "x"], "'x'"), (["--nonsense"], ""), (["--cuont", "2"], "(did you mean --count?)"),
        (["--count", "0"], "from 1 to 1000000"),
        (["--part", "6"], "6 is out of range; use a number from 2 to 5"), (["--rate", "1"], "of at least 0 and less than 1"),
        (["--rate", "nan"], "nan"), (["--rate", "x"], "'x'"), (["--lr", "0"], "greater than 0 and up to 1000000"), (["--lr", "inf"], "inf"),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_line(argv, says, capsys):
    def get_parser():
        parser = cli.make_parser("doc")
        kinds = {"--count": cli.one_or_more, "--part": cli.whole(2, 5), "--rate": cli.real(0, below=1), "--lr": cli.real(above=0)}
        for name, kind in kinds.items():
            parser.add_argument(name, type=kind)
        return parser

    with pytest.raises(SystemExit) as stopped:
        cli.parse(get_parser, argv, "x")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and re.fullmatch(r"error: .*--help\n", error) and argv[0] in error and says in error
    args = cli.parse(get_parser, ["--count", "1", "--part", "5", "--rate", "0"], "x")
    assert (args.count, args.part, args.rate) == (1, 5, 0.0)


def test_a_device_that_is_not_there():
    import torch

    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    assert cli.choose_device("cpu").type == "cpu" and not torch.backends.cudnn.allow_tf32
    for name in ("tpu", f"cuda:{torch.cuda.device_count() + 9}"):
        with pytest.raises(UserError, match="--device"):
            cli.choose_device(name)


def test_files_go_together_or_not_at_all(tmp_path):
    files.write_text(tmp_path / "model/a", "old")
    with pytest.raises(OSError) as error, atomic_files(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
        raise LibraryError("os error 28")
    assert error.value.filename == str(tmp_path / "model") and names(tmp_path) == ["model"]
    assert (tmp_path / "model/a").read_text() == "old"
    with atomic_files(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
        (folder / "b").write_text("new")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["a", "b"] and (tmp_path / "model/a").read_text() == "new"


# ---------------------------------------------------------------------------------------------- records


def make_args(*argv):
    def get_parser():
        parser = cli.make_parser("doc")
        parser.add_argument("--epoch", type=int, default=3)
        parser.add_argument("--width", type=int, default=8)
        parser.add_argument("--data_root", default="data", changes_result=False)
        parser.add_argument_group("group").add_argument("--workers", type=int, default=1, changes_result=False)
        return parser

    return cli.parse(get_parser, argv, "x")


def make_record(tmp_path, *argv):
    return Record(tmp_path / "work", make_args(*argv), [tmp_path / "input.npy"], [tmp_path / "output.npy"])


@pytest.fixture
def finished(tmp_path):
    np.save(tmp_path / "input.npy", np.arange(3))
    record = make_record(tmp_path)
    assert not record.is_done()
    record.start()
    assert not record.is_done()
    record.log(epoch=1, loss=0.5)
    record.log(epoch=2, loss=0.25)
    np.save(tmp_path / "output.npy", np.arange(3))
    record.finish(loss=0.25)
    return tmp_path


def test_record_says_what_ran(finished):
    args = json.loads((finished / "work/args.json").read_text())
    content = (finished / "input.npy").read_bytes()
    assert args["arguments"]["epoch"] == 3 and args["versions"]["numpy"] == np.__version__
    assert [(entry["bytes"], entry["sha256"]) for entry in args["inputs"]] == [(len(content), hashlib.sha256(content).hexdigest())]
    lines = [json.loads(line) for line in (finished / "work/log.jsonl").read_text().splitlines()]
    assert lines == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    assert json.loads((finished / "work/metrics.json").read_text())["loss"] == 0.25


def test_done_is_done(finished, caplog):
    caplog.set_level("INFO")
    assert make_record(finished).is_done() and "already done, --overwrite to redo" in caplog.text
    assert make_record(finished, "--workers", "4", "--data_root", "elsewhere").is_done()
    os.utime(finished / "input.npy")  # touched, but the same
    assert make_record(finished).is_done()
    (finished / "output.npy").unlink()
    assert not make_record(finished).is_done()


def test_a_new_flag_does_not_invalidate_results(finished):
    """As if --width had come after these results: its default is what they were made with."""
    path = finished / "work/args.json"
    old = json.loads(path.read_text())
    del old["arguments"]["width"]
    old["arguments"]["gone"] = 1  # a flag that the script has no more
    path.write_text(json.dumps(old))
    assert make_record(finished).is_done()
    with pytest.raises(UserError, match="width 8 -> 9"):
        make_record(finished, "--width", "9").is_done()


def test_what_has_changed_is_named(finished):
    for act in (Record.is_done, Record.start):
        with pytest.raises(UserError, match="epoch 3 -> 4.*--overwrite"):
            act(make_record(finished, "--epoch", "4"))
    np.save(finished / "input.npy", np.arange(3) + 1)
    with pytest.raises(UserError, match="input.npy has changed"):
        make_record(finished).is_done()


def test_other_settings_come_with_ways_out(tmp_path):
    """The flag for another folder that the script has, and the profile that was forgotten."""

    def make(*argv):
        def get_parser():
            parser = cli.make_parser("A script.")
            parser.add_argument("--model_dir", changes_result=False)
            parser.add_argument("--epoch", type=int, default=3)
            parser.add_argument("--sd_path")
            return parser

        return Record(tmp_path / "work", cli.parse(get_parser, argv, "x"), [], [tmp_path / "work/made"])

    (tmp_path / "short.yaml").write_text("epoch: 2")
    first = make("--config", str(tmp_path / "short.yaml"))
    first.start().finish()
    (tmp_path / "work/made").touch()
    asked = f"give --config {tmp_path}/short.yaml as they were made with, --model_dir for another folder, or --overwrite to recompute them"
    with pytest.raises(UserError, match=re.escape(f"other settings (epoch 2 -> 3); {asked}")):
        make().is_done()
    with pytest.raises(UserError, match=re.escape("(epoch 2 -> 4); give --model_dir for another folder, or --overwrite to")):
        make("--config", str(tmp_path / "short.yaml"), "--epoch", "4").is_done()
    make("--sd_path", "a/b", "--overwrite").start().finish()
    with pytest.raises(UserError, match=re.escape("(sd_path a/b -> None); give --sd_path a/b as they were made with, --model_dir")):
        make().is_done()


def test_a_log_goes_on_after_a_line_that_was_cut_off_and_no_result_binds_nobody(tmp_path):
    np.save(tmp_path / "input.npy", np.arange(3))
    make_record(tmp_path, "--epoch", "4").start()  # failed before its first result: other settings may follow
    make_record(tmp_path).start().log(epoch=1)
    with pytest.raises(UserError, match="epoch 3 -> 4"):
        make_record(tmp_path, "--epoch", "4").start()
    path = tmp_path / "work/log.jsonl"
    path.write_bytes(path.read_bytes() + b'{"epoch": 2, "lo')
    make_record(tmp_path).log(epoch=3)
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[0])["epoch"] == 1 and json.loads(lines[2]) == {"epoch": 3}


def test_an_altered_or_missing_input_is_named(tmp_path):
    save_array(tmp_path / "input.npy", np.arange(3), **CARD)
    make_record(tmp_path).start()
    with open(tmp_path / "input.npy", "r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\1")
    with pytest.raises(UserError, match="input.npy does not match its checksum"):
        make_record(tmp_path, "--overwrite").start()
    (tmp_path / "input.npy").unlink()
    with pytest.raises(UserError, match="file not found: .*input.npy"):
        make_record(tmp_path, "--overwrite").start()


@pytest.mark.parametrize("folder, says", [("features", "run the scripts of Feature_extraction/"), ("x", "run the script that writes it")])
def test_a_missing_input_says_what_writes_it(tmp_path, folder, says):
    with pytest.raises(UserError, match=f"file not found: .*/{folder}/a.npy; {says}, or check the path"):
        with working(tmp_path / "out", make_args(), inputs=[tmp_path / folder / "a.npy"]):
            pass


def test_working_starts_finishes_and_finds_it_done(tmp_path):
    (tmp_path / "work").mkdir()
    leftovers = [tmp_path / f"work/.partial-{process}-a.npy" for process in (os.getpid(), os.getppid())]
    for path in leftovers:
        path.write_text("half")

    def work(*argv):
        with working(tmp_path / "work", make_args(*argv), outputs=[tmp_path / "out"], clear=[tmp_path / "out"], facts={"n": 1}) as record:
            if record is None:
                return "done already"
            assert not (tmp_path / "out").exists()
            (tmp_path / "out").write_text("x")
            record.finish()

    assert work() is None and work() == "done already"
    assert [path.exists() for path in leftovers] == [False, True]  # of this process's number; of a process that lives
    with pytest.raises(UserError, match="epoch 3 -> 4"):
        work("--epoch", "4")
    assert work("--epoch", "4", "--overwrite") is None and work("--epoch", "4") == "done already"


# ---------------------------------------------------------------------------------------------- worker processes


def square(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    if x == 98:
        time.sleep(60)
    if x == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x, os.getpid()


@pytest.mark.parametrize("n", [1, 2])
def test_jobs_come_back_in_order(n):
    results = workers.run_jobs(square, range(9), n, "squares")
    assert [value for value, _ in results] == [x * x for x in range(9)]
    assert all((process == os.getpid()) == (n == 1) for _, process in results)


def test_a_job_that_fails_or_dies_stops_the_others():
    others = set(multiprocessing.active_children())  # of other tests, which a collected generator ends
    with pytest.raises(ValueError, match="-1 is negative"):
        workers.run_jobs(square, [1, -1, 2], 2, "squares")
    began = time.time()
    with pytest.raises(UserError, match="lack of memory; use --workers 1"):
        workers.run_jobs(square, [98, 99, 2], 2, "squares")
    assert set(multiprocessing.active_children()) <= others and time.time() - began < 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_while_a_process_forks(handlers, monkeypatch, number):
    arrived, early, fork = [], [], os.fork
    signal.signal(number, lambda *_: arrived.append(1))

    def fork_as_it_comes():
        before = len(arrived)
        os.kill(os.getpid(), number)
        early.append(len(arrived) - before)
        return fork()

    monkeypatch.setattr(os, "fork", fork_as_it_comes)
    assert [value for value, _ in workers.run_jobs(square, range(3), 2, "squares")] == [0, 1, 4]
    assert len(arrived) > 0 and set(early) == {0}


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_killed_script_ends_with_its_workers(tmp_path, number, status):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from common import cli, workers\n"
        "def job(x):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"  # which is the script's to answer
        "    open(f'{sys.argv[1]}/{os.getpid()}', 'w').close()\n"
        "    time.sleep(60)\n"
        "def main(args):\n"
        "    workers.run_jobs(job, range(4), 2, 'jobs')\n"
        "def get_parser():\n"
        "    parser = cli.make_parser('')\n"
        "    parser.add_argument('out')\n"
        "    return parser\n"
        "cli.run(main, get_parser)\n"
    )
    (tmp_path / "out").mkdir()
    # a shell's background jobs, and so what they start, ignore Ctrl-C unless told otherwise
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "out"],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until(lambda: len(names(tmp_path / "out")) == 2)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # a terminal sends Ctrl-C to the workers as well
    said = process.communicate(timeout=30)[1]
    assert process.returncode == status and b"Traceback" not in said
    until(lambda: not any(is_alive(int(worker)) for worker in names(tmp_path / "out")))


def is_alive(process):
    try:
        return open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=30):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.05)


# ---------------------------------------------------------------------------------------------- registry


def test_cc2017():
    for split, prefix, n_runs in (("train", "seg", 18), ("test", "test", 5)):
        assert CC2017.clip_names(split) == [f"{prefix}{i}_{j}" for i in range(1, n_runs + 1) for j in range(1, 241)]
        assert CC2017.n_clips(split) == n_runs * 240
    assert (CC2017.n_train, CC2017.n_test, CC2017.tr, CC2017.clip_frames) == (4320, 1200, 2.0, 60)
    assert CC2017.frame_indices == (0, 8, 16, 24, 32, 40, 48, 56) and CC2017.middle_frame == 24
    assert {run: CC2017.volume_offset(run) for run in CC2017.runs("test")} == {"test1": 1, "test2": 2, "test3": 2, "test4": 2, "test5": 2}
    assert {CC2017.volume_offset(run) for run in CC2017.runs("train")} == {1}
    for subject in CC2017.subjects:
        assert {tuple(CC2017.repetitions(subject, run)) for run in CC2017.runs("train")} == {(1, 2)}
        left_out = [(run, 9) for run in CC2017.runs("test") if CC2017.repetitions(subject, run) != list(range(1, 11))]
        assert left_out == ([("test2", 9)] if subject == 3 else [])
    assert CC2017.repetitions(3, "test2") == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    series = CC2017.series_path("D", 2, "test3", 10).as_posix()
    assert series == "D/CC2017_Purdue/Subject02/video_fmri_dataset/subject2/fmri/test3/cifti/test3_10_Atlas.dtseries.nii"
    assert CC2017.movie_path("D", "seg4").as_posix() == "D/CC2017_Purdue/Stimuli/video_fmri_dataset/stimuli/seg4.mp4"


def test_areas_and_meshes():
    with pytest.raises(ValueError, match="V9"):
        cortex.area_vertices(["V1", "V9"])
    left, right = cortex.mesh_vertices()
    assert (len(left), len(right), cortex.N_CORTEX, len(cortex.area_labels())) == (29696, 29716, 59412, 59412)
    assert all((np.diff(side) > 0).all() and side[-1] < 32492 for side in (left, right))


def test_registry_entries_agree_with_themselves():
    for name, entry in DATASETS.items():
        assert get_dataset(name) is entry and entry.name == name
        assert len(entry.frame_indices) == 8 and max(entry.frame_indices) < entry.clip_frames and entry.middle_frame in entry.frame_indices
    with pytest.raises(UserError, match="no data set 'cc2017'; choose from .*CC2017, HCP"):
        get_dataset("cc2017")


# ---------------------------------------------------------------------------------------------- caption augmentation

SENTENCE = "The quick fox and a lazy dog sleep near water"  # ten different words
SYNONYMS = {
    "quick": ["fast"], "fox": ["vixen"], "lazy": ["idle"], "dog": ["hound"], "sleep": ["doze"], "near": ["by"], "water": ["sea"],
    "and": ["plus"],
}  # fmt: skip
STOP = {"the", "and", "a"}
ADDED = {word for words in SYNONYMS.values() for word in words}


def candidates(seed, sentence=SENTENCE, synonyms=SYNONYMS):
    return augment.eda(sentence, np.random.default_rng(seed), synonyms, STOP)


def is_part_of(short, long):
    rest = iter(long)
    return all(word in rest for word in short)


@pytest.mark.parametrize("seed", range(20))
def test_the_thirteen_candidates(seed):
    found = [candidate.split() for candidate in candidates(seed)]
    words = SENTENCE.lower().split()
    assert len(found) == 13 and found[0] == words
    for new in found[1:4]:  # five of the seven words that have synonyms and are no stop words
        changed = [(old, word) for old, word in zip(words, new, strict=True) if old != word]
        assert len(changed) == 5 and all([word] == SYNONYMS[old] and old not in STOP for old, word in changed)
    for new in found[4:7]:  # two more words, synonyms of what is there
        assert len(new) == 12 and is_part_of(words, new)
        assert sum((Counter(new) - Counter(words)).values()) == 2 and set(new) - set(words) <= ADDED
    for new in found[7:10]:
        assert Counter(new) == Counter(words) and sum(a != b for a, b in zip(words, new, strict=True)) in (0, 3, 4)
    for new in found[10:]:
        assert 1 <= len(new) <= 10 and is_part_of(new, words)


def test_deletion_drops_a_fifth_and_short_sentences_change_too():
    kept = np.array([[len(c.split()) for c in candidates(seed)[10:]] for seed in range(300)]).ravel()
    assert abs(kept.mean() - 8) < 4 * np.sqrt(10 * 0.2 * 0.8 / len(kept))
    assert {candidate for seed in range(50) for candidate in candidates(seed, "Fox")} <= {"fox", "vixen", "fox vixen", "vixen fox"}
    for found in (candidates(seed, "quick fox") for seed in range(10)):  # at least one word
        assert all(sum(a != b for a, b in zip(new.split(), ["quick", "fox"], strict=True)) == 1 for new in found[1:4])
    assert set(candidates(0, synonyms={})[:7]) == {SENTENCE.lower()}


def test_one_candidate_is_drawn_with_equal_chances():
    """Without synonyms: 7/13 unchanged, 3/13 swapped (twice: the same pair again in 1 of 45), 3/13 shortened unless lucky."""
    rng, words, n = np.random.default_rng(0), SENTENCE.lower().split(), 4000
    draws = [augment.draw_caption(SENTENCE, rng, {}, STOP).split() for _ in range(n)]
    shorter = np.mean([len(draw) < 10 for draw in draws])
    swapped = np.mean([len(draw) == 10 and draw != words for draw in draws])
    for share, wanted in ((shorter, 3 / 13 * (1 - 0.8**10)), (swapped, 3 / 13 * 44 / 45)):
        assert abs(share - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / n)


def test_shipped_synonyms():
    table = augment.load_synonyms()
    assert len(table) > 10000
    assert all(re.fullmatch("[a-z ]+", synonym) and synonym != word for word, found in table.items() for synonym in found)
    assert "auto" in table["car"] and "canine" not in table.get("the", [])
    found = augment.eda("a small dog on the large road", np.random.default_rng(0))
    assert len(found) == 13 and all(candidate.split().count("the") == 1 for candidate in found[1:4])


@pytest.mark.parametrize("rank, refused", [(None, True), ("0", True), ("1", False)])
def test_one_process_works_in_a_folder(tmp_path, monkeypatch, rank, refused):
    """But for those of one launcher, of which the first holds it."""
    monkeypatch.delenv("RANK", raising=False)
    with working(tmp_path / "work", make_args()) as record, multiprocessing.get_context("fork").Pool(1) as pool:
        if rank:
            monkeypatch.setenv("RANK", rank)
        assert record is not None
        says = pool.apply(_work, (tmp_path / "work", rank))
    assert ("another process is at work in" in says) == refused
    assert _work(tmp_path / "work", None) == "worked"


def _work(folder, rank):
    os.environ.update({"RANK": rank} if rank else {})
    try:
        with working(folder, make_args("--overwrite"), clear=[folder]):
            return "worked"
    except UserError as error:
        return str(error)


PYAV_GARBAGE = """
import gc
import av, numpy as np
from common.workers import pool_map

def collect(item):
    gc.collect()
    return item

gc.disable()
for _ in range(4):
    frame = av.VideoFrame.from_ndarray(np.zeros((512, 512, 3), np.uint8), format="rgb24")
    scaled = frame.reformat(256, 256, "yuv420p", threads=4)
    cycle = [frame, scaled]
    cycle.append(cycle)
del frame, scaled, cycle
print(list(pool_map(collect, range(4), 2)))
"""


def test_a_worker_does_not_clear_away_frames_whose_threads_it_lacks():
    done = subprocess.run([sys.executable, "-c", PYAV_GARBAGE], cwd=cli.PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[0, 1, 2, 3]\n", done.stderr[-2000:]
