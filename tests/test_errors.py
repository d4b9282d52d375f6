"""An error says the way out in the words of the door it comes through."""

import pytest

from residscope.errors import ResidscopeError


@pytest.mark.parametrize(
    ("fix", "on_page", "shown"),
    [
        ("choose another name", None, "choose another name"),
        ("say head=, or edit each", None, "say head, or edit each"),
        ('use unit="norm"', None, 'use unit "norm"'),
        ("install `residscope[parquet]`", None, "install residscope[parquet]"),
        ("load it with rs.load(name)", None, None),
        ("text.replace('a', '')", None, None),
        ("rs.logit_diff(' a', ' b')", "choose two answers", "choose two answers"),
        (None, None, None),
    ],
)
def test_the_page_reads_no_python(fix: str | None, on_page: str | None, shown: str | None) -> None:
    error = ResidscopeError("it failed", received="x", fix=fix, on_page=on_page)
    assert error.to_dict()["fix"] == shown
    assert error.to_dict()["message"] == "it failed. Received: x." + (f" To fix: {shown}." if shown else "")
    assert error.fix == fix
    assert str(error) == "it failed. Received: x." + (f" To fix: {fix}." if fix else ""), "Python's words stay Python's"


@pytest.mark.parametrize(
    ("received", "shown"),
    [("head=[4]", "head [4]"), ("pos=None", "pos None"), ("'x=1'", "'x=1'"), ("a b=1", "a b=1"), ("x = 1", "x = 1")],
)
def test_an_argument_is_named_without_its_sign_and_what_was_typed_stays(received: str, shown: str) -> None:
    assert ResidscopeError("no", received=received).to_dict()["received"] == shown
