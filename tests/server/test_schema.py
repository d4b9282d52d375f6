"""What the page knows of the arguments is what Python checks them by."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from residscope.server.schema import schema
from residscope.session.intents import INTENTS
from residscope.session.queries import QUERIES

WEB = Path(__file__).parents[2] / "web"
SCHEMA = schema()


def test_the_committed_schema_is_fresh() -> None:
    committed = (WEB / "wire.schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == SCHEMA, "run `make view-types`"


def test_every_intent_and_query_is_in_it() -> None:
    names = {kind: {*SCHEMA["properties"][kind]["properties"]} for kind in ("intents", "queries")}
    assert {name for name in names["intents"] if not name.startswith("library_")} == {*INTENTS}
    assert {name for name in names["queries"] if not name.startswith("library_")} == {*QUERIES}
    assert {"library_vote", "library_import"} <= names["intents"]
    assert {"library_search", "library_blind_test"} <= names["queries"]


ASKED = [("intents", name, intent.args) for name, intent in INTENTS.items()]
ASKED += [("queries", name, query.args) for name, query in QUERIES.items()]


@pytest.mark.parametrize(("kind", "name", "args"), ASKED, ids=[f"{kind} {name}" for kind, name, _ in ASKED])
def test_it_takes_what_the_session_takes(kind: str, name: str, args: type[BaseModel]) -> None:
    told = SCHEMA["properties"][kind]["properties"][name]
    assert {*told["properties"]} == {*args.model_fields}
    assert {*told.get("required", ())} == {name for name, field in args.model_fields.items() if field.is_required()}
    assert told["additionalProperties"] is False


def test_what_is_referred_to_is_there() -> None:
    found = {*re.findall(r'"#/definitions/([^"]+)"', json.dumps(SCHEMA))}
    assert found
    assert found <= {*SCHEMA["definitions"]}


def test_a_file_is_a_file() -> None:
    for name in ("import_item", "import_direction", "library_import"):
        assert SCHEMA["properties"]["intents"]["properties"][name]["properties"]["data"] == {"tsType": "Blob"}
