"""Whether the intervals of estimated device models hold, on networks and boards never seen.

    python -m tools.device_fits.bench_device_models PUBLISHED

PUBLISHED is the folder of published measurements, which is not part of this repository. Four
games, in none of which the fit or anything chosen in it has seen what is predicted:

* a family of networks is left out on every board (and every version of the runtime);
* a board is left out, and 3, 5 or 10 random networks are measured on it;
* both: a board is left out, 5 networks are measured on it, and a family is predicted that nobody
  measured anywhere;
* a version of the runtime is predicted from another one on the same board: the very networks that
  were measured with the other one, and a family that was measured nowhere. Once as if the version
  were the right one (``named``), once without a version; how far versions are apart is found on the
  other boards.

The intervals are those that a profile with this fit would give, from ``estimate_of`` to
``NetworkEstimate.interval``.

Beside the coverage at 50, 80, 90 and 95% stand the median width of the 90% interval (upper / lower)
and its interval score on log seconds (Gneiting & Raftery 2007; Bracher et al., arXiv 2005.12881,
section 2): width plus 20 times what a row lies outside, so that an interval that holds by being
huge is worth nothing. ``peer`` is the score of a model of three numbers (seconds = a + b * MACs +
c * elements) with a conformal interval, fitted here to the same rows. ``former`` is no result of
this run: it repeats the scores of the model before (prices/1), which had tools of its own, as they
were found at commit 2f4c761 on the same rows.
The standard error is the one that a true coverage of 90% would have, where rows of one family hold
or fail together as much as they do on average (their intraclass correlation).
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from edgenas.latency.features import Array
from tools.device_fits import fit_ncnn, fit_tensorrt, fit_tflite
from tools.device_fits.fit_common import (
    Log,
    Pool,
    Prediction,
    families_out,
    median_error,
    predict,
)
from tools.device_fits.fit_relatives import devices_out
from tools.device_fits.published_rows import Row

PROFILES = Path(__file__).parents[2] / "device_profiles"
CONFIDENCES = (0.5, 0.8, 0.9, 0.95)
_LARGE_GROUP = 30  # rows from which on a device group is looked at

# Interval scores of prices/1, found once at commit 2f4c761 with the fits of that commit.
FORMER = {
    "tflite fp32": 0.441,
    "tflite int8": 0.494,
    "ncnn fp32": 0.840,
    "ncnn fp16": 0.961,
    "tensorrt fp16": 1.484,
    "ncnn, 3 measured": 0.959,
    "ncnn, 5 measured": 0.802,
    "ncnn, 10 measured": 0.705,
    "tflite, 3 measured": 0.533,
    "tflite, 5 measured": 0.472,
    "tflite, 10 measured": 0.358,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row that was predicted.

    Args:
        log: that it is of.
        row: what was measured.
        error: log(measured / predicted).
        ends: log(end / predicted) of the interval of each confidence.
    """

    log: str
    row: Row
    error: float
    ends: tuple[tuple[float, float], ...]

    def inside(self, confidence: float) -> bool:
        """Whether the row lies in its interval."""
        low, high = self.ends[CONFIDENCES.index(confidence)]
        return low <= self.error <= high

    @property
    def width(self) -> float:
        """Of the 90% interval, in log seconds."""
        low, high = self.ends[CONFIDENCES.index(0.9)]
        return high - low

    @property
    def score(self) -> float:
        """The interval score of its 90% interval on log seconds."""
        low, high = self.ends[CONFIDENCES.index(0.9)]
        return self.width + 20 * max(0.0, low - self.error, self.error - high)


