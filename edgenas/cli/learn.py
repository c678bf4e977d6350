"""``train`` and ``fit-accuracy``: where supernets and their accuracy predictors come from."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgenas.basics import units
from edgenas.basics.errors import EdgenasError
from edgenas.cli.console import (
    bar,
    log,
    note,
    out,
    print_json,
    print_line,
)
from edgenas.cli.fitting import chosen_json, error_json, fit_predictor, fit_words, stopping
from edgenas.cli.photos import learnt_copies, read_images

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from edgenas.images.data import Images
    from edgenas.model.saved import TrainedSupernet
    from edgenas.space.space import Space
    from edgenas.training.loop import Normalisation
    from edgenas.training.recipe import Recipe
    from edgenas.training.teacher import Teacher

_FEW = 100  # validation images
DATA = "Images: a folder of class folders, a .tar or .zip of one, a CSV of path,label, or cifar10."
LIKE = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}  # of ImageNet
OWN = "Of the inputs: R,G,B, 0 to 1. Default: of the training images."
NAME = "Of the data set, for people. Default: its file or folder."


def train(
    space: Annotated[str, typer.Option(help="Name of a space, or a TOML or JSON file of one.")],
    data: Annotated[str, typer.Option(help=DATA)],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run and its supernet.")],
    test: Annotated[str | None, typer.Option(help="Test images; never learnt from.")] = None,
    name: Annotated[str | None, typer.Option(help=NAME)] = None,
    init: Annotated[str | None, typer.Option(help="Supernet to start from.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Model to learn from: ONNX or TorchScript file.")
    ] = None,
    teacher_size: Annotated[int | None, typer.Option(min=1, help="Pixels of its inputs.")] = None,
    teacher_mean: Annotated[str | None, typer.Option(help="Of its inputs: R,G,B, 0 to 1.")] = None,
    teacher_std: Annotated[str | None, typer.Option(help="Of its inputs: R,G,B, 0 to 1.")] = None,
    mean: Annotated[str | None, typer.Option(help=OWN)] = None,
    std: Annotated[str | None, typer.Option(help=OWN)] = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML file; its fields override.")] = None,
    time: Annotated[
        str | None,
        typer.Option(help="For the training and its evaluations, e.g. 45min; decides the epochs."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run cut off.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is left to chance.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: one per core.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a supernet, then evaluate networks of it and fit its accuracy predictor.

    Safe to interrupt at any moment; --resume goes on to the very same weights. Several processes:
    torchrun --nproc-per-node N -m edgenas train ...
    """
    if device not in ("cpu", "cuda"):
        raise EdgenasError(f"--device must be cpu or cuda, found {device!r}")
    from edgenas.accuracy.predictor import FEWEST
    from edgenas.space.presets import load_space
    from edgenas.training.recipe import default_recipe, load_recipe

    declared = load_space(space)
    if declared.size < FEWEST:
        raise EdgenasError(
            f"the space {declared.name} must have at least {FEWEST} networks for an accuracy "
            f"predictor, found {declared.size}",
            hint="add choices: kernels, depths, expands, widths or resolutions",
        )
    if recipe is not None:
        load_recipe(recipe, default_recipe(declared))  # refused before images are read
    time_budget = None if time is None else units.parse(time, unit="time", name="--time")
    import torch

    from edgenas.images.data import check_classes
    from edgenas.images.preprocessing import choose_stored_size
    from edgenas.model import processes as parallel
    from edgenas.model.saved import find_supernet, load_supernet
    from edgenas.training.loop import find_split_seed
    from edgenas.training.runs import check_out
    from edgenas.training.teacher import load_teacher

    if threads:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise EdgenasError("--device cuda: torch finds no GPU", hint="use --device cpu")
    start = None if init is None else load_supernet(find_supernet(init))
    asked_mean, asked_std = (
        _triple(teacher_mean, "teacher-mean"),
        _triple(teacher_std, "teacher-std"),
    )
    if teacher is None and (asked_mean or asked_std or teacher_size):
        raise EdgenasError(
            "--teacher must be given with --teacher-size, --teacher-mean and -std",
            hint="add --teacher FILE.onnx",
        )
    own_mean, own_std = _triple(mean, "mean"), _triple(std, "std")
    if (own_mean is None) != (own_std is None):
        raise EdgenasError("--mean and --std must be given together", hint=_like("mean", "std"))
    with parallel.processes(device) as place:
        log.quiet = out.quiet = parallel.rank() > 0
        if parallel.rank() == 0:
            check_out(out_folder, resume=resume)  # before images are read, which takes long
        stored = choose_stored_size(declared)
        images = read_images(data, stored=stored, skip_bad_images=skip_bad_images)
        note(f"{len(images)} images of {len(images.classes)} classes from {data}")
        chosen = default_recipe(declared, images=len(images))
        if recipe is not None:
            chosen = load_recipe(recipe, chosen)
        divided_by = find_split_seed(images, recipe=chosen, seed=seed, init=start)
        # Read before the training, which takes hours, not after it.
        judged = read_images(test, stored=stored, skip_bad_images=skip_bad_images) if test else None
        asked = None
        if teacher is not None:
            asked = load_teacher(
                teacher,
                classes=len(images.classes),
                stored=stored,
                place=place,
                size=teacher_size,
                mean=asked_mean,
                std=asked_std,
            )
            _introduce(asked, images, recipe=chosen, seed=divided_by)
        if judged is not None:
            check_classes(judged, images.classes)
        _warn(images, judged, recipe=chosen, seed=divided_by)
        report = _trained(
            declared,
            images,
            judged,
            recipe=chosen,
            folder=out_folder,
            init=start,
            teacher=asked,
            normalisation=None if own_mean is None or own_std is None else (own_mean, own_std),
            resume=resume,
            time_budget=time_budget,
            seed=seed,
            place=place,
            name=name or _name(data),
        )
        if parallel.rank() > 0:
            return
    if json:
        print_json(report)
        return
    print_line(f"supernet: {out_folder}   report: {report['report']}")
    print_line(fit_words(report))
    for row in report.get("test", ()):
        copies = f", {row['copies']} of them copies of training images" if row["copies"] else ""
        print_line(f"{row['network']}: {row['accuracy']:.2%} on {row['n']} test images{copies}")


