"""What each JetPack brings: its L4T, TensorRT, CUDA and Python, and where TensorRT's tool lies.

Sources: the recipes of OE4T/meta-tegra, which take NVIDIA's own packages (36.2: commit ed26e3a3;
36.3: 8922a7e8; 39.2: 12556bad and issue 2243), issue 3549 of NVIDIA/TensorRT for 32.6.1, and the
map from L4T to JetPack of rbonghi/jetson_stats at f41d5cad. All of these are claims of others; none
was seen on a board here.
"""

import re
from dataclasses import dataclass

TRTEXEC_PACKAGE = "libnvinfer-bin"


@dataclass(frozen=True, slots=True)
class JetPack:
    """A release of NVIDIA's software for Jetsons.

    Args:
        name: of the release, as NVIDIA counts it.
        l4t: the versions of Linux for Tegra that it comes with.
        tensorrt: the version of its TensorRT.
        cuda: the version of its CUDA.
        python: the version of the Python that its system has.
        trtexec: where its package puts ``trtexec``.
    """

    name: str
    l4t: tuple[str, ...]
    tensorrt: str
    cuda: str
    python: str
    trtexec: str = "/usr/src/tensorrt/bin/trtexec"


JETPACKS = (
    JetPack("4.6", ("32.6.1",), "8.0.1", "10.2", "3.6"),
    JetPack("4.6.1", ("32.7.1",), "8.2.1", "10.2", "3.6"),
    JetPack("4.6.2", ("32.7.2",), "8.2.1", "10.2", "3.6"),
    JetPack("4.6.3", ("32.7.3",), "8.2.1", "10.2", "3.6"),
    JetPack("4.6.4", ("32.7.4",), "8.2.1", "10.2", "3.6"),
    JetPack("4.6.5", ("32.7.5",), "8.2.1", "10.2", "3.6"),
    JetPack("4.6.6", ("32.7.6",), "8.2.1", "10.2", "3.6"),
    JetPack("5.0.2", ("35.1.0",), "8.4.1", "11.4", "3.8"),
    JetPack("5.1", ("35.2.1",), "8.5.2", "11.4", "3.8"),
    JetPack("5.1.1", ("35.3.1",), "8.5.2", "11.4", "3.8"),
    JetPack("5.1.2", ("35.4.1",), "8.5.2", "11.4", "3.8"),
    JetPack("5.1.3", ("35.5.0",), "8.5.2", "11.4", "3.8"),
    JetPack("5.1.4", ("35.6.0",), "8.5.2", "11.4", "3.8"),
    JetPack("5.1.5", ("35.6.1", "35.6.2", "35.6.3"), "8.5.2", "11.4", "3.8"),
    JetPack("5.1.6", ("35.6.4",), "8.5.2", "11.4", "3.8"),
    JetPack("6.0 DP", ("36.2.0",), "8.6.2", "12.2", "3.10"),
    JetPack("6.0", ("36.3.0",), "8.6.2", "12.2", "3.10"),
    JetPack("6.1", ("36.4.0",), "10.3.0", "12.6", "3.10"),
    JetPack("6.2", ("36.4.3",), "10.3.0", "12.6", "3.10"),
    JetPack("6.2.1", ("36.4.4", "36.4.7"), "10.3.0", "12.6", "3.10"),
    JetPack("6.2.2", ("36.5.0",), "10.3.0", "12.6", "3.10"),
    JetPack("7.0", ("38.2.0",), "10.13.2", "13.0", "3.12"),
    JetPack("7.0", ("38.2.1",), "10.13.3", "13.0", "3.12"),
    JetPack("7.1", ("38.4.0",), "10.13.3", "13.0", "3.12"),
    JetPack("7.2", ("39.2.0",), "10.16.2", "13.2", "3.12", trtexec="/usr/bin/trtexec"),
)

_RELEASE = re.compile(r"#?\s*R(\d{1,3})\s*\(release\),\s*REVISION:\s*(\d{1,3}(?:\.\d{1,3}){0,2})\b")
_BANNER = re.compile(r"&&&& RUNNING TensorRT\.trtexec \[TensorRT v(\d{4,6})\](?: \[b(\d{1,6})\])?")


def read_l4t(line: str) -> str:
    """The version in the first line of ``/etc/nv_tegra_release``, as ``36.4.3``; empty: none."""
    match = _RELEASE.match(line)
    if match is None:
        return ""
    parts = [match[1], *match[2].split(".")]
    return ".".join(parts + ["0"] * (3 - len(parts)))


def jetpack_of(l4t: str) -> JetPack | None:
    """The release that a version of L4T belongs to; None where this table does not know it."""
    return next((each for each in JETPACKS if l4t in each.l4t), None)


def read_tensorrt(line: str) -> tuple[str, str]:
    """The version and the build in the first line that ``trtexec`` prints.

    ``[TensorRT v8502]`` is 8.5.2, ``[TensorRT v101602] [b10]`` is 10.16.2 and build 10: NVIDIA
    changed the count at version 10 (``NvInferRuntimeBase.h``).

    Returns:
        Both as texts; empty: the line does not tell it.
    """
    match = _BANNER.match(line)
    if match is None:
        return "", ""
    number = int(match[1])
    major, rest = divmod(number, 1000 if number < 10_000 else 10_000)
    return f"{major}.{rest // 100}.{rest % 100}", match[2] or ""
