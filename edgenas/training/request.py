"""What ``train`` can be asked for. This module loads nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, check_request
from edgenas.basics.ranges import LARGEST_SIDE, Range
from edgenas.basics.units import parse
from edgenas.space.framing import Fit

Triple = tuple[float, float, float]

TRANSFER = "transfer"  # the name of a recipe
IMAGENET = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
Seed = Annotated[int, Range(0, 2**63 - 1, "count")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What is trained, on which images, and how."""

    data: Annotated[
        str,
        Option(
            "Images: a folder of class folders, a .tar or .zip of one, a CSV of path,label, or "
            "cifar10."
        ),
    ]
    out: Annotated[Path, Option("Folder of the run and of its supernet.")]
    space: Annotated[
        str | None,
        Option("Name of a space, or a TOML or JSON file of one. Default: that of --init."),
    ] = None
    unlabelled: Annotated[
        bool,
        Option(
            "The images have no labels. The networks learn the answers of the teacher; without "
            "--teacher it is the original network of --init.",
            needs="init",
        ),
    ] = False
    test: Annotated[
        str | None, Option("Test images. Accuracy is measured on them; nothing learns from them.")
    ] = None
    name: Annotated[
        str | None, Option("Name of the data set, for people. Default: its file or folder.")
    ] = None
    init: Annotated[str | None, Option("Supernet whose weights the training starts from.")] = None
    teacher: Annotated[
        Path | None, Option("Model that the supernet learns from: an ONNX or TorchScript file.")
    ] = None
    teacher_size: Annotated[
        Annotated[int, Range(1, LARGEST_SIDE, "pixels")] | None,
        Option("Pixels of the teacher's inputs."),
    ] = None
    teacher_mean: Annotated[
        str | None, Option("Mean of the teacher's inputs: R,G,B, from 0 to 1.", needs="teacher")
    ] = None
    teacher_std: Annotated[
        str | None,
        Option("Standard deviation of the teacher's inputs: R,G,B, from 0 to 1.", needs="teacher"),
    ] = None
    mean: Annotated[
        str | None,
        Option("Mean of the inputs: R,G,B, from 0 to 1. Default: that of the training images."),
    ] = None
    std: Annotated[
        str | None,
        Option(
            "Standard deviation of the inputs: R,G,B, from 0 to 1. Default: that of the training "
            "images."
        ),
    ] = None
    fit: Annotated[
        Fit | None,
        Option(
            "How pictures get the shape of inputs: the centre is cut out, the whole picture is "
            "padded, or stretched. Default: what the space says, usually crop."
        ),
    ] = None
    recipe: Annotated[
        str | None,
        Option(
            "transfer, the recipe for few images from --init; or a TOML file whose fields replace "
            "the usual ones."
        ),
    ] = None
    balance: Annotated[
        Annotated[float, Range(0, 1, "fraction")] | None,
        Option(
            "How images are drawn where classes are uneven. 0: as they come; 1: every class "
            "equally often; 0.5: between. Default: that of the recipe, usually 0."
        ),
    ] = None
    time: Annotated[
        str | None,
        Option("Time for the training and its evaluations, e.g. 45min. It decides the epochs."),
    ] = None
    resume: Annotated[bool, Option("Go on with a run that was cut off.")] = False
    seed: Annotated[Seed, Option("Seed of everything that is left to chance.")] = 0
    threads: Annotated[
        Annotated[int, Range(0, 4096, "count")], Option("CPU threads. 0: one per core.")
    ] = 0
    device: Annotated[Literal["cpu", "cuda"], Option("Where the training computes.")] = "cpu"
    skip_bad_images: Annotated[bool, Option("Leave out images that cannot be read.")] = False

    @property
    def seconds(self) -> float | None:
        """The time that is allowed. Raises EdgenasError where it cannot be read."""
        return None if self.time is None else parse(self.time, unit="time", name="time")

    @property
    def normalisation(self) -> tuple[Triple, Triple] | None:
        """Mean and standard deviation of the inputs. None: those of the training images."""
        mean, std = _triple(self.mean, "mean"), _triple(self.std, "std")
        return None if mean is None or std is None else (mean, std)

    @property
    def teacher_normalisation(self) -> tuple[Triple | None, Triple | None]:
        """Mean and standard deviation of the teacher's inputs, as far as they are stated."""
        mean = _triple(self.teacher_mean, "teacher-mean")
        return mean, _triple(self.teacher_std, "teacher-std")

    def check(self) -> None:
        """Refuse what cannot be done, before anything slow.

        Raises:
            EdgenasError: names the option, the rule and the value found.
        """
        check_request(self)
        _ = self.seconds, self.normalisation, self.teacher_normalisation
        if self.teacher_size is not None and self.teacher is None and not self.unlabelled:
            raise EdgenasError(
                "teacher_size has no effect without teacher or unlabelled",
                hint="add --teacher or --unlabelled",
            )
        if self.space is None and self.init is None:
            raise EdgenasError(
                "missing option '--space'", hint="see all spaces with: edgenas list spaces"
            )
        if self.recipe == TRANSFER and self.init is None:
            raise EdgenasError(
                f"recipe {TRANSFER} needs --init: it starts from trained weights",
                hint="see them with: edgenas list supernets",
            )
        if (self.mean is None) != (self.std is None):
            raise EdgenasError("mean and std must be given together", hint=_example("mean", "std"))


def _triple(text: str | None, name: str) -> Triple | None:
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
            f"--{name} must be three numbers from 0 to 1 like {IMAGENET[kind]}, found {text!r}",
            hint="divide them by 255" if above else _example(name),
        )
    return values


def _example(*names: str) -> str:
    """The options with the values of ImageNet."""
    options = (f"--{name} {IMAGENET[name.removeprefix('teacher-')]}" for name in names)
    return f"for those of ImageNet: {' '.join(options)}"
