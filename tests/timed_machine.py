"""A machine whose networks take known times: its table, and what stands in for its clock."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgenas.clock.measure import Measurement
from edgenas.delivery import choosing
from edgenas.delivery.latency import find_latency
from edgenas.latency.device import Target
from edgenas.latency.device import load as load_device
from edgenas.latency.table import LatencyTable, MeasuredNetwork, Timing
from edgenas.latency.table_file import save_table, table_path
from edgenas.model.export import read_metadata
from edgenas.profiling.environment import environment_of
from edgenas.profiling.networks import calibration_archs, random_archs
from edgenas.space.arch import Arch
from edgenas.space.cost import cost
from edgenas.space.genes import Codes
from edgenas.space.plan import layers, plan
from edgenas.space.space import Space


def write_table(
    space: Space, target: Target, *, timing: Callable[[float], Timing], pace: float = 1.0
) -> Path:
    """A table of this machine in the cache, as if its layers took 10 us and 1 ns a MAC.

    Args:
        space: of the networks.
        target: on this machine.
        timing: of a network whose layers take so many seconds.
        pace: what all seconds are multiplied by.
    """
    one = {layer: pace * (1e-5 + 1e-9 * cost(layer).macs) for layer in layers(space)}
    archs = [*calibration_archs(space, 10), *random_archs(space, 48, seed=0)]
    sums = [sum(one[layer] for _, layer in plan(space, arch)) for arch in archs]
    environment = environment_of(target)
    table = LatencyTable(
        target=target,
        provenance="measured",
        runtime_version=environment["runtime_version"],
        environment=environment,
        date="2026-01-31",
        layers={layer: Timing(median=seconds, n=50) for layer, seconds in one.items()},
        networks=tuple(
            MeasuredNetwork(
                space=space.name, classes=space.classes, arch=arch, timing=timing(seconds)
            )
            for arch, seconds in zip(archs, sums, strict=True)
        ),
    )
    save_table(table, table_path(target))
    return table_path(target)


def profiled(space: Space, *, slowness: float = 1.0) -> Callable[[Codes], np.ndarray]:
    """A table of this machine, as ``write_table`` has it; the true time of rows."""

    def timing(seconds: float) -> Timing:
        return Timing(
            median=seconds, p10=seconds, p90=seconds, n=50, wall_p50=seconds, wall_p95=2 * seconds
        )

    found = load_device("host")
    target = found.target()
    write_table(space, target, timing=timing)
    predictor = find_latency(space, device=found, target=target).predictor
    return lambda rows: predictor.predict(rows) * slowness


class Machine:
    """Stands in for the clock: a network takes ``true`` seconds times what a test adds.

    ``factor`` is called with the arch, the number of the measurement, and whether it is the long
    one; the arch is read from the metadata of the graph that is timed.
    """

    def __init__(self, space: Space, true, factor=lambda arch, number, final: 1.0) -> None:
        self.space, self.true, self.factor = space, true, factor
        self.told: list[tuple[str, float, bool]] = []
        self.speed = lambda number: 1.0
        self.number = 0

    def __call__(self, onnx: bytes, *, target, settings, clock) -> Measurement:
        arch = Arch.from_json(json.loads(read_metadata(onnx)["arch"]))
        final = settings == choosing.NETWORK
        seconds = float(self.true(self.space.encode([arch]))[0])
        seconds *= self.factor(arch, len(self.told), final)
        slower = self.speed(self.number)
        self.number += 1
        seconds *= slower
        self.told.append((arch.id, seconds, final))
        return Measurement(
            name="network",
            median=seconds,
            p10=seconds * 0.99,
            p90=seconds * 1.01,
            n=100,
            half_width=0.001,
            wall_p50=seconds * 1.05,
            wall_p95=seconds * 1.5,
            wall_n=150,
            flag="",
            canary=1e-4 * slower,
        )
