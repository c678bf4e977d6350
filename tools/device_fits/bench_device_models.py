"""How far off estimated device models are on networks and devices that they had not seen.

    python -m tools.device_fits.bench_device_models PUBLISHED [--only tflite]

PUBLISHED is the folder of published measurements, which is not part of this repository. Every
number is of rows that neither the fit nor the choice of anything in it had seen: what is chosen is
chosen by the same game inside the training part. The peer, fitted to the same rows, is a model of
three numbers: seconds = a + b * MACs + c * elements of activations. Rows that carry a flag in
their file are dropped, no others.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from edgenas.latency.estimate import Array
from tools.device_fits import fit_ncnn, fit_relatives, fit_tflite, published_rows
from tools.device_fits.fit_common import errors, held, relative_error
from tools.device_fits.fit_tensorrt import MAIN_HARNESS, SMALL, Jetsons, jetsons
from tools.device_fits.published_rows import Row

PROFILES = Path(__file__).parents[2] / "device_profiles"
FOLDS = 5  # folds of devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table: errors in fractions, NaN where there is none."""

    what: str
    rows: int
    error: float
    peer: float = math.nan
    bar: float = math.nan
    inside: int | None = None  # rows in their 90% interval

    def __str__(self) -> str:
        """As it is printed."""
        bar = "" if math.isnan(self.bar) else f"<= {100 * self.bar:.0f}%"
        met = "" if math.isnan(self.bar) else ("yes" if self.error <= self.bar else "NO")
        held = "" if self.inside is None else f"{100 * self.inside / self.rows:.0f}%"
        error = "" if math.isnan(self.error) else f"{100 * self.error:.1f}%"
        peer = "" if math.isnan(self.peer) else f"{100 * self.peer:.1f}%"
        return (
            f"{self.what:72s} {self.rows:5d} {error:>7s} {peer:>7s} {bar:>7s} {met:>4s} {held:>6s}"
        )


HEAD = f"{'':72s} {'rows':>5s} {'error':>7s} {'peer':>7s} {'bar':>7s} {'met':>4s} {'inside':>6s}"


# -- the peer -------------------------------------------------------------------------------------


def three_numbers(rows: Sequence[Row]) -> Array:
    """Ones, MACs and elements that operators read and write: shape (n, 3)."""
    found: list[list[float]] = []
    for row in rows:
        alone = [p for p in row.operators if p.activation not in ("relu", "relu6")]
        moved = sum(p.input_elements + p.output_elements for p in alone)
        found.append([1.0, row.macs / 1e8, moved / 1e6])
    return np.array(found)


def peer_errors(seen: Sequence[Row], hidden: Sequence[Row]) -> list[float]:
    """log(measured / predicted) of least squares of relative errors, no number negative."""
    counts = three_numbers(seen)
    seconds = np.array([row.seconds for row in seen])
    found, _ = nnls(counts / seconds[:, None], np.ones(len(seen)))
    predicted = three_numbers(hidden) @ found
    return [float(e) for e in np.log([row.seconds for row in hidden] / predicted)]


# -- TensorFlow Lite, families left out -----------------------------------------------------------

_BARS = {
    ("rpi4", "fp32"): 0.08,
    ("rpi4", "int8"): 0.08,
    ("odroid-n2plus", "fp32"): 0.08,
    ("odroid-n2plus", "int8"): 0.08,
    ("jetson-agx-xavier", "fp32"): 0.10,
    ("jetson-agx-xavier", "int8"): 0.10,
    ("rk3588s", "fp32"): 0.15,
    ("rk3588s", "int8"): 0.15,
}


def tflite(folder: Path) -> Iterable[Line]:
    """The mean over the families MobileNet v1, v2, v3 of the mean absolute percentage error."""
    rows_all = inside_all = 0
    for profile, device, runtime, _ in fit_tflite.TARGETS:
        for precision in ("fp32", "int8"):
            rows = published_rows.sweeps(
                folder, device=device, runtime=runtime, precision=precision
            )
            parts, inside = fit_tflite.nested(rows)
            peer = [
                relative_error(peer_errors([r for r in rows if r.family != part.family], part.rows))
                for part in parts
            ]
            contradictory = (profile, precision) == ("rk3399", "fp32")
            if not contradictory:
                rows_all, inside_all = rows_all + len(rows), inside_all + inside
            yield Line(
                what=f"{profile} {runtime} {precision}" + " (not shipped)" * contradictory,
                rows=len(rows),
                error=fit_tflite.mean_error(parts),
                peer=float(np.mean(peer)),
                bar=_BARS.get((profile, precision), math.nan),
                inside=inside,
            )
    yield Line(what="all that are shipped", rows=rows_all, error=math.nan, inside=inside_all)


