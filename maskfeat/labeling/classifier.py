"""Descriptors of a few places with classes -> calibrated probabilities of all places."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from maskfeat.arrays import Float64Array, FloatArray, IntArray

_TEMPERATURES = np.geomspace(0.5, 8, 17)
_NUM_FOLDS = 3
# Of the optimizer; and from the last weights where there is much to learn from, which one more
# click changes little: 0.1 s at 3,000 examples and 11 classes.
_STEPS, _STEPS_ON = 40, 20
_MANY_EXAMPLES = 1500
# The folds are fitted from nothing: as many as take no longer than the refit itself.
_MOST_FOR_TEMPERATURE = 1000
# Fewer images say nothing of how sure the classifier may be in a new one.
_LEAST_IMAGES = 3


class RegionClassifier:
    """A classifier that is refitted after every click.

    Descriptors are brought to mean 0 and std 1, then any scikit-learn classifier with
    `predict_proba` and `sample_weight` is fitted; by default logistic regression, which starts
    from its last weights, so that a refit takes a fraction of a second.

    Its probabilities are calibrated by a temperature (Guo et al., On calibration of modern neural
    networks, ICML 2017): p_T is p^(1/T), scaled to sum 1. T is the one of `_TEMPERATURES` that
    gives images that were left out of the fit the highest likelihood: places of one image are
    alike, so other places of the same image would flatter it.

    Args:
        num_classes: L.
        class_power: A class weighs (its share)^-power: 0 counts regions as they come, 1 gives all
            classes the same weight.
        strength: Of the regularization of the default classifier, above 0.
        estimator: Another scikit-learn classifier; it is cloned.

    Raises:
        ValueError: If a setting is out of range, or the estimator gives no probabilities.
    """

    def __init__(
        self,
        num_classes: int,
        class_power: float = 0.5,
        strength: float = 0.02,
        estimator: object | None = None,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if not 0 <= class_power <= 1:
            raise ValueError(f"class_power must lie in [0, 1], got {class_power}")
        if not strength > 0:
            raise ValueError(f"strength must be above 0, got {strength}")
        if estimator is not None and not hasattr(estimator, "predict_proba"):
            raise ValueError(
                f"the estimator must have predict_proba, {type(estimator).__name__} has none"
            )
        self.num_classes = num_classes
        self.class_power = class_power
        self.strength = strength
        self.temperature = 1.0
        self._estimator = estimator
        self._fitted: object | None = None
        self._classes = np.zeros(0, np.int64)
        self._center: FloatArray | None = None
        self._std: FloatArray | None = None
        self._calibrated_for = 0

    @property
    def is_fitted(self) -> bool:
        """Whether any class is known yet."""
        return len(self._classes) > 0

    def set_scale(self, descriptors: npt.NDArray[np.floating]) -> None:
        """Take mean and std from descriptors without classes, (N, D), e.g. of all images."""
        values = descriptors.astype(np.float32)
        self._center, self._std = values.mean(axis=0), values.std(axis=0) + np.float32(1e-3)
        self._fitted, self._calibrated_for = None, 0

    def forget(self) -> None:
        """Know no class."""
        self._fitted, self._classes, self._calibrated_for = None, np.zeros(0, np.int64), 0
        self.temperature = 1.0

    def fit(
        self,
        descriptors: npt.NDArray[np.floating],
        classes: IntArray,
        weights: npt.NDArray[np.floating],
        images: IntArray,
    ) -> None:
        """Learn from all that is labeled.

        Of descriptors (N, D): the class of each, 0 to L - 1, how much it counts, above 0, and from
        which image it comes, (N,).

        Raises:
            ValueError: If lengths differ or a class is out of range.
        """
        if not len(descriptors) == len(classes) == len(weights) == len(images):
            raise ValueError(
                "descriptors, classes, weights and images must have one length, got "
                f"{len(descriptors)}, {len(classes)}, {len(weights)} and {len(images)}"
            )
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise ValueError(
                f"classes must lie in 0 to {self.num_classes - 1}, "
                f"got {classes.min()} to {classes.max()}"
            )
        self._classes = np.unique(classes)
        if len(self._classes) < 2:
            self._fitted = None
            return
        if self._center is None:
            self.set_scale(descriptors)
        values, shares = self._scaled(descriptors), self._weighted(classes, weights)
        self._fitted = _fit(
            self._estimator_like(self._fitted, len(classes)), values, classes, shares
        )
        # The temperature moves slowly: it is found anew when a quarter more is labeled.
        if len(classes) >= 1.25 * self._calibrated_for or len(classes) < self._calibrated_for:
            some = slice(None, None, -(-len(classes) // _MOST_FOR_TEMPERATURE))
            best = self._best_temperature(values[some], classes[some], shares[some], images[some])
            if best is not None:
                self.temperature, self._calibrated_for = best, len(classes)

    def probabilities(self, descriptors: npt.NDArray[np.floating]) -> Float64Array:
        """Calibrated probabilities of all classes, float64, shape (N, L).

        A class that nobody has named yet gets a thousandth; before any, all are alike.
        """
        result = np.full((len(descriptors), self.num_classes), 1e-3)
        if self._fitted is not None:
            known = self._fitted.predict_proba(self._scaled(descriptors))  # type: ignore[attr-defined]
            result[:, self._classes] = _at_temperature(known, self.temperature)
        elif self.is_fitted:
            result[:, self._classes] = 1
        totals: Float64Array = result / result.sum(axis=1, keepdims=True)
        return totals

    def _scaled(self, descriptors: npt.NDArray[np.floating]) -> FloatArray:
        assert self._center is not None
        assert self._std is not None
        scaled: FloatArray = (descriptors.astype(np.float32) - self._center) / self._std
        return scaled

    def _weighted(self, classes: IntArray, weights: npt.NDArray[np.floating]) -> Float64Array:
        """Weights of mean 1, those of classes included."""
        totals = np.bincount(classes, weights, self.num_classes)
        of_class = np.maximum(totals / totals.sum(), 1e-6) ** -self.class_power
        shares: Float64Array = np.asarray(weights * of_class[classes], np.float64)
        shares /= shares.mean()
        return shares

    def _estimator_like(self, fitted: object | None, num_examples: int = 0) -> object:
        """The last one, to go on from, or a new one."""
        if self._estimator is not None:
            return clone(self._estimator)
        if isinstance(fitted, LogisticRegression) and np.array_equal(
            fitted.classes_, self._classes
        ):
            is_much = num_examples > _MANY_EXAMPLES
            return fitted.set_params(max_iter=_STEPS_ON if is_much else _STEPS)
        return LogisticRegression(
            C=self.strength, max_iter=_STEPS, tol=1e-3, warm_start=True, random_state=0
        )

    def _best_temperature(
        self, values: FloatArray, classes: IntArray, weights: Float64Array, images: IntArray
    ) -> float | None:
        """The best for images left out; None if too few say anything of it."""
        names = np.unique(images)
        if len(names) < _LEAST_IMAGES:
            return None
        fold_of = np.searchsorted(names, images) % _NUM_FOLDS
        losses = np.zeros(len(_TEMPERATURES))
        for fold in range(_NUM_FOLDS):
            inside, outside = fold_of != fold, fold_of == fold
            if len(np.unique(classes[inside])) < 2 or not outside.any():
                continue
            model = _fit(
                self._estimator_like(None), values[inside], classes[inside], weights[inside]
            )
            known = model.predict_proba(values[outside])  # type: ignore[attr-defined]
            place = np.searchsorted(model.classes_, classes[outside])  # type: ignore[attr-defined]
            place = np.minimum(place, known.shape[1] - 1)
            is_known = model.classes_[place] == classes[outside]  # type: ignore[attr-defined]
            rows = np.flatnonzero(is_known)
            for number, temperature in enumerate(_TEMPERATURES):
                chance = _at_temperature(known[rows], temperature)[
                    np.arange(len(rows)), place[rows]
                ]
                losses[number] -= weights[outside][rows] @ np.log(np.maximum(chance, 1e-9))
        return float(_TEMPERATURES[losses.argmin()]) if losses.any() else None


def _fit(estimator: object, values: FloatArray, classes: IntArray, weights: Float64Array) -> object:
    with warnings.catch_warnings():  # a refit goes on where this one ends
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(values, classes, sample_weight=weights)  # type: ignore[attr-defined]
    return estimator


def _at_temperature(probabilities: Float64Array, temperature: float) -> Float64Array:
    logs = np.log(np.maximum(probabilities, 1e-12)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    scaled: Float64Array = powers / powers.sum(axis=1, keepdims=True)
    return scaled
