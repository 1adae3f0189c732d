"""Make the synonym table that caption augmentation uses, from WordNet 3.0's database files.

Reads    {wordnet}/data.{noun,verb,adj,adv} and index.*       Debian's package wordnet-base puts them in one folder
Writes   common/wordnet_synonyms.txt.gz                        notice, then lines 'word<TAB>synonym|synonym|...'

    python Feature_decoding/make_synonym_table.py --wordnet WORDNET_FOLDER

Needed only to make the table again; it ships with the project. A few seconds.
"""

import gzip
import re
from pathlib import Path

from common import cli
from common.augment import TABLE
from common.files import atomic_path, missing

POS = ("noun", "verb", "adj", "adv")
PER_WORD = 8


def plain(lemma):
    """'Ice-cream_cone(a)' -> 'ice cream cone'; '' if anything but letters and spaces is left."""
    text = re.sub(r"\([a-z]+\)$", "", lemma).replace("_", " ").replace("-", " ").lower()
    return text if re.fullmatch(r"[a-z ]+", text) else ""


def read_synsets(folder, pos):
    """Offset -> plain lemmas of a part of speech."""
    synsets = {}
    for line in (folder / f"data.{pos}").read_text().splitlines():
        if line.startswith("  "):  # the licence at the top
            continue
        fields = line.split()
        synsets[fields[0]] = [plain(word) for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
    return synsets


def synonyms(folder):
    """Single words -> their synonyms, in the order of WordNet's senses."""
    table = {}
    for pos in POS:
        synsets = read_synsets(folder, pos)
        for line in (folder / f"index.{pos}").read_text().splitlines():
            if line.startswith("  "):
                continue
            fields = line.split()
            word = plain(fields[0])
            if not word or " " in word:
                continue
            entry = table.setdefault(word, {})
            for offset in fields[-int(fields[2]) :]:
                entry.update(dict.fromkeys(lemma for lemma in synsets[offset] if lemma and lemma != word))
    return {word: list(found)[:PER_WORD] for word, found in sorted(table.items()) if found}


def get_parser():
    parser = cli.make_parser(__doc__)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with WordNet's data.* and index.* files")
    return parser


def main(args):
    first = args.wordnet / "data.noun"
    if not first.exists():
        raise missing(first, "install Debian's wordnet-base, or get WordNet 3.0 from wordnet.princeton.edu")
    notice = [line[2:].split(" ", 1)[-1].strip() for line in first.read_text().splitlines() if line.startswith("  ")]
    table = synonyms(args.wordnet)
    lines = [f"# {line}" for line in notice] + [f"{word}\t{'|'.join(found)}" for word, found in table.items()]
    with atomic_path(TABLE) as temporary, gzip.GzipFile(temporary, "wb", mtime=0) as handle:
        handle.write("\n".join(lines).encode())
    print(f"{len(table)} words with synonyms -> {TABLE.name}, {TABLE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    cli.run(main, get_parser)
