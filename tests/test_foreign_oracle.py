"""What is counted from a file is what ONNX Runtime multiplies when it runs it."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented

from tools.benchmarks.bench_foreign import compared, converted, from_onnx
from tools.benchmarks.foreign_patterns import PATTERNS

CASES = [(producer, name) for producer, made in PATTERNS.items() for name in made]


@pytest.mark.parametrize(("producer", "name"), CASES)
def test_patterns_of_converters_are_counted_as_they_run(producer: str, name: str, tmp_path: Path):
    real, products, found, why = compared(PATTERNS[producer][name](), tmp_path)
    assert (found, why) == (real, "")
    assert products > 1


@pytest.mark.parametrize(
    ("producer", "name"),
    [("paddle2onnx", "lcnet-32"), ("tf2onnx", "mobile-32"), ("paddle2onnx", "text-32")],
)
def test_a_conversion_multiplies_as_often_as_its_source(producer: str, name: str, tmp_path: Path):
    source = PATTERNS[producer][name]()
    expected = compared(source, tmp_path)[0]
    seen = set()
    for kind, what, data in converted(name, source):
        try:
            real, _, found, why = compared(data, tmp_path)
        except NotImplemented as error:
            pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not run {kind}: {error}")
        assert (found, why) == (real, ""), (kind, what)
        if "optimised" not in kind:  # convs on blocks of channels are padded
            assert real == expected, (kind, what)
        seen.add(kind)
    assert len(seen) == 4


def test_a_conversion_to_half_precision_writes_nodes_out_of_order(tmp_path: Path):
    """The law above means something: the library really writes such files."""
    source = PATTERNS["tf2onnx"]["mobile-32"]()
    (half,) = (data for kind, _, data in converted("x", source) if kind == "float16")
    known = {"x"} | {tensor.name for tensor in onnx.load_from_string(half).graph.initializer}
    late = 0
    for node in onnx.load_from_string(half).graph.node:
        late += not known.issuperset(filter(None, node.input))
        known.update(node.output)
    assert late > 0


@pytest.mark.slow
def test_the_models_of_onnx_are_counted_as_they_run(tmp_path: Path):
    equal = 0
    for _, name, data in from_onnx():
        if "light" in name:
            real, products, found, why = compared(data, tmp_path)
            assert (found, why) == (real, ""), name
            equal += products >= 10
    assert equal >= 5