def outcomes(predictions: Sequence[Prediction], *, version: float = 0.0) -> list[Outcome]:
    """Predictions with the intervals that a profile would give.

    Args:
        predictions: of rows.
        version: standard deviation of log seconds because the target names no version.
    """
    found: list[Outcome] = []
    for p in predictions:
        estimate = replace(p.estimate, version=version**2)
        intervals = [estimate.interval(confidence=confidence) for confidence in CONFIDENCES]
        ends = [
            (math.log(low), math.log(high)) for low, high in np.array(intervals) / estimate.seconds
        ]
        found.append(Outcome(p.log, p.row, p.error, tuple(ends)))
    return found


# -- the peer -------------------------------------------------------------------------------------


def three_numbers(rows: Sequence[Row]) -> Array:
    """Ones, MACs and elements that operators read and write: shape (n, 3)."""
    numbers: list[list[float]] = []
    for row in rows:
        alone = [p for p in row.operators if p.activation not in ("relu", "relu6")]
        moved = sum(p.input_elements + p.output_elements for p in alone)
        numbers.append([1.0, row.macs / 1e8, moved / 1e6])
    return np.array(numbers)


def peer_errors(seen: Sequence[Row], hidden: Sequence[Row]) -> list[float]:
    """log(measured / predicted) of least squares of relative errors, no number negative."""
    counts = three_numbers(seen)
    seconds = np.array([row.seconds for row in seen])
    numbers, _ = nnls(counts / seconds[:, None], np.ones(len(seen)))
    predicted = np.maximum(three_numbers(hidden) @ numbers, 1e-9)
    return [float(e) for e in np.log([row.seconds for row in hidden] / predicted)]


def peer(logs: dict[str, list[Row]]) -> list[Outcome]:
    """The peer on families left out; its interval is of the errors on the other families."""
    found: list[Outcome] = []
    for name, rows in logs.items():
        families = sorted({row.family for row in rows})
        errors = {
            family: peer_errors(
                [row for row in rows if row.family != family],
                [row for row in rows if row.family == family],
            )
            for family in families
        }
        for family in families:
            others = [abs(e) for other in families if other != family for e in errors[other]]
            halves = [
                float(np.quantile(others, min(1.0, c * (1 + 1 / len(others))))) for c in CONFIDENCES
            ]
            ends = tuple((-half, half) for half in halves)
            hidden = [row for row in rows if row.family == family]
            found += [
                Outcome(name, r, e, ends) for r, e in zip(hidden, errors[family], strict=True)
            ]
    return found


# -- the tables -----------------------------------------------------------------------------------


def correlation(games: Sequence[Sequence[Outcome]]) -> float:
    """The intraclass correlation of holding, by families, over several games (pooled moments)."""
    pairs = excess = 0.0
    for game in games:
        held = np.array([outcome.inside(0.9) for outcome in game], float)
        share = held.mean()
        for family, size in Counter(o.row.family for o in game).items():
            members = np.array([o.row.family == family for o in game])
            excess += ((held[members] - share).sum() ** 2) - size * share * (1 - share)
            pairs += size * (size - 1) * share * (1 - share)
    return float(np.clip(excess / pairs, 0, 1)) if pairs else 0.0


def standard_error(game: Sequence[Outcome], correlated: float) -> float:
    """Of a true coverage of 90%, clustered by family."""
    sizes = np.array(list(Counter(outcome.row.family for outcome in game).values()))
    variance = 0.09 * (len(game) + correlated * (sizes * (sizes - 1)).sum())
    return float(np.sqrt(variance)) / len(game)


HEAD = (
    f"{'':38s} {'rows':>5s} {'error':>6s} {'50%':>4s} {'80%':>4s} {'90%':>4s} {'95%':>4s} "
    f"{'s.e.':>5s} {'width':>6s} {'score':>6s} {'former':>6s} {'peer':>6s}"
)


