"""The loop that gradient strategies share: learn probabilities of the choices of a supernet.

Before every step the limits take off the scores what makes drawn networks keep them on average
(``tilt.py``); then a batch of search images gives an estimator's gradient of the cross entropy with
respect to the logits. The weights are fixed, or trained in steps of their own (``weights.py``).
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.files import disk_errors, new_file
from edgenas.images.data import Images
from edgenas.images.preprocessing import Preprocessing
from edgenas.model.supernet import Supernet
from edgenas.strategies.gradient.checkpoint import Checkpoint, digest
from edgenas.strategies.gradient.expected import Expected
from edgenas.strategies.gradient.gumbel import gumbel
from edgenas.strategies.gradient.paths import Paths
from edgenas.strategies.gradient.policy import Policy
from edgenas.strategies.gradient.proxyless import proxyless
from edgenas.strategies.gradient.reinforce import reinforce
from edgenas.strategies.gradient.step import GradientSettings, GradientStep
from edgenas.strategies.gradient.tilt import Ceiling, tilt
from edgenas.strategies.gradient.weights import Weights, WeightTraining
from edgenas.training.memory import keep_memory


class Estimator(Protocol):
    """How a strategy finds the gradient of the cross entropy with respect to the logits."""

    def __call__(self, policy: Policy, paths: Paths, step: GradientStep) -> tuple[Tensor, float]:
        """A scalar with the gradient, and the cross entropy of what ran.

        Args:
            policy: to learn.
            paths: of the supernet.
            step: its batch, settings and chance.
        """
        ...


STRATEGIES: Mapping[str, Estimator] = {
    "proxyless": proxyless,
    "gumbel": gumbel,
    "reinforce": reinforce,
}
_VERSION = "3"  # raise it where the same request would learn something else: old states are left
_KEPT = 10  # steps between checkpoints
_MEMORY = 0.95  # of the mean square of gradients: 20 steps are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntPolicy:
    """What came out.

    Args:
        policy: the logits.
        history: one dictionary a step: step, loss, entropy, and of each ceiling its expectation
            and its price, see ``tilt``.
        supernet: another one, with the weights that were trained; None: they were fixed.
    """

    policy: Policy
    history: tuple[dict[str, float], ...]
    supernet: Supernet | None = None


def learn(
    supernet: Supernet,
    *,
    strategy: str,
    images: Images,
    preprocessing: Preprocessing,
    ceilings: Sequence[Ceiling] = (),
    seed: int = 0,
    settings: GradientSettings | None = None,
    training: WeightTraining | None = None,
    folder: Path | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> LearntPolicy:
    """Learn which alternatives of a supernet are worth their cost.

    Args:
        supernet: its weights; those of this one are left as they are.
        strategy: ``proxyless``, ``gumbel`` or ``reinforce``.
        images: the weights must not have been trained on them, nor may the result be tested on
            them.
        preprocessing: how they become inputs.
        ceilings: limits on expected costs.
        seed: of all chance: the same seed gives the same logits.
        settings: how long and how fast.
        training: of the weights, beside the logits; None: they are fixed.
        folder: where the state is kept, in a file of its own for each different search; one that
            was killed goes on to the same result, one that ended is only read. Beside it lies the
            history as a CSV file. None: nowhere.
        tell: called with (steps done, steps in all, words).

    Raises:
        EdgenasError: an unknown strategy, or no images.
    """
    settings = settings or GradientSettings()
    if strategy not in STRATEGIES:
        listing = "edgenas specialize --help"
        raise unknown_name("strategy", strategy, names=STRATEGIES, listing=listing)
    if len(images) < 2:
        raise EdgenasError(f"a gradient search needs at least 2 images, found {len(images)}")
    if training is not None and len(training.images) < 2:
        count = len(training.images)
        raise EdgenasError(f"training weights needs at least 2 images, found {count}")
    policy, start, weights = Policy(supernet.space), [*supernet.parameters()], None
    if training is not None:
        weights = Weights(
            supernet, training, preprocessing=preprocessing, seed=seed, steps=settings.steps
        )
        supernet = weights.state.model
    paths = Paths(supernet, policy, preprocessing=preprocessing)
    expected = [Expected(supernet.space, ceiling.tables) for ceiling in ceilings]
    generator = torch.Generator().manual_seed(seed)
    square = torch.zeros(())
    history: list[dict[str, float]] = []
    columns = ["step", "loss", "entropy"]
    columns += [f"{kind} {c.name}" for c in ceilings for kind in ("expected", "price")]
    checkpoint = None
    if folder is not None:
        texts = [
            _VERSION,
            strategy,
            str(seed),
            str(settings),
            repr(supernet.space),
            str(preprocessing),
        ]
        texts += [f"{c.name} {c.limit!r} {c.tables.constant!r}" for c in ceilings]
        tables = [torch.from_numpy(v.copy()) for c in ceilings for v in c.tables.values]
        data = [*start, images.pixels, images.labels, *tables]
        if training is not None:
            texts += [str(training.recipe), str(torch.get_num_threads())]
            data += [training.images.pixels, training.images.labels]
        path = folder / f"{strategy}-{digest(texts, data)[:24]}.safetensors"
        checkpoint = Checkpoint(
            path,
            logits=policy.logits,
            square=square,
            generator=generator,
            weights=None if weights is None else weights.state,
        )
        history = checkpoint.load(columns) or history
    batch = min(settings.batch, len(images))
    keep_memory()
    mode = supernet.training
    supernet.train()
    try:
        for step in range(len(history), settings.steps):
            tell(step, settings.steps, "")
            kept = tilt(policy, ceilings, expected)
            if weights is not None:
                weights.step(paths.arch(policy.sample(generator)), step)
                paths.forget()
            lines = torch.randperm(len(images), generator=generator)[:batch]
            given = GradientStep(
                number=step,
                settings=settings,
                pixels=images.pixels[lines],
                labels=images.labels[lines],
                past=[line["loss"] for line in history],
                generator=generator,
            )
            loss, value = STRATEGIES[strategy](policy, paths, given)
            if not math.isfinite(value):
                raise EdgenasError(
                    "the loss of a sampled network is no number",
                    hint="the supernet is damaged: edgenas verify, or train it again",
                )
            record = {"step": step, "loss": value, "entropy": float(policy.entropy())}
            for ceiling, expectation, price in zip(ceilings, *kept, strict=True):
                record |= {f"expected {ceiling.name}": expectation, f"price {ceiling.name}": price}
            _move(policy, loss, square=square, rate=settings.rate, step=step)
            assert list(record) == columns
            history.append(record)
            done = len(history) == settings.steps
            if checkpoint is not None and (done or len(history) % _KEPT == 0):
                checkpoint.save(history)
                _write_history(history, checkpoint.path.with_suffix(".csv"))
    finally:
        supernet.train(mode)
    tilt(policy, ceilings, expected)
    tell(settings.steps, settings.steps, "")
    trained = None if weights is None else weights.state.final_model().eval()
    return LearntPolicy(policy=policy, history=tuple(history), supernet=trained)


def _move(policy: Policy, loss: Tensor, *, square: Tensor, rate: float, step: int) -> None:
    """Go down the gradient of a loss; the steps are of one size for all logits together.

    Adam, which the paper takes, would divide the gradient of every logit by its own size: what
    hardly matters would come to count as much as what decides, and noise as much as either.

    Args:
        policy: whose logits move.
        loss: with gradients to them; without any, nothing moves.
        square: the running mean square of gradients; goes on.
        rate: see ``GradientSettings``.
        step: number of the step.
    """
    if not loss.requires_grad:  # nothing to choose
        return
    gradients = torch.autograd.grad(loss, policy.logits, materialize_grads=True)
    mean = torch.cat(gradients).square().mean()
    square.mul_(_MEMORY).add_((1 - _MEMORY) * mean)
    size = float((square / (1 - _MEMORY ** (step + 1))).sqrt())
    with torch.no_grad():
        for logits, gradient in zip(policy.logits, gradients, strict=True):
            logits -= gradient * (rate / size if size else 0.0)


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    with disk_errors(path), new_file(path) as part, part.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
