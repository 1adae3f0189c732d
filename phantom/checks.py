"""What the chain must have found in the phantom: one function a claim, each from numbers of single clips to rows of the report.

A row says what was measured (`value`), beside which number (`control`, described by `compared_with`), against which
`bar`, whether it `held`, and by how much: `margin` is the distance from the estimate to its bar in standard errors of
the estimate, the smallest where a claim has several bars, None where it has none. `note` says what the claim means.

Standard errors are over clips. That of a mean, or of a paired difference, is std / sqrt(n). That of a share of k in n
is sqrt(p (1 - p) / (n + 4)) with p = (k + 2) / (n + 4), two successes and two failures added, so that it is not 0 where
all clips are right (Agresti & Coull 1998); the share itself stays k / n.
"""

from itertools import permutations

import numpy as np

from common.randomness import numpy_generator
from Evaluation_Metrics.n_way import chance_level
from phantom.features import AREAS
from phantom.world import DIRECTIONS, IMAGE_FACTORS, SPEEDS

ARMS = ("full", "control", "oracle")
P_OF_3_SE = 0.0027  # two-sided
LEGIBLE = {"colour": 0.6, "background": 0.9}  # share that the image classifier must read right
ABOUT = (
    "The simulated brain answers with a haemodynamic response that peaks at 3 s. A real one peaks at about 5 s; this departure from "
    "physiology is made because the phantom's scenes change every 2 s (--hrf canonical shows what blur does). Margin: distance from the "
    "estimate to its bar in standard errors; the standard error of a share has two successes and two failures added."
)
NOTES = {
    "alignment": "Ridge regression from the selected vertices to the eight factors of a scene. Lags off the peak are not at chance, "
    "because the response lasts longer than a volume and undershoots.",
    "mask": "The control is the share of planted vertices in the whole cortex; the error is over vertices.",
    "semantics": "The semantic decoder's embedding, ranked by cosine against the CLIP text features of the test captions; equal captions "
    "count once. 2-way-I: the three best classes of the true frame against one other, by the phantom's image classifier, after stage 2. "
    "Chance is 3/4; a picture that clearly shows another scene falls below it.",
    "retrieval": "Top 10 of the test clips, by the retrieval decoder (Retrieval/small_set.py); of equal captions the first counts.",
    "structure": "The first frame as the structure decoder and the VAE give it, before Stable Diffusion.",
    "motion": "Still: the first decoded frame eight times, before stage 2 or through it. Direction: the sign of the mean flow of a "
    "reconstruction, over four directions. A control's end-point error can exceed a still's: wrong motion costs more than none.",
    "localisation": "Importance of a vertex by the weights of a decoder (Explainable_analysis/Cortical_visualization), in the areas that were "
    "planted for it less elsewhere in the mask; errors over vertices. The released map averages signed weights, so that the structure "
    "decoder's localises nothing: shown without a bar.",
    "shuffle test": "One order of the frames applied to all clips; p is the share of orders that score as well. The control passes it too: "
    "any smooth clip does. That motion comes from the brain shows in the direction, above. Without CMG the frames are equal but for "
    "single grey levels, and p says nothing.",
    "legible": "The image classifier's 96 classes are summed to colours and to backgrounds, and the frames of a clip averaged.",
    "neighbours": "Identification: share of the wrong test clips whose true frames correlate less with a reconstruction's CLIP features than "
    "the right ones. Opponent motion energy: correlation over Gabor filters at 1 Hz, each direction minus the opposite one; a still has 0, the first decoded "
    "frame eight times nearly, since stage 2 changes single grey levels. "
    "The control's decoder is an arbitrary map, the same for all clips of one motion: its error is over the eight motions, few enough "
    "that it is itself uncertain; p is over all assignments of the motions to each other, with clips drawn within a motion. "
    "Identification counts clips as independent, so that its error is too small for such a control, which can lie beyond it.",
    "brain-side score": "An encoding model predicts the test fMRI from clips (Evaluation_Metrics/brain_score.py). Of the clip alone: less the "
    "run's slow trend and the volumes before and after. A reconstruction inherits both from the fMRI it was decoded from, and without this "
    "step exceeds the oracle's. In V1-V4 reconstructions can lie a little above the true clips with it as well, the oracle's too, which has seen no "
    "fMRI: the reason is not known. Errors are over clips, of 1000 resamples.",
    "bands": "Each band of the encoding model's features alone, from the true test clips; the area of the smallest margin is shown.",
    "ceiling": "Oracle: the chain with the scenes' true features in place of fMRI.",
    "released recipe": "Inversion, start at timestep 981, guidance 12.5, as published, which moves even the first frame given eight times. The "
    "number at the end is of the phantom's own profile, from true features and on the same clips.",
}