# -- ncnn, networks and devices left out ----------------------------------------------------------


def ncnn(folder: Path) -> Iterable[Line]:
    """Median errors; the device is never in the population that its prices start from."""
    logs = fit_ncnn.logs_of(folder)
    groups = fit_ncnn.groups_of(logs)
    devices = sorted({fit_ncnn.device(name) for name in groups})
    off: dict[str, list[float]] = {}
    inside: dict[str, int] = {}
    for fold in range(FOLDS):
        out = set(devices[fold::FOLDS])
        known = {n: g for n, g in groups.items() if fit_ncnn.device(n) not in out}
        new = {n: g for n, g in groups.items() if fit_ncnn.device(n) in out}
        noise, inner = fit_ncnn.choose(known)
        prior = fit_ncnn.population(known, noise)
        for game, pairs in fit_ncnn.play(new, prior, noise, seed=fold).items():
            off.setdefault(game, []).extend(e for e, _ in pairs)
            inside[game] = inside.get(game, 0) + held(pairs, inner[game])
    whole = {name: part for name, part in logs.items() if len(part) == 12}
    peers = {"all but one": [e for part in whole.values() for e in _peer_out(part)]}
    rng = np.random.default_rng(0)
    for shots in ("3", "10"):
        peers[shots] = []
        for part in logs.values():
            order = rng.permutation(len(part))
            seen = [part[i] for i in order[: int(shots)]]
            peers[shots] += peer_errors(seen, [part[i] for i in order[int(shots) :]])
    titles = {
        "all but one": ("ncnn CPU, one network left out, logs of 12", 0.10),
        "1": ("ncnn CPU, device never seen, 1 network measured", math.nan),
        "3": ("ncnn CPU, device never seen, 3 networks measured", 0.15),
        "5": ("ncnn CPU, device never seen, 5 networks measured", math.nan),
        "10": ("ncnn CPU, device never seen, 10 networks measured", 0.08),
    }
    for game, (title, bar) in titles.items():
        yield Line(
            what=title,
            rows=len(off[game]),
            error=fit_ncnn.median_error(off[game]),
            peer=fit_ncnn.median_error(peers[game]) if game in peers else math.nan,
            bar=bar,
            inside=inside[game],
        )
    yield _unseen_networks(logs)
    yield from _few_tflite(folder)


def _unseen_networks(logs: dict[str, list[Row]]) -> Line:
    """Networks that nobody measured on any device; the interval is of the log's other networks."""
    noise = fit_ncnn.NOISES[1]  # not chosen: a choice for each left-out network takes too long
    found = fit_ncnn.networks_out(logs, noise)
    inside = 0
    for errors_of in found.values():
        for network, pair in errors_of.items():
            others = [other for name, other in errors_of.items() if name != network]
            inside += held([pair], others)
    off = [e for errors_of in found.values() for e, _ in errors_of.values()]
    peer = [e for part in logs.values() for e in _peer_out(part)]
    return Line(
        what="ncnn CPU, network on no device",
        rows=len(off),
        error=fit_ncnn.median_error(off),
        peer=fit_ncnn.median_error(peer),
        inside=inside,
    )


