"""Caption augmentation: easy data augmentation (EDA, Wei & Zou 2019) with WordNet synonyms."""

import gzip
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parent / "wordnet_synonyms.txt.gz"
PER_OPERATION = 3  # candidates of each of the four operations
REPLACED, CHANGED, DELETED = 0.5, 0.2, 0.2  # share of words replaced; inserted or swapped; chance of deletion


@cache
def load_synonyms():
    """The shipped WordNet table: dict word -> list of synonyms."""
    with gzip.open(TABLE, "rt") as handle:
        entries = (line.rstrip("\n").split("\t") for line in handle if not line.startswith("#"))
        return {word: found.split("|") for word, found in entries}


@cache
def load_stop_words():
    """English stop words of scikit-learn."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS


def _pick(options, rng):
    return options[rng.integers(len(options))]


def _replace(words, n, rng, synonyms, stop_words):
    """Replace n different non-stop-words, wherever they stand, by a synonym."""
    candidates = [word for word in dict.fromkeys(words) if word not in stop_words and synonyms.get(word)]
    chosen = [candidates[i] for i in rng.permutation(len(candidates))[:n]]
    new = {word: _pick(synonyms[word], rng) for word in chosen}
    return [new.get(word, word) for word in words]


def _insert(words, n, rng, synonyms):
    """Insert n synonyms of random words at random places."""
    words = list(words)
    for _ in range(n):
        candidates = [word for word in words if synonyms.get(word)]
        if not candidates:
            break
        words.insert(rng.integers(len(words) + 1), _pick(synonyms[_pick(candidates, rng)], rng))
    return words


def _swap(words, n, rng):
    """Swap two random words, n times."""
    words = list(words)
    for _ in range(n if len(words) > 1 else 0):
        i, j = rng.choice(len(words), 2, replace=False)
        words[i], words[j] = words[j], words[i]
    return words


def _delete(words, rng):
    """Drop each word with a chance of 0.2, never all of them."""
    kept = [word for word, drop in zip(words, rng.random(len(words)) < DELETED, strict=True) if not drop]
    return kept or [_pick(words, rng)]


def _makers(sentence, synonyms, stop_words):
    """Functions of a generator that make the 13 candidates, each a list of words."""
    synonyms = load_synonyms() if synonyms is None else synonyms
    stop_words = load_stop_words() if stop_words is None else stop_words
    words = sentence.lower().split()
    if not words:
        raise ValueError("a sentence with at least one word expected, an empty one given")
    n_replaced, n_changed = (max(1, int(share * len(words))) for share in (REPLACED, CHANGED))
    operations = (
        lambda rng: _replace(words, n_replaced, rng, synonyms, stop_words),
        lambda rng: _insert(words, n_changed, rng, synonyms),
        lambda rng: _swap(words, n_changed, rng),
        lambda rng: _delete(words, rng),
    )
    return [lambda rng: words, *(operation for operation in operations for _ in range(PER_OPERATION))]


def eda(sentence, rng, synonyms=None, stop_words=None):
    """Candidates for an augmented caption.

    Parameters
    ----------
    sentence : str
    rng : np.random.Generator
    synonyms : dict, optional
        word -> list of str, by default the shipped WordNet table
    stop_words : set of str, optional
        words that are never replaced, by default scikit-learn's English list

    Returns
    -------
    list of str
        13: the lower-cased sentence; 3 with half of the words replaced by synonyms; 3 with synonyms inserted (a
        fifth of the words); 3 with words swapped (a fifth); 3 with words deleted (each with chance 0.2)

    Raises
    ------
    ValueError
        a sentence without words

    References
    ----------
    Wei & Zou 2019, "EDA: Easy Data Augmentation Techniques"; rates of the paper's supplement.
    """
    return [" ".join(make(rng)) for make in _makers(sentence, synonyms, stop_words)]


def draw_caption(sentence, rng, synonyms=None, stop_words=None):
    """One of the 13 candidates of `eda` at random, without making the other twelve; str."""
    makers = _makers(sentence, synonyms, stop_words)
    return " ".join(makers[rng.integers(len(makers))](rng))
