"""Which device profile a board is of, by the name that its firmware has for it.

The names are those of ``/proc/device-tree/model`` in the device trees of the Linux kernel and of
NVIDIA's L4T (docs/reference/jetson.md). None was read on a board here.
"""

import re
from collections.abc import Mapping

# The first that fits counts.
_MODELS: Mapping[str, str] = {
    "jetson-agx-orin": r"AGX Orin",
    "jetson-orin-nx": r"Orin NX",
    "jetson-orin-nano": r"Orin Nano",
    "jetson-xavier-nx": r"Xavier NX",
    "jetson-agx-xavier": r"AGX Xavier|Jetson-AGX\b",
    "jetson-tx2": r"\bTX2\b|\bquill\b",
    "jetson-nano": r"Jetson Nano\b",
    "rpi5": r"Raspberry Pi 5\b",
    "rpi4": r"Raspberry Pi 4\b",
    "rpi3b-plus": r"Raspberry Pi 3 Model B Plus\b",
    "rpi-zero-2w": r"Raspberry Pi Zero 2\b",
    "odroid-n2plus": r"ODROID[- ]N2 ?Plus",
    "khadas-vim3": r"Khadas VIM3\b",
}


def profile_of(model: str) -> str:
    """The name of the shipped profile of a board's model; empty: none is of it."""
    return next((name for name, words in _MODELS.items() if re.search(words, model, re.I)), "")


def is_of_one_board(profile: str) -> bool:
    """Whether the firmware's name of a profile's board is known here."""
    return profile in _MODELS
