"""Features of a dictionary in the library: named, described and voted on, found by the dictionary's hash and their number."""

from collections.abc import Callable

import httpx

from residscope.directions import DICTIONARY_HASH
from residscope.server import Server
from server.asking import ask, do


def alone(dictionary: str, index: int, weight: float = 1.0) -> dict:
    return {"kind": "mix", "terms": [{"dictionary": dictionary, "index": index, "weight": weight}]}


def saved(http: httpx.Client, direction: dict, name: str, **more: str) -> dict:
    answer = do(http, "library_save", direction=direction, name=name, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["value"]


def test_what_is_saved_of_a_dictionary_is_found_by_its_number(
    person: Callable[..., httpx.Client], with_library: Server
) -> None:
    http, session = person("ada"), with_library.session
    hash = session.state.model.dictionaries["pca@resid_post.1"].hash
    plain = saved(http, alone("pca@resid_post.1", 1), "a plain one")
    said = saved(http, alone("pca@resid_post.1", 1), "a described one", description="commas")
    saved(http, alone("pca@resid_post.1", 0, -1.0), "turned round")
    saved(
        http,
        {"kind": "mix", "terms": alone("pca@resid_post.1", 0)["terms"] + alone("pca@resid_post.1", 2)["terms"]},
        "mixed",
    )
    saved(http, alone("pca@resid_post.2", 1), "of another")
    found = ask(http, "library_features", dictionary=hash).json()["features"]
    assert [(one["index"], one["entry"]["id"]) for one in found] == [(1, said["id"]), (1, plain["id"])]
    assert all(one["entry"]["here"] for one in found)
    described = ask(http, "library_read", id=said["id"]).json()["descriptions"][0]
    assert do(person("grace"), "library_vote", id=described["id"], value=1).json()["value"]["up"] == 1
    assert ask(http, "library_features", dictionary=hash).json()["features"][0]["entry"]["votes"] == 1
    assert ask(http, "library_features", dictionary="0" * 64).json() == {"features": []}
    name = do(http, "library_open", id=said["id"]).json()["value"]["name"]
    provenance = session.state.directions[name].provenance
    assert (provenance["index"], provenance[DICTIONARY_HASH]) == (1, hash)
