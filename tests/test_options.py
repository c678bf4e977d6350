"""One request value gives the command line, the checks and the key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from edgenas.basics.errors import EdgenasError
from edgenas.basics.options import Option, check_request, key_values, request_fields
from edgenas.basics.ranges import Range
from edgenas.cli.command import Shown, Verb
from edgenas.delivery.fleet import read_fleet
from edgenas.delivery.request import SpecializeRequest

Rate = Annotated[float, Range(0, 10, "number", above=True)]
Several = Annotated[int, Range(0, 100, "count")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """A request for tests."""

    model: Annotated[Path, Option("The file.", positional=True)]
    top: Annotated[Several, Option("How many.", keyed="changed")] = 0
    rate: Annotated[Rate | None, Option("The peak rate.", needs="top", keyed="changed")] = None
    start: Annotated[Literal["near", "far"], Option("Where to begin.")] = "near"
    budget: Annotated[tuple[str, ...], Option("A budget.")] = ()
    force: Annotated[bool, Option("Replace what is there.", keyed="never")] = False


def ask(*words: str) -> tuple[list[object], object]:
    requests: list[object] = []

    def run(request: Toy, shown: Shown) -> None:
        """Do it."""
        requests.extend([request, shown])

    app = typer.Typer(add_completion=False)
    app.command("toy")(Verb(run=run, kinds=(Toy, Shown)).command())
    app.callback()(lambda: None)
    return requests, CliRunner().invoke(app, ["toy", *words])


def test_the_command_line_gives_the_request():
    words = ("m.onnx", "--top", "3", "--rate", "0.5", "--start", "far", "--force", "--json")
    requests, result = ask(*words, "--budget", "a<=1", "--budget", "b<=2")
    assert result.exit_code == 0, result.output
    toy = Toy(
        model=Path("m.onnx"), top=3, rate=0.5, start="far", budget=("a<=1", "b<=2"), force=True
    )
    assert requests == [toy, Shown(json=True)]


def test_what_is_not_given_is_the_default():
    requests, _ = ask("m.onnx")
    assert requests == [Toy(model=Path("m.onnx")), Shown()]


def test_help_shows_every_option_with_its_words_and_range():
    _, result = ask("--help")
    for field in request_fields(Toy):
        shown = field.name.upper() if field.option.positional else field.flag
        assert shown.lower() in result.output.lower()
    assert "One of near, far." in result.output
    assert "[0 to 100]" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--top", "-1"), "top must be at least 0, found -1"),
        (("--top", "1", "--rate", "0"), "rate must be above 0, found 0.0"),
        (("--rate", "0.5"), "rate has no effect without top"),
        (("--start", "middle"), "start must be one of near, far, found 'middle'"),
    ],
)
def test_what_breaks_a_rule_is_refused(words: tuple[str, ...], message: str):
    _, result = ask("m.onnx", *words)
    assert isinstance(result.exception, EdgenasError)
    assert result.exception.message == message


def test_requests_from_python_are_checked_in_the_same_way():
    with pytest.raises(EdgenasError, match="top must be at least 0, found -1"):
        check_request(Toy(model=Path("m"), top=-1))


def test_the_key_holds_what_decides_the_result():
    plain = Toy(model=Path("m"))
    assert key_values(plain) == {"model": Path("m"), "start": "near", "budget": ()}
    assert key_values(Toy(model=Path("m"), top=2, force=True)) == key_values(plain) | {"top": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class WiderRequest(SpecializeRequest):
    """``specialize`` with one more option."""

    colour: Annotated[Literal["red", "blue"], Option("Colour of the board.", keyed="changed")] = (
        "red"
    )


def test_one_more_option_of_specialize_is_known_everywhere(tmp_path: Path):
    requests: list[WiderRequest] = []
    app = typer.Typer(add_completion=False)
    app.command("specialize")(Verb(run=requests.append, kinds=(WiderRequest,)).command())
    app.callback()(lambda: None)
    words = ["specialize", "--device", "jetson", "--colour", "blue"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "--colour" in CliRunner().invoke(app, ["specialize", "--help"]).output
    file = tmp_path / "fleet.toml"
    text = 'schema = "edgenas.fleet/1"\n[[devices]]\ndevice = "jetson"\n'
    file.write_text(text + 'latency = "5ms"\ncolour = "blue"\n')
    (entry,) = read_fleet(file, kind=WiderRequest)
    assert [request.colour for request in (*requests, entry.request)] == ["blue", "blue"]
    assert key_values(entry.request)["colour"] == "blue"
    assert "colour" not in key_values(WiderRequest(device="jetson"))
    file.write_text(text + 'colour = "green"\n')
    with pytest.raises(EdgenasError, match="colour must be one of red, blue, found 'green'"):
        read_fleet(file, kind=WiderRequest)
