"""Does a network that was made for a runtime win there? One budget, each runtime's own network.

    python -m tools.benchmarks.bench_runtimes --budget 0.15ms --data train.tar.xz --test test.tar.xz

The most accurate network within the budget is made for each runtime, with that runtime's table
(profiled first where there is none), and each is then timed afresh on all of them. Each runtime's
own network must fit there, and be at least as accurate as the others that fit there too; exit code
1 where that fails.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgenas.accuracy.predictor import load_accuracy
from edgenas.basics.units import milliseconds
from edgenas.bundle.write import load_bundle
from edgenas.clock import measure
from edgenas.delivery.request import SUPERNET, SpecializeRequest
from edgenas.delivery.run import specialize
from edgenas.latency.device import Target
from edgenas.model.saved import ACCURACY_FILE, find_supernet
from edgenas.profiling.tables import measure_network
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import load_arch
from edgenas.strategies.constraint import parse_constraint


@dataclass
class Made:
    """The network that was made for a runtime.

    Args:
        runtime: which.
        folder: its bundle.
        predicted: its accuracy, by the predictor that the search maximised.
        accuracy: measured where there are images.
        seconds: measured on each runtime.
    """

    runtime: str
    folder: Path
    predicted: float
    accuracy: float
    seconds: dict[str, float]


def main() -> int:
    """Print the table and what follows from it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--budget", default="0.15ms")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--supernet", default=SUPERNET)
    parser.add_argument("--data", help="the training images, to measure accuracy on their split")
    parser.add_argument("--test", help="test images to measure accuracy on")
    given = parser.parse_args()
    for name in given.runtimes:
        if why_not := runtimes.get(name).available():
            raise SystemExit(f"{name}: {why_not}")
    limit = parse_constraint(f"latency<={given.budget}")
    score = load_accuracy(find_supernet(given.supernet) / ACCURACY_FILE)
    with tempfile.TemporaryDirectory() as folder:
        made: list[Made] = []
        for name in given.runtimes:
            request = SpecializeRequest(
                device="host",
                runtime=name,
                precision="fp32",
                constraint=(str(limit),),
                supernet=given.supernet,
                data=given.data,
                test=given.test,
            )
            out = specialize(request, out=Path(folder) / name).folder
            _, record = load_bundle(out)
            arch = load_arch(out / "arch.json")
            predicted = float(score.predict(score.space.encode([arch]))[0])
            made.append(Made(name, out, predicted, record.accuracy.value, {}))
            print(f"made for {name}: {arch}, {record.accuracy}", flush=True)
        for one in made:
            for name in given.runtimes:
                found = measure_network(
                    one.folder / "model.onnx",
                    target=Target("host", name, "fp32"),
                    settings=measure.NETWORK,
                )
                one.seconds[name] = found.median
    kind = "measured" if given.test or given.data else "predicted"
    print(f"\nbudget {given.budget:18} predicted  {kind:>9}", end="")
    print("".join(f"{'on ' + name:>20}" for name in given.runtimes))
    for one in made:
        print(f"made for {one.runtime:16} {one.predicted:9.2%}  {one.accuracy:9.2%}", end="")
        for name in given.runtimes:
            fits = "fits" if one.seconds[name] <= limit.limit else "over"
            print(f"{milliseconds(one.seconds[name]) + ' ' + fits:>20}", end="")
        print()
    wins = [_wins(own, made, limit=limit.limit) for own in made]
    return 0 if all(wins) else 1


def _wins(own: Made, made: list[Made], *, limit: float) -> bool:
    """Whether a network is the one to take on its own runtime; told in a line."""
    home = own.runtime
    if own.seconds[home] > limit:
        print(f"{home}: its own network is over the budget")
        return False
    rivals = [one for one in made if one is not own and one.seconds[home] <= limit]
    better = [one for one in rivals if one.accuracy > own.accuracy]
    for one in better:
        print(f"{home}: the network of {one.runtime} fits too and is more accurate")
    if not better:
        print(f"{home}: its own network fits; of the others {len(rivals)} fit, none more accurate")
    return not better


if __name__ == "__main__":
    sys.exit(main())
