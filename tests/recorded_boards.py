"""Boards as folders: what their files and their commands say, written from published records.

`EDGENAS_BOARD_ROOT` makes the text that reads a board's state read such a folder instead of ``/``.
The records are the pieces that docs/reference/jetson.md names with their sources, with numbers of
our own. No board was at hand.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

_DF = """#!/bin/sh
echo Filesystem 1024-blocks Used Available Capacity Mounted on
case "$2" in
  */dev/shm) echo "tmpfs {shm} 0 {shm} 0% /dev/shm" ;;
  *) echo "/dev/nvme0n1p1 {disk} 1000 {free} 30% /" ;;
esac
"""


def _write(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())


def _command(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _says(text: str) -> str:
    return f"#!/bin/sh\ncat <<'EOF'\n{text}\nEOF\n"


def _python(version: str, modules: Mapping[str, str]) -> str:
    """A Python that tells its version and those of its packages, and can do nothing else."""
    cases = "\n".join(f'  {name}) echo "ok {found}" ;;' for name, found in modules.items())
    return (
        f'#!/bin/sh\ncase "$4" in\n  "") echo "ok {version}" ;;\n{cases}\n'
        "  *) echo \"ModuleNotFoundError: No module named '$4'\" >&2; exit 1 ;;\nesac\n"
    )


def _heat(root: Path, zones: Mapping[str, int]) -> None:
    for i, (name, milli) in enumerate(zones.items()):
        folder = f"sys/class/thermal/thermal_zone{i}"
        _write(root, {f"{folder}/type": name, f"{folder}/temp": str(milli)})


def _cooling(root: Path, devices: Mapping[str, tuple[int, int]]) -> None:
    for i, (name, (now, most)) in enumerate(devices.items()):
        folder = f"sys/class/thermal/cooling_device{i}"
        _write(
            root,
            {
                f"{folder}/type": name,
                f"{folder}/cur_state": str(now),
                f"{folder}/max_state": str(most),
            },
        )


def _gpu(root: Path, folder: str, name: str, *, least: int, most: int, now: int) -> None:
    at = f"sys/class/devfreq/{folder}"
    _write(
        root,
        {
            f"{at}/min_freq": str(least),
            f"{at}/max_freq": str(most),
            f"{at}/cur_freq": str(now),
            f"{at}/governor": "nvhost_podgov",
            f"{at}/device/of_node/name": name.encode() + b"\0",
        },
    )


def _cpu(root: Path, cores: str, *, least: int, most: int, now: int, part: str) -> None:
    at = "sys/devices/system/cpu/cpufreq/policy0"
    _write(
        root,
        {
            f"{at}/related_cpus": cores,
            f"{at}/scaling_min_freq": str(least),
            f"{at}/scaling_max_freq": str(most),
            f"{at}/scaling_cur_freq": str(now),
            f"{at}/scaling_governor": "schedutil",
            f"{at}/cpuinfo_max_freq": str(most),
            "sys/devices/system/cpu/online": f"0-{len(cores.split()) - 1}",
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp asimddp\n"
            f"CPU implementer\t: 0x41\nCPU part\t: {part}",
        },
    )


def _rails(root: Path, rails: Mapping[str, tuple[int, int]], *, alarm: int = 0) -> None:
    """Rails of the driver that JetPack 5 and later have: millivolts and milliamperes."""
    at = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    for i, (name, (volts, amperes)) in enumerate(rails.items(), start=1):
        _write(
            root,
            {
                f"{at}/in{i}_label": name,
                f"{at}/in{i}_input": str(volts),
                f"{at}/curr{i}_input": str(amperes),
                f"{at}/curr{i}_crit_alarm": "0",
                f"{at}/curr{i}_max_alarm": str(alarm),
            },
        )


def _memory(root: Path, *, size: int, free: int, swap: int, swap_free: int) -> None:
    _write(
        root,
        {
            "proc/meminfo": f"MemTotal:       {size} kB\nMemFree:  1000 kB\n"
            f"MemAvailable:   {free} kB\nSwapTotal: {swap} kB\nSwapFree:  {swap_free} kB",
            "proc/loadavg": "0.35 0.20 0.10 1/456 7890",
        },
    )


def _common(root: Path, *, model: str, release: str, kernel: str, system: str) -> None:
    for folder in ("dev/shm", "etc", "usr/bin", "usr/sbin"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _write(
        root,
        {
            "etc/os-release": f'NAME="Ubuntu"\nPRETTY_NAME="{system}"',
            "etc/nv_tegra_release": release,
            "proc/device-tree/model": model.encode() + b"\0",
        },
    )
    _command(root, "usr/bin/uname", f"echo Linux {kernel} aarch64")


def orin_nano_super(root: Path) -> None:
    """JetPack 6.2, in mode 0 (15 W) with clocks that move, some swap in use."""
    _common(
        root,
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
        "DATE: Wed Jan  8 01:49:37 UTC 2025",
        kernel="5.15.148-tegra",
        system="Ubuntu 22.04.5 LTS",
    )
    modes = (("0", "15W"), ("1", "25W"), ("2", "MAXN_SUPER"), ("3", "7W"))
    conf = "".join(
        f"< POWER_MODEL ID={n} NAME={name} >\nCPU_ONLINE CORE_0 1\n" for n, name in modes
    )
    _write(root, {"etc/nvpmodel.conf": f"# modes\n{conf}< PM_CONFIG DEFAULT=1 >"})
    _command(root, "usr/sbin/nvpmodel", _says("NV Power Mode: 15W\n0"))
    _command(root, "usr/bin/jetson_clocks", "exit 1")
    _command(root, "usr/bin/tegrastats", "exit 1")
    _command(
        root,
        "usr/bin/dpkg-query",
        _says(
            "libnvinfer-bin 10.3.0.30-1+cuda12.5 install ok installed\n"
            "libnvinfer10 10.3.0.30-1+cuda12.5 install ok installed\n"
            "nvidia-jetpack 6.2+b77 install ok installed\n"
            "nvidia-l4t-core 36.4.3-20250107174145 install ok installed"
        ),
    )
    _command(
        root,
        "usr/src/tensorrt/bin/trtexec",
        _says("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --help\n=== Model =="),
    )
    _gpu(root, "17000000.gpu", "gpu", least=306000000, most=624750000, now=306000000)
    _cpu(root, "0 1 2 3 4 5", least=729600, most=1510400, now=729600, part="0xd42")
    _heat(
        root,
        {"cpu-thermal": 47812, "gpu-thermal": 48093, "cv0-thermal": -256000, "tj-thermal": 48500},
    )
    _cooling(root, {"pwm-fan": (1, 3), "cpufreq-cpu0": (0, 20)})
    _rails(root, {"VDD_IN": (5008, 1000), "VDD_CPU_GPU_CV": (5000, 200), "VDD_SOC": (5000, 300)})
    _write(root, {"sys/class/hwmon/hwmon0/name": "pwmfan", "sys/class/hwmon/hwmon0/pwm1": "64"})
    _memory(root, size=7802712, free=5400000, swap=3901344, swap_free=3800000)
    _command(root, "usr/bin/df", _DF.format(shm=3901356, disk=122880000, free=80000000))
    providers = "TensorrtExecutionProvider CUDAExecutionProvider CPUExecutionProvider"
    modules = {"numpy": "1.26.4", "onnxruntime": f"1.23.0 {providers}", "tensorrt": "10.3.0"}
    _command(root, "usr/bin/python3", _python("3.10.12", modules))


def agx_orin(root: Path) -> None:
    """JetPack 5.1.2 in MAXN with locked clocks; TensorRT is there, its tool is not."""
    _common(
        root,
        model="Jetson AGX Orin Developer Kit",
        release="# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
        "DATE: Tue Aug  1 19:57:35 UTC 2023",
        kernel="5.10.120-tegra",
        system="Ubuntu 20.04.6 LTS",
    )
    modes = (("0", "MAXN"), ("1", "MODE_15W"), ("2", "MODE_30W"), ("3", "MODE_50W"))
    conf = "".join(f"< POWER_MODEL ID={n} NAME={name} >\n" for n, name in modes)
    _write(root, {"etc/nvpmodel.conf": f"{conf}< PM_CONFIG DEFAULT=2 >"})
    _command(
        root, "usr/sbin/nvpmodel", _says("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0")
    )
    _command(
        root,
        "usr/bin/dpkg-query",
        _says(
            "libnvinfer8 8.5.2-1+cuda11.4 install ok installed\n"
            "nvidia-l4t-core 35.4.1-20230801124926 install ok installed\n"
            "libnvinfer-bin 8.5.2-1+cuda11.4 deinstall ok config-files"
        ),
    )
    _gpu(root, "17000000.ga10b", "ga10b", least=1300500000, most=1300500000, now=1300500000)
    _cpu(
        root, " ".join(map(str, range(12))), least=2201600, most=2201600, now=2201600, part="0xd42"
    )
    _heat(root, {"CPU-therm": 45125, "GPU-therm": 43000, "tj-therm": 46000})
    _cooling(root, {"pwm-fan": (0, 9)})
    _rails(
        root,
        {"VDD_GPU_SOC": (19992, 240), "VDD_CPU_CV": (19992, 80), "VIN_SYS_5V0": (5024, 900)},
    )
    _memory(root, size=62000000, free=58000000, swap=0, swap_free=0)
    _command(root, "usr/bin/df", _DF.format(shm=31000000, disk=58720256, free=30000000))
    _command(root, "usr/bin/python3", _python("3.8.10", {"numpy": "1.17.4"}))


def nano(root: Path) -> None:
    """JetPack 4.6 with TensorRT 8.0.1, hot: its clocks move and are held down; swap in use."""
    _common(
        root,
        model="NVIDIA Jetson Nano Developer Kit",
        release="# R32 (release), REVISION: 6.1, GCID: 27863751, BOARD: t210ref, EABI: aarch64, "
        "DATE: Mon Jul 26 19:20:30 UTC 2021",
        kernel="4.9.253-tegra",
        system="Ubuntu 18.04.6 LTS",
    )
    conf = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >\n< PM_CONFIG DEFAULT=0 >"
    # Some images let only root ask nvpmodel; its status file tells.
    _write(
        root,
        {
            "etc/nvpmodel.conf": conf,
            "var/lib/nvpmodel/status": "pmode:0000 fmode:fan_mode_quiet",
        },
    )
    _command(root, "usr/sbin/nvpmodel", "echo 'NVPM ERROR: Error opening /var/lock' >&2; exit 255")
    _command(
        root,
        "usr/bin/dpkg-query",
        _says(
            "libnvinfer-bin 8.0.1-1+cuda10.2 install ok installed\n"
            "libnvinfer8 8.0.1-1+cuda10.2 install ok installed\n"
            "nvidia-jetpack 4.6-b199 install ok installed"
        ),
    )
    _command(
        root,
        "usr/src/tensorrt/bin/trtexec",
        _says("&&&& RUNNING TensorRT.trtexec [TensorRT v8001] # trtexec --help\n=== Model =="),
    )
    _gpu(root, "57000000.gpu", "gpu", least=76800000, most=921600000, now=76800000)
    _cpu(root, "0 1 2 3", least=102000, most=1479000, now=102000, part="0xd07")
    _heat(root, {"AO-therm": 78500, "CPU-therm": 76000, "GPU-therm": 77000, "PMIC-Die": 100000})
    _cooling(root, {"pwm-fan": (3, 4), "thermal-fan-est": (0, 1), "gpu-balanced": (2, 10)})
    at = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    for i, (name, milliwatts) in enumerate(
        (("POM_5V_IN", 2400), ("POM_5V_GPU", 160), ("POM_5V_CPU", 480))
    ):
        _write(root, {f"{at}/rail_name_{i}": name, f"{at}/in_power{i}_input": str(milliwatts)})
    _memory(root, size=4059712, free=1200000, swap=2029856, swap_free=1000000)
    _command(root, "usr/bin/df", _DF.format(shm=2029856, disk=31457280, free=1500000))
    _command(root, "usr/bin/python3", _python("3.6.9", {"numpy": "1.13.3"}))


BOARDS: Mapping[str, Callable[[Path], None]] = {
    "orin-nano-super": orin_nano_super,
    "agx-orin": agx_orin,
    "nano": nano,
}
