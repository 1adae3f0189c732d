"""Find test clips among the test clips by their fMRI, and the other way round.

Reads    checkpoints/sub{ID}/{arm}/retrieval/, and control's where it was trained: both stand side by side
         fMRI_in_fslr/sub{ID}/Test/masked{n}_test_data.npy, features/Test_{text,img}_embeddings_CLIP_512.npy,
         captions/Test_captions_new.h5, stimuli_clips/Test/; or weights and fMRI of the authors' folder (--released_root)
Writes   retrieval/sub{ID}/small_set/    metrics.json (accuracy, ranks, intervals, chance), ranks.csv, ranks.png, top_k.png,
         gallery.html; small_set_{method}, _{target}, ... for what is not the default

    python Retrieval/small_set.py --dataset phantom
    python Retrieval/small_set.py --dataset CC2017 --subj_ID 1 --target image
    python Retrieval/small_set.py --dataset CC2017 --subj_ID 1 --released_root Mind_Animator_data

CC2017: 1200 clips. A few seconds.
"""

from common import cli
from Retrieval.retrieval_script import get_retrieval_parser, retrieve

TARGET = "text"  # released


def get_parser():
    return get_retrieval_parser(__doc__, TARGET)


def main(args):
    retrieve(args, "small_set", TARGET)


if __name__ == "__main__":
    cli.run(main, get_parser)
