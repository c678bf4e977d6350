"""Rounds of fine-tuning: who is trained for how long, and who goes on (successive halving).

What is decided before the first round stands in a file, so that a command that was killed goes on
with the same networks for the same time.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from edgenas.basics.decode import decode
from edgenas.basics.files import read_json, write_json
from edgenas.basics.options import key_values
from edgenas.basics.progress import Say, explain_stop
from edgenas.basics.ranges import Id, Length, Positive, SecondsOrZero
from edgenas.basics.units import duration
from edgenas.delivery.contenders import Contender, with_score
from edgenas.delivery.preparing import Prepared
from edgenas.delivery.transfer import Transfer
from edgenas.images.data import Images
from edgenas.strategies.gradient.checkpoint import digest
from edgenas.training.alone import count_steps
from edgenas.training.fine_tuning import load_trained, time_steps
from edgenas.training.job import TRAINED, make_job, read_evaluations, save_images, write_job
from edgenas.training.recipe import Recipe
from edgenas.training.side_by_side import fine_tune_all
from edgenas.training.transfer import TRANSFER, TransferRecipe

SCHEMA = "edgenas.fine-tuning-rounds/1"
_VERSION = "1"  # raise it where the same job would end with other weights


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRound:
    """A round with its time.

    Args:
        networks: how many.
        seconds: for each of them.
    """

    networks: Positive
    seconds: SecondsOrZero


@dataclass(frozen=True, slots=True, kw_only=True)
class Agenda:
    """What was decided for a request before its first round.

    Args:
        earlier: the fine-tunings that had ended by then, names of folders.
        rounds: to be trained; none: they are not planned yet.
    """

    earlier: Annotated[tuple[Id, ...], Length(0, 100_000)]
    rounds: tuple[PlannedRound, ...] = ()


def _agenda_path(prepared: Prepared, transfer: Transfer) -> Path:
    request = prepared.request
    values = {**key_values(request), "time": transfer.seconds}
    texts = [str(prepared.latency.target), str(sorted(map(str, prepared.constraints)))]
    return transfer.folder / "requests" / f"{digest([*texts, str(values)], [])[:16]}.json"


def read_agenda(prepared: Prepared, transfer: Transfer) -> Agenda:
    """What was decided for this request, or a new agenda with what is there now.

    Args:
        prepared: the request.
        transfer: the folder and the time.
    """
    path = _agenda_path(prepared, transfer)
    # Without any training nothing can be cut off, and what came later is welcome.
    if path.exists() and transfer.seconds > 0:
        return decode(Agenda, read_json(path, schema=SCHEMA), where=str(path))
    names = sorted(p.parent.name for p in transfer.alone.glob(f"*/{TRAINED}"))
    agenda = Agenda(earlier=tuple(names))
    if transfer.seconds > 0:
        write_json(path, {"schema": SCHEMA, **asdict(agenda)})
    return agenda


def plan_rounds(
    recipe: TransferRecipe, *, contenders: int, seconds: float, epoch: float, at_once: int
) -> tuple[PlannedRound, ...]:
    """Divide the time between rounds. A round too short for an order of its networks is left out.

    Args:
        recipe: says how many networks a round has, and its share.
        contenders: how many networks there are.
        seconds: for all rounds.
        epoch: seconds of an epoch of one network.
        at_once: networks that are trained at the same time.
    """
    rounds = list(recipe.rounds)
    while True:
        whole, planned = sum(r.share for r in rounds), list[PlannedRound]()
        for part in rounds:
            networks = min(part.networks, contenders)
            waves = -(-networks // at_once)
            each = seconds * part.share / whole / waves
            planned.append(PlannedRound(networks=networks, seconds=each))
        short = [i for i, r in enumerate(planned[:-1]) if r.seconds < recipe.fewest_epochs * epoch]
        # The same networks again would choose nothing.
        short += [i for i, r in enumerate(planned[:-1]) if r.networks <= planned[i + 1].networks]
        if not short:
            return tuple(planned)
        del rounds[short[0]]


def run_rounds(
    prepared: Prepared,
    transfer: Transfer,
    contenders: Sequence[Contender],
    *,
    agenda: Agenda,
    say: Say,
) -> list[Contender]:
    """Fine-tune networks round by round; all that came out of it, with their scores.

    Args:
        prepared: the images.
        transfer: the folder and the time.
        contenders: the most promising first.
        agenda: what was decided for this request before.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: a training diverges or breaks off.
    """
    training, validation = (
        prepared.images.require_training(),
        prepared.images.require_validation(),
    )
    rounds = agenda.rounds or _plan(prepared, transfer, contenders, training)
    if not agenda.rounds:
        fields = asdict(replace(agenda, rounds=rounds))
        write_json(_agenda_path(prepared, transfer), {"schema": SCHEMA, **fields})
    content = digest([], [training.pixels, training.labels, validation.labels])[:16]
    images = transfer.folder / f"images-{content}.safetensors"
    save_images(images, training=training, validation=validation)
    ended, waiting = list[Contender](), list(contenders)
    for number, planned in enumerate(rounds, 1):
        say(
            f"round {number} of {len(rounds)}: {planned.networks} networks are fine-tuned, "
            f"{duration(planned.seconds)} each; they are kept in {transfer.alone}"
        )
        done = _run_round(
            prepared, transfer, waiting[: planned.networks], planned=planned, images=images, say=say
        )
        ended += done
        waiting = sorted(done, key=lambda contender: -(contender.score or 0.0))
    return ended


def _plan(
    prepared: Prepared, transfer: Transfer, contenders: Sequence[Contender], training: Images
) -> tuple[PlannedRound, ...]:
    """The rounds, by the time of a step of the most promising network on one core."""
    cores = torch.get_num_threads()
    recipe = _choose_recipe(prepared, trained=True)
    torch.set_num_threads(1)
    try:
        preprocessing = prepared.trained.preprocessing
        network = contenders[0].network
        step = time_steps(network, training, recipe=recipe, preprocessing=preprocessing)
    finally:
        torch.set_num_threads(cores)
    epoch = step * count_steps(recipe, images=len(training))[1]
    return plan_rounds(
        TRANSFER, contenders=len(contenders), seconds=transfer.seconds, epoch=epoch, at_once=cores
    )


def _choose_recipe(prepared: Prepared, *, trained: bool) -> Recipe:
    """How a network is fine-tuned for this request, by whether its weights know the images."""
    images, balance = len(prepared.images.require_training()), prepared.request.balance or 0.0
    return TRANSFER.alone_from(trained=trained, images=images, balance=balance)


def _run_round(
    prepared: Prepared,
    transfer: Transfer,
    contenders: Sequence[Contender],
    *,
    planned: PlannedRound,
    images: Path,
    say: Say,
) -> list[Contender]:
    """Fine-tune some networks, each for the same time; the same networks with new weights."""
    seed, preprocessing = prepared.request.seed, prepared.trained.preprocessing
    folders: dict[str, Path] = {}
    for contender in contenders:
        recipe = _choose_recipe(prepared, trained=contender.trained)
        job = make_job(
            contender.network,
            recipe=recipe,
            preprocessing=preprocessing,
            seed=seed,
            seconds=planned.seconds,
            start=contender.start,
            epochs_before=contender.epochs,
        )
        texts = [_VERSION, str(job), images.name, str(torch.get_num_threads())]
        name = digest(texts, contender.network.parameters())[:12]
        folders[contender.key] = transfer.alone / f"{contender.arch.id}-{name}"
        write_job(folders[contender.key], job, contender.network)
    names = {
        f"{contender.name} ({i})": folders[contender.key]
        for i, contender in enumerate(contenders, 1)
    }
    with explain_stop("what was learnt is kept; to go on, run the same command again"):
        fine_tune_all(names, images=images, progress=prepared.progress, say=say)
    return [_ended(prepared, contender, folders[contender.key]) for contender in contenders]


def _ended(prepared: Prepared, contender: Contender, folder: Path) -> Contender:
    """The contender with the weights of its fine-tuning."""
    network = load_trained(folder, prepared.space, contender.arch)
    count = len(prepared.images.require_training())
    recipe = _choose_recipe(prepared, trained=contender.trained)
    per_epoch = count_steps(recipe, images=count)[1]
    return with_score(
        prepared,
        Contender(
            network=network,
            start=contender.start,
            folder=folder,
            recipe=recipe,
            before=contender.key,
            epochs=contender.epochs + read_evaluations(folder)[-1].step / per_epoch,
        ),
    )