# ---------------------------------------------------------------------------------------------- statistics


def standard_error(values):
    """Standard error of a mean over clips."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def share_error(hits):
    """Standard error of a share of hits (N,), 0 and 1, with two successes and two failures added."""
    p = (np.sum(hits) + 2) / (len(hits) + 4)
    return float(np.sqrt(p * (1 - p) / (len(hits) + 4)))


def paired(better, worse):
    """Mean difference over clips and its standard error."""
    difference = np.asarray(better, float) - np.asarray(worse, float)
    return float(difference.mean()), standard_error(difference)


def in_errors(*distances):
    """Smallest of (distance from an estimate to its bar, positive on the right side; its error), in errors; None where one has no error."""
    return None if any(se == 0 for _, se in distances) else float(min(distance / se for distance, se in distances))


def means(values):
    """Means by name, {name: float}."""
    return {name: float(np.mean(each)) for name, each in values.items()}


def row(claim, statement, held, *, value, control, compared_with, bar, n, margin=None, se=None, chance=None, **more):
    """One row of the report; `held` is None where a number is shown without a bar."""
    numbers = {"value": float(value), "control": float(control), "se": se, "chance": chance, "margin": margin}
    words = {"compared_with": compared_with, "bar": bar, "note": NOTES[claim]}
    return {"claim": claim, "statement": statement, "held": None if held is None else bool(held), "n": n, **numbers, **words, **more}


def difference_row(claim, statement, values, other, *, least_errors, least=None, lower=False, compared_with, of="full", **more):
    """Row of a paired difference between an arm, by default the full one, and `other`, keys of `values` {arm: (N,)}.

    It must exceed `least_errors` standard errors, and reach `least`; `lower`: whether less is better.
    """
    gain, se = paired(values[other], values[of]) if lower else paired(values[of], values[other])
    held = gain > least_errors * se and (least is None or gain >= least)
    distances = [(gain - least_errors * se, se)] + ([] if least is None else [(gain - least, se)])
    bar = f"difference > {least_errors} SE" + ("" if least is None else f" and >= {least}")
    numbers = {"value": np.mean(values[of]), "control": np.mean(values[other]), "n": len(values[of]), "se": se}
    return row(
        claim, statement, held, **numbers, compared_with=compared_with, bar=bar, margin=in_errors(*distances), arms=means(values), **more
    )


def share_row(claim, statement, hits, least, *, control, compared_with, bar=None, **more):
    """Row of a share of clips that must reach a bar."""
    value, se = float(np.mean(hits)), share_error(hits)
    return row(
        claim, statement, value >= least, value=value, control=control, compared_with=compared_with, bar=bar or f">= {least:.2f}",
        n=len(hits), se=se, margin=in_errors((value - least, se)), **more,
    )  # fmt: skip


def control_or_chance(hits, chance, words):
    """What a share stands beside: the control arm's where that was run, else chance."""
    if "control" in hits:
        return {"control": float(np.mean(hits["control"])), "compared_with": words}
    return {"control": chance, "compared_with": "chance"}


# ---------------------------------------------------------------------------------------------- fMRI


def alignment(shares, *, lags, chance):
    """Factors are decoded best at the documented volume.

    `shares` {scanner run: (lags, N) shares of factors decoded right, NaN for clips outside the run}; `lags` in volumes from the offset.
    """
    rows = []
    for run, values in shares.items():
        accuracy = [float(np.nanmean(of_clips)) for of_clips in values]
        here = list(lags).index(0)
        best = max((i for i in range(len(lags)) if i != here), key=lambda i: accuracy[i])
        both = np.isfinite(values[here]) & np.isfinite(values[best])
        se = standard_error(values[here][both] - values[best][both])
        gain = accuracy[here] - accuracy[best]
        rows.append(
            row(
                "alignment", f"{'segs and test1' if run == 'test1' else run}: factors decoded best at the documented volume, by 0.2",
                gain >= 0.2, value=accuracy[here], control=accuracy[best], compared_with=f"the next best volume ({lags[best]:+d})",
                bar="difference >= 0.2", n=len(values[here]), se=se, margin=in_errors((gain - 0.2, se)), chance=chance, lags=list(lags),
                accuracy=accuracy,
            )
        )  # fmt: skip
    return rows


