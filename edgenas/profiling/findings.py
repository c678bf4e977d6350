"""What a board's state means for the times that are measured on it: what is right, what to change.

Each finding is one line. The facts behind the rules, with their sources, are in
docs/reference/jetson.md.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgenas.clock.jetpack import TRTEXEC_PACKAGE
from edgenas.clock.power import TOTAL_RAILS
from edgenas.clock.state import BoardState, Frequency, PowerMode, Room
from edgenas.latency.device import Device
from edgenas.profiling.boards import is_of_one_board, profile_of

Verdict = Literal["ok", "change", "note"]

_HOT = 80.0  # Celsius: a Pi slows down from 80, a Jetson from about 95 on
_MEMORY = 1 << 30  # bytes that should be free on a Jetson, whose GPU uses them too
_MEMORY_ELSEWHERE = 256 << 20
_SWAPPED = 64 << 20  # bytes on swap that are no remains of a quiet start
_DISK = 2 << 30  # bytes; building engines writes temporary files
_SHARED = 128 << 20  # bytes of /dev/shm: a model, a timing cache, times
_BUSY = 1.0  # load of other work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Args:
        about: what it is.
        verdict: ``ok``; ``change``: times suffer from it, ``advice`` says what to do; ``note``: a
            fact that a user should know.
        words: what was found, in one line.
        advice: what to do about it; empty: nothing.
    """

    about: str
    verdict: Verdict
    words: str
    advice: str = ""

    def __str__(self) -> str:
        """The line for people."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.about}: {self.words}{advice}"


def _ok(about: str, words: str) -> Finding:
    return Finding(about=about, verdict="ok", words=words)


def _change(about: str, words: str, advice: str) -> Finding:
    return Finding(about=about, verdict="change", words=words, advice=advice)


def _note(about: str, words: str, advice: str = "") -> Finding:
    return Finding(about=about, verdict="note", words=words, advice=advice)


def find_all(state: BoardState, *, device: Device | None) -> list[Finding]:
    """All findings about a board, in the order in which a person wants to read them.

    Args:
        state: of the board.
        device: the profile that it is to be timed as; None: no profile is of it.
    """
    return [
        *_about_board(state, device),
        *_about_jetpack(state),
        *_about_tensorrt(state),
        *_about_power_mode(state, device),
        *_about_clocks(state),
        *_about_heat(state),
        *_about_room(state),
        *_about_power_sensors(state),
    ]


def _about_board(state: BoardState, device: Device | None) -> Iterator[Finding]:
    words = ", ".join(filter(None, (state.model, state.processor, state.os, state.kernel)))
    yield _ok("board", words) if words else _note("board", "it does not tell what it is")
    own = profile_of(state.model)
    if device is None:
        advice = "name one of edgenas list devices, or copy the nearest: docs/reference/devices.md"
        yield _note("profile", "no device profile is of this board", advice)
    elif own and own != device.name and is_of_one_board(device.name):
        words = f"{device.name} is the profile of another board, {device.title}"
        yield _change("profile", words, f"use --device {own}")
    elif own == device.name or device.reach == "local":
        yield _ok("profile", f"{device.name}, {device.title}")
    else:
        words = f"{device.name}, {device.title}; nothing here tells whether it is of this board"
        yield _note("profile", words)


def _about_jetpack(state: BoardState) -> Iterator[Finding]:
    if not state.jetson:
        return
    jetpack = state.jetpack
    if jetpack is None:
        words = f"L4T {state.l4t}" if state.l4t else "no /etc/nv_tegra_release"
        yield _note("JetPack", f"{words}, which is in no table here")
        return
    words = f"{jetpack.name} (L4T {state.l4t}): TensorRT {jetpack.tensorrt}, CUDA {jetpack.cuda}"
    yield _ok("JetPack", f"{words}, Python {jetpack.python}")


def _about_tensorrt(state: BoardState) -> Iterator[Finding]:
    jetpack = state.jetpack
    if state.tensorrt:
        build = f" build {state.tensorrt_build}" if state.tensorrt_build else ""
        yield _ok("TensorRT", f"{state.tensorrt}{build}, {state.trtexec}")
        if jetpack is not None and state.tensorrt != jetpack.tensorrt:
            words = f"JetPack {jetpack.name} comes with {jetpack.tensorrt}"
            yield _note("TensorRT", f"{words}, so it was updated since: tables of before differ")
    elif state.trtexec:
        words = f"{state.trtexec} does not run: {state.trtexec_fault}"
        yield _change("TensorRT", words, f"run sudo apt install --reinstall {TRTEXEC_PACKAGE}")
    elif state.jetson:
        yield _change("TensorRT", "there is no trtexec, which times it", _install_words(state))


def _install_words(state: BoardState) -> str:
    """How ``trtexec`` comes onto a Jetson: boards that were flashed with L4T alone lack it."""
    where = f", which puts it at {state.jetpack.trtexec}" if state.jetpack else ""
    if any(name.startswith("libnvinfer") for name in state.packages):
        return f"run sudo apt install {TRTEXEC_PACKAGE}{where}"
    return f"run sudo apt install nvidia-jetpack (or {TRTEXEC_PACKAGE} alone){where}"


def fastest_mode(modes: Iterable[PowerMode]) -> PowerMode | None:
    """The mode without a limit of power, or else the one with the most watts; None: unknown."""

    def rank(mode: PowerMode) -> tuple[bool, bool, int]:
        name = mode.name.upper()
        watts = re.search(r"(\d{1,3})W", name)
        most = name.startswith(("MAXN", "MODE_MAXN"))
        return most and "SUPER" in name, most, int(watts[1]) if watts else 0

    known = [mode for mode in modes if any(rank(mode))]
    return max(known, key=rank, default=None)


def _about_power_mode(state: BoardState, device: Device | None) -> Iterator[Finding]:
    mode, fastest = state.power_mode, fastest_mode(state.power_modes)
    if mode is None:
        if state.jetson:
            words = "it does not tell its power mode"
            yield _change("power mode", words, "look with sudo nvpmodel -q")
        return
    others = ", ".join(str(each) for each in state.power_modes if each.number != mode.number)
    others = f"; the others: {others}" if others else ""
    if fastest is None or fastest.number == mode.number:
        yield _ok("power mode", f"{mode}{others}")
    else:
        slow = "mode 0 is not the fastest on this board" if mode.number == 0 else "not the fastest"
        words = f"{mode}, {slow}{others}; times hold for the mode in which they were measured"
        yield _change(
            "power mode", words, f"for {fastest.name} run sudo nvpmodel -m {fastest.number}"
        )
    wanted = _plain_mode(device.power_mode) if device is not None else ""
    known = {_plain_mode(each.name): each for each in state.power_modes}
    for name in sorted(known, key=len, reverse=True):
        if wanted.startswith(name):
            if name != _plain_mode(mode.name):
                words = f"numbers of the profile {device.name if device else ''} are for"
                advice = f"run sudo nvpmodel -m {known[name].number}"
                yield _change("profile", f"{words} {known[name].name}, not for {mode.name}", advice)
            return


def _plain_mode(text: str) -> str:
    """A mode's name as both boards and profiles write it: ``MAXN SUPER`` is ``MAXN_SUPER``."""
    return re.sub(r"[^A-Z0-9]+", "", re.sub(r"^MODE_", "", text.upper()))


