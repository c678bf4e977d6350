"""The notes of a result: which of them change what a reader does, and how they begin."""

from collections.abc import Sequence

from edgenas.latency.hints import NO_LOGIN

# How the notes begin that only say what an estimate rests on. A report keeps notes as plain texts,
# so their openings tell the kinds; a test holds them against what device models say.
EVIDENCE = (
    "estimated ",
    "this holds for ",
    "this target names no version of ",
    "extrapolated: ",
    "the latency is estimated, not measured",
    "the latency is published, not measured",
)
_FAR = "extrapolated: "


def is_evidence(note: str) -> bool:
    """Whether a note only says what an estimate rests on."""
    return note.startswith(EVIDENCE)


def is_extrapolated(notes: Sequence[str]) -> bool:
    """Whether a note says that an estimate is far from everything published."""
    return any(note.startswith(_FAR) for note in notes)


def has_no_login(notes: Sequence[str]) -> bool:
    """Whether a note says that nobody can log in to the device, so that --ssh is no advice."""
    return any(NO_LOGIN in note for note in notes)


def first_clause(note: str) -> str:
    """What a note says, without the reasons and remedies that follow."""
    return note.partition("; ")[0]