def _trained(
    space: "Space",
    images: "Images",
    judged: "Images | None",
    *,
    recipe: "Recipe",
    folder: Path,
    init: "TrainedSupernet | None",
    teacher: "Teacher | None",
    normalisation: "Normalisation | None",
    resume: bool,
    time_budget: float | None,
    seed: int,
    place: "torch.device",
    name: str,
) -> dict[str, Any]:
    """Train, save, fit the accuracy predictor, judge on test images; the report."""
    import torch

    from edgenas.basics.files import write_text
    from edgenas.model import processes as parallel
    from edgenas.model.saved import load_supernet, save_supernet
    from edgenas.pages.training import training_page
    from edgenas.training.division import split_as_trained
    from edgenas.training.history import read_history
    from edgenas.training.loop import TrainingProgress
    from edgenas.training.loop import train as run_training

    with stopping("to go on, run the same command with --resume"), bar("training") as step:

        def tell(progress: TrainingProgress) -> None:
            if progress.note:
                note(f"epoch {progress.epoch:.0f}  {progress.note}")
            words = f"{progress.images_per_second:.0f} images/s  loss {progress.loss:.3f}"
            step(progress.step, progress.steps, words)

        trained = run_training(
            space,
            images,
            recipe=recipe,
            out=folder,
            seed=seed,
            init=init,
            teacher=teacher,
            normalisation=normalisation,
            resume=resume,
            time_budget=time_budget,
            device=place,
            tell=tell,
        )
    if parallel.rank() == 0:
        save_supernet(folder, trained, dtype=torch.float32)
    parallel.gather(None)  # the others read what the first one wrote
    trained = load_supernet(folder)
    trained.supernet.to(place)
    calibration, validation = split_as_trained(trained, images)
    predictor = fit_predictor(
        trained, validation, calibration, count=recipe.accuracy_archs, seed=seed, name=name
    )
    path = folder / "report.html"
    if parallel.rank() == 0:
        write_text(path, training_page(read_history(folder)))
    report: dict[str, Any] = {
        "schema": "edgenas.training/1",
        "supernet": str(folder),
        "report": str(path),
        "epochs": trained.training["recipe"]["epochs"],
        "validation_images": len(validation),
        "source": predictor.source,
        "predictor": error_json(predictor),
        "chosen": chosen_json(predictor),
    }
    if judged is not None:
        report["test"] = _corners(trained, judged, calibration)
    return report