def _megahertz(value: float | None) -> str:
    return "not told" if value is None else f"{value / 1e6:.0f}"


def _span(clock: Frequency) -> str:
    now = f", now {_megahertz(clock.now)}" if clock.now is not None else ""
    return f"{_megahertz(clock.least)} to {_megahertz(clock.most)} MHz{now}"


def _about_clocks(state: BoardState) -> Iterator[Finding]:
    gpu = state.gpu
    if gpu is not None:
        if gpu.locked:
            yield _ok("GPU clock", f"locked at {_megahertz(gpu.most)} MHz")
        elif gpu.locked is None:
            yield _note("GPU clock", "it does not tell its limits")
        else:
            words = f"it moves: {_span(gpu)}"
            yield _change("GPU clock", words, "run sudo jetson_clocks, which lasts until a restart")
    elif state.jetson:
        yield _note("GPU clock", "it cannot be read")
    if state.desktop_gpu:
        yield _note("GPU", state.desktop_gpu)
    for clock in state.cpus:
        about = clock.of.replace("cpu", "CPU clock", 1)
        if clock.locked or clock.governor == "performance":
            yield _ok(about, f"{_span(clock)}, governor {clock.governor or 'not told'}")
        elif state.jetson:
            words = f"it moves: {_span(clock)}, governor {clock.governor}"
            yield _change(about, words, "run sudo jetson_clocks")
        else:
            words = f"it moves: {_span(clock)}, governor {clock.governor}"
            yield _note(about, f"{words}; runs on the CPU count at its full speed only")


