"""The spaces of the benchmark of growing spaces."""

import itertools

import pytest

from edgenas.model.supernet import Supernet
from edgenas.space.presets import load_space
from tools.benchmarks.bench_growth import Runner, grown


@pytest.mark.parametrize("name", ["tiny", "mbv3-cifar", "ofa-mbv3-w1.0", "ofa-resnet50"])
def test_spaces_grow_around_the_same_largest_network(name: str):
    space = load_space(name)
    spaces = list(grown(space).values())
    assert spaces[0].size == 1
    assert all(one.largest() == space.largest() for one in spaces)
    for small, large in itertools.pairwise(spaces):
        assert small.size < large.size
        assert large.contains(small.smallest())
    assert any(one.size == space.size for one in spaces)


def test_a_step_of_a_grown_space_trains_four_networks():
    spaces = grown(load_space("tiny"))
    runner = Runner.of(spaces["+ kernels"])
    assert isinstance(runner.supernet, Supernet)
    assert [len(runner.networks(turn)) for turn in range(3)] == [4, 4, 4]
    assert [len(Runner.of(spaces["one network"]).networks(turn)) for turn in range(3)] == [1, 1, 1]
