"""The parts of tools/benchmarks/bench_latency.py that need no clock."""

import itertools

import numpy as np
import onnx
import pytest

from edgenas.latency.fitting import learn_predictor
from edgenas.profiling.networks import calibration_archs
from edgenas.space.cost import cost, macs_table
from edgenas.space.plan import layers
from edgenas.space.presets import load_space
from tools.benchmarks.bench_latency import equal_macs, group_row, operator_units, row, searched

SPACE = load_space("mbv3-cifar")


def test_groups_are_of_equal_macs_and_mixed_otherwise():
    groups = equal_macs(SPACE, groups=3, size=20)
    centres: list[float] = []
    for group in groups:
        macs = macs_table(SPACE)(SPACE.encode(group))
        centres.append(float(np.median(macs)))
        assert len(set(group)) == 20
        assert macs.max() / macs.min() <= 1.03 / 0.97
        assert len({len(arch.stages[-1].blocks) for arch in group}) > 1
    assert len({arch.resolution for arch in itertools.chain(*groups)}) == 3
    assert centres == sorted(centres)
    assert centres[-1] > 1.5 * centres[0]


def test_the_operators_of_a_layer_have_its_macs():
    units, names = operator_units(SPACE, batch=1)
    assert {name for own in names.values() for name in own} == set(units)
    for layer in layers(SPACE)[::20]:
        found = 0
        for name in names[layer]:
            graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(units[name].build()))
            values = [*graph.graph.value_info, *graph.graph.output]
            sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
            weights = {t.name: t.dims for t in graph.graph.initializer}
            for node in graph.graph.node:
                if node.op_type in ("Conv", "Gemm"):
                    found += np.prod(sizes[node.output[0]]) * np.prod(weights[node.input[1]][1:])
        assert found == cost(layer).macs


@pytest.mark.slow
def test_a_search_under_the_bound_keeps_it():
    archs = calibration_archs(SPACE, 30)
    seconds = 1e-9 * macs_table(SPACE)(SPACE.encode(archs))
    predictor = learn_predictor(SPACE, archs, seconds)
    chosen = searched(predictor, maximize=macs_table(SPACE), count=2)
    assert len(set(chosen)) == 2
    low, high = predictor.upper([SPACE.smallest(), SPACE.largest()])
    assert all(low <= bound <= high for bound in predictor.upper(chosen))


def test_rows_say_what_is_off():
    true = np.array([1.0, 2.0, 4.0])
    assert row("x", true * 1.2, true).split() == ["x", "20.0%", "20.0%", "20.0%", "0.0%", "1.00"]
    assert group_row("x", [true, true[::-1]], [true, true]).split()[-1] == "0.00"
    assert group_row("x", [true * 0.9], [true]).split() == ["x", "10.0%", "1.00"]