def _triple(text: str | None, name: str) -> tuple[float, ...] | None:
    """The three numbers of an option like ``--mean``."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    kind = name.removeprefix("teacher-")
    if len(values) != 3 or not all(0 <= v <= 1 for v in values) or (kind == "std" and 0 in values):
        above = max(values, default=0.0) > 1
        raise EdgenasError(
            f"--{name} must be three numbers from 0 to 1 like {LIKE[kind]}, found {text!r}",
            hint="divide them by 255" if above else _like(name),
        )
    return values


def _like(*names: str) -> str:
    """The options as ImageNet has them."""
    told = (f"--{name} {LIKE[name.removeprefix('teacher-')]}" for name in names)
    return f"for those of ImageNet: {' '.join(told)}"


def _introduce(teacher: "Teacher", images: "Images", *, recipe: "Recipe", seed: int) -> None:
    """Say how good a teacher is: it shows whether its classes and preprocessing are understood."""
    from edgenas.images.data import split

    parts = split(images, validation=recipe.validation, seed=seed)
    accuracy, n = teacher.accuracy(parts.validation)
    note(
        f"teacher {teacher.record['file']}: {accuracy:.2%} of {n} validation images right, at "
        f"{units.pixels(teacher.preprocessing.size(teacher.size))} pixels"
    )
    if accuracy < min(2 / len(images.classes), 0.6):
        first = ", ".join(images.classes[:3])
        note(
            f"warning: that is hardly better than chance; its classes must be in the order "
            f"{first}, ..., and --teacher-mean, -std and -size those that it was trained with"
        )


def _warn(images: "Images", judged: "Images | None", *, recipe: "Recipe", seed: int) -> None:
    """Say what would make the numbers of a training wrong or unfair."""
    from edgenas.images.data import count_copies, split

    parts = split(images, validation=recipe.validation, seed=seed)
    for name, others in (("validation", parts.validation), ("test", judged)):
        if others is not None and (copies := count_copies(parts.train, others)):
            note(
                f"warning: {copies} of {len(others)} {name} images are training images too; "
                f"accuracy on them is too high"
            )
    if (judged_on := len(parts.validation)) < _FEW:
        note(
            f"warning: only {judged_on} validation images: an accuracy on them is known to about "
            f"{100 / math.sqrt(judged_on):.0f} points"
        )
    sizes = images.labels.bincount(minlength=len(images.classes))
    least, most = int(sizes.argmin()), int(sizes.argmax())
    if sizes[most] > 3 * sizes[least]:
        said = "" if recipe.balance else "; balance = 1 in a recipe draws classes equally often"
        note(
            f"warning: {sizes[most]} images of {images.classes[most]!r}, only {sizes[least]} of "
            f"{images.classes[least]!r}{said}"
        )


def fit_accuracy(
    supernet: Annotated[str, typer.Argument(help="Folder of the supernet.")],
    data: Annotated[str, typer.Option(help=DATA)],
    name: Annotated[str | None, typer.Option(help=NAME)] = None,
    archs: Annotated[int, typer.Option(min=20, help="Networks to evaluate.")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample of networks.")] = 0,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate networks of a supernet on your images and fit its accuracy predictor.

    The images are divided as its training divided them: what it learnt from calibrates batch
    norms, the rest is judged on. For an imported supernet, a tenth of every class is judged on.
    """
    from edgenas.images.data import check_classes
    from edgenas.model.saved import find_supernet, load_supernet
    from edgenas.training.division import split_as_trained

    trained = load_supernet(find_supernet(supernet))
    stored = trained.preprocessing.stored
    images = read_images(data, stored=stored, skip_bad_images=skip_bad_images)
    check_classes(images, trained.classes)
    calibration, validation = split_as_trained(trained, images)
    learnt_copies(trained, validation, split="validation")
    predictor = fit_predictor(
        trained, validation, calibration, count=archs, seed=seed, name=name or _name(data)
    )
    report = {
        "schema": "edgenas.accuracy-fit/1",
        "supernet": supernet,
        "source": predictor.source,
        "predictor": error_json(predictor),
        "chosen": chosen_json(predictor),
    }
    if json:
        print_json(report)
    else:
        print_line(fit_words(report))


def _corners(
    trained: "TrainedSupernet", images: "Images", calibration: "Tensor"
) -> list[dict[str, Any]]:
    """Test accuracy of the largest and the smallest network."""
    from edgenas.accuracy.evaluation import evaluate_archs
    from edgenas.model import processes as parallel

    space = trained.supernet.space
    work = partial(
        evaluate_archs,
        trained.supernet,
        images=images,
        calibration=calibration,
        preprocessing=trained.preprocessing,
        split="test",
    )
    names, archs = ("largest", "smallest"), [space.largest(), space.smallest()]
    copies = learnt_copies(trained, images, split="test")
    return [
        {"network": name, "accuracy": a.value, "n": a.n, "copies": copies}
        for name, a in zip(names, parallel.share_out(archs, work), strict=True)
    ]


def _name(data: str) -> str:
    return Path(data).name.split(".")[0] or "images"


VERBS = {"train": train, "fit-accuracy": fit_accuracy}
