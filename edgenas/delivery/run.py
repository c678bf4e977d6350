"""The pipeline, top to bottom.

    request -> resolve -> prepare -> choose -> (retrain) -> (fine_tune_integers) -> evaluate
        -> record -> bundle

``choose`` searches, extracts, calibrates, exports, holds the export against PyTorch, measures, and
searches again while the measurement misses the budget. On a device at hand the promise is on the
measured number of a fresh measurement; elsewhere it is on the upper bound of the prediction, and
the output says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.basics.options import key_values
from edgenas.basics.progress import Progress, Say, say_nothing
from edgenas.basics.units import milliseconds
from edgenas.bundle.signing import check_key, sign
from edgenas.bundle.write import BundleParts, check_output, load_bundle, write_bundle
from edgenas.delivery.building import compare_on_evaluation_images
from edgenas.delivery.choosing import Chosen
from edgenas.delivery.evaluating import Evaluated, auto_precisions, evaluate
from edgenas.delivery.given import find_given
from edgenas.delivery.given_network import deliver_given
from edgenas.delivery.log import trace_of
from edgenas.delivery.metering import choose_metered, meter_delivered
from edgenas.delivery.preparing import Prepared, Resolved, prepare, resolve
from edgenas.delivery.recording import record_of
from edgenas.delivery.request import AUTO, SpecializeRequest
from edgenas.delivery.result import Result
from edgenas.delivery.retraining import describe_joint_training, retrain
from edgenas.delivery.shared import SharedInputs
from edgenas.delivery.starting import choose_start
from edgenas.delivery.target_file import describe_file, make_file
from edgenas.latency.table_file import find_table
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet
from edgenas.pages.bundle import bundle_page
from edgenas.profiling.tables import NoTableError
from edgenas.space.arch import Arch

if TYPE_CHECKING:
    from edgenas.delivery.transfer import Transfer


def specialize(
    request: SpecializeRequest,
    *,
    out: Path | None = None,
    force: bool = False,
    progress: Progress = lambda step, done, total, words: None,
    inputs: SharedInputs | None = None,
    say: Say = say_nothing,
) -> Result:
    """Find, build, check and deliver the network that fits a device and its budgets.

    Args:
        request: what is asked for.
        out: folder of the bundle; None means ``./<device>-<budget>-<arch id>``.
        force: replace a bundle that is there.
        progress: called with (step, done, total, words).
        inputs: what other specialisations have read already, and may use afterwards.
        say: called with lines that a person should read.

    Raises:
        EdgenasError: something asked for is unknown, the budgets cannot be met, or the built
            network fails a check. No bundle is left behind then.
    """
    inputs = SharedInputs() if inputs is None else inputs
    resolved = resolve(request, progress=progress)
    request = choose_start(request, inputs)
    transfer: Transfer | None = None
    if request.transfers:
        # Only this loads what trains supernets.
        from edgenas.delivery.transfer import start_transfer

        resolved = replace(resolved, request=request)
        transfer = start_transfer(
            resolved,
            inputs,
            before=partial(_check_absent, out, force=force),
            progress=progress,
            say=say,
        )
        request = replace(request, supernet=str(transfer.supernet))
        resolved = replace(resolved, request=request)
    finish = partial(_finish, inputs=inputs, transfer=transfer, progress=progress, say=say)
    key = bundle_key(resolved, inputs.supernet(request.supernet))
    if out is not None and (existing := _find_existing(out, key, request, force=force)):
        return existing
    if request.precision == AUTO:
        finished = _finish_most_accurate(resolved, finish)
    else:
        finished = finish(resolved)
    built = finished.chosen.built
    folder = out or Path(_name_folder(finished.prepared, built.arch))
    if out is None and (existing := _find_existing(folder, key, request, force=force)):
        return existing
    return _deliver(finished, folder=folder, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The network for one target, with everything that its record needs."""

    prepared: Prepared
    chosen: Chosen
    evaluated: Evaluated


def _finish(
    resolved: Resolved,
    *,
    inputs: SharedInputs,
    transfer: "Transfer | None",
    progress: Progress,
    say: Say,
) -> Finished:
    """Prepare, choose, retrain where asked for, and evaluate."""
    request = resolved.request
    prepared = prepare(resolved, inputs, progress=progress)
    given = find_given(request, prepared.trained)
    chosen = choose_metered(prepared) if given is None else deliver_given(prepared, given)
    if transfer is not None:
        from edgenas.delivery.fine_tuning import fine_tune_best

        chosen = fine_tune_best(prepared, chosen, transfer, say=say)
    if request.retrains:
        chosen = retrain(prepared, chosen)
    chosen = describe_joint_training(prepared, chosen)
    if request.fine_tunes_integers:
        from edgenas.delivery.quantising import fine_tune_integers

        chosen = fine_tune_integers(prepared, chosen)
    chosen = meter_delivered(prepared, chosen)
    chosen = replace(chosen, built=compare_on_evaluation_images(prepared, chosen.built))
    chosen = replace(chosen, notes=(*chosen.notes, *describe_file(resolved.target)))
    return Finished(prepared=prepared, chosen=chosen, evaluated=evaluate(prepared, chosen.built))


