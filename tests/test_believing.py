"""Predictors with intervals: what is left out is left out, and intervals hold what they should."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_surrogate import CELL, cells

from edgenas.accuracy.believing import (
    Believer,
    ProcessModel,
    RankScale,
    fit_believer,
    fit_process_model,
)
from edgenas.accuracy.encoding import encode_choices, encode_paths
from edgenas.accuracy.ensemble import Ensemble, fit_ensemble
from edgenas.accuracy.graphs import edges_of, fit_graph_ensemble
from edgenas.accuracy.process import fit_process, measure_distances, normal_scores
from edgenas.basics.errors import EdgenasError
from edgenas.space.cells import parse_cell
from edgenas.space.cost import macs_table
from edgenas.space.genes import Codes
from edgenas.space.presets import load_space, tiny

ENCODINGS = (encode_choices([5] * 6), encode_paths(CELL))


def truth(rows: Codes) -> np.ndarray:
    """Accuracies, most of them high: convs help, a cell without any path has learnt nothing."""
    convs = (rows == 4).sum(1) + 0.6 * (rows == 3).sum(1)
    return 0.95 - 0.5 * np.exp(-0.7 * convs) - 0.002 * ((rows[:, 0] * 7 + rows[:, 5]) % 5)


def test_scores_and_accuracies_go_there_and_back():
    accuracies = truth(cells(seed=0, n=50))
    scale = RankScale.of(accuracies)
    np.testing.assert_allclose(scale.back(normal_scores(accuracies)), accuracies, atol=1e-12)
    wide = scale.back(np.linspace(-5, 5, 200))
    assert (np.diff(wide) >= 0).all()
    assert 0 <= wide[0] < accuracies.min() < accuracies.max() < wide[-1] <= 1


def test_what_a_process_leaves_out_it_was_not_fitted_to():
    rows = cells(seed=1, n=40)
    scores = normal_scores(truth(rows))
    model = fit_process_model(ENCODINGS)(rows, scores)
    mean, deviation = model.left_out()
    for place in (0, 17, 39):
        kept = np.arange(40) != place
        distances = measure_distances(ENCODINGS, rows[kept], rows[kept])
        process = fit_process(distances, scores[kept], lengths=model.process.lengths)
        again = ProcessModel(
            encodings=ENCODINGS,
            rows=rows[kept],
            scores=scores[kept],
            process=replace(process, variance=model.process.variance),
        )
        found, spread = again.believe(rows[place : place + 1])
        assert mean[place] == pytest.approx(found[0], abs=1e-6)
        assert deviation[place] == pytest.approx(spread[0], rel=1e-5)


def test_a_member_says_nothing_about_what_it_has_learnt_from():
    said = np.array([[1.0, 5.0, 9.0], [2.0, 6.0, 7.0], [4.0, 7.0, 8.0]])
    learnt = np.array([[True, False, True], [False, False, True], [False, True, True]])
    ensemble = Ensemble(say=lambda rows: said, own=said, learnt=learnt, noise=0.25)
    mean, deviation = ensemble.left_out()
    np.testing.assert_allclose(mean, [3.0, 5.5, 0.0])  # all know the last: it is as any other
    # Variances of 2 and 0.5 by two members each, whose mean varies more than that of three.
    shared = 1.25 * (1 + 1 / 2 - 1 / 3)
    np.testing.assert_allclose(deviation**2 - 0.25, [shared, shared, 1.0])


class Known:
    """A model that says what it is told."""

    def believe(self, rows: Codes) -> tuple[np.ndarray, np.ndarray]:
        return rows[:, 0].astype(float) / 100 - 1, np.ones(len(rows))

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linspace(-1, 1, 200), np.ones(200)


def test_an_interval_comes_from_networks_that_were_predicted_alike():
    line = np.linspace(0, 1, 200)
    scale = RankScale(scores=np.linspace(-8, 8, 200), accuracies=line)  # 16 scores are 1
    errors = np.where(line < 0.5, 1.0, 3.0)
    believer = Believer(
        model=Known(), scale=scale, left_out=np.linspace(-1, 1, 200), errors=errors, floor=0.0
    )
    ends = np.array([[0], [200]], np.uint8)
    low, high = believer.interval(ends, confidence=0.9)
    np.testing.assert_allclose((high - low) * 16, [2.0, 6.0], rtol=1e-6)
    # Where all errors are alike, it is the same everywhere, with the floor on each deviation.
    alike = replace(believer, errors=np.ones(200), floor=0.5)
    low, high = alike.interval(ends, confidence=0.9)
    np.testing.assert_allclose((high - low) * 16, [3.0, 3.0], rtol=1e-6)
    # So few networks that no quantile is known: the largest error.
    few = replace(believer, left_out=np.array([-1.0, 1.0]), errors=np.array([1.0, 2.0]))
    low, high = few.interval(ends, confidence=0.9)
    np.testing.assert_allclose((high - low) * 16, [4.0, 4.0], rtol=1e-6)


# Graphs


def test_the_edges_of_a_graph_are_those_of_the_cell():
    for name in ("nas-bench-201", "darts"):
        space = load_space(name)
        rows = space.sample(20, rng=np.random.default_rng(0))
        every = edges_of(space, rows)
        for i, arch in enumerate(space.decode(rows)):
            for cell, text, edges in zip(space.cells, arch.cells, every, strict=True):
                wanted = np.zeros((cell.nodes, cell.inputs + cell.nodes), int)
                for node, terms in enumerate(parse_cell(text)):
                    for operation, source in terms:
                        code = 1 + cell.operations.index(operation)
                        wanted[node, source] = 0 if operation == "none" else code
                np.testing.assert_array_equal(edges[i], wanted)


def test_a_graph_network_learns_and_does_not_see_what_no_output_needs():
    space = load_space("nas-bench-201")
    rows, others = cells(seed=2, n=40), cells(seed=3, n=300)
    state = torch.random.get_rng_state()
    model = fit_graph_ensemble(space)(rows, normal_scores(truth(rows)))
    assert torch.equal(state, torch.random.get_rng_state())
    mean, deviation = model.believe(others)
    assert np.corrcoef(mean, truth(others))[0, 1] > 0.5
    assert (deviation > 0).all()
    # Nothing leads from node 2 to the output, so its edges do not matter.
    one = np.array([[4, 5, 3, 2, 4, 1]], np.uint8)
    other = np.array([[4, 2, 1, 2, 4, 1]], np.uint8)
    np.testing.assert_allclose(model.say(one), model.say(other), atol=1e-6)
    again = fit_graph_ensemble(space)(rows, normal_scores(truth(rows)))
    np.testing.assert_array_equal(again.say(others), model.say(others))


@pytest.mark.slow
def test_a_graph_network_learns_cells_of_darts():
    space = load_space("darts")
    rows = space.sample(30, rng=np.random.default_rng(0))
    scores = normal_scores(macs_table(space)(rows))
    model = fit_graph_ensemble(space)(rows, scores)
    assert np.corrcoef(model.say(rows).mean(0), scores)[0, 1] > 0.8


def test_a_graph_network_needs_cells():
    with pytest.raises(EdgenasError, match="a graph network needs a space with cells, found tiny"):
        fit_graph_ensemble(tiny())


@pytest.mark.parametrize("way", ["process", pytest.param("perceptrons", marks=pytest.mark.slow)])
def test_intervals_hold_as_many_accuracies_as_they_say(way: str):
    fit = {"process": fit_process_model(ENCODINGS), "perceptrons": fit_ensemble(ENCODINGS)}[way]
    rows, others = cells(seed=2, n=60), cells(seed=3, n=600)
    state = torch.random.get_rng_state()
    believer = fit_believer(rows, truth(rows), fit=fit)
    assert torch.equal(state, torch.random.get_rng_state())
    held = list[float]()
    for seed in range(4):
        known, asked = cells(seed=20 + seed, n=60), cells(seed=30 + seed, n=300)
        ends = fit_believer(known, truth(known), fit=fit).interval(asked, confidence=0.9)
        held.append(float(((ends[0] <= truth(asked)) & (truth(asked) <= ends[1])).mean()))
    # Of 60 left-out errors the quantile is known to 0.04, of four times as many to half of it.
    assert 0.8 <= np.mean(held) <= 0.99
    low, high = believer.interval(others, confidence=0.9)
    true = truth(others)
    middle = believer.predict(others)
    assert ((low <= middle) & (middle <= high)).all()
    assert np.corrcoef(middle, true)[0, 1] > 0.5
    np.testing.assert_array_equal(believer.upper(confidence=0.9)(others), high)
    np.testing.assert_array_equal(believer.lower(confidence=0.9)(others), low)
    assert (believer.deviation(others) >= 0).all()
    again = fit_believer(rows, truth(rows), fit=fit)
    np.testing.assert_array_equal(again.predict(others), middle)


def test_too_few_networks_are_refused():
    rows = cells(seed=0, n=19)
    with pytest.raises(EdgenasError, match="at least 20 networks are needed, found 19"):
        fit_believer(rows, truth(rows), fit=fit_process_model(ENCODINGS))
