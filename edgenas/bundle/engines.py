"""Engines in the folder of a bundle: each in a folder of its own, with its own record.

An engine is right for one board and one version of TensorRT, and comes to a bundle later, perhaps
several times. So neither the manifest nor its signature tells of it. ``export.json`` does: whose
engine it is, and every byte of its files (`edgenas.bundle.engine_checks`).
"""

from pathlib import Path

from edgenas.runtime import registry as runtimes

RECORD, SCHEMA = "export.json", "edgenas.export/1"


def engine_formats() -> tuple[str, ...]:
    """The formats that lie in the folder of a bundle, each in a folder of its name."""
    formats = runtimes.export_formats()
    return tuple(name for name, (runtime, _) in formats.items() if runtime.built_by_tool)


def is_engine_folder(path: Path) -> bool:
    """Whether something in the folder of a bundle is an engine that was exported to there."""
    plain = path.is_dir() and not path.is_symlink()
    return plain and path.name in engine_formats() and (path / RECORD).is_file()
