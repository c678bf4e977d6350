"""How long engines take to build: told before the first one, and anew as builds are measured."""

from edgenas.profiling.minutes import Minutes


def told(builds: int, *seconds: float) -> list[str]:
    said: list[str] = []
    minutes = Minutes(builds, say=said.append)
    for each in seconds:
        minutes.add(each)
    return said


def test_the_rest_is_told_after_a_few_builds_by_their_median():
    said = told(63, 30.0, 600.0, 42.0)
    assert said == ["the first 3 engines took 42 s each (median): about 42 min for the other 60"]
    assert told(63, 30.0, 600.0) == []


def test_it_is_told_again_only_where_it_is_news():
    assert len(told(63, *[40.0] * 20)) == 1
    slow = told(63, *[40.0] * 3, *[80.0] * 4)
    assert slow[2:] == [
        "the first 7 engines took 80 s each (median): about 75 min for the other 56"
    ]
    # A timing cache makes later builds quicker.
    quick = told(63, *[40.0] * 3, *[10.0] * 4)
    assert quick[2:] == [
        "the first 7 engines took 10 s each (median): about 9 min for the other 56"
    ]


def test_the_last_engine_tells_nothing():
    assert told(3, 1.0, 1.0, 1.0) == []
    assert told(2, 1.0, 1.0, 1.0) == []