def mask(selected, planted, *, n_cortex):
    """The `selected` vertices answer to something: `planted` {group of features: vertices}, of `n_cortex` in all."""
    found = {name: int(np.isin(selected, vertices).sum()) for name, vertices in planted.items()}
    hits = np.isin(selected, np.concatenate([np.asarray(vertices, int) for vertices in planted.values()]))
    control = sum(map(len, planted.values())) / n_cortex
    return [
        share_row(
            "mask", "selected vertices are planted ones", hits, 0.99, control=control, compared_with="planted vertices in the whole cortex",
            of_group=found,
        )
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- semantics


def semantics(ranks, *, n_gallery):
    """The clip's own caption ranks high, {arm: (N,) ranks from 1}, among the distinct captions."""
    hits, chance = {arm: (np.asarray(of_clips) <= 10).astype(float) for arm, of_clips in ranks.items()}, 10 / n_gallery
    rows = []
    if "control" in hits:
        statement = f"own caption in the top 10 of {n_gallery} distinct ones more often than the control's"
        rows.append(
            difference_row(
                "semantics", statement, hits, "control", least_errors=4, compared_with="the control arm's embedding", chance=chance
            )
        )
    rows.append(
        share_row(
            "semantics", "top 10 at least 2.5 times chance", hits["full"], 2.5 * chance, bar=f">= {2.5 * chance:.3f}", chance=chance,
            **control_or_chance(hits, chance, "the control arm's embedding"),
        )
    )  # fmt: skip
    return rows


def two_way(accuracy):
    """The image classifier finds the true classes in the reconstructions, {arm: (N,) 2-way accuracy}."""
    if "control" not in accuracy:
        return []
    statement = "2-way-I of the reconstructed frames above the control's"
    compared_with = "the control arm's reconstructions"
    return [
        difference_row("semantics", statement, accuracy, "control", least_errors=3, compared_with=compared_with, chance=chance_level(2))
    ]


def retrieval(found):
    """The retrieval decoder finds clips by fMRI and fMRI by clips, {words: ({arm: (N,) ranks from 1}, chance of the top 10)}."""
    return [
        difference_row(
            "retrieval", f"{words}: in the top 10 more often than the control's",
            {arm: (ranks <= 10).astype(float) for arm, ranks in of_clips.items()}, "control", least_errors=4,
            compared_with="the control arm's retrieval decoder", chance=chance,
        )
        for words, (of_clips, chance) in found.items()
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- explanation


def contrast(importance, inside):
    """Mean importance inside less that outside, and its standard error over vertices; `inside` bool."""
    parts = importance[inside], importance[~inside]
    return float(parts[0].mean() - parts[1].mean()), float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)))


def localisation(maps, inside):
    """Decoders read the areas that were planted for them.

    `maps` {(decoder, kind of map): {arm: (V,) importance of the selected vertices}}; `inside` {decoder: (V,) bool, planted for it}.
    """
    rows = []
    for (decoder, kind), arms in maps.items():
        (value, se), (control, control_se) = (contrast(arms[arm], inside[decoder]) for arm in ("full", "control"))
        gain, error = value - control, float(np.hypot(se, control_se))
        with_bar = kind == {"CMG": "released", "semantic": "rms"}.get(decoder)
        bar, margin = ("difference > 4 SE", in_errors((gain - 4 * error, error))) if with_bar else ("none", None)
        statement = f"{decoder} decoder, {kind} map: importance in its planted areas less elsewhere, above the control's"
        held = gain > 4 * error and value > 0 if with_bar else None
        rows.append(
            row(
                "localisation", statement, held, value=value, control=control, compared_with="the control arm's decoder", bar=bar,
                n=len(arms["full"]), se=error, margin=margin,
            )
        )  # fmt: skip
    return rows


