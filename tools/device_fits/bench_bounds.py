"""Whether a larger network ever has the smaller bound under the shipped device models.

    python -m tools.device_fits.bench_bounds

For each shipped space it draws 300 networks and compares all pairs of which one has at least as
much of everything that has a price, and more of something, on all estimated targets. Printed are
the pairs whose larger network has the smaller upper bound, and the largest fall of a bound.
"""

from collections.abc import Iterator

import numpy as np

from edgenas.latency.device import list_devices
from edgenas.latency.estimate import DeviceModel, device_model
from edgenas.latency.features import Array, Kernels, vector
from edgenas.space.plan import plan
from edgenas.space.presets import PRESETS
from edgenas.space.primitives import primitives
from edgenas.space.space import Space

CONFIDENCES = (0.9, 0.95, 0.99)
_DRAWN = 300


def models() -> dict[Kernels, list[DeviceModel]]:
    """The estimated targets, by how their runtimes cut networks into kernels."""
    found: dict[Kernels, list[DeviceModel]] = {}
    for device in list_devices():
        for use in device.uses:
            if use.estimate is not None:
                model = device_model(device, use.target)
                found.setdefault(model.kernels, []).append(model)
    return found


def falls(space: Space, *, confidence: float) -> Iterator[Array]:
    """For each target: log(bound of the larger / bound of the smaller network) of all pairs."""
    rows = space.sample(_DRAWN, rng=np.random.default_rng(0))
    archs = [space.smallest(), space.largest(), *space.decode(rows)]
    networks = [[p for _, layer in plan(space, a) for p in primitives(layer)] for a in archs]
    for alike in models().values():
        counts = np.array([alike[0].count(network) for network in networks])
        more = (counts[:, None] >= counts[None]).all(axis=2)
        larger, smaller = np.nonzero(more & (counts[:, None] > counts[None]).any(axis=2))
        for model in alike:
            seconds = counts @ vector(model.prices)
            bounds = np.log(seconds * model.upper_factors(counts, confidence=confidence))
            yield bounds[larger] - bounds[smaller]


def main() -> None:
    """The command."""
    print(f"{'space':20s} {'confidence':>10s} {'pairs':>9s} {'smaller':>8s} {'by at most':>10s}")
    for name, make in PRESETS.items():
        for confidence in CONFIDENCES:
            rises = np.concatenate(list(falls(make(), confidence=confidence)))
            fallen = int((rises < -1e-12).sum())
            most = 100 * abs(np.expm1(min(0.0, float(rises.min()))))
            line = f"{name:20s} {confidence:10.0%} {len(rises):9d} {fallen:8d} {most:9.2f}%"
            print(line, flush=True)


if __name__ == "__main__":
    main()
