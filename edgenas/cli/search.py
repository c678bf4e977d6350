"""``edgenas search``: a search by a table and a predictor alone."""

from typing import TYPE_CHECKING

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import (
    latency_words,
    note,
    print_facts,
    print_json,
    print_table,
    print_text,
)
from edgenas.strategies.request import CompareRequest, SearchRequest

if TYPE_CHECKING:
    from edgenas.delivery.searching import SearchAnswer, SearchComparison


def run(request: SearchRequest, comparison: CompareRequest, shown: Shown) -> None:
    """Search with tables alone, without weights.

    It finds the most accurate network within budgets, as a table and a predictor say. Latencies
    are predictions, without a margin for their error: specialize keeps one, or measures.
    """
    from edgenas.delivery.searching import compare, search

    if comparison.compare is not None:
        compared = compare(request, comparison, say=note)
        print_json(compared.to_json()) if shown.json else _print_comparison(compared)
        return
    answer = search(request, say=note)
    print_json(answer.to_json()) if shown.json else _print_answer(answer)


def _print_answer(answer: "SearchAnswer") -> None:
    error = answer.predictor.chosen or answer.predictor.error
    off = ""
    if error is not None:
        off = f", mean error {100 * error.error:.2f} points on {error.n} archs"
        off += f": such predictions were {error.lean}" if error.lean else ""
    rows = [
        ("network", f"{answer.arch} (id {answer.arch.id})"),
        ("accuracy", f"{answer.accuracy:.2%} predicted ({answer.predictor.source}{off})"),
    ]
    if answer.latency is not None and answer.table is not None:
        words = latency_words(answer.latency, answer.upper, provenance=answer.provenance)
        rows.append(("latency", f"{words} on {answer.table.target}"))
    rows += [
        ("macs", str(answer.costs.macs)),
        ("params", str(answer.costs.params)),
        ("search", f"{answer.evaluations} networks scored in {answer.seconds:.1f} s"),
    ]
    print_facts(rows)


def _print_comparison(compared: "SearchComparison") -> None:
    random = compared.random
    print_table(
        ("strategy", "accuracy", "spread", "against random", "better seeds", "seconds"),
        [
            (
                result.strategy,
                f"{result.mean:.2%}",
                f"{100 * result.spread:.2f}",
                f"{100 * (result.mean - random.mean):+.2f}",
                f"{result.wins} of {compared.seeds}",
                f"{result.seconds:.2f}",
            )
            for result in compared.strategies
        ],
    )
    print_text(
        f"predicted accuracy ({compared.predictor.source}), mean and standard deviation of "
        f"{compared.seeds} seeds; at most {compared.evaluations} networks scored by each; points"
    )


VERB = Verb(run=run, kinds=(SearchRequest, CompareRequest, Shown))