def _finish_most_accurate(resolved: Resolved, finish: Callable[[Resolved], Finished]) -> Finished:
    """The network of the precision whose network classifies most images correctly."""
    best: Finished | None = None
    notes: tuple[str, ...] = ()
    for precision in auto_precisions(
        resolved.request, target=resolved.target, here=resolved.reachable
    ):
        target = replace(resolved.target, precision=precision)
        try:
            finished = finish(replace(resolved, target=target))
        except NoTableError:
            raise
        except EdgenasError as error:
            notes += (f"auto: no {precision} network: {error.message}",)
            continue
        notes += (f"auto: {precision} gives {_describe(finished)}",)
        if best is None or _share_correct(finished) > _share_correct(best):
            best = finished
    if best is None:
        raise EdgenasError("; ".join(notes), hint="allow a larger budget")
    return replace(best, chosen=replace(best.chosen, notes=(*best.chosen.notes, *notes)))


def _share_correct(finished: Finished) -> float:
    """The share of evaluation images that a network classifies correctly."""
    evaluation = finished.evaluated.evaluation
    return 0.0 if evaluation is None else evaluation.correct / evaluation.n


def _describe(finished: Finished) -> str:
    built = finished.chosen.built
    words = f"{_share_correct(finished):.2%} with {built.arch}"
    if built.measured is None:
        return words
    seconds = built.seconds(finished.prepared.request.percentile)
    return f"{words}, measured at {milliseconds(seconds)}"


def _deliver(finished: Finished, *, folder: Path, key: dict[str, Any]) -> Result:
    """Write the bundle."""
    prepared, chosen = finished.prepared, finished.chosen
    built, trained = chosen.built, prepared.trained
    record = record_of(prepared, chosen, finished.evaluated)
    if prepared.request.sign is not None:
        # No bar: ssh-keygen may ask for a passphrase.
        prepared.progress("signing", 0, 0, "")
    trace = trace_of(chosen.log, prepared.space, built.arch, latency=prepared.latency.predictor)
    trace = replace(trace, learning=chosen.learnt.learning)
    write_bundle(
        folder,
        BundleParts(
            space=prepared.space,
            arch=built.arch,
            onnx=built.onnx,
            preprocessing=trained.preprocessing,
            labels=trained.classes,
            record=record,
            trace=trace,
            parity=built.parity,
            request=key,
            batch=prepared.latency.target.batch,
            tflite=make_file(built.onnx, prepared.latency.target),
        ),
        page=bundle_page,
        key=prepared.request.sign,
    )
    return Result(
        folder=folder,
        arch=built.arch,
        record=record,
        signed_by=_find_signer(prepared.request),
    )


def bundle_key(resolved: Resolved, trained: TrainedSupernet) -> dict[str, Any]:
    """Everything that decides what the bundle will be, as JSON values."""
    request, target = resolved.request, resolved.target
    accuracy = trained.require_folder() / ACCURACY_FILE
    if request.precision == AUTO:
        target = replace(target, precision=AUTO)
    key: dict[str, Any] = {
        "device": resolved.device.name,
        "target": target.slug,
        "constraints": sorted(str(c) for c in resolved.constraints),
        "supernet": sha256(trained.weights_path),
        "accuracy": sha256(accuracy) if accuracy.exists() else None,
    }
    if not resolved.reachable:  # a device at hand is measured anew each time, its table may grow
        key["latency"] = sha256(find_table(resolved.target) or resolved.device.path)
    if (arch := find_given(request, trained)) is not None:
        key["arch"] = arch.id
    if request.fine_tunes_integers:
        # Also where it is the usual number: older versions made other networks of such requests.
        key["int8_epochs"] = "usual" if request.int8_epochs is None else request.int8_epochs
    return key | key_values(request)


def _find_existing(
    folder: Path, key: dict[str, Any], request: SpecializeRequest, *, force: bool
) -> Result | None:
    """The bundle that is there already and answers the request, signed where that is asked for."""
    if check_output(folder, request=key, force=force) is None:
        return None
    arch, record = load_bundle(folder)
    if request.sign is not None:
        sign(folder, key=request.sign)
    return Result(
        folder=folder,
        arch=arch,
        record=record,
        existed=True,
        signed_by=_find_signer(request),
    )


def _check_absent(out: Path | None, *, force: bool) -> None:
    """Refuse a folder that may not be written to. No bundle in it can be the one asked for."""
    if out is not None:
        check_output(out, request={}, force=force)


def _find_signer(request: SpecializeRequest) -> str:
    """The fingerprint of the key that signs; empty where nobody does."""
    return "" if request.sign is None else check_key(request.sign)


def _name_folder(prepared: Prepared, arch: Arch) -> str:
    budgets = prepared.budgets[:1] or prepared.constraints
    words = "-".join("".join(c.text.split()) for c in budgets) or "free"
    return f"{Path(prepared.request.device).stem}-{words}-{arch.id}"
