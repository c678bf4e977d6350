"""``export``: the model of a bundle in the format of another runtime."""

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import print_json, print_line, print_table, steps


def export(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    to: Annotated[
        str,
        typer.Option(
            help="onnx, onnx-fp16, onnx-int8, onnx-int8-signed, openvino, openvino-int8, ncnn, "
            "trt, trt-fp16 or trt-int8."
        ),
    ],
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Leave the images of a run open.")
    ] = False,
    supernet: Annotated[
        str | None, typer.Option(help="Of the bundle. Default: as the bundle names it.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The training images: int8 is calibrated and judged.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test images to measure accuracy on.")] = None,
    allow_accuracy_drop: Annotated[
        bool, typer.Option("--allow-accuracy-drop", help="Write it whatever it loses.")
    ] = False,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Default: ./<bundle>-<format>.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the model of a bundle in another format, with its own parity, accuracy and latency."""
    from edgenas.basics.units import milliseconds
    from edgenas.clock.measure import statistic
    from edgenas.delivery.exporting import export as run

    with steps() as tell:
        made = run(
            bundle,
            kind=to,
            out=out_folder or Path(f"{bundle.resolve().name}-{to}"),
            dynamic_batch=dynamic_batch,
            supernet=supernet,
            data=data,
            test=test,
            allow_accuracy_drop=allow_accuracy_drop,
            force=force,
            tell=tell,
        )
    report = made.report
    if json:
        print_json({**report, "folder": str(made.folder)})
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
        rows.append(("latency", f"{milliseconds(latency['median'])} on {runs} ({what}, here)"))
    rows += [("note", text) for text in report["notes"]]
    print_table(("", ""), rows)
    print_line(f"{to}: {made.folder} ({', '.join(sorted(report['files']))})")


VERBS = {"export": export}
