"""The loop that gradient strategies share: learn probabilities of the choices of a supernet.

Before every step the limits take off the scores what makes drawn networks keep them on average
(``tilt.py``); then a batch of search images gives an estimator's gradient of the cross entropy with
respect to the logits. The weights are fixed, or trained in steps of their own (``weights.py``).
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import disk_errors, new_file
from edgenas.basics.progress import Progress, no_progress
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.strategies.gradient.checkpoint import Checkpoint, digest
from edgenas.strategies.gradient.collapse import (
    EIGENVALUE,
    SKIPS,
    describe_collapse,
    dominant_eigenvalue,
    find_skips,
    has_grown,
    share_of_skips,
    steps_back,
)
from edgenas.strategies.gradient.controller import Controller
from edgenas.strategies.gradient.darts import mix_softmax
from edgenas.strategies.gradient.estimators import (
    CONTROLLERS,
    MIXTURES,
    SINGLE,
    STRATEGIES,
    UNCOMPETING,
    WHOLE,
)
from edgenas.strategies.gradient.expected import Expected
from edgenas.strategies.gradient.mixed import mixed_loss
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.relaxed import RelaxedPolicy
from edgenas.strategies.gradient.step import GradientSettings, GradientStep
from edgenas.strategies.gradient.tilt import Ceiling, tilt
from edgenas.strategies.gradient.weights import Weights, WeightTraining
from edgenas.training.memory import keep_memory

_CERTAIN = ("pc-darts", "fair-darts")  # mixtures of their own that no chance decides
_VERSION = "5"  # raise it where the same request would learn something else: old states are left
_KEPT = 10  # steps between checkpoints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchData:
    """The images of a gradient search.

    Args:
        images: the logits learn from them. The weights must not have been trained on them, nor may
            the result be tested on them.
        preprocessing: how images become inputs.
        training: what the weights learn from, beside the logits. None: the weights are fixed.
    """

    images: Images
    preprocessing: Preprocessing
    training: WeightTraining | None = None

    def check(self) -> None:
        """Refuse what no search can learn from.

        Raises:
            EdgenasError: there are fewer than two images.
        """
        if len(self.images) < 2:
            count = len(self.images)
            raise EdgenasError(f"a gradient search needs at least 2 images, found {count}")
        if self.training is not None and len(self.training.images) < 2:
            count = len(self.training.images)
            raise EdgenasError(f"training weights needs at least 2 images, found {count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntPolicy:
    """The outcome of a gradient search.

    Args:
        policy: the logits.
        history: one dictionary a step: step, loss, entropy, and of each ceiling its expectation
            and its price, see ``tilt``; also, where they are known, the share of skip connections
            and the dominant eigenvalue as it was measured last, see ``collapse.py``.
        trail: the logits after every step, of all choices in a row, shape (steps, alternatives).
        supernet: a copy of the supernet with trained weights. None: the weights were fixed.
        notes: what a reader of the result should know.
    """

    policy: Policy
    history: tuple[dict[str, float], ...]
    trail: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    supernet: Supernet | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Search:
    """The parts of a search, which change in place, and its ceilings."""

    strategy: str
    settings: GradientSettings
    policy: Policy
    paths: Paths
    weights: Weights | None
    ceilings: Sequence[Ceiling]
    expected: Sequence[Expected]
    generator: torch.Generator
    history: list[dict[str, float]]
    trail: Tensor
    vector: Tensor

    @property
    def columns(self) -> list[str]:
        """The names of the values of a step in the history."""
        names = [f"{kind} {c.name}" for c in self.ceilings for kind in ("expected", "price")]
        names += [SKIPS] if find_skips(self.policy) else []
        return ["step", "loss", "entropy", *names, *([EIGENVALUE] if self.every else [])]

    @property
    def every(self) -> int:
        """Steps between measurements of the eigenvalue; 0: it is not measured."""
        return self.settings.measure if self.strategy in MIXTURES else 0

    @property
    def stopped(self) -> bool:
        """Whether the search ends early."""
        return self.settings.early_stop and has_grown(self.history, self.every)


def learn(
    supernet: Supernet,
    *,
    strategy: str,
    data: SearchData,
    ceilings: Sequence[Ceiling] = (),
    seed: int = 0,
    settings: GradientSettings | None = None,
    folder: Path | None = None,
    progress: Progress = no_progress,
) -> LearntPolicy:
    """Learn which alternatives of a supernet are worth their cost.

    Args:
        supernet: its weights. They are left as they are.
        strategy: a name of ``STRATEGIES``.
        data: the images to learn from.
        ceilings: limits on expected costs.
        seed: of all chance: the same seed gives the same logits.
        settings: how long and how fast.
        folder: where the state is kept, in a file of its own for each different search. A search
            that was killed goes on to the same result, and one that ended is only read. Beside the
            state lies the history as a CSV file. None: nothing is kept.
        progress: called with ("learning", steps done, steps in all, "").

    Raises:
        EdgenasError: the strategy is unknown, or there are no images.
    """
    settings = settings or GradientSettings()
    if strategy not in STRATEGIES:
        listing = "edgenas specialize --help"
        raise unknown_name("strategy", strategy, names=STRATEGIES, listing=listing)
    data.check()
    search = _begin(supernet, data, ceilings, strategy=strategy, seed=seed, settings=settings)
    checkpoint = None
    if folder is not None:
        name = _name_state(supernet, data, ceilings, settings, strategy=strategy, seed=seed)
        checkpoint = Checkpoint(
            folder / f"{strategy}-{name}.safetensors",
            learnt=search.policy.tensors() | {"trail": search.trail, "vector": search.vector},
            generator=search.generator,
            weights=None if search.weights is None else search.weights.state,
        )
        search.history.extend(checkpoint.load(search.columns) or [])
    keep_memory()
    model = search.paths.supernet
    mode = model.training
    model.train()
    try:
        while (step := len(search.history)) < settings.steps and not search.stopped:
            progress("learning", step, settings.steps, "")
            _take_step(search, data.images, step=step)
            done = len(search.history) == settings.steps or search.stopped
            if checkpoint is not None and (done or len(search.history) % _KEPT == 0):
                checkpoint.save(search.history)
                _write_history(search.history, checkpoint.path.with_suffix(".csv"))
    finally:
        model.train(mode)
    notes = _end(search)
    progress("learning", settings.steps, settings.steps, "")
    trained = None if search.weights is None else search.weights.state.final_model().eval()
    return LearntPolicy(
        policy=search.policy,
        history=tuple(search.history),
        trail=search.trail[: len(search.history)],
        supernet=trained,
        notes=notes,
    )


def _end(search: _Search) -> tuple[str, ...]:
    """Go back to the logits from before a collapse, where that is asked for; what is to be told."""
    policy, done = search.policy, len(search.history)
    notes = describe_collapse(search.history, policy, every=search.every)
    if search.stopped:
        back = done - 1 - steps_back(search.every)
        notes = (
            f"the search stopped at step {done}, because the dominant eigenvalue grew, and gives "
            f"the logits of step {back + 1}",
        )
        with torch.no_grad():
            sizes = [len(logits) for logits in policy.logits]
            for logits, kept in zip(policy.logits, search.trail[back].split(sizes), strict=True):
                logits.copy_(kept)
    tilt(policy, search.ceilings, search.expected)
    return notes


def _begin(
    supernet: Supernet,
    data: SearchData,
    ceilings: Sequence[Ceiling],
    *,
    strategy: str,
    seed: int,
    settings: GradientSettings,
) -> _Search:
    """Make the parts of a search that has not taken a step."""
    space, weights = supernet.space, None
    if strategy in CONTROLLERS:
        policy = Controller(space, ceilings, seed=seed, moves=CONTROLLERS[strategy])
    elif strategy in WHOLE:
        policy = Policy(space)
    else:
        gates = "sigmoid" if strategy in UNCOMPETING else "softmax"
        policy = RelaxedPolicy(space, gates=gates, summed=strategy not in SINGLE)
    if data.training is not None:
        weights = Weights(
            supernet,
            data.training,
            preprocessing=data.preprocessing,
            policy=policy,
            seed=seed,
            steps=settings.steps,
        )
        supernet = weights.state.model
    count = sum(choice.size for choice in policy.choices)
    start = torch.randn(count, generator=torch.Generator().manual_seed(seed)).double()
    return _Search(
        strategy=strategy,
        settings=settings,
        policy=policy,
        paths=Paths(supernet, policy, preprocessing=data.preprocessing),
        weights=weights,
        ceilings=ceilings,
        expected=[Expected(space, ceiling.tables, policy.parts) for ceiling in ceilings],
        generator=torch.Generator().manual_seed(seed),
        history=[],
        trail=torch.zeros(settings.steps, count),
        vector=start / start.norm().clamp_min(1e-9),
    )


def _name_state(
    supernet: Supernet,
    data: SearchData,
    ceilings: Sequence[Ceiling],
    settings: GradientSettings,
    *,
    strategy: str,
    seed: int,
) -> str:
    """Name the state of a search after everything that decides its result."""
    values = ", ".join(f"{f.name}={getattr(settings, f.name)!r}" for f in fields(settings))
    texts = [
        _VERSION,
        strategy,
        str(seed),
        f"GradientSettings({values})",
        repr(supernet.space),
        str(data.preprocessing),
    ]
    texts += [f"{c.name} {c.limit!r} {c.tables.constant!r}" for c in ceilings]
    tables = [torch.from_numpy(v.copy()) for c in ceilings for v in c.tables.values]
    tensors = [*supernet.parameters(), data.images.pixels, data.images.labels, *tables]
    if data.training is not None:
        texts += [str(data.training.recipe), str(torch.get_num_threads())]
        tensors += [data.training.images.pixels, data.training.images.labels]
    return digest(texts, tensors)[:24]


def _take_step(search: _Search, images: Images, *, step: int) -> None:
    """Train the weights by a step, where they are trained, then move the logits by a step.

    Raises:
        EdgenasError: the loss is no number.
    """
    policy, generator, settings = search.policy, search.generator, search.settings
    expectations, prices = tilt(policy, search.ceilings, search.expected)
    batch = min(settings.batch, len(images))
    lines = torch.randperm(len(images), generator=generator)[:batch]
    inputs = GradientStep(
        number=step,
        settings=settings,
        pixels=images.pixels[lines],
        labels=images.labels[lines],
        past=[line["loss"] for line in search.history],
        generator=generator,
        weights=search.weights,
    )
    first, loss, value = 0, None, math.nan  # the first step that moves logits
    if search.weights is not None:
        first, value = settings.warmup, _train_weights(search, search.weights, inputs)
    if step >= first:
        loss, value = STRATEGIES[search.strategy](policy, search.paths, inputs)
    if not math.isfinite(value):
        raise EdgenasError(
            "the loss of a sampled network is no number",
            hint="the supernet is damaged: edgenas verify, or train it again",
        )
    if isinstance(policy, Controller):  # whose every network keeps the limits
        expectations, prices = policy.expectations(), [0.0] * len(prices)
    record = {"step": step, "loss": value, "entropy": float(policy.entropy())}
    for ceiling, expectation, price in zip(search.ceilings, expectations, prices, strict=True):
        record |= {f"expected {ceiling.name}": expectation, f"price {ceiling.name}": price}
    if SKIPS in search.columns:
        record[SKIPS] = share_of_skips(policy)
    if search.every:
        record[EIGENVALUE] = _measure(search, inputs)
    if loss is not None:
        if settings.decay:
            loss = loss + settings.decay / 2 * torch.cat(policy.logits).square().sum()
        policy.move(loss, rate=settings.rate, step=step - first)
    logits = [logits.detach() for logits in policy.logits]
    search.trail[step] = torch.cat([*logits, torch.zeros(0)])
    assert list(record) == search.columns
    search.history.append(record)


def _train_weights(search: _Search, weights: Weights, inputs: GradientStep) -> float:
    """Train weights by a step, as the strategy does; the loss on the training images."""
    policy = search.policy
    if search.strategy in MIXTURES:
        with torch.no_grad():
            mixture = MIXTURES[search.strategy](policy, inputs)
        loss = weights.mix(mixture, inputs.number)
    else:
        (arch,) = policy.space.decode(policy.draw(inputs.generator))
        loss = weights.step(arch, inputs.number)
    search.paths.forget()
    return loss


def _measure(search: _Search, inputs: GradientStep) -> float:
    """The dominant eigenvalue, where it is to be measured at this step; else the last one."""
    if inputs.number % search.every:
        return search.history[-1][EIGENVALUE]
    # By mixtures without chance, and with a generator of its own for what cannot be mixed.
    mix = MIXTURES[search.strategy] if search.strategy in _CERTAIN else mix_softmax
    settings = replace(search.settings, skip_dropout=0.0)

    def loss() -> Tensor:
        chance = torch.Generator().manual_seed(inputs.number)
        step = replace(inputs, generator=chance, settings=settings)
        return mixed_loss(search.paths, step, mix(search.policy, step))[0]

    return dominant_eigenvalue(loss, search.policy.logits, vector=search.vector)


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    with disk_errors(path), new_file(path) as part, part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
