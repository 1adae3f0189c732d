"""Find test clips by their fMRI among the test clips and those of another data set.

Reads    as small_set.py, and the features of the distractors: features/{Train,Test}_{text,img}_embeddings_CLIP_512.npy of
         the data sets that --distractors names, or .npy files
Writes   retrieval/sub{ID}/Large_set/    as small_set.py; {gallery}_{method}, _{target}, ... for what is not the default

    python Retrieval/Large_set.py --dataset phantom
    python Retrieval/Large_set.py --dataset CC2017 --subj_ID 1
    python Retrieval/Large_set.py --dataset CC2017 --subj_ID 1 --distractors features_of_other_clips.npy

CC2017: 1200 clips and the 3040 of HCP, 4240 in all. Distractors have no fMRI, so that only clips are searched here, not
fMRI. A few seconds.
"""

from common import cli
from common.datasets import get_dataset
from common.files import UserError
from Retrieval.retrieval_script import get_retrieval_parser, retrieve

TARGET = "image"  # released


def get_parser():
    parser = get_retrieval_parser(__doc__, TARGET)
    parser.add_argument_group("gallery").add_argument(
        "--distractors", nargs="+", metavar="WHAT",
        help="further entries: data sets (HCP, phantom:train), or .npy files of CLIP features (default: the data set's, HCP for CC2017)",
    )  # fmt: skip
    return parser


def main(args):
    distractors = args.distractors or get_dataset(args.dataset).distractors
    if not distractors:
        raise UserError(f"{args.dataset} has no larger gallery of its own; name data sets or .npy files with --distractors")
    retrieve(args, "Large_set", TARGET, distractors)


if __name__ == "__main__":
    cli.run(main, get_parser)
