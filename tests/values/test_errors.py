import pytest

from napari_celltrain.values.errors import ConfigError, DataError, ModelFileError, Problem, each_of, grouped


def flat(name, size):
    return Problem("unreadable-file", name, f"This is a 2D image of {size} × 64 pixels.", "Save it as a stack.")


def test_the_same_problem_in_many_files_is_one_with_a_count():
    other, warned = Problem("other", "x.tif", "Is wrong."), Problem("other", "y.tif", "Is wrong.", severity="warning")
    found = grouped([flat("0.tif", 64), other, *(flat(f"{number}.tif", 50 + number) for number in range(72)), warned])
    # the first is listed twice
    assert list(map(str, found)) == [
        "0.tif and 72 more: This is a 2D image of 64 × 64 pixels. Save it as a stack.",
        "x.tif: Is wrong.",
        "y.tif: Is wrong.",
    ]
    assert grouped([flat("a", 1), flat("b", 2)])[0].where == "a and b"
    error = DataError(*(flat(f"{number}.tif", 64) for number in range(72)), heading="The data cannot be used:")
    assert str(error).count("2D image") == 1
    assert len(error.problems) == 72


def test_problems_of_settings_stay_apart():
    problems = [Problem("config", field, "must be above 0.") for field in ("training.epochs", "training.steps")]
    assert grouped(problems) == problems
    assert str(ConfigError(*problems)).count("must be") == 2


def test_each_of_several_calls_is_made():
    def call(value):
        if value == "other":
            raise ModelFileError(Problem("code", value, "Is wrong."))
        if isinstance(value, str):
            raise DataError(Problem("code", value, "Is wrong."))
        return value

    def calls(*values):
        return [lambda value=value: call(value) for value in values]

    assert each_of(calls(1, 2)) == [1, 2]
    with pytest.raises(DataError) as caught:
        each_of(calls(1, "a", "other", 2, "b"))
    assert [problem.where for problem in caught.value.problems] == ["a", "other", "b"]
    with pytest.raises(ModelFileError, match=r"other: Is wrong\."):
        each_of(calls("other", 1))
