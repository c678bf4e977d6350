"""Print the estimated targets of the shipped profiles as the table of docs/reference/devices.md.

python -m tools.device_fits.table_device_models [--write]
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgenas.basics.files import write_text
from edgenas.latency.device import Device, Use, list_devices
from edgenas.latency.estimate import DeviceModel, device_model
from edgenas.space.plan import plan
from edgenas.space.presets import load_space
from edgenas.space.primitives import primitives

SPACE = "ofa-mbv3-w1.0"  # whose networks the intervals are of
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "devices.md"
BEGIN, END = "<!-- targets: begin -->\n", "<!-- targets: end -->\n"


def rows() -> Iterator[str]:
    """The lines of the table."""
    yield "| device | target | rows | mean error | 90% interval | mean power |"
    yield "|---|---|---|---|---|---|"
    for device in list_devices():
        for use in device.uses:
            yield _row(device, use)


def _row(device: Device, use: Use) -> str:
    target = use.target
    way = f"{target.runtime} {target.precision}, {target.threads} thread{'s'[: target.threads > 1]}"
    if use.estimate is None:
        return f"| {device.name} | {way} | | no estimate: {use.no_estimate} | | |"
    found = use.estimate
    error = sum(abs(math.expm1(-e)) for e in found.residuals) / len(found.residuals)
    factor = _factor(device_model(device, target))
    power = "" if found.power is None else f"{found.power.value:g} {found.power.unit}"
    return f"| {device.name} | {way} | {found.rows} | {error:.0%} | x/÷ {factor:.2f} | {power} |"


def _factor(model: DeviceModel) -> float:
    """Half width of the 90% interval of a typical network of a search, as a factor."""
    space = load_space(SPACE)
    archs = space.decode(space.sample(15, rng=np.random.default_rng(0)))
    networks = [[p for _, layer in plan(space, arch) for p in primitives(layer)] for arch in archs]
    factors = [model.describe(n).interval()[1] / model.describe(n).seconds for n in networks]
    return float(np.median(factors))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into the page, not to stdout")
    table = "".join(f"{line}\n" for line in rows())
    if not parser.parse_args().write:
        print(table)
        return
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    write_text(PAGE, f"{head}{BEGIN}{table}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