def line(title: str, game: Sequence[Outcome], *, correlated: float, peer_score: float = 0) -> str:
    """One line of a table."""
    held = [100 * float(np.mean([o.inside(c) for o in game])) for c in CONFIDENCES]
    width = float(np.exp(np.median([o.width for o in game])))
    error = 100 * median_error([o.error for o in game])
    former = f"{FORMER[title]:6.3f}" if title in FORMER else " " * 6
    peers = f"{peer_score:6.3f}" if peer_score else ""
    return (
        f"{title:38s} {len(game):5d} {error:5.1f}% "
        + " ".join(f"{share:4.0f}" for share in held)
        + f" {100 * standard_error(game, correlated):5.1f} {width:6.2f} "
        f"{np.mean([o.score for o in game]):6.3f} {former} {peers}"
    )


def unseen_families(folder: Path) -> tuple[dict[str, list[Outcome]], dict[str, list[Outcome]]]:
    """Families left out everywhere, by runtime and precision: the model and the peer."""
    games: dict[str, list[Outcome]] = {}
    peers: dict[str, list[Outcome]] = {}

    def add(name: str, predictions: Sequence[Prediction], shipped: Callable[[str], bool]) -> None:
        games[name] = outcomes([p for p in predictions if shipped(p.log)])
        logs: dict[str, list[Row]] = {}
        for outcome in games[name]:
            logs.setdefault(outcome.log, []).append(outcome.row)
        peers[name] = peer({log: rows for log, rows in logs.items() if _families(rows) > 1})

    for precision in ("fp32", "int8"):
        predictions = families_out(fit_tflite.pool_of(folder, precision))
        add(f"tflite {precision}", predictions, _newest)
    predictions = families_out(fit_ncnn.pool_of(folder))
    for precision in ("fp32", "fp16"):
        add(f"ncnn {precision}", predictions, lambda log, p=precision: f"cpu {p}" in log)
    pool = fit_tensorrt.pool_of(folder, PROFILES)
    several = {
        fit_tensorrt.main_log(pool, profile).name
        for profile in ("jetson-nano", "jetson-agx-xavier", "jetson-tx2")
    }
    add("tensorrt fp16", fit_tensorrt.left_out(pool), lambda log: log in several)
    return games, peers


def _newest(log: str) -> bool:
    """Whether a log of TensorFlow Lite is one that a profile is of."""
    return log.rsplit(" / ", 1)[0] in {f"{t[1]} / {t[2]}" for t in fit_tflite.TARGETS}


def _families(rows: Sequence[Row]) -> int:
    return len({row.family for row in rows})


def unseen_boards(folder: Path) -> dict[str, list[Outcome]]:
    """Boards left out, and boards and families at once."""
    games: dict[str, list[Outcome]] = {}
    ncnn = fit_ncnn.pool_of(folder)
    lite = [fit_tflite.pool_of(folder, precision) for precision in ("fp32", "int8")]
    for name, pools in (("tflite", lite), ("ncnn", [ncnn])):
        for pool in pools:
            folds = len({log.device for log in pool.logs}) if name == "tflite" else 5
            for shots, predictions in devices_out(pool, folds=folds).items():
                if shots > 1:
                    kept = [p for p in predictions if name == "ncnn" or _newest(p.log)]
                    games.setdefault(f"{name}, {shots} measured", []).extend(outcomes(kept))
            for family in pool.families:
                both = devices_out(pool, folds=folds, rounds=4, family=family, draws=1)[5]
                games.setdefault(f"{name}, 5 measured, new family", []).extend(outcomes(both))
    pool = fit_tensorrt.pool_of(folder, PROFILES)
    games["tensorrt, board from data sheets"] = outcomes(fit_tensorrt.boards_out(pool))
    return games


