"""The split of data sets whose published one is not known: the last clips are the test clips, or those of --test_clips."""

from common import cli
from common.datasets import get_dataset, use_split
from common.files import UserError, write_json
from common.layout import Layout
from common.readers import format_clips, parse_clips


def make_step_parser(doc, dataset, **flags):
    """A step's parser with --test_clips; `flags` are those of `cli.add_data_flags`."""
    parser = cli.make_parser(doc)
    cli.add_data_flags(parser, **flags).add_argument(
        "--test_clips", nargs="+", metavar="1-90,200", changes_result=False,
        help="numbers of the test clips, from 1 over the whole data set; given once, it holds for all scripts (default: the last clips)",
    )  # fmt: skip
    parser.set_defaults(dataset=dataset)
    return parser


def split_dataset(args, kind):
    """The data set of the flags, in the split of --test_clips, which its output folder keeps for all scripts.

    A UserError for numbers that the data set does not have, and for an output folder with results of another split.
    """
    dataset, layout = get_dataset(args.dataset, kind), Layout.of(args)
    if not args.test_clips:
        return dataset
    numbers, n = parse_clips(",".join(args.test_clips), "--test_clips"), dataset.n_train + dataset.n_test
    if numbers[-1] > n or len(numbers) == n:
        raise UserError(
            f"--test_clips {format_clips(numbers)}: {dataset.name} has {n} clips, some of which must be left for training; use numbers from 1 to {n}"
        )
    before = dataset.clip_numbers("test")
    if numbers == before:
        return dataset
    made = [path for path in (layout.clip("test", "any").parent, layout.fmri_report("any").parents[1]) if path.exists()]
    if made and not args.overwrite:
        raise UserError(
            f"{layout.root} has results with the test clips {format_clips(before)}; use --overwrite for this step and all that follow, or another --out_root"
        )
    write_json(layout.split, {"test_clips": numbers})
    use_split(args.dataset, layout.split)
    return get_dataset(args.dataset, kind)


def split_facts(dataset):
    """What results of a data set in this split depend on, for their records, dict."""
    return {"tested_clips": format_clips(dataset.clip_numbers("test"))}


def print_split(dataset):
    """Say which clips are the test clips."""
    print(f"{dataset.name}: {dataset.n_train} training clips, test clips {format_clips(dataset.clip_numbers('test'))}; "
          "which ones the paper tested on is not published (--test_clips for others)")  # fmt: skip
