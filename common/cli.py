"""What all scripts share on the command line: common flags, number ranges, config files, signals, one-line errors."""

import argparse
import contextlib
import difflib
import errno
import logging
import os
import re
import signal
import sys
from pathlib import Path

import yaml
from tqdm import tqdm

from common.files import UserError, full_disk, one_line, read_bytes

PROJECT = Path(__file__).resolve().parents[1]
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


# ---------------------------------------------------------------------------------------------- numbers


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # no '1_0', 'nan' and 'inf', which Python reads
MOST = 10**6  # of anything that is counted or weighed, unless a flag says otherwise


def whole(low, high=MOST):
    """Type of a flag: whole numbers from `low` to `high`, both included."""
    return _number(int, "a whole number", low, high)


def real(low=-MOST, high=MOST, above=None, below=None):
    """Type of a flag: numbers from `low` to `high`, both included; greater than `above`, less than `below`."""
    return _number(float, "a number", low, high, above, below)


def _number(read, what, low, high, above=None, below=None):
    lower = f"of at least {low:.12g}" if above is None else f"greater than {above:.12g}"
    upper = f"up to {high:.12g}" if below is None else f"less than {below:.12g}"
    words = f"from {low:.12g} to {high:.12g}" if above is below is None else f"{lower} and {upper}"

    def number(text):
        try:
            value = read(text) if NUMBER.fullmatch(text) else None
        except ValueError:
            value = None
        if value is None:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what}; use a number {words}")
        if not low <= value <= high or (above is not None and value <= above) or (below is not None and value >= below):
            raise argparse.ArgumentTypeError(f"{text[:40]} is out of range; use a number {words}")
        return value

    return number


one_or_more = whole(1)  # of a flag that counts something
width = whole(1, 2**16)  # of a layer
processes = whole(1, 1024)


# ---------------------------------------------------------------------------------------------- parsers


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Show the default of a flag that has one worth showing."""

    def _get_help_string(self, action):
        shown = action.option_strings and not any(action.default is nothing for nothing in (None, False, argparse.SUPPRESS))
        return f"{action.help} (default: %(default)s)" if shown and "default" not in (action.help or "") else action.help


class _Flags:
    """`add_argument` with one more keyword, `changes_result`: whether results depend on the flag.

    Those of flags that only say where, how fast or how much at a time are found again when the flag has another value
    (common.records).
    """

    def add_argument(self, *names, changes_result=True, **options):
        action = super().add_argument(*names, **options)
        action.changes_result = changes_result
        return action


class _Group(_Flags, argparse._ArgumentGroup):
    pass


class _Parser(_Flags, argparse.ArgumentParser):
    source = ""  # the config file whose flags are being read

    def add_argument_group(self, *args, **options):
        group = _Group(self, *args, **options)
        self._action_groups.append(group)
        return group

    def error(self, message):
        self.exit(2, f"error: {self.source}{message}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        namespace, rest = super().parse_known_args(args, namespace)
        flags = [action for action in self._actions if action.dest != "help"]
        namespace._flags = {action.dest: (action.default, getattr(action, "changes_result", True)) for action in flags}
        return namespace, rest


def make_parser(doc):
    """A parser whose description is `doc`, the script's docstring, with the flags that all scripts have."""
    parser = _Parser(description=doc, formatter_class=_Formatter, allow_abbrev=False)
    group = parser.add_argument_group("run")
    group.add_argument("--seed", "--random_seed", dest="seed", type=whole(0, 2**32 - 1), default=42, help="random seed")
    group.add_argument(
        "--config", type=Path, metavar="FILE.yaml", changes_result=False,
        help="file with defaults of flags, which the command line overrules (default: the data set's, if it has one; none: no file)",
    )  # fmt: skip
    group.add_argument("--overwrite", action="store_true", changes_result=False, help="recompute existing results")
    group.add_argument("--debug", action="store_true", changes_result=False, help="traceback of an error")
    return parser


def _dataset_name(name):
    from common.datasets import get_dataset

    try:
        return get_dataset(name).name
    except UserError as error:
        raise argparse.ArgumentTypeError(error) from None


def add_data_flags(parser, subject=False, split=False, device=False):
    """Add --dataset, --data_root, --out_root and, when asked for, --subj_ID (one, or a list if "several"), --split, --device."""
    from common.datasets import DATASETS

    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset", type=_dataset_name, metavar="NAME", default="CC2017",
        help=f"data set, an entry of common/datasets: {', '.join(DATASETS)}",
    )  # fmt: skip
    add_data_root(group)
    group.add_argument("--out_root", type=Path, default=Path("outputs"), changes_result=False, help="folder for all results")
    if subject == "several":
        group.add_argument("--subj_ID", nargs="+", default=["1"], changes_result=False, help="participants, as the data set names them")
    elif subject:
        group.add_argument("--subj_ID", default="1", help="participant, as the data set names it: 1, sub01, 100610")
    if split:
        group.add_argument(
            "--split", nargs="+", type=str.lower, choices=["train", "test"], default=["train", "test"], changes_result=False,
            help="splits to work on",
        )  # fmt: skip
    if device:
        group.add_argument("--device", default="auto", changes_result=False, help="computing device: auto, cpu or cuda")
    return group


