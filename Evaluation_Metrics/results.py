"""What an evaluation leaves on disk, and whether two of them may stand side by side."""

import csv
import json
import os
from pathlib import Path

import numpy as np

from common.cli import PROJECT, one_line
from common.files import UserError, atomic_path, missing, read_json
from common.readers import format_clips

PROTOCOLS = json.loads((Path(__file__).parent / "protocols.json").read_text(encoding="utf-8"))
VERSION = PROTOCOLS.pop("version")


def _columns(better):
    """Columns of the metrics whose row says so of more and less, set; of most, more is better, and the row says nothing."""
    rows = [row for protocol in PROTOCOLS.values() for row in protocol["metrics"]]
    return {column for row in rows if row.get("better") == better for column in row["columns"]}


LOWER_IS_BETTER, UNRANKED = _columns("lower"), _columns("neither")
LEVEL, N_BOOTSTRAPS = 0.95, 1000  # of intervals: coverage, and resamples of a mean's
_AGAIN = "run Evaluation_Metrics/evaluate.py again with --overwrite"
_NUMBER, _NONE = (float, int), type(None)
_EVALUATION = {  # of what kind the entries of metrics.json are, of those that are read again
    "title?": str, "method?": str, "of_project?": bool, "protocol?": str, "columns?": [str], "chance?": {...: _NUMBER}, "still?": {...: _NUMBER}, "stand_ins?": str, "seed?": int,
    "truth?": (dict, _NONE), "models?": {...: dict},
    "rows?": {...: {...: (dict, _NONE)}}, "clips?": (dict, int, _NONE),
}  # fmt: skip
_COMPARED = {  # entries of metrics.json that two results must share
    "dataset": "data set",
    "phantom": "phantom",
    "subject": "subject",
    "protocol": "protocol",
    "protocol_version": "version of the protocol",
}


def load_npz(path, do=_AGAIN):
    """Read a .npz file, {name: array}; a missing or broken one is a UserError. Its arrays carry checksums."""
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as content:
            arrays = dict(content)
            handle.seek(-12, os.SEEK_END)  # number of entries, which zipfile does not look at
            if int.from_bytes(handle.read(2), "little") != len(arrays):
                raise ValueError("a damaged directory")
            return arrays
    except FileNotFoundError:
        raise missing(path, do) from None
    except Exception as error:  # zipfile and numpy meet damaged bytes with errors of almost any kind
        raise UserError(f"{path} is not a readable .npz file ({one_line(error)}); {do}") from None


# ---------------------------------------------------------------------------------------------- summaries


def summarise(values):
    """Mean, standard deviation, standard error and number of the values that are not NaN."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return {"mean": None, "std": None, "se": None, "n": 0}
    return {"mean": values.mean(), "std": values.std(), "se": values.std(ddof=1) / np.sqrt(n) if n > 1 else None, "n": n}


def gaps(numbers, values):
    """Numbers of the clips that have no value."""
    return [number for number, value in zip(numbers, values, strict=True) if np.isnan(value)]


def intervals(columns, rng):
    """Percentile bootstrap intervals over clips of the means of columns {name: (N,)}, {name: {"low", "high"}}; NaN are left out."""
    found = {}
    for column, values in columns.items():
        values = values[~np.isnan(values)]
        if len(values) > 1:
            counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=N_BOOTSTRAPS)
            low, high = np.quantile(counts @ values / len(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            found[column] = {"low": float(low), "high": float(high)}
    return found


def describe(column, summary, n_wanted, levels=None):
    """One line: mean ± std over clips, standard error, interval, number of clips, and levels beside it ({words: number})."""
    if not summary["n"]:
        return f"{column}: no clip has a value"
    beside = "".join(f", {words} {level:.3f}" for words, level in (levels or {}).items())
    error = "" if summary["se"] is None else f", se {summary['se']:.4f}"
    error += f", 95 % interval {summary['low']:.4f} to {summary['high']:.4f}" if "low" in summary else ""
    return f"{column}: {summary['mean']:.4f} ± {summary['std']:.4f} (std over clips{error}, {summary['n']} of {n_wanted} clips{beside})"


def note_gaps(numbers, columns, lost):
    """{column: clips that were scored and have no value}, of those columns that have such clips; each is printed.

    `numbers` are those of the rows of `columns` {name: (N,)}, `lost` the clips that were not scored.
    """
    undefined = {column: sorted(set(gaps(numbers, values)) - set(lost)) for column, values in columns.items()}
    undefined = {column: clips for column, clips in undefined.items() if clips}
    for column, clips in undefined.items():
        print(f"{column}: undefined for {len(clips)} clips, left out: {format_clips(clips)}")
    return undefined


# ---------------------------------------------------------------------------------------------- files


def write_csv(path, numbers, columns):
    """Write per-clip values {name: (N,)} of the clips `numbers`, one row per clip, an empty field where there is none."""
    values = [{name: "" if np.isnan(of[i]) else float(of[i]) for name, of in columns.items()} for i in range(len(numbers))]
    write_dicts(path, [{"clip": number} | row for number, row in zip(numbers, values, strict=True)])


def save_per_clip(path, numbers, columns):
    """Write per-clip values as path.npz, `clip` and one array per column, and as path.csv."""
    with atomic_path(path.with_suffix(".npz")) as temporary:
        np.savez(temporary, clip=np.array(numbers), **columns)
    write_csv(path.with_suffix(".csv"), numbers, columns)


def write_rows(path, rows):
    """Write rows as CSV, the columns' names first."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)


