"""Reading the state of a board, over ssh or here.

`edgenas.clock.state_text` is what tells it. What comes back is the word of a machine of somebody:
every line is checked before anything is done with it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from edgenas.basics.errors import EdgenasError
from edgenas.clock.events import plain
from edgenas.clock.jetpack import read_l4t, read_tensorrt
from edgenas.clock.measure import WrongAnswerError
from edgenas.clock.shell import ask_shell
from edgenas.clock.ssh import Place
from edgenas.clock.state import BoardState, Frequency, Heat, Module, PowerMode, Rail, Room
from edgenas.clock.state_text import STATE_TEXT

_BEGIN = "edgenas-state\t1"
_MOST = 2000  # lines of an answer
_SECONDS = 90.0  # that a board may take; with all packages of its Python:
_SECONDS_WITH_PYTHON = 400.0
_GPU_NAMES = ("gpu", "gv11b", "gp10b", "ga10b", "gb10b", "gm20b")
# A passive cooling device slows something down; a fan does not.
_FANS = re.compile(r"fan", re.IGNORECASE)
# Bits of `vcgencmd get_throttled` that say what is so now.
_THROTTLED_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft heat limit"}


def read_state(place: Place | None = None, *, with_python: bool = False) -> BoardState:
    """Ask a board, or this machine, for its state. It changes nothing there.

    Args:
        place: the board; None: this machine.
        with_python: whether its Python and the packages of that are told too, which takes seconds.

    Raises:
        EdgenasError: the board cannot be reached.
        WrongAnswerError: what it answers is no state.
        ClockStoppedError: it does not answer in time.
    """
    python = "python3" if place is None else place.python
    if not python.isprintable():
        raise EdgenasError(f"python must be a name or a path, found {python!r}")
    lines = ask_shell(
        STATE_TEXT,
        header=python if with_python else "-",
        place=place,
        begin=_BEGIN,
        most=_MOST,
        seconds=_SECONDS_WITH_PYTHON if with_python else _SECONDS,
    )
    return parse_state(lines, where="this machine" if place is None else place.address)


def parse_state(lines: Iterable[str], *, where: str) -> BoardState:
    """The state that the lines of an answer tell.

    Args:
        lines: of `edgenas.clock.state_text`, between its first and its last.
        where: who answered.

    Raises:
        WrongAnswerError: a line is none of that text.
    """
    told: dict[str, list[list[str]]] = defaultdict(list)
    for line in lines:
        key, *fields = line.split("\t")
        if key not in _FIELDS or len(fields) < _FIELDS[key]:
            raise WrongAnswerError(
                f"{where} answers with what is no state of a board: {plain(line, longest=80)!r}",
                hint="its login shell must not print anything for commands; see ~/.bashrc there",
            )
        if _FIELDS[key] == 1:  # a text; a tab in it is a blank
            fields = [" ".join(fields)]
        told[key].append([plain(field, longest=4000) for field in fields])
    return _Answer(told).read()


# How many fields each line has at least.
_FIELDS = {
    **dict.fromkeys(("kernel", "os", "model", "compatible", "product", "l4t", "tool"), 1),
    **dict.fromkeys(("package", "trtexec", "trtexec-says", "nvpmodel", "nvpmodel-status"), 1),
    **dict.fromkeys(("mode", "cpu-online", "cpu-offline", "cpuinfo", "memory", "load"), 1),
    **dict.fromkeys(("throttled", "gpu"), 1),
    **dict.fromkeys(("zone", "rapl", "disk", "python", "module"), 2),
    **dict.fromkeys(("cooling", "fan"), 3),
    **dict.fromkeys(("devfreq", "cpufreq", "rail"), 6),
}


class _Answer:
    """The lines of an answer by their keys, and what they mean."""

    def __init__(self, told: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._told = told

    def _rows(self, key: str) -> Sequence[Sequence[str]]:
        return self._told.get(key, ())

    def _texts(self, key: str) -> list[str]:
        return [row[0] for row in self._rows(key)]

    def _first(self, *keys: str) -> str:
        return next((text for key in keys for text in self._texts(key) if text), "")

    def read(self) -> BoardState:
        tensorrt, build = read_tensorrt(self._first("trtexec-says"))
        known = bool(tensorrt) or not self._texts("trtexec")
        modes = self._power_modes()
        memory = dict(_pairs(self._texts("memory")))
        python = self._rows("python")[-1] if self._rows("python") else ("", "")
        version, fault = _told_version(python[1])
        return BoardState(
            model=self._first("model", "product"),
            kernel=self._first("kernel"),
            os=self._first("os").strip("\"'"),
            processor=self._processor(),
            features=self._features(),
            l4t=read_l4t(self._first("l4t")),
            packages=dict(self._packages()),
            trtexec=self._first("trtexec"),
            tensorrt=tensorrt,
            tensorrt_build=build,
            trtexec_fault="" if known else self._first("trtexec-says") or "it says nothing",
            power_mode=self._power_mode(modes),
            power_modes=modes,
            gpu=self._gpu(),
            cpus=tuple(self._cpus()),
            heat=tuple(self._heat()),
            throttling=tuple(self._throttling()),
            memory=_room(memory, "MemTotal", "MemAvailable"),
            swap=_room(memory, "SwapTotal", "SwapFree"),
            disk=self._file_system("/"),
            shared_memory=self._file_system("/dev/shm"),
            load=_number(self._first("load").split(" ")[0]),
            rails=tuple(self._rails()),
            energy_counters={
                row[0]: _number(row[1]) is not None for row in self._rows("rapl") if row[0]
            },
            fans=tuple(self._fans()),
            tools=tuple(dict.fromkeys(self._texts("tool"))),
            desktop_gpu=self._first("gpu"),
            python=version.split(" ")[0],
            python_fault=fault,
            modules=tuple(self._modules()),
        )

    def _processor(self) -> str:
        entries = list(_pairs(self._texts("cpuinfo")))
        names = [value for name, value in entries if name == "model name"]
        parts = [f"CPU part {value}" for name, value in entries if name == "CPU part"]
        return " + ".join(dict.fromkeys(names or parts))

    def _features(self) -> tuple[str, ...]:
        entries = _pairs(self._texts("cpuinfo"))
        return tuple(
            dict.fromkeys(
                word
                for name, value in entries
                if name in ("Features", "flags")
                for word in value.split(" ")
            )
        )

    def _packages(self) -> Iterable[tuple[str, str]]:
        for text in self._texts("package"):
            name, _, rest = text.partition(" ")
            version, _, status = rest.partition(" ")
            if version and status.endswith(" installed"):
                yield name, version

    def _power_modes(self) -> tuple[PowerMode, ...]:
        pattern = re.compile(r"< *POWER_MODEL .*\bID=(\d{1,3}) +NAME=([\w.\-]{1,40})")
        matches = (pattern.search(text) for text in self._texts("mode"))
        modes = {int(each[1]): each[2] for each in matches if each}
        return tuple(PowerMode(number, name) for number, name in sorted(modes.items()))

    def _power_mode(self, modes: tuple[PowerMode, ...]) -> PowerMode | None:
        said = self._texts("nvpmodel")
        names = [t.partition(":")[2].strip() for t in said if t.startswith("NV Power Mode:")]
        numbers = [int(text) for text in said if re.fullmatch(r"\d{1,3}", text)]
        numbers += [
            int(match[1])
            for text in self._texts("nvpmodel-status")
            if (match := re.match(r"pmode:(\d{1,4})\b", text))
        ]
        if not numbers:
            same = [mode for mode in modes if names and mode.name == names[0]]
            return same[0] if same else None
        listed = [mode.name for mode in modes if mode.number == numbers[0]]
        name = names[0] if names else listed[0] if listed else f"MODE_{numbers[0]}"
        return PowerMode(numbers[0], name)

    def _gpu(self) -> Frequency | None:
        for folder, name, least, most, now, governor in (row[:6] for row in self._rows("devfreq")):
            if name in _GPU_NAMES or any(word in folder for word in _GPU_NAMES):
                low, high, current = _number(least), _number(most), _number(now)
                return Frequency(of="gpu", least=low, most=high, now=current, governor=governor)
        return None

    def _cpus(self) -> Iterable[Frequency]:
        for cores, least, most, now, governor, _ in (row[:6] for row in self._rows("cpufreq")):
            yield Frequency(
                of=f"cpu {_range(cores)}",
                least=_kilo(least),
                most=_kilo(most),
                now=_kilo(now),
                governor=governor,
            )

    def _heat(self) -> Iterable[Heat]:
        for zone, text, *_ in self._rows("zone"):
            value = _number(text)
            # A sensor without power answers -256000, and that of older Tegras' PMIC a constant.
            if value is not None and 0 < value < 150_000 and not zone.startswith("PMIC"):
                yield Heat(zone, value / 1000)

    def _throttling(self) -> Iterable[str]:
        for kind, now, *_ in self._rows("cooling"):
            if (_number(now) or 0) > 0 and not _FANS.search(kind):
                yield f"{kind or 'a cooling device'} is at step {now}"
        for row in self._rows("rail"):
            for kind, alarm in zip(("critical", "average"), row[4:6], strict=False):
                if alarm == "1":
                    yield f"the {kind} current limit of {row[0]} is reached"
        for text in self._texts("throttled"):
            match = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", text)
            bits = int(match[1], 16) if match else 0
            yield from (words for bit, words in _THROTTLED_NOW.items() if bits >> bit & 1)

    def _rails(self) -> Iterable[Rail]:
        for name, millivolts, milliamperes, milliwatts, *_ in self._rows("rail"):
            watts = _milli(milliwatts)
            volts, amperes = _milli(millivolts), _milli(milliamperes)
            if watts is None and volts is not None and amperes is not None:
                watts = volts * amperes
            # Channels that are not connected are called NC.
            if name and name != "NC" and not name.startswith("sum of"):
                yield Rail(name, watts)

    def _fans(self) -> Iterable[str]:
        for name, duty, turns, *_ in self._rows("fan"):
            words = [f"{duty} of 255" if duty else "", f"{turns} turns a minute" if turns else ""]
            yield f"{name}: {', '.join(filter(None, words))}"

    def _file_system(self, path: str) -> Room | None:
        for name, line, *_ in self._rows("disk"):
            match = re.search(r" (\d{1,15}) +\d{1,15} +(-?\d{1,15}) +\d{1,3}%", line)
            if name == path and match:
                return Room(int(match[1]) << 10, max(0, int(match[2])) << 10)
        return None

    def _modules(self) -> Iterable[Module]:
        for name, said, *_ in self._rows("module"):
            told, missing = _told_version(said)
            version, *providers = told.split(" ") if told else ("",)
            yield Module(
                name=name,
                version=version,
                missing=missing,
                providers=tuple(filter(None, providers)),
            )


def _pairs(texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, colon, value = text.partition(":")
        if colon:
            yield name.strip(), value.strip()


def _range(cores: str) -> str:
    """Numbers of cores as a person writes them: ``0 1 2 3`` is ``0-3``."""
    numbers = [int(text) for text in cores.split(" ") if text.isdecimal()]
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return cores


def _told_version(said: str) -> tuple[str, str]:
    """What Python says of a package as (version and providers, why it is missing)."""
    if said.startswith("ok "):
        return said[3:].strip(), ""
    return "", plain(said) or "it says nothing"


def _room(memory: Mapping[str, str], size: str, free: str) -> Room | None:
    both = [re.fullmatch(r"(\d{1,15}) kB", memory.get(name, "")) for name in (size, free)]
    if both[0] is None:
        return None
    return Room(int(both[0][1]) << 10, int(both[1][1]) << 10 if both[1] else 0)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?\d{1,15}(\.\d{1,6})?", text) else None


def _scaled(factor: float) -> Callable[[str], float | None]:
    def read(text: str) -> float | None:
        value = _number(text)
        return None if value is None else value * factor

    return read


_kilo, _milli = _scaled(1e3), _scaled(1e-3)
