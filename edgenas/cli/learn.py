"""``train`` and ``fit-accuracy``: where supernets and their accuracy predictors come from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgenas.cli.console import bar, note, out, print_json
from edgenas.errors import EdgenasError

if TYPE_CHECKING:
    from edgenas.data import Images
    from edgenas.predict import AccuracyPredictor
    from edgenas.trained import TrainedSupernet

DATA = "Images: a folder of class folders, a .tar or .zip of one, or cifar10."


def register(app: typer.Typer) -> None:
    """Add the verbs to the app."""
    app.command()(train)
    app.command()(fit_accuracy)


def train(
    space: Annotated[str, typer.Option(help="Name of a space, or a TOML or JSON file of one.")],
    data: Annotated[str, typer.Option(help=DATA)],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run and its supernet.")],
    test: Annotated[str | None, typer.Option(help="Test images; never learnt from.")] = None,
    init: Annotated[str | None, typer.Option(help="Supernet to start from.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file; its fields override.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run cut off.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is left to chance.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: one per core.")] = 0,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a supernet, then evaluate networks of it and fit its accuracy predictor.

    Safe to interrupt at any moment; --resume goes on to the very same weights.
    """
    import torch

    from edgenas.data import load_images, split
    from edgenas.recipe import default_recipe, load_recipe
    from edgenas.spaces import load_space
    from edgenas.train import Progress, calibration_pixels
    from edgenas.train import train as run_training
    from edgenas.trained import find_supernet, load_supernet, save_supernet

    declared = load_space(space)
    chosen = default_recipe(declared)
    if recipe is not None:
        chosen = load_recipe(recipe, chosen)
    if threads:
        torch.set_num_threads(threads)
    with bar("reading images") as read:
        images = load_images(
            data,
            stored=max(declared.resolutions),
            skip_bad_images=skip_bad_images,
            progress=lambda done, total: read(done, total),
        )
    note(f"{len(images)} images of {len(images.classes)} classes from {data}")
    start = None if init is None else load_supernet(find_supernet(init)).supernet
    with bar("training") as step:

        def tell(progress: Progress) -> None:
            if progress.note:
                note(f"epoch {progress.epoch:.0f}  {progress.note}")
            words = f"{progress.images_per_second:.0f} images/s  loss {progress.loss:.3f}"
            step(progress.step, progress.steps, words)

        trained = run_training(
            declared,
            images,
            recipe=chosen,
            out=out_folder,
            seed=seed,
            init=start,
            resume=resume,
            tell=tell,
        )
    save_supernet(out_folder, trained, dtype=torch.float32)
    trained = load_supernet(out_folder)
    parts = split(images, validation=chosen.validation, seed=seed)
    calibration = calibration_pixels(parts.train, chosen, seed=seed)
    predictor = _fit(
        trained,
        parts.validation,
        calibration,
        out_folder,
        count=chosen.accuracy_archs,
        seed=seed,
        name=_name(data),
    )
    report: dict[str, Any] = {
        "schema": "edgenas.training/1",
        "supernet": str(out_folder),
        "epochs": chosen.epochs,
        "validation_images": len(parts.validation),
        "predictor": predictor.error and predictor.error.to_json(),
    }
    if test is not None:
        report["test"] = _corners(trained, test, calibration)
    if json:
        print_json(report)
        return
    out.print(f"supernet {out_folder}")
    out.print(f"accuracy predictor: {predictor.error} ({predictor.source})")
    for row in report.get("test", ()):
        out.print(f"{row['network']}: {row['accuracy']:.2%} on {row['n']} test images")


def fit_accuracy(
    supernet: Annotated[str, typer.Argument(help="Folder of the supernet.")],
    data: Annotated[str, typer.Option(help=DATA)],
    archs: Annotated[int, typer.Option(help="Networks to evaluate.")] = 320,
    seed: Annotated[int, typer.Option(help="Of the split and the sample of networks.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate networks of a supernet on your images and fit its accuracy predictor.

    A tenth of every class is the validation split; the rest calibrates batch norms.
    """
    from edgenas.data import load_images, split
    from edgenas.recipe import Recipe
    from edgenas.train import calibration_pixels
    from edgenas.trained import find_supernet, load_supernet

    trained = load_supernet(find_supernet(supernet))
    assert trained.folder is not None
    with bar("reading images") as read:
        images = load_images(
            data,
            stored=trained.preprocessing.stored,
            progress=lambda done, total: read(done, total),
        )
    check_classes(images, trained)
    recipe = Recipe(accuracy_archs=archs)
    parts = split(images, validation=recipe.validation, seed=seed)
    calibration = calibration_pixels(parts.train, recipe, seed=seed)
    predictor = _fit(
        trained,
        parts.validation,
        calibration,
        trained.folder,
        count=archs,
        seed=seed,
        name=_name(data),
    )
    if json:
        error = predictor.error and predictor.error.to_json()
        print_json({"schema": "edgenas.accuracy-fit/1", "supernet": supernet, "error": error})
    else:
        out.print(f"accuracy predictor: {predictor.error} ({predictor.source})")


def check_classes(images: "Images", trained: "TrainedSupernet") -> None:
    """Refuse images whose class names are not those of the supernet.

    Raises:
        EdgenasError: names the first that differs.
    """
    if images.classes != trained.classes:
        strange = sorted(set(images.classes) ^ set(trained.classes))
        raise EdgenasError(
            f"the classes of {images.source} must be those of the supernet "
            f"({', '.join(trained.classes[:5])}, ...), they differ in {strange[0]!r}",
            hint="give images of the same classes, or train: edgenas train --init SUPERNET",
        )


def _fit(
    trained: "TrainedSupernet",
    validation: "Images",
    calibration: Any,
    folder: Path,
    *,
    count: int,
    seed: int,
    name: str,
) -> "AccuracyPredictor":
    from edgenas.accuracy import fit_accuracy as fit
    from edgenas.files import sha256
    from edgenas.trained import ACCURACY_FILE

    state = sha256(folder / "weights.safetensors")[:16]
    with bar("evaluating networks") as tell:
        predictor = fit(
            trained,
            validation=validation,
            calibration=calibration,
            count=count,
            seed=seed,
            name=name,
            journal=folder / f"accuracies-{state}-{validation.digest[:8]}-{seed}.jsonl",
            tell=tell,
        )
    predictor.save(folder / ACCURACY_FILE)
    return predictor


def _corners(trained: "TrainedSupernet", test: str, calibration: Any) -> list[dict[str, Any]]:
    from edgenas.data import load_images
    from edgenas.evaluate import evaluate

    images = load_images(test, stored=trained.preprocessing.stored)
    check_classes(images, trained)
    space = trained.supernet.space
    found = evaluate(
        trained.supernet,
        [space.largest(), space.smallest()],
        images=images,
        calibration=calibration,
        preprocessing=trained.preprocessing,
        split="test",
    )
    names = ("largest", "smallest")
    return [
        {"network": name, "accuracy": a.value, "n": a.n}
        for name, a in zip(names, found, strict=True)
    ]


def _name(data: str) -> str:
    return Path(data).name.split(".")[0]
