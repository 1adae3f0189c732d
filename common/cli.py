"""What all scripts share on the command line: common flags, config files, signals, one-line errors."""

import argparse
import contextlib
import errno
import logging
import os
import re
import signal
import sys
from pathlib import Path

import yaml
from tqdm import tqdm

from common.files import UserError, full_disk

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
PROJECT = Path(__file__).resolve().parents[1]


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def between(low, high=None):
    """Type of a flag: whole numbers from `low` on, or up to `high`."""

    def whole_number(text):
        number = int(text)
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"{low} {'or more' if high is None else f'to {high}'} expected, found {number}")
        return number

    whole_number.__name__ = "int"  # in argparse's messages
    return whole_number


one_or_more = between(1)  # of a flag that counts something


def make_parser(doc):
    """A parser whose description is the script's docstring, with the flags that all scripts have.

    Parameters
    ----------
    doc : str, the script's __doc__
    """
    parser = _Parser(description=doc, formatter_class=_Formatter, allow_abbrev=False)
    group = parser.add_argument_group("run")
    group.add_argument("--seed", "--random_seed", dest="seed", type=between(0, 2**32 - 1), default=42, help="of everything random in this script")
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="defaults for the flags; the command line wins")
    group.add_argument("--overwrite", action="store_true", help="do it again even if it is done")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_data_flags(parser, subject=False, split=False, device=False):
    """Add --dataset, --data_root, --out_root and, when asked for, --subj_ID, --split, --device."""
    from common.datasets import DATASETS

    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=list(DATASETS), default="CC2017", help="data set, an entry of common/datasets.py")
    group.add_argument(
        "--data_root",
        type=Path,
        default=Path(os.environ.get("MINDANIMATOR_DATA", "data")),
        help="folder that holds the raw data ($MINDANIMATOR_DATA)",
    )
    group.add_argument("--out_root", type=Path, default=Path("outputs"), help="folder for everything that is made")
    if subject:
        group.add_argument(
            "--subj_ID",
            type=int,
            nargs="+" if subject == "several" else None,
            default=[1] if subject == "several" else 1,
            help="subject number",
        )
    if split:
        group.add_argument("--split", nargs="+", type=str.lower, choices=["train", "test"], default=["train", "test"], help="which part")
    if device:
        group.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return group


# ---------------------------------------------------------------------------------------------- config files


def _scripts():
    folders = (
        "Data_preprocess",
        "Feature_extraction",
        "Feature_decoding",
        "Reconstruction",
        "Retrieval",
        "Evaluation_Metrics",
        "Explainable_analysis",
    )
    return {path.stem for folder in folders for path in (PROJECT / folder).rglob("*.py")}


def apply_config(parser, path, script):
    """Make a YAML file's values the parser's defaults.

    Top-level keys are flags of this script, or names of scripts that hold flags of theirs; the section `all` is for
    every script and may name flags that this one lacks. An unknown key is an error.
    """
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except FileNotFoundError:
        raise UserError(path, "a YAML file", "nothing there", "check --config") from None
    except yaml.YAMLError as error:
        raise UserError(path, "YAML", str(error).replace("\n", " "), "mend the file") from None
    if not isinstance(content, dict):
        raise UserError(path, "lines 'flag: value'", type(content).__name__, "mend the file")
    flags = {action.dest: action for action in parser._actions}
    sections = _scripts() | {"all", "run_pipeline"}
    values = {}
    for key, value in content.items():
        if key in flags and not isinstance(value, dict):
            values[key] = value
        elif key not in sections:
            raise UserError(path, f"flags of {script} or names of scripts", f"{key!r}", f"see {script}.py --help")
        elif not isinstance(value, dict | None):
            raise UserError(path, f"flags in the section {key}", f"{value!r}", "mend the file")
    values |= {key: value for key, value in (content.get("all") or {}).items() if key in flags}
    for key, value in (content.get(script) or {}).items():
        if key not in flags:
            raise UserError(path, f"flags of {script}", f"{key!r}", f"see {script}.py --help")
        values[key] = value
    for key, value in values.items():
        flags[key].required = False
        parser.set_defaults(**{key: _as_typed(path, flags[key], value)})


def _as_typed(path, action, value):
    """A YAML value as the command line would give it, None for a flag that is left out."""
    if value is None:
        return None
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(path, f"{action.dest} true or false", f"{value!r}", "mend the file")
        return value
    several = action.nargs is not None
    if isinstance(value, list) and not several:
        raise UserError(path, f"one value for {action.dest}", f"{value!r}", "mend the file")
    make = action.type or str
    try:
        values = [make(str(v)) for v in (value if isinstance(value, list) else [value])]
    except (ValueError, argparse.ArgumentTypeError):
        raise UserError(path, f"{action.dest} of type {make.__name__}", f"{value!r}", "mend the file") from None
    for v in values:
        if action.choices is not None and v not in action.choices:
            raise UserError(path, f"{action.dest} one of {', '.join(map(str, action.choices))}", f"{v!r}", "mend the file")
    return values if several else values[0]


def parse(get_parser, argv, script):
    """Parse a command line; a --config file gives the defaults."""
    parser = get_parser()
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    known, _ = early.parse_known_args(argv)
    if known.config:
        apply_config(parser, known.config, script)
    return parser.parse_args(argv)


# ---------------------------------------------------------------------------------------------- running


class Terminated(BaseException):
    """SIGTERM arrived."""


def _terminate(number, frame):
    raise Terminated


@contextlib.contextmanager
def one_line_errors(debug=False):
    """Turn a user's mistake into one line on stderr and the matching exit status."""

    def stop(error):
        for bar in list(tqdm._instances):  # or the line would be appended to a bar
            bar.close()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)

    try:
        yield
    except UserError as error:
        if debug:
            raise
        stop(error)
    except Exception as error:
        full, forbidden = full_disk(error), getattr(error, "errno", None) in _FORBIDDEN
        if debug or not (full or forbidden):
            raise
        mistake = UserError(
            getattr(error, "filename", None) or "the output folder",
            "room and permission to write",
            f"'{os.strerror(full or error.errno)}'",
            "free space or choose another --out_root, then run the same command again",
        )
        stop(mistake)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except Terminated:
        print("terminated; run the same command again to go on", file=sys.stderr)
        sys.exit(143)


def one_line(error):
    return re.sub(r"\s*\n\s*", " ", str(error))


def run(main, get_parser, argv=None):
    """Entry point of a script: parse, run `main(args)`, turn mistakes into one line.

    Parameters
    ----------
    main : function of the parsed arguments
    get_parser : function that returns the parser
    argv : list of str, default the process's own
    """
    argv = sys.argv[1:] if argv is None else [str(a) for a in argv]
    script = Path(sys.modules[main.__module__].__file__).stem
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file-size limit then shows as an OSError
    with one_line_errors("--debug" in argv):
        args = parse(get_parser, argv, script)
        main(args)


def choose_device(name):
    """torch device for --device: 'auto' is the GPU when there is one; a UserError for one that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA asserts
        raise UserError("--device", "auto, cpu, or a GPU that is there", f"{name} ({str(error).splitlines()[0]})", "leave the flag out") from None
    return device