def _about_heat(state: BoardState) -> Iterator[Finding]:
    hottest = state.hottest
    if hottest is None:
        yield _note("temperature", "it does not tell it")
    elif hottest.celsius >= _HOT:
        words = f"{hottest.celsius:.0f} C at {hottest.zone}, near the point where it slows down"
        yield _change("temperature", words, "let it cool, and give it a fan")
    else:
        fans = f"; {'; '.join(state.fans)}" if state.fans else ""
        yield _ok("temperature", f"{hottest.celsius:.0f} C at {hottest.zone}{fans}")
    for sign in state.throttling:
        advice = "let it cool, and check its fan and its power supply"
        yield _change("throttling", f"{sign}, so it is slowed down now", advice)
    if not state.throttling:
        yield _ok("throttling", "no sign of it")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GB"


def _about_room(state: BoardState) -> Iterator[Finding]:
    memory, swap = state.memory, state.swap
    if memory is not None:
        words = f"{_size(memory.free)} of {_size(memory.size)} are free"
        if memory.free < (_MEMORY if state.jetson else _MEMORY_ELSEWHERE):
            advice = "end other programs, or the desktop: sudo systemctl isolate multi-user"
            yield _change("memory", f"{words}; TensorRT skips tactics that do not fit", advice)
        else:
            yield _ok("memory", words)
    if swap is not None:
        used = swap.size - swap.free
        if used > _SWAPPED:
            words = f"{_size(used)} are in use, so times may be uneven"
            yield _change("swap", words, "end other programs, or start the board anew")
        else:
            yield _ok("swap", f"{_size(swap.size)}, hardly used" if swap.size else "none")
    if state.load is not None and state.load > _BUSY:
        words = f"other programs run: load {state.load:.1f}"
        yield _change("load", words, "end them; a clock waits for quiet, and takes longer")
    elif state.load is not None:
        yield _ok("load", f"{state.load:.1f}")
    yield from _about_file_system("disk", state.disk, least=_DISK)
    if state.jetson or state.shared_memory is not None:
        yield from _about_file_system("/dev/shm", state.shared_memory, least=_SHARED)


def _about_file_system(about: str, room: Room | None, *, least: int) -> Iterator[Finding]:
    if room is None:
        yield _note(about, "it does not tell how much is free")
    elif room.free < least:
        words = f"{_size(room.free)} of {_size(room.size)} are free"
        yield _change(about, words, f"free {_size(least)} for building engines")
    else:
        yield _ok(about, f"{_size(room.free)} of {_size(room.size)} are free")


def _about_power_sensors(state: BoardState) -> Iterator[Finding]:
    read = [rail for rail in state.rails if rail.watts is not None]
    if read:
        whole = [rail for rail in read if rail.name in TOTAL_RAILS]
        how = (
            f"{whole[0].name} is the whole module" if whole else "their sum is taken for the module"
        )
        words = ", ".join(f"{rail.name} {rail.watts:.1f} W" for rail in read)
        yield _ok("power", f"{words}; {how}")
    elif "tegrastats" in state.tools:
        yield _ok("power", "tegrastats tells it")
    elif any(state.energy_counters.values()):
        yield _ok("power", "the counters of the processor (RAPL) tell it")
    elif state.energy_counters:
        words = "only root may read the counters of the processor (RAPL)"
        yield _note("power", words, "energy cannot be measured by this user")
    else:
        yield _note("power", "there is no sensor, so energy cannot be measured")
