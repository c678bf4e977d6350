"""The pipeline, top to bottom.

    load -> latency of the target -> search -> extract -> calibrate -> ONNX -> parity
         -> measure, correct the prediction and search again while it misses
         -> where asked for, train the best ones further and take the best of them -> bundle

On a device at hand the promise is on the measured number of a fresh measurement; elsewhere it is
on the upper bound of the prediction, and the output says so.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgenas.basics.errors import EdgenasError
from edgenas.basics.files import sha256
from edgenas.basics.units import milliseconds
from edgenas.bundle.signing import check_key, sign
from edgenas.bundle.write import check_out, load_bundle, write_bundle
from edgenas.delivery.building import Built, Job, compared
from edgenas.delivery.choosing import check_reachable, choose
from edgenas.delivery.latency import Latency, no_energy
from edgenas.delivery.precision import Judged, auto_precisions, check_images, judge
from edgenas.delivery.recording import record_of
from edgenas.delivery.request import (
    AUTO,
    Request,
    Result,
    Tell,
    checked,
)
from edgenas.delivery.retraining import retrain, tell_joint
from edgenas.delivery.shared import Shared
from edgenas.delivery.trail import Trail
from edgenas.latency import device as devices
from edgenas.latency.device import Device, Target
from edgenas.latency.table_file import find_table
from edgenas.model.saved import ACCURACY_FILE, TrainedSupernet
from edgenas.pages.bundle import bundle_page
from edgenas.profiling.tables import NoTableError
from edgenas.profiling.work import Clock
from edgenas.space.arch import Arch


def specialize(
    request: Request,
    *,
    out: Path | None = None,
    force: bool = False,
    tell: Tell = lambda step, done, total, words: None,
    shared: Shared | None = None,
) -> Result:
    """Find, build, check and deliver the network that fits a device and its budgets.

    Args:
        request: what is asked for.
        out: folder of the bundle; None: ``./<device>-<budget>-<arch id>``.
        force: replace a bundle that is there.
        tell: called with (step, done, total, words).
        shared: what other specialisations have read already, and may use afterwards.

    Raises:
        EdgenasError: something asked for is unknown, the budgets cannot be met, or the built
            network fails a check. No bundle is left behind then.
    """
    request, device, target, clock = checked(request, tell=tell)
    shared = Shared() if shared is None else shared
    trained = shared.supernet(request.supernet)
    key = _key(request, trained, device=device, target=target, measured=clock is not None)
    if out is not None and (there := _existing(out, key, request, force=force)):
        return there
    if request.precision == AUTO:
        job, built, judged = _most_accurate(
            request, shared, device=device, target=target, clock=clock, tell=tell
        )
        target = job.latency.target
    else:
        job, built, judged = _one(
            request, shared, device=device, target=target, clock=clock, tell=tell
        )
    record = record_of(job, built, judged=judged)
    folder = out or Path(_folder_name(request, built.arch))
    if out is None and (there := _existing(folder, key, request, force=force)):
        return there
    if request.sign is not None:
        tell("signing", 0, 0, "")  # no bar: ssh-keygen may ask for a passphrase
    write_bundle(
        folder,
        space=job.space,
        arch=built.arch,
        onnx=built.onnx,
        preprocessing=trained.preprocessing,
        labels=trained.classes,
        record=record,
        trace=job.trail.trace(built.arch),
        page=bundle_page,
        parity=built.parity,
        request=key,
        batch=target.batch,
        key=request.sign,
    )
    return Result(folder=folder, arch=built.arch, record=record, signed_by=_signer(request))


def _one(
    request: Request,
    shared: Shared,
    *,
    device: Device,
    target: Target,
    clock: Clock | None,
    tell: Tell,
) -> tuple[Job, Built, Judged | None]:
    """The network for one target."""
    job = _prepared(request, shared, device=device, target=target, clock=clock, tell=tell)
    built = choose(job)
    if request.retrain_top:
        built = retrain(job, built)
    if request.weights == "joint":
        tell_joint(job, built.arch)
    built = compared(job, built)
    if target.runtime == "ncnn":
        job.notes.append("the bundle holds ONNX; ncnn reads what edgenas export --to ncnn makes")
    return job, built, judge(job, built)


def _most_accurate(
    request: Request,
    shared: Shared,
    *,
    device: Device,
    target: Target,
    clock: Clock | None,
    tell: Tell,
) -> tuple[Job, Built, Judged | None]:
    """The network of the precision whose network classifies most images correctly."""
    found: list[tuple[Job, Built, Judged]] = []
    notes: list[str] = []
    for precision in auto_precisions(request, target=target, here=clock is not None):
        one = replace(target, precision=precision)
        try:
            job, built, judged = _one(
                request, shared, device=device, target=one, clock=clock, tell=tell
            )
        except EdgenasError as error:
            if isinstance(error, NoTableError):
                raise
            notes.append(f"auto: no {precision} network: {error.message}")
            continue
        assert judged is not None
        notes.append(
            f"auto: {precision} gives {judged.correct / judged.n:.2%} with {built.arch}, "
            f"measured at {milliseconds(job.held(built.measured))}"
            if built.measured
            else f"auto: {precision} gives {judged.correct / judged.n:.2%} with {built.arch}"
        )
        found.append((job, built, judged))
    if not found:
        raise EdgenasError("; ".join(notes), hint="allow a larger budget")
    best = max(found, key=lambda one: one[2].correct)
    best[0].notes.extend(notes)
    return best


def _prepared(
    request: Request,
    shared: Shared,
    *,
    device: Device,
    target: Target,
    clock: Clock | None,
    tell: Tell,
) -> Job:
    """Everything that the choice needs; what may be wrong comes before what is slow."""
    trained = shared.supernet(request.supernet)
    space = trained.supernet.space
    predictor = shared.predictor(request.supernet)
    check_reachable(
        space, list(request.constraints), precision=target.precision, batch=target.batch
    )
    others: dict[str, Latency] = {}
    for name in {c.target for c in request.constraints if c.target}:
        other = devices.load(name)
        others[name] = shared.latency(request.supernet, device=other, target=other.target())
    for constraint in request.constraints:
        if constraint.metric == "energy" and constraint.target:
            others[constraint.target].watts()
        elif constraint.metric == "energy" and clock is not None:
            raise no_energy(target)  # before it is profiled
    images = shared.material(request, tell)
    check_images(request, images, target=target, here=clock is not None)
    latency = shared.latency(
        request.supernet,
        device=device,
        target=target,
        statistic="typical" if request.percentile == "p50" else "wall_p95",
        clock=clock,
        tell=tell,
    )
    return Job(
        request=request,
        trained=trained,
        predictor=predictor,
        latency=latency,
        others=others,
        material=images,
        tell=tell,
        trail=Trail(space, accuracy=predictor, latency=latency.predictor),
    )


def _key(
    request: Request, trained: TrainedSupernet, *, device: Device, target: Target, measured: bool
) -> dict[str, Any]:
    """Everything that decides what the bundle will be, as JSON values."""
    assert trained.folder is not None
    accuracy = trained.folder / ACCURACY_FILE
    key: dict[str, Any] = {
        "device": device.name,
        "target": target.slug,
        "constraints": sorted(str(c) for c in request.constraints),
        "supernet": sha256(trained.folder / "weights.safetensors"),
        "accuracy": sha256(accuracy) if accuracy.exists() else None,
    }
    if not measured:  # a device at hand is measured anew each time, its table may grow
        key["latency"] = sha256(find_table(target) or device.path)
    if request.precision == AUTO:
        key["target"] = replace(target, precision=AUTO).slug
    if request.allow_accuracy_drop:
        key["allow_accuracy_drop"] = True
    usual = Request(device=request.device, constraints=())
    for name in ("weights", "retrain_top", "retrain_from", "retrain_epochs", "retrain_rate"):
        if getattr(request, name) != getattr(usual, name):
            key[name] = getattr(request, name)
    names = ("percentile", "confidence", "strategy", "data", "test", "skip_bad_images", "seed")
    return key | {name: getattr(request, name) for name in names}


def _existing(folder: Path, key: dict[str, Any], request: Request, *, force: bool) -> Result | None:
    """The bundle that is there already and answers the request; signed, where that is asked."""
    if check_out(folder, request=key, force=force) is None:
        return None
    arch, record = load_bundle(folder)
    if request.sign is not None:
        sign(folder, key=request.sign)
    return Result(folder=folder, arch=arch, record=record, existed=True, signed_by=_signer(request))


def _signer(request: Request) -> str:
    """The fingerprint of the key that signs; empty: nobody does."""
    return "" if request.sign is None else check_key(request.sign)


def _folder_name(request: Request, arch: Arch) -> str:
    budgets = request.budgets()[:1] or request.constraints
    words = "-".join("".join(c.text.split()) for c in budgets) or "free"
    return f"{Path(request.device).stem}-{words}-{arch.id}"
