"""The options of ``trtexec`` by version, as its sources have them; see ``trtexec_program``."""

_EVERY = (
    "onnx saveEngine loadEngine exportTimes exportProfile dumpProfile separateProfileRun "
    "noDataTransfers useCudaGraph useSpinWait iterations avgRuns duration warmUp sleepTime "
    "percentile streams timingCacheFile noBuilderCache tacticSources shapes minShapes optShapes "
    "maxShapes inputIOFormats outputIOFormats device useDLACore allowGPUFallback noTF32 avgTiming "
    "verbose loadInputs threads exposeDMA exportOutput dumpOutput plugins help"
)
# From and up to which version an option is parsed; versions as (major, minor).
_FIRST, _LAST = (0, 0), (99, 0)
_SOME: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "nvtxMode": (_FIRST, (8, 0)),
    **dict.fromkeys(
        ("exportLayerInfo", "dumpLayerInfo", "profilingVerbosity", "idleTime"), ((8, 2), _LAST)
    ),
    **dict.fromkeys(("fp16", "int8", "best", "calib"), (_FIRST, (10, 99))),
    "fp8": ((8, 6), (10, 99)),
    "bf16": ((10, 0), (10, 99)),
    "int4": ((10, 1), (10, 99)),
    "stronglyTyped": ((10, 0), _LAST),
    "precisionConstraints": ((8, 2), (10, 99)),
    **dict.fromkeys(("includeDataTransfers", "noCudaGraph", "noSpinWait"), ((11, 0), _LAST)),
    "infStreams": ((8, 6), _LAST),
    "workspace": (_FIRST, (8, 99)),
    "memPoolSize": ((8, 4), _LAST),
    **dict.fromkeys(("errorOnTimingCacheMiss", "noCompilationCache"), ((10, 0), _LAST)),
    "buildOnly": (_FIRST, (8, 99)),
    "skipInference": ((8, 6), _LAST),
    **dict.fromkeys(("batch", "maxBatch", "explicitBatch", "minTiming"), (_FIRST, (8, 99))),
    **dict.fromkeys(("useManagedMemory", "directIO"), ((8, 2), _LAST)),
    "persistentCacheRatio": ((8, 5), _LAST),
    **dict.fromkeys(("builderOptimizationLevel", "maxAuxStreams", "tempdir"), ((8, 6), _LAST)),
    "heuristic": ((8, 5), (8, 99)),
    "maxTactics": ((10, 4), _LAST),
    "monitorMemory": ((10, 6), _LAST),
    "tilingOptimizationLevel": ((10, 8), _LAST),
    "cpuOnly": ((10, 15), _LAST),
}
_NUMBERS = ("iterations", "avgRuns", "duration", "warmUp", "sleepTime", "idleTime", "avgTiming")
_LISTS = ("plugins",)


class OptionError(Exception):
    """An option that this version does not know, in the words that it says."""


def known(version: tuple[int, int]) -> set[str]:
    """The names of the options that a version parses."""
    some = {name for name, (first, last) in _SOME.items() if first <= version <= last}
    return {*_EVERY.split(), *some}


def parse(arguments: list[str], *, version: tuple[int, int]) -> dict[str, str]:
    """The options of a command line.

    Raises:
        OptionError: one is unknown or given twice, or a number is none.
    """
    options: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        name = "--help" if name == "-h" else name
        twice = name[2:] in options and name[2:] not in _LISTS
        if not name.startswith("--") or name[2:] not in known(version) or twice:
            raise OptionError(f"Unknown option: {name} {value}".rstrip())
        options[name[2:]] = value
    for name in _NUMBERS:
        if name in options:
            options[name] = str(_number(name, options[name], version=version))
    if "saveEngine" in options and "loadEngine" in options:
        raise OptionError("Incompatible load and save engine options selected")
    return options


def _number(name: str, text: str, *, version: tuple[int, int]) -> float:
    """As std::stoi and std::stof read it: up to the first character that is no digit."""
    whole = name not in ("duration", "warmUp", "idleTime") or version < (8, 4)
    allowed = "-0123456789" if whole else "-.0123456789"
    digits = ""
    for character in text:
        if character not in allowed:
            break
        digits += character
    try:
        return int(digits) if whole else float(digits)
    except ValueError:
        raise OptionError("stoi" if whole else "stof") from None
