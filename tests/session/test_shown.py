"""Every kind of item, and what every method gives, has a text that a reader reads and a table that says what it is."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from bundles import MAKERS, fitted, llama, probed
from labelled import labelled

from residscope.items import OPENED_BY
from residscope.reports import HOMES
from residscope.shelf.shown import several_of, table_of, text_of

ROWS = [[5, 6, 7], [8, 9, 10]]
ITEMS: dict[str, Callable[[], Any]] = {
    **MAKERS,
    "badge": lambda: MAKERS["evidence"]().used,
    "projection": lambda: MAKERS["look"]().projections[0],
    "direction": lambda: fitted()[2],
    "dictionary": fitted,
    "probe": lambda: probed()[0],
    "prompts": lambda: labelled(6),
    "recording": lambda: llama().run(ROWS, ["resid_pre.1"]),
    "generation": lambda: llama().generate(ROWS, max_new_tokens=3, stop=()),
}


def test_every_kind_is_among_them() -> None:
    kinds = {part.kind for make in ITEMS.values() for part in several_of(make())}
    wanted = {f"report:{name}" for name in HOMES} | OPENED_BY.keys() - {"report"} | {"recording"}
    assert kinds >= wanted


@pytest.mark.parametrize("name", ITEMS)
def test_its_text_and_its_table_say_what_it_is(name: str) -> None:
    item = ITEMS[name]()
    first = several_of(item)[0]
    told = json.loads(text_of(item, ".json"), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    header, *lines = csv.reader(io.StringIO(text_of(item, ".csv")))
    table = json.loads(json.dumps(table_of(item), allow_nan=False))
    assert told["kind"] == first.kind
    assert isinstance(told["name"], str)
    assert isinstance(told["unit"], str)
    assert told["columns"] == header == table["columns"]
    assert told["rows"][:200] == table["rows"]
    assert len(told["rows"]) == len(lines) == table["n"] > 0
    assert all(len(line) == len(header) for line in lines)
    assert all(cell is None or isinstance(cell, bool | int | float | str) for row in told["rows"] for cell in row)
    if header == ["part", "value"]:
        assert ["kind", first.kind] in told["rows"]
        assert len(lines) > 2
        assert " object at 0x" not in str(told["rows"])


def test_what_a_table_is_of_has_its_name_and_unit_in_the_text_of_a_report() -> None:
    das, dose = (json.loads(text_of(MAKERS[name](), ".json")) for name in ("das", "dose response"))
    assert (das["name"], das["unit"]) == ("mean logit difference under the exchange", "logits")
    assert [value for _, value in das["rows"]] == [pytest.approx(x) for x in MAKERS["das"]().effect]
    assert dose["unit"] == "nats"
    direction = dict(json.loads(text_of(fitted()[2], ".json"))["rows"])
    assert direction["site"] == fitted()[2].site
    assert direction["read"] == f"float32 [{fitted().read.shape[1]}]"
