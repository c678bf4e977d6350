"""What ``specialize`` can be asked for. This module loads nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Literal

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, check_request
from edgenas.basics.ranges import Range
from edgenas.basics.units import parse
from edgenas.delivery.strategy import GRADIENT, LEARNING, LOGITS, MIXING, SLOPES, Strategy
from edgenas.space.framing import Fit
from edgenas.strategies.constraint import METRICS, Constraint, parse_constraint

SUPERNET = "lite-photo"
OF_CIFAR10 = "mbv3-cifar10"  # the supernet of data sets by this name
AUTO = "auto"

Percentile = Literal["p50", "p95"]
START = "lite0"  # what learns the images of users who do not say it
RETRAINS = "retrain_top"  # the option without which the others about retraining say nothing

Count = Annotated[int, Range(1, 4096, "count")]
Epochs = Annotated[int, Range(1, 100_000, "count")]
Rate = Annotated[float, Range(0, 100, "number", above=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecializeRequest:
    """What is asked for: a device, budgets, and how the network is found.

    The fields are the options of ``edgenas specialize`` and of a fleet file, and the key of the
    bundle comes from them (`edgenas.basics.options`).
    """

    device: Annotated[
        str, Option("Device name or alias, or a profile; see: edgenas list devices.", keyed="never")
    ] = ""
    latency: Annotated[
        str | None, Option("Latency budget of one run, e.g. 20ms.", keyed="never")
    ] = None
    params: Annotated[str | None, Option("Budget of parameters, e.g. 4M.", keyed="never")] = None
    macs: Annotated[str | None, Option("Budget of MACs, e.g. 300M.", keyed="never")] = None
    memory: Annotated[str | None, Option("Budget of memory, e.g. 16MB.", keyed="never")] = None
    energy: Annotated[str | None, Option("Energy budget of one run, e.g. 50mJ.", keyed="never")] = (
        None
    )
    constraint: Annotated[
        tuple[str, ...], Option("Any budget, e.g. 'latency@rpi4<=30ms'.", keyed="never")
    ] = ()
    supernet: Annotated[str, Option("Name or folder of a trained supernet.", keyed="never")] = (
        SUPERNET
    )
    arch: Annotated[
        str | None,
        Option(
            "Deliver this network without a search: original (of an imported supernet), largest, "
            "an arch file, or a genotype of DARTS.",
            keyed="never",
        ),
    ] = None
    runtime: Annotated[
        str | None, Option("Runtime of the target. Default: the device's first.", keyed="never")
    ] = None
    precision: Annotated[
        str | None,
        Option(
            "Precision of weights and activations: fp32, fp16, bf16, int8, or auto, which takes "
            "the most accurate one as measured. Default: the device's first.",
            keyed="never",
        ),
    ] = None
    threads: Annotated[Count | None, Option("CPU threads of one run.", keyed="never")] = None
    batch: Annotated[Count | None, Option("Images of one run.", keyed="never")] = None
    percentile: Annotated[
        Percentile,
        Option("A measured latency is held to this: p50 at full speed, or p95 of all runs."),
    ] = "p50"
    confidence: Annotated[
        Annotated[float, Range(0.5, 0.999, "fraction")],
        Option("Confidence of the upper bound where nothing can be measured."),
    ] = 0.95
    strategy: Annotated[
        Strategy,
        Option("Search strategy. From bayes on they learn from --data."),
    ] = "evolution"
    data: Annotated[
        str | None,
        Option("The training images. A part of them measures accuracy, unless --test is given."),
    ] = None
    test: Annotated[str | None, Option("Test images to measure accuracy on.")] = None
    allow_accuracy_drop: Annotated[
        bool, Option("Ship int8 whatever accuracy it loses.", keyed="changed")
    ] = False
    skip_bad_images: Annotated[bool, Option("Leave out images that cannot be read.")] = False
    fit: Annotated[
        Fit | None,
        Option(
            "How pictures get the shape of inputs: the centre is cut out, the whole picture is "
            "padded, or stretched. Default: as the supernet was trained.",
            keyed="changed",
        ),
    ] = None
    balance: Annotated[
        Annotated[float, Range(0, 1, "fraction")] | None,
        Option(
            "How images that weights learn from are drawn where classes are uneven. 0: as they "
            "come; 1: every class equally often; 0.5: between. Default: 0.",
            keyed="changed",
        ),
    ] = None
    weights: Annotated[
        Literal["fixed", "joint"],
        Option("joint: a gradient strategy trains the weights too.", keyed="changed"),
    ] = "fixed"
    skip_dropout: Annotated[
        Annotated[float, Range(0, 0.95, "fraction")],
        Option("Values that skip connections of mixtures lose at first.", keyed="changed"),
    ] = 0.0
    logit_decay: Annotated[
        Annotated[float, Range(0, 1, "number")],
        Option("Weight of the squared logits in what gradients learn.", keyed="changed"),
    ] = 0.0
    early_stop: Annotated[
        bool, Option("End a search of mixtures where it collapses.", keyed="changed")
    ] = False
    retrain_top: Annotated[
        Annotated[int, Range(0, 10_000, "count")],
        Option("Train this many of the best networks further; the best ships.", keyed="changed"),
    ] = 0
    retrain_strategy: Annotated[
        Literal["all", "halving", "hyperband", "asha"],
        Option(
            "Who of --retrain-top is trained for how long: all for all epochs, or many for few "
            "and the best of them for more.",
            needs=RETRAINS,
            keyed="changed",
        ),
    ] = "all"
    retrain_from: Annotated[
        Literal["inherited", "scratch"],
        Option(
            "Retraining starts from the supernet's weights, or from random ones.",
            needs=RETRAINS,
            keyed="changed",
        ),
    ] = "inherited"
    retrain_epochs: Annotated[
        Epochs | None,
        Option(
            "Epochs of retraining. Default: 10; from scratch 60.",
            needs=RETRAINS,
            keyed="changed",
        ),
    ] = None
    retrain_rate: Annotated[
        Rate | None,
        Option(
            "Peak learning rate of retraining. Default: 0.02; from scratch the recipe's.",
            needs=RETRAINS,
            keyed="changed",
        ),
    ] = None
    int8_epochs: Annotated[
        Annotated[float, Range(0, 1000, "count")] | None,
        Option(
            "Epochs of --data in which int8 weights learn the answers of fp32; 0: none. Default: "
            "as the size of the network allows, 3 at most.",
            keyed="never",
        ),
    ] = None
    ssh: Annotated[
        str | None,
        Option("Measure on this board: user@host, or a name of ssh's.", keyed="never"),
    ] = None
    python: Annotated[
        str | None, Option("Python on that board. Default: python3.", keyed="never")
    ] = None
    sign: Annotated[str | None, Option("Sign the bundle with this SSH key.", keyed="never")] = None
    seed: Annotated[Annotated[int, Range(0, 2**63 - 1, "count")], Option("Seed of the search.")] = 0
    init: Annotated[
        str | None,
        Option(
            "Supernet whose networks learn the images of --data first. Default where --time is "
            f"given, or where --supernet has other classes than the images: {START}.",
            keyed="changed",
        ),
    ] = None
    time: Annotated[
        str | None,
        Option(
            "Time for that training, e.g. 45min, or 0: none. Default: 45min; 15min for a further "
            "budget.",
            keyed="changed",
        ),
    ] = None

    @property
    def training_seconds(self) -> float | None:
        """The time for training; None: the usual one. Raises EdgenasError if it is unreadable."""
        if self.time is None:
            return None
        return (
            0.0 if self.time.strip() in ("0", "0s") else parse(self.time, unit="time", name="time")
        )

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """All budgets as constraints.

        Raises:
            EdgenasError: a budget cannot be read.
        """
        budgets = [
            Constraint(metric, parse(text, unit=METRICS[metric], name=metric), text.strip())
            for metric in METRICS
            if (text := getattr(self, metric)) is not None
        ]
        others = [parse_constraint(text, name="constraint") for text in self.constraint]
        return (*budgets, *others)

    @property
    def learns(self) -> bool:
        """Whether the strategy learns from images."""
        return self.strategy in LEARNING

    @property
    def trains(self) -> bool:
        """Whether weights are trained."""
        return self.weights == "joint" or self.retrains or self.transfers

    @property
    def retrains(self) -> bool:
        """Whether the best networks are trained further."""
        return self.retrain_top > 0

    @property
    def fine_tunes_integers(self) -> bool:
        """Whether the weights of an int8 network may learn for their integers."""
        int8 = self.precision in ("int8", AUTO)
        return int8 and self.data is not None and self.int8_epochs != 0

    @property
    def transfers(self) -> bool:
        """Whether trained weights learn the images first."""
        return self.init is not None or self.time is not None

    @property
    def start(self) -> str:
        """What learns the images, where trained weights do."""
        return self.init or START

    @property
    def starts_from_scratch(self) -> bool:
        """Whether the delivered weights begin at random ones."""
        return self.retrains and self.retrain_from == "scratch"

    def check(self) -> None:
        """Refuse what cannot be done, before anything slow.

        Raises:
            EdgenasError: names the option, the rule and the value found.
        """
        check_request(self)
        if not self.device:
            raise EdgenasError(
                "missing option '--device', or '--devices' with a file of many",
                hint="see all devices with: edgenas list devices",
            )
        if self.learns and self.data is None:
            raise EdgenasError(
                f"strategy {self.strategy} needs --data: it learns from images",
                hint="give the training images with --data, and others with --test; or use "
                "--strategy evolution",
            )
        if self.weights == "joint" and self.strategy not in SLOPES:
            raise EdgenasError(
                f"weights joint needs a strategy that learns by gradients, found {self.strategy}",
                hint=f"add --strategy {' or '.join(GRADIENT)}, or use --retrain-top",
            )
        if self.strategy == "darts-v2" and self.weights == "fixed":
            raise EdgenasError(
                "strategy darts-v2 looks one step of the weights ahead: they must be trained",
                hint="add --weights joint, or use --strategy darts-v1",
            )
        remedies = {"skip_dropout": MIXING, "early_stop": MIXING, "logit_decay": LOGITS}
        for name, strategies in remedies.items():
            if getattr(self, name) and self.strategy not in strategies:
                does = "mixes alternatives" if strategies is MIXING else "learns logits"
                raise EdgenasError(
                    f"{name} needs a strategy that {does}, found {self.strategy}",
                    hint=f"use one of {', '.join(strategies)}, or leave it out",
                )
        if self.weights == "joint" and self.strategy in GRADIENT and self.retrains:
            raise EdgenasError(
                f"weights joint and {RETRAINS} both train the weights that are delivered",
                hint="leave one of them out",
            )
        self._check_retraining()
        if self.transfers:
            self._check_transfer()
        if self.arch is not None and (self.learns or self.trains or self.transfers):
            raise EdgenasError(
                "--arch delivers the weights of its supernet: only int8 weights learn from images",
                hint="leave out --init, --time, --retrain-top, and strategies that learn",
            )
        if self.trains and self.data is None:
            raise EdgenasError(
                "training weights needs --data: it learns from images",
                hint="give the training images with --data, and others with --test",
            )
        if self.int8_epochs and not self.fine_tunes_integers:
            raise EdgenasError(
                "int8_epochs needs --data and --precision int8 or auto: it fine-tunes int8 weights",
                hint="add them, or leave out --int8-epochs",
            )
        _ = self.constraints  # reads every budget

    def _check_retraining(self) -> None:
        """Refuse a choice among too few networks or trainings."""
        top: int = getattr(self, RETRAINS)
        few = top < 3 or self.retrain_epochs == 1
        if self.retrains and self.retrain_strategy != "all" and few:
            raise EdgenasError(
                f"retrain_strategy {self.retrain_strategy} needs a choice: at least 3 networks and "
                f"2 epochs, found {RETRAINS} {top}",
                hint="give --retrain-top 9, or leave out --retrain-strategy",
            )

    def _check_transfer(self) -> None:
        """Refuse what does not go together with ``init``."""
        _ = self.training_seconds
        if self.data is None:
            given = "init" if self.time is None else "time"
            raise EdgenasError(
                f"{given} needs --data: weights learn from images",
                hint="give the training images with --data, and others with --test",
            )
        others = {"supernet": self.supernet != SUPERNET, RETRAINS: self.retrains}
        others |= {"weights": self.weights == "joint"}
        for name in (name for name, given in others.items() if given):
            raise EdgenasError(
                f"init and {name} cannot be given together: init trains weights and fine-tunes "
                "the best networks by itself",
                hint=f"leave out --{name.replace('_', '-')}, or --init",
            )