def _few_tflite(folder: Path) -> Iterable[Line]:
    """TensorFlow Lite boards never seen, from others of the same runtime and of ncnn."""
    rows = fit_relatives.tflite_rows(folder)
    groups = {name: fit_tflite.group_of(part) for name, part in rows.items()}
    devices = sorted({fit_ncnn.device(name) for name in groups})
    within = fit_relatives.tflite_out(groups)
    inner: dict[str, fit_ncnn.Games] = {}
    for device in devices:
        rest = {n: g for n, g in groups.items() if fit_ncnn.device(n) != device}
        inner[device] = fit_relatives.merged(list(fit_relatives.tflite_out(rest).values()))
    _, crossed = fit_relatives.across(folder)
    others = {
        device: fit_relatives.merged([g for d, g in crossed.items() if d != device])
        for device in devices
    }
    for title, games, known in (
        ("TFLite, device never seen", within, inner),
        ("TFLite from relatives with ncnn, device never seen", crossed, others),
    ):
        for shots in ("3", "10"):
            pairs = {device: games[device][shots] for device in devices}
            yield Line(
                what=f"{title}, {shots} networks measured",
                rows=sum(map(len, pairs.values())),
                error=fit_ncnn.median_error([e for part in pairs.values() for e, _ in part]),
                inside=sum(held(part, known[device][shots]) for device, part in pairs.items()),
            )


def _peer_out(part: Sequence[Row]) -> list[float]:
    found: list[float] = []
    for i, row in enumerate(part):
        found += peer_errors([*part[:i], *part[i + 1 :]], [row])
    return found


# -- Jetson GPUs, as they are ---------------------------------------------------------------------


def jetson(folder: Path) -> Iterable[Line]:
    """TensorRT FP16, families left out; the released networks for the TX2 at batch 16."""
    for foreign in (False, True):
        every = jetsons(folder, PROFILES, foreign=foreign)
        for profile in ("jetson-nano", "jetson-agx-xavier", "jetson-tx2"):
            found = every.families_out(profile)
            part = every.rows_of(profile)
            peer = [
                e
                for family in dict.fromkeys(row.family for row in part)
                for e in peer_errors(
                    [row for row in part if row.family != family],
                    [row for row in part if row.family == family],
                )
            ]
            if foreign and not any(row.family in published_rows.FOREIGN for row in part):
                continue
            yield Line(
                what=f"{profile} TensorRT FP16, families out"
                + ", DenseNet, ShuffleNet too" * foreign,
                rows=len(found),
                error=relative_error([off for _, off, _ in found]),
                peer=relative_error(peer),
            )
    game = jetsons(folder, PROFILES).large_to_small()
    yield Line(
        what="TensorRT FP16, networks < 3 GMACs from larger ones",
        rows=len(game),
        error=relative_error([off for _, off, _ in game]),
    )
    yield from _unseen_jetsons(jetsons(folder, PROFILES))
    yield _once_for_all(folder, jetsons(folder, PROFILES, precision="fp32"))


def _unseen_jetsons(every: Jetsons) -> Iterable[Line]:
    """Boards left out; their interval is of the boards that are left, each without both."""
    for small in (False, True):
        off: list[float] = []
        inside = 0
        for profile in MAIN_HARNESS:
            known = [
                (error, unsure)
                for other in MAIN_HARNESS
                if other != profile
                for row, error, unsure in every.unseen(other, without=profile)
                if not small or row.macs < SMALL
            ]
            pairs = [
                (error, unsure)
                for row, error, unsure in every.unseen(profile)
                if not small or row.macs < SMALL
            ]
            off.extend(error for error, _ in pairs)
            inside += held(pairs, known)
        yield Line(
            what="TensorRT FP16, device never seen" + ", networks < 3 GMACs" * small,
            rows=len(off),
            error=relative_error(off),
            inside=inside,
        )


def _once_for_all(folder: Path, every: Jetsons) -> Line:
    """Measured with PyTorch and cuDNN in FP32, predicted from TensorRT 3 in FP32 at batch 1."""
    found, _ = every.fitted(every.rows_of("jetson-tx2"), without="jetson-tx2")
    off: list[float] = []
    for row, batch, _ in published_rows.specialized(folder, device="jetson_tx2"):
        off += errors(every.group([row], batch=batch), found)
    return Line(
        what="jetson-tx2 once-for-all networks, batch 16, PyTorch",
        rows=len(off),
        error=relative_error(off),
    )


PARTS: dict[str, Callable[[Path], Iterable[Line]]] = {
    "tflite": tflite,
    "ncnn": ncnn,
    "jetson": jetson,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("published", type=Path)
    parser.add_argument("--only", choices=list(PARTS))
    arguments = parser.parse_args()
    print(HEAD)
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            for line in part(arguments.published):
                print(line, flush=True)


if __name__ == "__main__":
    main()
