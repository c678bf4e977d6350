"""``import-ofa`` and its relatives: what was released with once-for-all, read into own files."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgenas.basics.errors import EdgenasError
from edgenas.cli.console import bar, print_line

if TYPE_CHECKING:
    from edgenas.space.space import Space

# The statistics of ImageNet that the released networks were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SPACE = "Name of the space, e.g. ofa-mbv3-w1.2; see list spaces."


def import_ofa(
    space: Annotated[str, typer.Option(help=SPACE)],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the supernet.")],
    file: Annotated[
        Path | None, typer.Argument(help="Released weights, a PyTorch file; or --download.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--download", help="Fetch them from where their authors publish them.")
    ] = False,
    expected: Annotated[
        str | None,
        typer.Option(
            "--sha256",
            help="Of the weights, in hex. Without it the first download is trusted and recorded.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Class names, one a line: of your image folders. Default: numbers."),
    ] = None,
) -> None:
    """Read a released once-for-all supernet into a supernet folder.

    Afterwards fit its accuracy predictor on your images: edgenas fit-accuracy.
    """
    from edgenas.space.presets import load_space

    declared = load_space(space)
    if (file is None) != published:
        raise EdgenasError(
            "give the file of released weights or --download" + (", not both" if published else ""),
            hint=f"edgenas import-ofa --download --space {space} --out {out_folder}",
        )
    if expected is not None and re.fullmatch("[0-9a-fA-F]{64}", expected) is None:
        raise EdgenasError(
            f"--sha256 must be 64 hexadecimal digits, found {expected!r}",
            hint="as sha256sum prints it",
        )
    _free(out_folder)
    numbered = tuple(f"class {i}" for i in range(declared.classes))
    names = numbered if labels is None else _labels(labels, declared)
    import torch

    from edgenas.basics.download import address_of, download
    from edgenas.basics.files import cache_folder, new_folder, sha256
    from edgenas.images.preprocessing import Preprocessing, choose_stored_size
    from edgenas.model.ofa_weights import import_supernet
    from edgenas.model.saved import TrainedSupernet, save_supernet

    source = ""
    if file is None:
        source = address_of(space)
        file = cache_folder() / "ofa" / f"{space}.pth"
        with bar("fetching weights") as tell:
            download(source, file, sha256=expected, progress=tell)
    found = sha256(file) if file.is_file() else ""  # what is wrong with it is told below
    if expected is not None and found != expected.lower():
        raise EdgenasError(
            f"{file} is not the expected file: SHA-256 must be {expected}, found {found}",
            hint="check where it came from, or the expected hash",
        )
    trained = TrainedSupernet(
        supernet=import_supernet(file, space=declared),
        classes=names,
        preprocessing=Preprocessing(stored=choose_stored_size(declared), mean=_MEAN, std=_STD),
        training={"imported": {"file": file.name, "sha256": found, "address": source}},
    )
    with new_folder(out_folder.resolve()) as made:
        save_supernet(made, trained, dtype=torch.float32)
    print_line(f"supernet {out_folder}")
    print_line(f"weights  SHA-256 {found}" + (f", from {source}" if source else ""))
    if labels is None:
        print_line("its classes are numbered; --labels FILE names them as your image folders are")
    print_line(f"next: edgenas fit-accuracy {out_folder} --data PATH")


def import_ofa_table(
    folder: Annotated[Path, typer.Argument(help="With <resolution>_lookup_table.yaml files.")],
    out_file: Annotated[Path, typer.Option("--out", help="Latency table to write.")],
) -> None:
    """Read published once-for-all latency tables into one latency table."""
    from edgenas.latency.ofa_tables import import_latency_tables
    from edgenas.latency.table_file import save_table

    _free(out_file)
    table = import_latency_tables(folder)
    save_table(table, out_file)
    print_line(f"table: {out_file}")
    print_line(f"{len(table.layers)} layers, {table.provenance}, {table.target}")


def import_ofa_accuracy(
    file: Annotated[Path, typer.Argument(help="Released accuracy predictor, a PyTorch file.")],
    space: Annotated[str, typer.Option(help=SPACE)],
    out_file: Annotated[Path, typer.Option("--out", help="Accuracy predictor to write.")],
) -> None:
    """Read a published once-for-all accuracy predictor."""
    from edgenas.space.presets import load_space

    declared = load_space(space)
    _free(out_file)
    from edgenas.accuracy.ofa_predictor import import_accuracy

    predictor = import_accuracy(file, space=declared)
    predictor.save(out_file)
    print_line(f"accuracy predictor: {out_file}")
    print_line(predictor.source)


def _free(path: Path) -> None:
    """Refuse to write over anything."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise EdgenasError(f"--out {path} exists", hint="choose another --out, or remove it")


def _labels(path: Path, space: "Space") -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise EdgenasError(
            f"cannot read --labels {path}: {error}", hint="give a text file, one name a line"
        ) from error
    names = tuple(name.strip() for name in names if name.strip())
    if len(names) != space.classes:
        raise EdgenasError(
            f"--labels must hold {space.classes} names, one a line, found {len(names)} in {path}"
        )
    return names


VERBS = {
    "import-ofa": import_ofa,
    "import-ofa-table": import_ofa_table,
    "import-ofa-accuracy": import_ofa_accuracy,
}