def shuffle(tests, n, orders):
    """The frames' order matters with the CMG; tests {kind of reconstruction: p of so many orders} on n clips, as shuffle_for_EPE.py names the kinds."""
    others = {word: p for word, p in tests.items() if word != "with CMG"}
    if len(others) == len(tests) or not others:
        return []
    word, p = next(iter(others.items()))
    statement = f"p of the frames' order by EPE, {1 / (orders + 1):.4f} at least with {orders} orders; beside it {', '.join(f'{word} {p:.3f}' for word, p in others.items())}"
    value = tests["with CMG"]
    return [row("shuffle test", statement, value < 0.05, value=value, control=p, compared_with=word, bar="< 0.05", n=n)]


# ---------------------------------------------------------------------------------------------- pictures


def structure(scores):
    """The first frame before stage 2 looks like the true one, {"PSNR" and "SSIM": {arm or "mean frame": (N,)}}."""
    rows = []
    for metric, least in (("PSNR", 3.0), ("SSIM", 0.15)):
        for other, words in (("control", "the control arm's first frame"), ("mean frame", "the mean of the training clips' first frames")):
            if other in scores[metric]:
                statement = f"{metric} of the first frame before stage 2 above the {other}'s"
                rows.append(difference_row("structure", statement, scores[metric], other, least_errors=4, least=least, compared_with=words))
    return rows


def motion(before, after, *, right, right_before):
    """The frames move as the true ones do, and in the true direction.

    `before` and `after` stage 2: end-point error {arm or "still": (N,)}; `right`, `right_before`: {arm: whether the direction is right}.
    """
    rows = []
    still, control = "the first decoded frame eight times", "the control arm's frames"
    for when, values, other, least, words in (
        ("before stage 2", before, "still", 4, still),
        ("before stage 2", before, "control", 4, control),
        ("after stage 2", after, "still", 2, still),
    ):
        if other in values:
            statement = f"EPE {when} below the {other}'s"
            rows.append(difference_row("motion", statement, values, other, least_errors=least, lower=True, compared_with=words))
    shares, chance = means(right), 1 / len(DIRECTIONS)
    rows.append(
        share_row(
            "motion", "direction of the mean flow right in the reconstruction", right["full"], 0.6, chance=chance, arms=shares,
            before_stage_2=means(right_before), **control_or_chance(right, chance, control),
        )
    )  # fmt: skip
    if "control" in right:
        share, se = shares["control"], share_error(right["control"])
        rows.append(
            row(
                "motion", "direction of the control's mean flow at most 40 %", share <= 0.4, value=share, control=chance,
                compared_with="chance", bar="<= 0.40", n=len(right["control"]), se=se, margin=in_errors((0.4 - share, se)), chance=chance,
            )
        )  # fmt: skip
    return rows


def legible(right):
    """The image classifier reads colour and background in the reconstructions, {factor: {arm or "truth": (N,) 0 or 1}}."""
    rows = []
    for factor, least in LEGIBLE.items():
        hits, chance = right[factor], 1 / len(IMAGE_FACTORS[factor])
        rows.append(
            share_row(
                "legible", f"{factor} read right in the reconstruction by the phantom's image classifier", hits["full"], least,
                chance=chance, arms=means(hits), **control_or_chance(hits, chance, "the control arm's reconstructions"),
            )
        )  # fmt: skip
    return rows


# ---------------------------------------------------------------------------------------------- ceiling and stage 2 as published


def ordered_row(statement, values, claim="ceiling", **more):
    """Row of arms whose means must stand in order, oracle highest."""
    arms = means({arm: values[arm] for arm in ARMS})
    steps = [paired(values[better], values[worse]) for better, worse in (("oracle", "full"), ("full", "control"))]
    held = arms["oracle"] > arms["full"] > arms["control"]
    return row(
        claim, statement, held, value=arms["oracle"], control=arms["full"], compared_with=f"the full arm; control {arms['control']:.3f}",
        bar="oracle > full > control", n=len(values["full"]), se=steps[0][1], margin=in_errors(*steps), arms=arms, **more,
    )  # fmt: skip


def cluster_error(values, groups):
    """Standard error of a mean over clips, values (N,), that depend on each other within groups (N,)."""
    values, names = np.asarray(values, float), np.unique(groups)
    sums = np.array([(values - values.mean())[groups == name].sum() for name in names])
    return float(np.sqrt((sums**2).sum() * len(names) / (len(names) - 1)) / len(values))