def add_data_root(group, of="with"):
    group.add_argument(
        "--data_root", type=Path, default=Path(_at_home(os.environ.get("MINDANIMATOR_DATA", "data"))), changes_result=False,
        help=f"folder {of} the raw data; $MINDANIMATOR_DATA sets the default",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- config files


def _scripts():
    """Paths of all scripts below the project, without the ending."""
    files = [path.relative_to(PROJECT) for pattern in ("[A-Z]*/**/*.py", "phantom/*.py", "examples/*.py") for path in PROJECT.glob(pattern)]
    return {path.with_suffix("").as_posix() for path in files} | {"run_pipeline"}


class _Loader(yaml.SafeLoader):
    """YAML in which no key comes twice, and without aliases: a small file can stand for more than there is memory for."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, *name, which is not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"it has {repeated[0]!r} twice")
        return super().construct_mapping(node, deep)


def read_config(path, parser, script):
    """Flags of a YAML file for one script, as command-line words.

    Top-level keys are flags of this script, or sections: `all`, whose flags go to every script that knows them, and
    names of scripts (`train_CMG`, or `CC2017/step1_cut_video_clips` where two scripts have one name). `script` is a path below
    the project, without the ending. A UserError for a file that is missing or unreadable, or a key that is neither.
    """
    try:
        content = yaml.load(read_bytes(path, 2**20, "check --config"), _Loader) or {}
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not a readable YAML file ({one_line(error)}); correct it, and save it as UTF-8") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold lines of the form 'flag: value'; see configs/phantom.yaml")
    known = {name.lstrip("-"): action for action in parser._actions for name in action.option_strings if name.startswith("--")}
    own = {name for name in content if f"/{script}".endswith(f"/{name}")}
    sections = {name for name in content if name == "all" or any(f"/{path}".endswith(f"/{name}") for path in _scripts())}
    values = {name: value for name, value in content.items() if name in known and not isinstance(value, dict)}
    for name in content:
        if name not in values and name not in sections:
            raise UserError(f"{path}: {name!r} is neither a flag of {script} nor the name of a script; see {script}.py --help")
    for name in ["all", *sorted(own, key=len)]:  # the longer name is the narrower one
        section = content.get(name) or {}
        if not isinstance(section, dict):
            raise UserError(f"{path}: the section {name!r} must hold flags and their values, not {str(section)[:40]!r}; correct the file")
        if name != "all" and (unknown := section.keys() - known.keys()):
            raise UserError(f"{path}: {script} has no flag {', '.join(sorted(map(str, unknown)))}; see {script}.py --help")
        values |= {flag: value for flag, value in section.items() if flag in known}
    return [word for name, value in values.items() for word in _words(path, known[name], name, value)]


def _words(path, action, name, value):
    """A flag and its value as on the command line."""
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError(f"{path}: {name} must be true or false, not {str(value)[:40]!r}; correct the file")
        return [f"--{name}"] * value
    values = value if isinstance(value, list) else [value]
    if bad := [part for part in values if isinstance(part, (dict, list, bool, type(None))) or "\0" in str(part)]:
        raise UserError(f'{path}: {str(bad[0])[:40]!r} is no value for {name}; quote words such as "on" and "off"')
    if isinstance(value, list):
        if action.nargs is None:
            raise UserError(f"{path}: {name} takes one value, not a list; correct the file")
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def _profile(name):
    """The config file that comes with a data set; None for none."""
    from common.datasets import DATASETS

    return PROJECT / "configs" / DATASETS[name].config if name in DATASETS and DATASETS[name].config else None


def _at_home(word):
    """A word with the home folder for '~/', which no shell puts into '--flag=~/x'."""
    return re.sub(r"^(--[\w-]+=)?~(?=/|$)", lambda match: (match[1] or "") + os.path.expanduser("~"), word)


def meant(flag, options):
    """A question that names the option of which a flag is a misspelling; nothing where none is like it."""
    return "".join(f" (did you mean {option}?)" for option in difflib.get_close_matches(flag.partition("=")[0], options, 1))


def parse(get_parser, argv, script):
    """Parse a command line; a config file, --config or the data set's own, gives the defaults, the data set checks the participants.

    Flags that the parser does not know are an error, or go to `others` where the parser has a default for it. `script` is a path
    below the project, without the ending.
    """
    parser, argv = get_parser(), [_at_home(word) for word in argv]
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    early.add_argument("--dataset", default=parser.get_default("dataset"))
    early = early.parse_known_args(argv)[0]
    config = _profile(early.dataset) if early.config is None else early.config
    words = []
    if config not in (None, "none"):
        words = [_at_home(word) for word in read_config(config, parser, script)]
        required = [action for action in parser._actions if action.required]
        for action in required:
            action.required = False
        parser.source = f"{config}: "
        parser.parse_known_args(words)  # a fault of the file is told with its name
        parser.source = ""
        for action in required:
            action.required = True
    args, others = parser.parse_known_args([*words, *argv])
    if others and not hasattr(args, "others"):
        options = [option for action in parser._actions for option in action.option_strings]
        parser.error(f"unrecognized arguments: {' '.join(others)}{meant(others[0], options)}")
    if others:
        args.others = others
    from common.datasets import get_dataset, use_split
    from common.layout import Layout

    if getattr(args, "dataset", None) and getattr(args, "out_root", None):
        use_split(args.dataset, Layout.of(args).split)
    if getattr(args, "subj_ID", None) is not None and hasattr(args, "dataset"):
        find = get_dataset(args.dataset).find_subject
        several = isinstance(args.subj_ID, list)
        args.subj_ID = list(dict.fromkeys(map(find, args.subj_ID))) if several else find(args.subj_ID)
    return args


# ---------------------------------------------------------------------------------------------- running

_draw_bar = tqdm.__init__
LOG_PACE = 30  # seconds between a progress bar's lines in a file


class _Log:
    """Where progress bars are drawn without a terminal: a redraw is a line."""

    def write(self, text):
        if line := text.replace("\x1b[A", "").strip():
            sys.stderr.write(line + "\n")

    def flush(self):
        sys.stderr.flush()


def _log_bar(bar, *args, **options):
    pace = dict.fromkeys(("mininterval", "maxinterval", "delay"), LOG_PACE)
    _draw_bar(bar, *args, **options | pace | {"file": _Log()})


class Terminated(BaseException):
    """SIGTERM arrived."""


_arrived = []  # signals that end the script


def _terminate(number, frame):
    _arrived.append(number)
    raise Terminated


_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory|ALLOC_FAILED|DataLoader worker .* (killed|exited)", re.IGNORECASE)


def lacks_memory(error):
    """Whether an exception, or one in whose handling it was raised, is for want of memory."""
    return error is not None and (isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error))) or lacks_memory(error.__context__))


def _less_memory(given):
    """Flags, with the values to try, that make a script of these arguments (dict) need less memory."""
    fewer = {name: given.get(name) or 0 for name in ("batch_size", "workers", "num_workers")}
    flags = [f"--{name} {n // 2}" for name, n in fewer.items() if n > (name != "num_workers")]
    flags += ["--precision bf16"] * (given.get("precision") == "fp32")
    flags += [f"--{name}" for name in ("vae_slicing", "attention_slicing") if given.get(name) is False]
    return f"use {' or '.join(flags[:2]) or 'a machine with more memory'}"


@contextlib.contextmanager
def one_line_errors(debug=False):
    """Turn a user's mistake into one line on stderr and the matching exit status; yields a dict for the parsed arguments."""

    def stop(error):
        for bar in list(tqdm._instances):  # or the line would be appended to a bar
            bar.close()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)

    def end(word, status):
        print(f"{word}; run the same command again to continue", file=sys.stderr)
        sys.exit(status)

    given = {}
    try:
        yield given
    except UserError as error:
        if _arrived:  # and a library, such as safetensors, made an error of its own of it
            end("terminated", 143)
        if debug:
            raise
        stop(f"{error}; if it is whole, there is not enough memory: {_less_memory(given)}" if lacks_memory(error.__context__) else error)
    except Exception as error:
        if _arrived:
            end("terminated", 143)
        full, forbidden = full_disk(error), getattr(error, "errno", None) in _FORBIDDEN
        if not debug and lacks_memory(error):
            stop(f"not enough memory ({one_line(error)[:200]}); {_less_memory(given)}")
        if debug or not (full or forbidden):
            raise
        where, why = getattr(error, "filename", None) or "the output folder", os.strerror(full or error.errno)
        stop(f"cannot write {where}: {why}; free space or choose another --out_root, then run the same command again")
    except KeyboardInterrupt:
        end("stopped", 130)
    except Terminated:
        end("terminated", 143)


def script_name(main):
    """Path of the script that a main function is in, below the project and without the ending."""
    module = main.__module__  # under a profiler or debugger, the file of __main__ is theirs
    path = Path(sys.argv[0] if module == "__main__" else sys.modules[module].__file__).resolve().with_suffix("")
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else path.name


def run(main, get_parser, argv=None):
    """Entry point of a script: parse its command line or `argv`, run `main(args)`, turn mistakes into one line."""
    argv = sys.argv[1:] if argv is None else [str(a) for a in argv]
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows '?' for what it lacks
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tqdm.__init__ = _draw_bar if sys.stderr.isatty() else _log_bar
    _arrived.clear()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file-size limit then shows as an OSError
    with one_line_errors("--debug" in argv) as given:
        given.update(vars(args := parse(get_parser, argv, script_name(main))))
        main(args)


def choose_device(name):
    """torch device for --device: 'auto' is the GPU when there is one; a UserError for one that is not there.

    Convolutions of float32 are computed in float32 from here on, where PyTorch's default takes TensorFloat-32;
    models.precision.allow_tf32 comes after it.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA asserts
        raise UserError(f"--device {name} is not available ({one_line(error)}); use auto or cpu") from None
    return device
