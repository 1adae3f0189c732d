"""Rank a gallery by cosine similarity to queries, and say where each query's own entry stands."""

import numpy as np

CHUNK = 2**24  # similarities that are held at a time


def unit_rows(name, rows):
    """Rows of length 1, float64; a row that is zero or not finite is a ValueError that names it."""
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"{name} must have two dimensions (rows, features), not shape {rows.shape}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(bad):
        kind = "is zero" if lengths[bad[0], 0] == 0 else "is not finite"
        more = f", like {len(bad) - 1} others" if len(bad) > 1 else ""
        raise ValueError(f"{name}: row {bad[0]} {kind}{more}, so that it has no cosine")
    return rows / lengths


class Gallery:
    """Rows (M, D) that are searched; equal ones are compared once and tie exactly.

    `group` (M,) says which of the G distinct rows each row is, `counts` (G,) how many are equal.
    """

    def __init__(self, rows):
        unit = unit_rows("the gallery", rows)
        distinct = np.unique(np.asarray(rows) + 0.0, axis=0, return_index=True, return_inverse=True, return_counts=True)  # -0 is 0
        _, first, group, self.counts = distinct
        self.group, self.distinct = group.ravel(), unit[first]

    def __len__(self):
        return len(self.group)

    def similarities(self, queries):
        """Cosines with the distinct rows, in parts: yields a slice of the queries and an array (rows of the slice, G)."""
        queries = unit_rows("the queries", queries)
        if queries.shape[1] != self.distinct.shape[1]:
            raise ValueError(
                f"queries have {queries.shape[1]} features and the gallery has {self.distinct.shape[1]}; both must be of one model"
            )
        size = max(1, CHUNK // len(self.distinct))
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            yield part, queries[part] @ self.distinct.T

    def rank(self, queries, labels):
        """Where the own entries of queries (Q, D) stand; `labels` (Q,) are their rows of the gallery, from 0.

        Returns
        -------
        strict, loose : arrays, (Q,) int
            1 + the number of rows that are more similar, and the number of those at least as similar
        """
        labels = np.asarray(labels)
        if labels.shape != (len(queries),) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels must be one whole number a query, not {labels.dtype} of shape {labels.shape}")
        if len(labels) and not (0 <= labels.min() and labels.max() < len(self)):
            raise ValueError(f"labels must lie in 0...{len(self) - 1}, the rows of the gallery")
        strict, loose, own_group = np.empty(len(labels), int), np.empty(len(labels), int), self.group[labels]
        for part, similarity in self.similarities(queries):
            own = np.take_along_axis(similarity, own_group[part, None], axis=1)
            strict[part] = 1 + (similarity > own) @ self.counts
            loose[part] = (similarity >= own) @ self.counts
        return strict, loose

    def nearest(self, queries, n):
        """The most similar rows, (Q, n) indices from 0 in falling order, and their cosines (Q, n).

        Of equal rows the first comes first.
        """
        if not 0 < n <= len(self):
            raise ValueError(f"the gallery has {len(self)} rows, not {n}")
        rows, cosines = [], []
        for _, similarity in self.similarities(queries):
            of_rows = similarity[:, self.group]
            order = np.argsort(-of_rows, axis=1, kind="stable")[:, :n]
            rows.append(order)
            cosines.append(np.take_along_axis(of_rows, order, axis=1))
        return np.concatenate(rows), np.concatenate(cosines)


def ranks(queries, gallery, labels, ties="average"):
    """Rank of each query's own entry by cosine, from 1.

    Parameters
    ----------
    queries : array, shape (Q, D)
    gallery : array, shape (M, D)
    labels : array, shape (Q,), int
        own row of the gallery, from 0
    ties : str
        "average", the mean of strict and non-strict rank, or "released", the strict rank: whatever is as similar as the
        own entry stands behind it

    Returns
    -------
    array, shape (Q,), float64

    Raises
    ------
    ValueError
        a row that is zero or not finite, other widths, or labels outside the gallery
    """
    if ties not in ("average", "released"):
        raise ValueError(f"ties must be average or released, not {ties!r}")
    strict, loose = Gallery(gallery).rank(queries, labels)
    return strict.astype(np.float64) if ties == "released" else (strict + loose) / 2


def top_k_accuracy(queries, gallery, labels, ks):
    """Share of queries whose own entry is among the k most similar ones, {k: float}; ties count for the own entry.

    Parameters are those of `ranks`; a k above the gallery's size is a ValueError.
    """
    return accuracy_of(ranks(queries, gallery, labels, "released"), len(gallery), ks)


def accuracy_of(of_queries, n_gallery, ks):
    """Share of ranks that are at most k, {k: float}."""
    for k in ks:
        if not 1 <= k <= n_gallery:
            raise ValueError(f"k = {k} is out of range: the gallery has {n_gallery} rows")
    return {int(k): float(np.mean(np.asarray(of_queries) <= k)) for k in ks}