def over_assignments(pairs, motions):
    """How a control's score lies among those that it would have if its motions were any other ones.

    A control's decoder is one arbitrary map, the same for all clips that move alike: clips tell little of how far such a map lies
    from chance, and errors over eight motions are themselves uncertain. So the motions are assigned to each other in all 8! ways, as in
    a permutation test with exchangeable blocks, and each clip is compared with a random true clip of the motion that its own has got.

    Parameters
    ----------
    pairs : array, (N, N)
        score of control clip i with true clip j
    motions : array, (N,)
        motion of each clip

    Returns
    -------
    mean, spread : float
        over the assignments
    p : float
        share of assignments that lie as far from the mean as the true clips, which count as one
    """
    names, own = np.unique(motions, return_inverse=True)
    assigned = np.array(list(permutations(range(len(names)))))[:, own]  # (8!, N)
    order, counts = np.argsort(own, kind="stable"), np.bincount(own)
    draws = numpy_generator(0, "assignments").random(assigned.shape)
    chosen = order[(np.cumsum(counts) - counts)[assigned] + (draws * counts[assigned]).astype(int)]
    scores = np.asarray(pairs)[np.arange(len(own)), chosen].mean(1)
    mean = scores.mean()
    as_far = np.sum(np.abs(scores - mean) >= abs(np.mean(np.diag(pairs)) - mean))
    return float(mean), float(scores.std()), float((as_far + 1) / (len(scores) + 1))


def at_chance(claim, name, mean, chance, se, n):
    """Row of the control's score, which must lie within three errors of chance.

    1.96 errors would leave a control that is at chance outside in one run of twenty.
    """
    return row(
        claim, f"{name}: the control at chance", abs(mean - chance) <= 3 * se, value=mean, control=chance, compared_with="chance", chance=chance,
        bar="chance within 3 SE", n=n, se=se, margin=in_errors((3 * se - abs(mean - chance), se)),
    )  # fmt: skip


def neighbours(identified, moving, pairs, motions):
    """Metrics of neighbouring fields put the arms in order, and the control at chance.

    `identified` and `moving` {arm: (N,)}, 2-way identification by CLIP and correlation of opponent motion energies; `pairs` (N, N) the
    latter of each of the control's clips with each true one; `motions` (N,) direction and speed of each clip.
    """
    if any(arm not in identified for arm in ARMS):
        return []
    (name, level), other, n = ("2-way identification by CLIP", 0.5), "opponent motion energy", len(pairs)
    wrong = (np.sum(pairs, 1) - np.diag(pairs)) / (n - 1)
    zero, _, p = over_assignments(pairs, motions)
    error, mean = cluster_error(moving["control"] - wrong, motions), np.mean(moving["control"])
    possible = len(set(motions)) == len(DIRECTIONS) * len(SPEEDS)  # of fewer motions, the true assignment is no rare one
    return [
        ordered_row(f"{name}: oracle above decoded above control", identified, "neighbours", chance=level),
        ordered_row(f"{other}: oracle above decoded above control", moving, "neighbours", chance=zero),
        at_chance("neighbours", name, np.mean(identified["control"]), level, standard_error(identified["control"]), n),
        at_chance("neighbours", other, mean, float(np.mean(wrong)), error, n),
        row(
            "neighbours", f"{other}: the control among all assignments of the motions, p {p:.2g}", p >= P_OF_3_SE if possible else None,
            value=mean, control=zero, compared_with="mean of the assignments", chance=zero,
            bar=f"p >= {P_OF_3_SE}" if possible else "none: too few motions", n=n, p=p,
        ),
    ]


def still_energy(static, moving):
    """A still has the energy of what stands, `static`, and none of what moves, `moving`: {arm or "still": (N,) correlation}."""
    if "still" not in static:
        return []
    rows = []
    for statement, values, better, worse, words in (
        ("energy at 0 Hz: the first decoded frame eight times above the control", static, "still", "control", "the control arm"),
        ("opponent energy at 1 Hz: decoded above the first decoded frame eight times", moving, "full", "still", "that still"),
    ):
        rows.append(difference_row("neighbours", statement, values, worse, least_errors=3, compared_with=words, of=better))
    return rows


# ---------------------------------------------------------------------------------------------- the brain's side

BAND_OF = {"structure": "latents", "motion": "motion", "semantics": "clip"}  # group of planted features -> band that must predict it best


