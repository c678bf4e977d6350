"""Accuracy of networks of a supernet, predicted from their genes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from edgenas.accuracy import gaussian
from edgenas.accuracy.gaussian import Gaussian
from edgenas.accuracy.mlp import Mlp
from edgenas.basics.errors import EdgenasError
from edgenas.basics.held_out import HeldOut, compare_with_truth
from edgenas.basics.ranges import Seed, Words
from edgenas.space.arrays import (
    Header,
    check_numbers,
    check_probes,
    load_arrays,
    make_probes,
    save_arrays,
)
from edgenas.space.cost import Vector
from edgenas.space.genes import Codes
from edgenas.space.presets import space_from_json, space_to_json
from edgenas.space.space import Space

SCHEMA = "edgenas.accuracy-predictor/1"
FEWEST = 20  # networks that a predictor can be fitted to
_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccuracyPredictor:
    """Predicts top-1 accuracy, a fraction of 1, for rows of a space.

    Made by ``fit``, by ``load_accuracy``, or from a released perceptron::

        AccuracyPredictor(space=space, model=Mlp.make(...), source="published: <where>")

    Args:
        space: whose rows it takes; see ``on`` for narrower ones.
        model: the fitted arrays: a Gaussian process, or a perceptron.
        source: what it is fitted to, for people: data set, split, number of images, or where
            it was published.
        error: on networks held out of the fit; None: not known.
        chosen: on networks that a search chose by this very predictor, measured afterwards; None:
            not known. Searching selects what is overrated, so this error is the larger one.
        rows: the training networks, canonical rows; none where they are not ours.
        accuracies: their measured accuracies.
        seed: of the folds that ``error`` comes from.
    """

    space: Space
    model: Gaussian | Mlp
    source: str
    error: HeldOut | None = None
    chosen: HeldOut | None = None
    rows: Codes | None = None
    accuracies: Vector | None = None
    seed: int = 0

    @staticmethod
    def fit(
        space: Space, rows: Codes, *, accuracy: ArrayLike, seed: int = 0, source: str = ""
    ) -> "AccuracyPredictor":
        """Fit to measured networks; its error is that of five folds, each predicted by the rest.

        Args:
            space: of the networks.
            rows: canonical rows, shape (n, genes), n >= 20.
            accuracy: top-1 of each, as a fraction of 1, shape (n,).
            seed: of the folds.
            source: data set, split and number of images, for people.

        Raises:
            EdgenasError: too few networks, or accuracies that are no fractions.
        """
        rows, true = space.canonical(rows), np.asarray(accuracy, float)
        if true.shape != (len(rows),):
            raise EdgenasError(f"accuracy must have shape ({len(rows)},), found {true.shape}")
        if len(rows) < FEWEST:
            raise EdgenasError(
                f"accuracies of at least {FEWEST} networks are needed, found {len(rows)}",
                hint="evaluate more networks; 300 are a good number",
            )
        if not ((true >= 0) & (true <= 1)).all():
            raise EdgenasError(
                f"accuracy must be fractions from 0 to 1, found {true.min():g} to {true.max():g}"
            )
        folds = np.random.default_rng(seed).permutation(len(rows)) % _FOLDS
        predicted = np.empty(len(rows))
        for fold in range(_FOLDS):
            kept = folds != fold
            model = gaussian.fit(space, rows[kept], accuracy=true[kept])
            predicted[~kept] = model(rows[~kept])
        return AccuracyPredictor(
            space=space,
            model=gaussian.fit(space, rows, accuracy=true),
            source=source,
            error=compare_with_truth(predicted, true, method=f"{_FOLDS}-fold cross-validation"),
            rows=rows,
            accuracies=true,
            seed=seed,
        )

    def require_error(self) -> HeldOut:
        """Its error on networks that a search chose, or else on networks that it was not fitted to.

        Predictors without any error are refused when they are loaded for use.
        """
        error = self.chosen or self.error
        assert error is not None
        return error

    def predict(self, rows: Codes) -> Vector:
        """Accuracies of canonical rows, shape (n, genes) -> (n,). Nothing is clipped."""
        return self.model(rows)

    def __call__(self, rows: Codes) -> Vector:
        """As ``predict``."""
        return self.predict(rows)

    def on(self, narrow: Space) -> "AccuracyPredictor":
        """The same predictor for rows of a narrower space; it cannot be fitted again or saved.

        Raises:
            EdgenasError: the space is no narrower one.
        """
        if narrow == self.space:
            return self
        model = self.model.on(self.space, narrow)
        return replace(self, space=narrow, model=model, rows=None, accuracies=None)

    def with_chosen(self, rows: Codes, *, accuracy: ArrayLike) -> "AccuracyPredictor":
        """The same predictor with its error on networks that a search chose by it."""
        method = "chosen by a search, then measured"
        return replace(self, chosen=compare_with_truth(self.predict(rows), accuracy, method=method))

    def save(self, path: Path) -> None:
        """Write the predictor as one safetensors file, atomically."""
        arrays = {f"model.{name}": array for name, array in self.model.arrays().items()}
        if self.rows is not None and self.accuracies is not None:
            arrays |= {"rows": self.rows, "accuracies": self.accuracies}
        header: dict[str, Any] = {
            "kind": "mlp" if isinstance(self.model, Mlp) else "gaussian",
            "space": space_to_json(self.space),
            "source": self.source,
            "error": self.error and self.error.to_json(),
            "chosen": self.chosen and self.chosen.to_json(),
            "seed": self.seed,
            "probes": make_probes(self.space, self.predict),
        }
        save_arrays(path, schema=SCHEMA, header=header, arrays=arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PredictorHeader(Header):
    """What the header of an accuracy predictor has, see ``AccuracyPredictor``."""

    kind: Literal["mlp", "gaussian"]
    space: Any
    source: Words
    error: HeldOut | None
    chosen: HeldOut | None
    seed: Seed


def load_accuracy(path: Path) -> AccuracyPredictor:
    """Read a predictor.

    Raises:
        EdgenasError: absent, damaged, of another kind, or its probes give other values here.
    """
    header, arrays = load_arrays(path, schema=SCHEMA, kind=_PredictorHeader)
    check_numbers(arrays, path=path, nan="refused")
    space = space_from_json(header.space, where=f"{path}: space")
    own = {
        name.removeprefix("model."): a for name, a in arrays.items() if name.startswith("model.")
    }
    try:
        if header.kind == "mlp":
            model = Mlp.from_arrays(own)
            model.check(str(path), genes=len(space.genes))
        else:
            model = Gaussian.from_arrays(space, own)
    except (KeyError, TypeError, ValueError) as error:
        raise EdgenasError(f"{path}: arrays are missing or misshapen: {error}") from error
    rows, accuracies = arrays.get("rows"), arrays.get("accuracies")
    if rows is not None or accuracies is not None:
        _check_training(rows, accuracies, genes=len(space.genes), path=path)
    predictor = AccuracyPredictor(
        space=space,
        model=model,
        source=header.source,
        error=header.error,
        chosen=header.chosen,
        rows=rows,
        accuracies=accuracies,
        seed=header.seed,
    )
    check_probes(header, predict=predictor.predict, path=path)
    return predictor


def _check_training(
    rows: Codes | None, accuracies: Vector | None, *, genes: int, path: Path
) -> None:
    """Refuse training networks that are no rows of the space, or whose accuracies are none."""
    if rows is None or accuracies is None or rows.shape != (len(accuracies), genes):
        raise EdgenasError(f"{path}: rows and accuracies must be of the same networks")
    if rows.dtype != np.uint8 or accuracies.ndim != 1:
        raise EdgenasError(f"{path}: rows must be bytes, accuracies one number each")
    if not ((accuracies >= 0) & (accuracies <= 1)).all():
        raise EdgenasError(
            f"{path}: accuracies must be from 0 to 1, "
            f"found {accuracies.min():g} to {accuracies.max():g}"
        )