def short(value):
    """A score as pages show it beside a clip: three digits, and no more than four decimals; -0 is 0."""
    return f"{round(float(value), 4) + 0.0:.3g}" if abs(value) < 100 else f"{value:.1f}"


def write_dicts(path, rows):
    """Write dictionaries of the same keys as CSV."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_per_clip(path):
    """Clip numbers, (N,) int, and {column: (N,)} of a file of save_per_clip."""
    columns = load_npz(path, _AGAIN)
    if "clip" not in columns or any(values.shape != columns["clip"].shape for values in columns.values()):
        raise UserError(f"{path} does not hold one value per clip; {_AGAIN}")
    return columns.pop("clip"), columns


def read_evaluation(path):
    """metrics.json of an evaluation, dict; a UserError for one that is damaged."""
    facts = read_json(path, _EVALUATION, _AGAIN)
    if "rows" in facts and "method" in facts and facts["method"] not in facts["rows"]:
        raise UserError(f"{path} has no row of its method {facts['method']}; {_AGAIN}")
    return facts


def read_result(folder):
    """metrics.json, clip numbers (N,) and per-clip values {name: (N,)} of an evaluation."""
    folder = Path(folder)
    facts = read_evaluation(folder / "metrics.json")
    if "protocol" not in facts or not (folder / "per_clip.npz").exists():
        raise UserError(f"{folder} is no finished evaluation; run Evaluation_Metrics/evaluate.py first")
    return facts, *read_per_clip(folder / "per_clip.npz")


def align(a, b):
    """Values of two methods, (clips, columns) as of read_per_clip, for the clips that both have: clips (N,), {column: (of A, of B)}."""
    clips, rows_a, rows_b = np.intersect1d(a[0], b[0], return_indices=True)
    return clips, {column: (a[1][column][rows_a], b[1][column][rows_b]) for column in a[1] if column in b[1]}


# ---------------------------------------------------------------------------------------------- what was scored


def scored_facts(pairs, lost, towers, kinds):
    """What decides the values besides the protocol, as metrics.json holds it: truth, models (those of `kinds`), clips (`lost` were not scored)."""
    truth, scored = pairs.truth(), [number for number in pairs.wanted if number not in set(lost)]
    return {
        "truth": {"path": truth.path, "sha256": truth.sha256(truth.numbers)},
        "models": {kind: towers.facts(kind) for kind in sorted(kinds)},
        "clips": {"wanted": len(pairs.wanted), "scored": len(scored), "missing": sorted(lost), "numbers": format_clips(scored)},
    }


def made_by_phantom(facts):
    """A sentence that names the phantom's models among those that scored clips of the world, from metrics.json; else ""."""
    home = (PROJECT / "phantom" / "models").resolve()
    named = {kind: model.get("source") for kind, model in (facts.get("models") or {}).items()}
    own = [kind for kind, source in named.items() if source and home in Path(source).resolve().parents]
    return f"Scored by the phantom's models ({', '.join(own)}), which know drawn shapes alone." if own and not facts.get("phantom") else ""


def reader_facts(pairs, form):
    """Where the clips were read and in which form, for compare.py's pictures."""
    reads = {"recons": pairs.pred.path, "layout": getattr(pairs.pred, "layout", None), "gt": pairs.truth().path}
    reads["borders"] = getattr(pairs.pred, "borders", False)
    return reads | {"form": {key: form[key] for key in ("n_frames", "size")}}


def major(version):
    """First number of a version: values of another one do not compare."""
    return str(version).partition(".")[0]


def count_samples(facts):
    """Number of reconstructions of a clip that an evaluation is the mean over."""
    return max((of["n_samples"] for of in (facts.get("samples") or {}).values()), default=1)


def differing(a, b, ignore=()):
    """In what two results (metrics.json) differ besides the method that was scored, {what: (in a, in b)}; entries to `ignore` may."""
    a, b = ({**facts, "protocol_version": major(facts["protocol_version"])} if "protocol_version" in facts else facts for facts in (a, b))
    found = {words: (a.get(key), b.get(key)) for key, words in _COMPARED.items() if key not in ignore}
    found["samples of a clip"] = tuple(map(count_samples, (a, b)))
    found["borders of frames"] = tuple(bool((facts.get("reads") or {}).get("borders")) for facts in (a, b))
    truths, models = [facts.get("truth") or {} for facts in (a, b)], [facts.get("models") or {} for facts in (a, b)]
    if "truth" not in ignore and truths[0].get("sha256") != truths[1].get("sha256"):
        found["ground truth"] = tuple(truth.get("path") for truth in truths)
        if found["ground truth"][0] == found["ground truth"][1]:
            found["ground truth"] = tuple(str(truth.get("sha256"))[:12] for truth in truths)
    for kind in models[0].keys() & models[1].keys():
        x, y = (of[kind] for of in models)
        if (x.get("sha256") or x.get("source")) != (y.get("sha256") or y.get("source")):
            found[f"{kind} model"] = (x.get("source"), y.get("source")) if x.get("source") != y.get("source") else ("older", "newer")
    if "clips" not in ignore:
        found["clips"] = tuple((facts.get("clips") or {}).get("numbers") for facts in (a, b))
    return {what: values for what, values in found.items() if values[0] != values[1]}
