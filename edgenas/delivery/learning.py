"""What a gradient search learnt, for the report."""

import numpy as np

from edgenas.bundle.trace import Learning, LearntChoice
from edgenas.space.space import Space
from edgenas.strategies.gradient.collapse import SKIPS
from edgenas.strategies.gradient.policy import Decision, list_values, name_choice
from edgenas.strategies.gradient.run import LearntPolicy

_SHOWN = 60  # steps
_LARGEST = 1e6  # of a logit in the file


def describe_learning(strategy: str, learnt: LearntPolicy) -> Learning | None:
    """The course of a gradient search; None where there was nothing to learn.

    Args:
        strategy: its name.
        learnt: its outcome.
    """
    history, policy = learnt.history, learnt.policy
    if not history or not policy.choices or len(learnt.trail) != len(history):
        return None
    few = np.unique(np.linspace(0, len(history) - 1, _SHOWN).round().astype(int)).tolist()
    trail = learnt.trail[few].double().clamp(-_LARGEST, _LARGEST).numpy()
    ends = np.cumsum([choice.size for choice in policy.choices])
    parts = np.split(trail, ends[:-1], axis=1)
    choices = [
        LearntChoice(
            name=name_choice(policy.space, choice),
            alternatives=_name_alternatives(policy.space, choice),
            logits=tuple(tuple(_shorten(x) for x in line) for line in part.T),
        )
        for choice, part in zip(policy.choices, parts, strict=True)
    ]
    lines = [history[step] for step in few]
    return Learning(
        strategy=strategy,
        steps=tuple(few),
        entropy=tuple(min(max(_shorten(line["entropy"]), 0.0), 1.0) for line in lines),
        skips=tuple(_shorten(line[SKIPS]) for line in lines if SKIPS in line),
        choices=tuple(choices),
    )


def _name_alternatives(space: Space, choice: Decision) -> tuple[str, ...]:
    """The values of each alternative, e.g. ``5, 3.0`` for a kernel and an expansion."""
    return tuple(", ".join(map(str, values)) for values in list_values(space, choice))


def _shorten(value: float) -> float:
    """Enough digits for a picture."""
    return float(f"{value:.4g}")