def brain_side(facts, names):
    """The arms' reconstructions drive the encoding model in order, and each band predicts the areas that it was planted in.

    `facts` is metrics.json of brain_score.py; `names` {arm: name of its reconstruction}.
    """
    rows, n = [], facts["clips"]
    for words, of in (("", facts), (" of the clip alone", facts["alone"])):
        steps = [of["differences"].get(f"{names[a]} - {names[b]}") for a, b in (("oracle", "full"), ("full", "control"))]
        if None in steps:
            continue
        arms = {arm: of["scores"][name]["value"] for arm, name in names.items()} | {"truth": of["scores"]["true clips"]["value"]}
        steps, bar = [(step["value"], step["se"]) for step in steps], 3 if words else None
        held = all(gain > 3 * se for gain, se in steps) if bar else None
        statement = f"brain-side score{words}: oracle above decoded above control" if bar else "brain-side score: oracle beside decoded"
        rows.append(
            row(
                "brain-side score", statement, held, value=arms["oracle"], control=arms["full"], compared_with="the full arm", n=n, se=steps[0][1],
                bar="oracle > full > control, each by > 3 SE" if bar else "none: decoded fMRI holds its neighbours' responses",
                margin=in_errors(*((gain - 3 * se, se) for gain, se in steps)) if bar else None, chance=0.0, arms=arms,
            )
        )  # fmt: skip
    if control := facts["alone"]["scores"].get(names["control"]):
        rows.append(at_chance("brain-side score", "brain-side score of the clip alone", control["value"], 0.0, control["se"], n))
    return rows + bands(facts["of_bands"], facts["band_differences"], n)


def bands(scores, differences, n):
    """Each band predicts best what was planted for it; by area, scores {band: r} and differences {"clip - motion": interval}."""
    rows = []
    for group, areas in AREAS.items():
        band = BAND_OF[group]
        found = [
            (of["value"] / of["se"], area, pair.partition(" - ")[2], of)
            for area in areas
            for pair, of in differences.get(area, {}).items()
            if pair.startswith(f"{band} - ") and of["se"] > 0
        ]
        if not found:
            continue
        smallest, area, other, of = min(found, key=lambda entry: entry[0])
        rows.append(
            row(
                "bands", f"{', '.join(areas)} are predicted best by the band '{band}'; {area} shown", smallest > 3, value=scores[area][band],
                control=scores[area][other], compared_with=f"the band '{other}'", bar="difference > 3 SE in every area", n=n, se=of["se"],
                margin=smallest - 3,
            )
        )  # fmt: skip
    return rows


def ceiling(ranks, psnr, before):
    """The oracle is above the full arm, and that above the control; for motion within two standard errors.

    By arm: ranks of the own captions, PSNR of the first frame, and end-point error before stage 2, (N,).
    """
    if any(arm not in ranks for arm in ARMS):
        return []
    rows = [
        # not the share in the top 10, which is near 1 for both
        ordered_row("mean reciprocal rank of the own caption: oracle above decoded above control", {arm: 1 / ranks[arm] for arm in ARMS}),
        ordered_row("PSNR of the first frame: oracle above decoded above control", psnr),
    ]
    arms, steps = means(before), [paired(before["full"], before["oracle"]), paired(before["control"], before["full"])]
    rows.append(
        row(
            "ceiling", "EPE before stage 2: oracle below decoded below control, within 2 SE", all(gain + 2 * se >= 0 for gain, se in steps),
            value=arms["oracle"], control=arms["full"], compared_with="the full arm", bar="oracle <= full <= control, each + 2 SE",
            n=len(before["full"]), se=steps[0][1], margin=in_errors(*((gain + 2 * se, se) for gain, se in steps)),
            arms={arm: arms[arm] for arm in ARMS},
        )
    )  # fmt: skip
    return rows


def released_recipe(value, still, own, *, n):
    """End-point error of the paper's stage 2 on the phantom's weak generator, from true features, on n clips: without a bar.

    Beside it that of the first frame given eight times, and that of the phantom's own profile.
    """
    statement = f"EPE of the paper's stage 2 (inversion, start at 981, guidance 12.5) from true features; by the phantom's profile {own:.3f}"
    bar = "none: the phantom's generator is too weak for it"
    compared_with = "the first decoded frame eight times through the same stage 2"
    return [row("released recipe", statement, None, value=value, control=still, compared_with=compared_with, bar=bar, n=n)]
