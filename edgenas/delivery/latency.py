"""How latency is predicted for a target, and what that rests on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgenas.basics.errors import EdgenasError, unknown_name
from edgenas.basics.progress import Progress
from edgenas.clock.ssh import LinkError
from edgenas.latency import device as devices
from edgenas.latency.device import Device, Target
from edgenas.latency.energy import fit_energy
from edgenas.latency.estimate import DeviceModel, cautions_of, device_model
from edgenas.latency.fitting import build_predictor
from edgenas.latency.hints import advise_measuring, name_in_command
from edgenas.latency.predictor import LatencyPredictor, LearnedPredictor
from edgenas.latency.source import expand_model
from edgenas.latency.table import LatencyTable, Statistic
from edgenas.latency.table_file import find_table
from edgenas.profiling.energy import check_sensor, read_sensor
from edgenas.profiling.heat import HeatedBoard, heat_in
from edgenas.profiling.reach import clock_here
from edgenas.profiling.rebuilding import BUILDS, RebuildSpread, spread_of_table
from edgenas.profiling.run import ProfilePlan, profile
from edgenas.profiling.tables import NoTableError, predictor_for, table_for
from edgenas.profiling.work import Clock
from edgenas.runtime import registry as runtimes
from edgenas.space.arch import Arch
from edgenas.space.cost import Tables, Vector
from edgenas.space.genes import Codes
from edgenas.space.plan import plan
from edgenas.space.presets import load_space
from edgenas.space.primitives import primitives
from edgenas.space.space import Space


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLatency:
    """The latency of networks of one space on one target.

    Args:
        device: of the target.
        target: what the latencies belong to.
        predictor: gives seconds for rows, with an upper bound.
        model: the estimated device model behind it; None where there is a table.
        source: the table or the model, in words.
        clock: where networks are timed on the device; None where the device is out of reach.
        canary: the typical seconds of the clock's canary while the table was measured. They tell
            the speed at which its numbers hold. None where they are not known.
        energy: predicts joules of a run, from networks whose energy was measured; None where the
            table has none.
        version: of the runtime that the table was measured with; empty: there is no table.
        spread: how much builds of one network differ; None: the runtime builds no engines.
        idle_watts: what the device draws when nothing runs; None: not known.
        sensor: what told its power.
        heat: what a steady load does to its times; None: that was not measured.
        energy_factor: what predicted energies are multiplied by, after networks were metered.
    """

    device: Device
    target: Target
    predictor: LatencyPredictor
    model: DeviceModel | None
    source: str
    clock: Clock | None
    canary: float | None = None
    energy: LatencyPredictor | None = None
    version: str = ""
    spread: RebuildSpread | None = None
    idle_watts: float | None = None
    sensor: str = ""
    heat: HeatedBoard | None = None
    energy_factor: float = 1.0

    @property
    def reachable(self) -> bool:
        """Whether networks can be timed on the device from here."""
        return self.clock is not None

    def upper(self, confidence: float) -> Callable[[Codes], Vector]:
        """The function from rows to the seconds that they do not exceed, at a confidence."""
        return lambda rows: self.predictor.upper(rows, confidence=confidence)

    def to_aim_at(self, confidence: float) -> Callable[[Codes], Vector]:
        """The function from rows to seconds that a search holds to the budget of a device at hand.

        What a search gives is measured afterwards. Where that takes minutes, because an engine is
        built, the bound is aimed at, and what is promised of a further build.
        """
        if self.spread is None:
            return self.predictor.predict
        above, upper = self.spread.above(BUILDS), self.upper(confidence)
        return lambda rows: np.maximum(upper(rows), self.predictor.predict(rows) * above)

    def bound_words(self, confidence: float) -> str:
        """What the upper bound rests on."""
        kind = self.predictor.bound_kind(confidence)
        if kind == "estimate":
            return "bound from published networks that the model had not seen"
        return f"{kind} bound from measured networks"

    def predict_energy(self) -> tuple[Callable[[Codes], Vector], Tables]:
        """The function from rows to the joules of a run, and tables that rise and fall with it.

        Raises:
            EdgenasError: no energy was measured, and nobody published the power.
        """
        energy, factor = self.energy, self.energy_factor
        if energy is not None:
            return lambda rows: energy.predict(rows) * factor, energy.tables()
        watts, predict = self._published_watts(), self.predictor.predict
        return lambda rows: predict(rows) * watts, self.predictor.tables()

    def upper_energy(self, confidence: float) -> Callable[[Codes], Vector]:
        """The function from rows to the joules that a run does not exceed, at a confidence.

        Measured energies give a bound of their own. Otherwise it is that of the latency at the
        published power of the device.

        Raises:
            EdgenasError: no energy was measured, and nobody published the power.
        """
        energy, upper, factor = self.energy, self.upper(confidence), self.energy_factor
        if energy is not None:
            return lambda rows: energy.upper(rows, confidence=confidence) * factor
        watts = self._published_watts()
        return lambda rows: upper(rows) * watts

    def _published_watts(self) -> float:
        watts = None if self.model is None else self.model.joules(1.0)
        if watts is None:
            raise no_energy(self.device, self.target)
        return watts

    @property
    def energy_words(self) -> str:
        """What a predicted energy rests on."""
        return "at the published wall power" if self.energy is None else "from measured energies"

    def cautions(self, arch: Arch, *, space: Space) -> list[str]:
        """What a reader of a predicted latency should know, one line each.

        Args:
            arch: the network.
            space: of the network.
        """
        if self.predictor.provenance == "measured":
            return []
        cautions: list[str] = []
        if self.model is not None:
            operators = [p for _, layer in plan(space, arch) for p in primitives(layer)]
            runtime = runtimes.find(self.target.runtime)
            file = runtime.bundle_file.name if runtime and runtime.bundle_file else "model.onnx"
            cautions = cautions_of(self.model, operators, file=file)
        options = _name_space(space)
        if options is None and self.device.reach != "none":
            advice = "measure it: give --ssh user@board to specialize, which profiles the board"
        else:
            advice = advise_measuring(self.device, self._measuring_command(options or ""))
            advice += "; or give --ssh to specialize" if self.device.reach == "ssh" else ""
        cautions.append(f"the latency is {self.predictor.provenance}, not measured; {advice}")
        return cautions

    def _measuring_command(self, space: str) -> str:
        command = f"edgenas profile --device {name_in_command(self.device)} {space}"
        if not runtimes.can_be_timed(self.target.runtime):
            return f"{command} --runtime {runtimes.DEFAULT} --precision fp32"
        runs = f"--runtime {self.target.runtime} --precision {self.target.precision}"
        return f"{command} {runs} --threads {self.target.threads}"


def _name_space(space: Space) -> str | None:
    """The options of a command that mean a space; None: it has no name that commands know."""
    try:
        named = load_space(space.name)
    except EdgenasError:
        return None
    own = "" if named.classes == space.classes else f" --classes {space.classes}"
    return f"--space {space.name}{own}"


def no_energy(
    device: Device,
    target: Target,
    *,
    why: str = "no wall power was published, and no energy measured",
) -> EdgenasError:
    """The error for a budget of energy that nothing can be held to."""
    hint = "leave out the budget of energy"
    if device.reach != "none":
        command = f"edgenas profile --device {name_in_command(device)} --space SPACE --energy"
        hint += f", or {advise_measuring(device, command)}"
    return EdgenasError(f"no energy is known for {target}: {why}", hint=hint)


def check_energy(device: Device, target: Target, clock: Clock) -> None:
    """Refuse a machine that tells nobody its power, before it is profiled.

    Raises:
        EdgenasError: says so.
    """
    try:
        check_sensor(clock)
    except LinkError:
        raise
    except EdgenasError as error:
        raise no_energy(device, target, why=error.message) from None


def check_runtime(name: str) -> None:
    """Refuse a runtime that neither this machine nor any device profile has.

    Raises:
        EdgenasError: names the nearest.
    """
    profiled = {use.target.runtime for d in devices.list_devices() for use in d.uses}
    names = profiled | set(runtimes.names())
    if name not in names:
        raise unknown_name("runtime", name, names=names, listing="edgenas list runtimes")


def find_latency(
    space: Space,
    *,
    device: Device,
    target: Target,
    statistic: Statistic = "typical",
    clock: Clock | None = None,
) -> TargetLatency:
    """The latency of networks of a space on a target, from what is known already.

    Args:
        space: of the networks.
        device: one that is timed with ``clock``, or one that cannot be reached: a table that lies
            here, or else its estimated device model.
        target: one of the device's.
        statistic: of the measured networks behind a table's predictor.
        clock: where the device is timed. None means here if the device is this machine, and
            nowhere otherwise.

    Raises:
        NoTableError: a device that can be timed has not been profiled yet.
        EdgenasError: nothing is known of the target.
    """
    table: LatencyTable | None = None
    if clock is None and device.reach == "local":
        clock = clock_here(target.runtime)
    if clock is not None:
        table = table_for(space, target=target, clock=clock)
    elif find_table(target) is not None:
        table = table_for(space, target=target, clock=None)
    if table is not None:
        predictor = predictor_for(table, space, statistic=statistic)
        built = runtimes.is_built_by_tool(target.runtime)
        kind = f"table of {len(table.layers)} layers and {len(table.networks)} networks"
        if isinstance(predictor, LearnedPredictor):
            kind = f"layer costs learned from {len(table.networks)} networks"
        return TargetLatency(
            device=device,
            target=target,
            predictor=predictor,
            model=None,
            source=f"{kind}, {table.provenance} {table.date}".rstrip(),
            clock=clock,
            canary=table.environment.get("canary"),
            energy=fit_energy(space, table, latency=predictor),
            **read_sensor(table),
            version=table.runtime_version or "",
            spread=spread_of_table(table) if built else None,
            heat=heat_in(table),
        )
    model = device_model(device, target).for_family(space.name)
    return TargetLatency(
        device=device,
        target=target,
        predictor=build_predictor(space, expand_model(model)),
        model=model,
        source=f"device model of {device.title}, {model.evidence.own}",
        clock=None,
    )


def find_or_profile_latency(
    space: Space,
    *,
    device: Device,
    target: Target,
    statistic: Statistic,
    clock: Clock | None,
    progress: Progress,
    energy: bool = False,
    seconds: float | None = None,
) -> TargetLatency:
    """As ``find_latency``; a device that can be timed is profiled first where it was not yet.

    With ``energy`` that is so too where no energy of networks is known yet. A profile takes at
    most ``seconds`` where they are given; then layer costs are learned from whole networks.
    """
    try:
        latency = find_latency(
            space, device=device, target=target, statistic=statistic, clock=clock
        )
        if not energy or latency.energy is not None or clock is None:
            return latency
        progress("profiling", 0, 1, "no energy was measured yet")
    except NoTableError as missing:
        if clock is None:
            raise
        progress("profiling", 0, 1, f"{missing.message}: the device is timed once, for later too")
    plan = ProfilePlan(energy=energy, time_budget=seconds)
    profile(space, target=target, plan=plan, clock=clock, progress=progress)
    return find_latency(space, device=device, target=target, statistic=statistic, clock=clock)
