"""What a record tells of the energy of a run."""

from dataclasses import dataclass
from typing import Annotated

from edgenas.basics.ranges import Count, Fraction, Joules, Range, Watts, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedEnergy:
    """The energy of one run, predicted from networks of the target whose energy was measured.

    Where energy is a budget and the device is at hand, the delivered network was metered too.

    Args:
        joules: the prediction, with all that the device draws meanwhile.
        upper: its upper bound.
        confidence: of the bound.
        error: mean relative error of such predictions.
        networks: how many were measured.
        idle_watts: what the device draws when nothing runs; None: not known.
        sensor: what measured the power.
        metered: joules of one run of this very network; None: it was not metered.
    """

    joules: Joules
    upper: Joules
    confidence: Fraction
    error: Annotated[float, Range(0, 1e6, "number")]
    networks: Count
    idle_watts: Watts | None = None
    sensor: Words = ""
    metered: Joules | None = None

    def __str__(self) -> str:
        """For people, with all that the number rests on."""
        idle = "" if self.idle_watts is None else f"; {self.idle_watts:.1f} W when nothing runs"
        own = "" if self.metered is None else f"{1e3 * self.metered:.3g} mJ a run metered; "
        return (
            f"{own}{1e3 * self.joules:.3g} mJ a run predicted, at most {1e3 * self.upper:.3g} mJ "
            f"at {self.confidence:.0%} confidence (mean error {self.error:.1%} on {self.networks} "
            f"networks whose energy was measured by {self.sensor or 'a sensor'}{idle})"
        )
