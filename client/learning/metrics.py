"""Metrics from a confusion matrix of counts, so that sites' matrices can be summed before use.

A matrix is `(labels, labels)` of non-negative integers: row the true label, column the predicted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from audit.errors import MalformedInput

Confusion = npt.NDArray[np.int64]


def confusion_matrix(true: npt.ArrayLike, predicted: npt.ArrayLike, label_count: int) -> Confusion:
    """Count `(true, predicted)` pairs.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = np.asarray(true, dtype=np.int64) * label_count + np.asarray(predicted, dtype=np.int64)
    counts = np.bincount(pairs, minlength=label_count * label_count)
    return counts.reshape(label_count, label_count).astype(np.int64)


def sum_confusions(matrices: list[Confusion]) -> Confusion:
    """Sum the sites' matrices.

    Raises:
        MalformedInput: When there is none, shapes differ, or a count is negative.
    """
    if not matrices:
        raise MalformedInput("no confusion matrix to sum", fix="wait for a site's evaluation")
    shape = matrices[0].shape
    for matrix in matrices:
        if matrix.ndim != 2 or matrix.shape != shape or shape[0] != shape[1]:
            raise MalformedInput(
                f"malformed confusion matrix: expected shape {shape}, got {matrix.shape}",
                fix="run the same version at every site",
            )
        if not np.issubdtype(matrix.dtype, np.integer) or (matrix < 0).any():
            raise MalformedInput(
                "malformed confusion matrix: counts must be non-negative integers",
                fix="run the same version at every site",
            )
    total: Confusion = np.stack(matrices).astype(np.int64).sum(axis=0)
    return total


def accuracy(matrix: Confusion) -> float:
    """Share of records predicted right; 0.0 for an empty matrix.

    >>> accuracy(np.array([[3, 1], [0, 4]]))
    0.875
    """
    total = int(matrix.sum())
    return float(np.trace(matrix)) / total if total else 0.0


def macro_f1(matrix: Confusion) -> float:
    """Mean F1 over the labels that occur, as truth or as prediction; 0.0 for an empty matrix.

    A label that was never true and never predicted says nothing and is left out.

    >>> round(macro_f1(np.array([[2, 0], [1, 1]])), 4)
    0.7333
    """
    correct = np.diag(matrix).astype(np.float64)
    seen = (matrix.sum(axis=0) + matrix.sum(axis=1)).astype(np.float64)
    occurs = seen > 0
    return float(np.mean(2.0 * correct[occurs] / seen[occurs])) if occurs.any() else 0.0
