"""``edgenas export``: the model of a bundle in the format of another runtime."""

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_facts, print_json, print_text, steps
from edgenas.delivery.export_request import ExportRequest


def run(request: ExportRequest, shown: Shown) -> None:
    """Write the model of a bundle in another format.

    It gets its own parity, accuracy and latency.
    """
    from edgenas.basics.units import milliseconds
    from edgenas.clock.measure import statistic
    from edgenas.delivery.exporting import export

    with steps() as progress:
        result = export(request, progress=progress)
    report = result.report
    if shown.json:
        print_json({**report, "folder": str(result.folder)})
        return
    parity, accuracy, latency = report["parity"], report["accuracy"], report["latency"]
    rows = [
        (
            "parity",
            f"largest difference of a logit {parity['max_abs_difference']:.2g} (limit "
            f"{parity['tolerance']:.2g}), the same class on {parity['same_top1']} of {parity['n']}",
        )
    ]
    if accuracy is not None:
        rows.append(
            (
                "accuracy",
                f"{accuracy['export']:.2%}, the bundle's own model {accuracy['bundle']:.2%} "
                f"({accuracy['split']}, n={accuracy['images']})",
            )
        )
    if latency is not None:
        runs = f"{latency['runtime']} {latency['precision']}, batch {latency['batch']}"
        what = statistic(n=latency["n"], wall_n=latency["wall_n"], flag=latency["flag"])
        where = "here" if request.ssh is None else f"on {request.ssh}"
        rows.append(("latency", f"{milliseconds(latency['median'])} on {runs} ({what}, {where})"))
    if "opset" in report:
        form = f"opset {report['opset']}, IR {report['ir']}; read by {report['read_by']}"
        rows.append(("ONNX", form))
    rows += [("note", text) for text in report["notes"]]
    print_facts(rows)
    print_text(f"{request.to}: {result.folder} ({', '.join(sorted(report['files']))})")


VERB = Verb(run=run, kinds=(ExportRequest, Shown))
