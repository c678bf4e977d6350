"""The state of a board as a value: what it is, what runs there, and in which mode.

`edgenas.clock.state_reading` asks for it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgenas.clock.jetpack import JetPack, jetpack_of


@dataclass(frozen=True, slots=True)
class PowerMode:
    """A mode of ``nvpmodel``: its number, and the name that the board has for it."""

    number: int
    name: str

    def __str__(self) -> str:
        """For people: ``25W (mode 1)``."""
        return f"{self.name} (mode {self.number})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """The clock of a processor, in hertz. None: not told.

    Args:
        of: which processor.
        least: what the governor may go down to.
        most: what it may go up to.
        now: at this moment.
        governor: who decides.
    """

    of: str
    least: float | None
    most: float | None
    now: float | None
    governor: str

    @property
    def locked(self) -> bool | None:
        """Whether it cannot change; None where that is not told."""
        if self.least is None or self.most is None:
            return None
        return self.least == self.most


@dataclass(frozen=True, slots=True)
class Heat:
    """A sensor of temperature, in Celsius."""

    zone: str
    celsius: float


@dataclass(frozen=True, slots=True)
class Rail:
    """A power rail, in watts at this moment; None: it cannot be read."""

    name: str
    watts: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A package of the board's Python.

    Args:
        name: of the module.
        version: what it says; empty: it cannot be imported.
        missing: why not.
        providers: of ONNX Runtime.
    """

    name: str
    version: str = ""
    missing: str = ""
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of memory or of a file system: all of them, and those that are free."""

    size: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardState:
    """A board, or this machine, at one moment. Texts are empty where it does not tell them.

    Args:
        model: of the board.
        kernel: name, release and machine of the kernel.
        os: of its system.
        processor: the name of its CPU.
        features: what that CPU can do, in the words of the kernel.
        l4t: version of Linux for Tegra, as ``36.4.3``.
        packages: NVIDIA's packages that are installed, with their versions.
        trtexec: the path of TensorRT's tool.
        tensorrt: the version of TensorRT.
        tensorrt_build: its build number.
        trtexec_fault: what the tool says instead of its version.
        power_mode: of ``nvpmodel``; None: not told.
        power_modes: all that the board has.
        gpu: the clock of its GPU; None: not told.
        cpus: the clocks of its CPU.
        heat: its sensors.
        throttling: signs that something slows it down now, in words.
        memory: of the board; a GPU of a Jetson uses the same.
        swap: beside it.
        disk: of the system.
        shared_memory: ``/dev/shm``.
        load: processes that run or wait to, over the last minute.
        rails: sensors of power.
        energy_counters: sensors of energy of the CPU (RAPL): name, and whether it can be read.
        fans: in words.
        tools: commands that are there.
        desktop_gpu: the words of ``nvidia-smi`` about its GPU.
        python: the version of the Python that was asked for.
        python_fault: why it does not run.
        modules: its packages.
    """

    model: str = ""
    kernel: str = ""
    os: str = ""
    processor: str = ""
    features: tuple[str, ...] = ()
    l4t: str = ""
    packages: Mapping[str, str]
    trtexec: str = ""
    tensorrt: str = ""
    tensorrt_build: str = ""
    trtexec_fault: str = ""
    power_mode: PowerMode | None = None
    power_modes: tuple[PowerMode, ...] = ()
    gpu: Frequency | None = None
    cpus: tuple[Frequency, ...] = ()
    heat: tuple[Heat, ...] = ()
    throttling: tuple[str, ...] = ()
    memory: Room | None = None
    swap: Room | None = None
    disk: Room | None = None
    shared_memory: Room | None = None
    load: float | None = None
    rails: tuple[Rail, ...] = ()
    energy_counters: Mapping[str, bool]
    fans: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    desktop_gpu: str = ""
    python: str = ""
    python_fault: str = ""
    modules: tuple[Module, ...] = ()

    @property
    def jetpack(self) -> JetPack | None:
        """The JetPack of its L4T; None: it has none, or an unknown one."""
        return jetpack_of(self.l4t)

    @property
    def jetson(self) -> bool:
        """Whether it is a Jetson."""
        return bool(self.l4t) or "jetson" in self.model.lower()

    @property
    def hottest(self) -> Heat | None:
        """The sensor that reads most; None: there is none."""
        return max(self.heat, key=lambda each: each.celsius, default=None)

    def facts(self) -> dict[str, Any]:
        """What times of this board depend on, flat, as tables and records keep it."""
        mode, gpu, hottest = self.power_mode, self.gpu, self.hottest
        return {
            "board": self.model or None,
            "l4t": self.l4t or None,
            "jetpack": self.jetpack.name if self.jetpack else None,
            "tensorrt": self.tensorrt or None,
            "tensorrt_build": self.tensorrt_build or None,
            "power_mode": mode.name if mode else None,
            "power_mode_number": mode.number if mode else None,
            "gpu_frequency": gpu.now if gpu else None,
            "gpu_least_frequency": gpu.least if gpu else None,
            "gpu_most_frequency": gpu.most if gpu else None,
            "gpu_locked": gpu.locked if gpu else None,
            "temperature": hottest.celsius if hottest else None,
            "throttled": "; ".join(self.throttling) or None,
            "load": self.load,
        }

    def to_json(self) -> dict[str, Any]:
        """All of it, with the name of the JetPack."""
        return {**asdict(self), "jetpack": self.jetpack.name if self.jetpack else None}