def unseen_versions(folder: Path) -> dict[str, list[Outcome]]:
    """Each version of TensorFlow Lite predicted from another one on the same board."""
    pools = [fit_tflite.pool_of(folder, precision) for precision in ("fp32", "int8")]
    versions = fit_tflite.versions(pools)
    games: dict[str, list[Outcome]] = {}
    for pool in pools:
        for device in sorted({log.device for log in pool.logs}):
            others = {key: ratios for key, ratios in versions.items() if key[0] != device}
            apart = fit_tflite.spread_of(others)
            logs = [log for log in pool.logs if log.device == device]
            for known in logs if len(logs) > 1 else ():
                for family in ("", *pool.families):
                    name = "new family" if family else "known networks"
                    rows = _other_versions(pool, known, family=family)
                    games.setdefault(f"{name}, version named", []).extend(outcomes(rows))
                    games.setdefault(f"{name}, no version", []).extend(
                        outcomes(rows, version=apart)
                    )
    return games


def _other_versions(pool: Pool, known: Log, *, family: str) -> list[Prediction]:
    """The rows of a board with other versions than ``known``.

    Args:
        pool: of all boards.
        known: the one log of the board that the fit sees.
        family: left out of all boards, then predicted; empty: the networks of ``known`` are.
    """
    seen = pool.select(
        lambda log, row: row.family != family and (log.device != known.device or log is known)
    )
    rows = next(log.rows for log in seen.logs if log.name == known.name)
    population, fits = seen.fit(rounds=6)
    predictions: list[Prediction] = []
    for log in pool.select(lambda log, row: not family or row.family == family).logs:
        if log.device == known.device and log.name != known.name:
            fit = fits[known.name]
            predictions += predict(seen, log, fit, population, seen=rows, measured=True)
    return predictions


def groups(games: dict[str, list[Outcome]], *, correlated: float) -> None:
    """Print the device groups that are held worst, and small and large networks."""
    devices: dict[str, list[Outcome]] = {}
    for name, game in games.items():
        for outcome in game:
            device = f"{name.split()[0]} {outcome.log.split(' / ')[0]}"
            devices.setdefault(device, []).append(outcome)
    large = {d: game for d, game in devices.items() if len(game) >= _LARGE_GROUP}
    worst = sorted(large, key=lambda d: float(np.mean([o.inside(0.9) for o in large[d]])))
    print(f"\nthe five worst of {len(large)} device groups of {_LARGE_GROUP} rows or more\n{HEAD}")
    for device in worst[:5]:
        print(line(device, large[device], correlated=correlated))
    print(f"\nbelow and above the median of MACs\n{HEAD}")
    for name, game in games.items():
        middle = float(np.median([o.row.macs for o in game]))
        small = [o for o in game if o.row.macs <= middle]
        print(line(f"{name} small", small, correlated=correlated))
        rest = [o for o in game if o.row.macs > middle]
        print(line(f"{name} large", rest, correlated=correlated))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    arguments = parser.parse_args()
    games, peers = unseen_families(arguments.published)
    correlated = correlation(list(games.values()))
    print(f"intraclass correlation of holding, by family: {correlated:.2f}")
    print(f"\na family of networks that was measured on no board\n{HEAD}")
    for name, game in games.items():
        score = float(np.mean([o.score for o in peers[name]]))
        print(line(name, game, correlated=correlated, peer_score=score), flush=True)
    scores = [float(np.mean([o.score for o in game])) for game in games.values()]
    former = float(np.mean([FORMER[name] for name in games]))
    peer_mean = float(np.mean([np.mean([o.score for o in game]) for game in peers.values()]))
    print(f"mean of the scores {np.mean(scores):.3f}, former {former:.3f}, peer {peer_mean:.3f}")
    groups(games, correlated=correlated)
    print(f"\na board that was never seen\n{HEAD}")
    for name, game in unseen_boards(arguments.published).items():
        print(line(name, game, correlated=correlated), flush=True)
    print(f"\na version of TensorFlow Lite that was not measured on the board\n{HEAD}")
    for name, game in unseen_versions(arguments.published).items():
        print(line(name, game, correlated=correlated), flush=True)
    apart = fit_tflite.version_spread(arguments.published)
    print(f"standard deviation of log seconds between versions: {apart:.3f}")


if __name__ == "__main__":
    main()
