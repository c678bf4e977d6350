"""Does a network that was made for a runtime win there? One budget, each runtime's own network.

    python tools/bench_runtimes.py --budget 0.15ms

The most accurate network within the budget is made for each runtime, with that runtime's table
(profiled first where there is none), and each is then timed afresh on all of them.
"""

import argparse
import tempfile
from pathlib import Path

from edgenas import measure, runtimes
from edgenas.arch import load_arch
from edgenas.bundle import load_bundle
from edgenas.device import Target
from edgenas.profiling import measure_network
from edgenas.search import parse_constraint
from edgenas.specialize import SUPERNET, Request, specialize
from edgenas.units import milliseconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--budget", default="0.15ms")
    parser.add_argument("--supernet", default=SUPERNET)
    parser.add_argument("--data", help="the training images, to measure accuracy on their split")
    parser.add_argument("--test", help="test images to measure accuracy on")
    given = parser.parse_args()
    names = [n for n in ("onnxruntime", "openvino", "ncnn") if not runtimes.get(n).available()]
    limit = parse_constraint(f"latency<={given.budget}")
    rows: list[tuple[str, Path, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            request = Request(
                device="host",
                runtime=name,
                precision="fp32",
                constraints=(limit,),
                supernet=given.supernet,
                data=given.data,
                test=given.test,
            )
            out = specialize(request, out=Path(folder) / name).folder
            _, record = load_bundle(out)
            rows.append((name, out, record.accuracy.value))
            print(f"made for {name}: {load_arch(out / 'arch.json')}, {record.accuracy}", flush=True)
        print(f"\nbudget {given.budget}; timed on   " + "".join(f"{name:>24}" for name in names))
        for made_for, out, accuracy in rows:
            cells: list[str] = []
            for name in names:
                found = measure_network(
                    out / "model.onnx",
                    target=Target("host", name, "fp32"),
                    settings=measure.NETWORK,
                )
                fits = "fits" if found.median <= limit.limit else "over"
                cells.append(f"{milliseconds(found.median)} {fits} {found.flag}".strip())
            print(
                f"made for {made_for:12} {accuracy:.2%}  " + "".join(f"{c:>24}" for c in cells),
                flush=True,
            )


if __name__ == "__main__":
    main()
