"""What the numbers of a machine depend on: its processor, system and state."""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any

from edgenas.clock.board.processors import choose_processors
from edgenas.clock.board.system import read_number, read_text, run_command, values_after


def _frequency_folder(processor: int) -> str:
    return f"/sys/devices/system/cpu/cpu{processor}/cpufreq/"


def read_state(processor: int = 0) -> dict[str, Any]:
    """What changes while a machine works: temperature (Celsius), frequencies (Hz) and load.

    Args:
        processor: the processor whose frequency is read.
    """
    zones = "/sys/class/thermal"
    names = sorted(os.listdir(zones)) if os.path.isdir(zones) else []
    heat = [read_number(f"{zones}/{name}/temp") for name in names if name[:7] == "thermal"]
    # Absent sensors of some boards answer with absurd numbers, e.g. -256000 for a GPU asleep.
    sane = [value / 1000 for value in heat if value is not None and 0 < value < 150_000]
    kilohertz = read_number(_frequency_folder(processor) + "scaling_cur_freq")
    engines = "/sys/class/devfreq"
    gpus = sorted(n for n in os.listdir(engines) if "gpu" in n) if os.path.isdir(engines) else []
    return {
        "temperature": max(sane) if sane else None,
        "frequency": None if kilohertz is None else kilohertz * 1e3,
        "gpu_frequency": read_number(f"{engines}/{gpus[0]}/cur_freq") if gpus else None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "throttled": run_command("vcgencmd", "get_throttled"),
    }


def read_environment(*, threads: int, runtime: str = "", library: str = "") -> dict[str, Any]:
    """What measured numbers depend on. A value is None where this machine does not tell it.

    Where the library cannot be imported, the version of the runtime is None and
    ``runtime_missing`` says why.

    Args:
        threads: how many threads the runtime will use; as many processors are chosen.
        runtime: the name of the runtime.
        library: the Python module of the runtime; without one no version is read.
    """
    cpuinfo = read_text("/proc/cpuinfo")
    cpu = values_after(cpuinfo, "model name") or values_after(run_command("lscpu"), "Model name")
    processors = choose_processors(threads)
    # The biggest core that is used: the first core of many boards is a small one.
    frequency = _frequency_folder(processors[-1] if processors else 0)
    kilohertz = read_number(frequency + "cpuinfo_max_freq")
    gpu = run_command("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    release = (read_text("/etc/os-release") or "").replace("=", ":").replace('"', "")
    version, missing = None, {}
    try:
        if library:
            version = getattr(importlib.import_module(library), "__version__", None)
    except ImportError as error:
        missing = {"runtime_missing": str(error)}
    return {
        "machine": platform.machine(),
        "board": read_text("/proc/device-tree/model")
        or read_text("/sys/class/dmi/id/product_name"),
        "cpu": cpu or platform.processor() or None,
        "cores": os.cpu_count(),
        "processors": list(processors),
        "virtual": None if cpuinfo is None else " hypervisor" in cpuinfo,
        "governor": read_text(frequency + "scaling_governor"),
        "max_frequency": None if kilohertz is None else kilohertz * 1e3,
        "gpu": gpu,
        "power_mode": values_after(run_command("nvpmodel", "-q"), "NV Power Mode"),
        "l4t": read_text("/etc/nv_tegra_release"),
        "os": values_after(release, "PRETTY_NAME"),
        "kernel": platform.platform(),
        "python": platform.python_version(),
        "runtime": runtime,
        "runtime_version": version,
        **missing,
        **read_state(processors[-1] if processors else 0),
    }
