"""What an order to the clock looks like, and how carefully the clock times."""

from __future__ import annotations

from dataclasses import dataclass

WORK_SCHEMA = "edgenas.work/1"


@dataclass(frozen=True)
class TimingSettings:
    """How carefully the clock times. Times are seconds, tolerances are ratios.

    Attributes:
        threads: threads of the runtime. The process is pinned to as many processors.
        precision: what the runtime computes in. Most runtimes take it from the graph.
        seed: seed of the random order of units.
        gate: a canary passes up to this multiple of the baseline.
        baseline_seconds: how long the canary runs before the first unit.
        batch_runs: runs between two canaries, at most ...
        batch_seconds: ... and at most this long, so that the canaries stay close to the runs.
        tolerance: a unit is finished when the half width of the interval of its median is below
            this part of the median.
        confidence: confidence of that interval.
        min_samples: gated runs that a finished unit has at least.
        max_samples: gated runs after which a unit is finished with a wide interval.
        visit_seconds: how long one unit is tried before the next gets its turn.
        visit_runs: a visit is never shorter than this many runs of a slow unit.
        rounds: visits that a unit gets at most.
        min_seconds: how long a unit is observed at least; a distribution that users live with
            needs seconds, the gated median does not.
        stale_seconds: the baseline is taken anew where hardly a batch counts for so long.
        seconds: end of everything; 0 is no end. A unit that was not visited has no result.
        steady: run each unit for so long without a pause instead of timing it; 0: time it.
    """

    threads: int = 1
    precision: str = "fp32"
    seed: int = 0
    gate: float = 1.08
    baseline_seconds: float = 6.0
    batch_runs: int = 5
    batch_seconds: float = 0.01
    tolerance: float = 0.01
    confidence: float = 0.95
    min_samples: int = 25
    max_samples: int = 200
    visit_seconds: float = 0.8
    visit_runs: int = 12
    rounds: int = 5
    min_seconds: float = 0.0
    stale_seconds: float = 20.0
    seconds: float = 0.0
    steady: float = 0.0
