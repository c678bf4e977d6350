"""What ``search`` and ``proxies`` can be asked for. This module loads nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, check_request
from edgenas.basics.ranges import Classes, Range
from edgenas.strategies.constraint import Constraint, parse_constraint

Seed = Annotated[int, Range(0, 2**63 - 1, "count")]
Evaluations = Annotated[int, Range(1, 2**53, "count")]
Images = Annotated[int, Range(2, 1_000_000, "count")]
Networks = Annotated[int, Range(1, 1_000_000, "count")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A space, an accuracy predictor, and the budgets that a network must keep."""

    space: Annotated[str, Option("Name of a space, or a file of one.")]
    accuracy: Annotated[Path, Option("Accuracy predictor, a safetensors file.")]
    table: Annotated[Path | None, Option("Latency table, for budgets of latency.")] = None
    constraint: Annotated[tuple[str, ...], Option("A budget, e.g. 'latency<=20ms'.")] = ()
    classes: Annotated[
        Classes | None,
        Option("Classes of the classifier. Default: those of the accuracy predictor."),
    ] = None
    strategy: Annotated[
        Literal["evolution", "aging", "local", "bayes", "gaussian", "thompson", "random"],
        Option(
            "Search strategy; aging is regularised evolution, bayes optuna's estimator, gaussian "
            "and thompson choose by a Gaussian process."
        ),
    ] = "evolution"
    evaluations: Annotated[
        Evaluations | None,
        Option("Networks scored at most. Default: 120000; with bayes, gaussian and thompson 60."),
    ] = None
    history: Annotated[
        Path | None,
        Option("CSV file of every network scored. An interrupted search goes on from it."),
    ] = None
    seed: Annotated[Seed, Option("Seed of the search.")] = 0

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """All budgets. Raises EdgenasError where one cannot be read."""
        return tuple(parse_constraint(text, name="constraint") for text in self.constraint)

    def check(self) -> None:
        """Refuse a value that breaks a rule. Raises EdgenasError with the option and the rule."""
        check_request(self)
        _ = self.constraints


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """Which strategies are compared with random search."""

    compare: Annotated[
        str | None,
        Option("Strategies to compare with random search, e.g. 'evolution,aging'."),
    ] = None
    seeds: Annotated[
        Annotated[int, Range(1, 10_000, "count")],
        Option("How many seeds each strategy gets.", needs="compare"),
    ] = 5

    @property
    def strategies(self) -> list[str]:
        """The names of the strategies."""
        return [name.strip() for name in (self.compare or "").split(",") if name.strip()]

    def check_with(self, search: SearchRequest) -> None:
        """Refuse a comparison with options that belong to a single search."""
        check_request(self)
        if search.history is not None:
            raise EdgenasError(
                "--history is of one search, --compare runs many", hint="leave out one of them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxiesRequest:
    """The supernet that proxies are compared with, and the networks that they screen."""

    space: Annotated[
        str | None, Option("Draw networks of this space and keep the best of them.")
    ] = None
    proxy: Annotated[
        Literal[
            "snip",
            "grasp",
            "synflow",
            "naswot",
            "logsynflow",
            "gradient-norm",
            "jacobian",
            "kernel",
            "zico",
        ],
        Option("The proxy that decides."),
    ] = "naswot"
    sample: Annotated[Networks, Option("Networks drawn from --space.")] = 40
    keep: Annotated[Networks, Option("How many of them are kept.")] = 5
    supernet: Annotated[
        str, Option("Supernet whose measured accuracies the proxies are compared with.")
    ] = "mbv3-cifar10"
    archs: Annotated[
        Annotated[int, Range(10, 1_000_000, "count")], Option("Networks of that supernet.")
    ] = 40
    data: Annotated[
        str | None,
        Option("Images that proxies look at. Default: the supernet's synthetic ones."),
    ] = None
    images: Annotated[Images, Option("How many images they look at.")] = 16
    seed: Annotated[Seed, Option("Seed of draws and weights.")] = 0
