"""The library over HTTP: who one is, whose a thing is, and how it comes from and into the live session."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from safetensors.torch import load

from residscope.errors import TooFast
from residscope.server import Server, people
from residscope.server.people import LIMITS, Buckets, People, Rate
from residscope.store import Library
from server.asking import PC, ask, refused, save, send
from store.things import MODEL, direction


@pytest.fixture(scope="module")
def server(with_library: Server) -> Server:
    return with_library


def test_the_name_is_in_a_signed_cookie(person, server: Server) -> None:
    http = person()
    assert http.get("api/library/me").json() == {"name": None}
    answer = http.post("api/library/me", json={"name": "Ada 👩‍🔬"})
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(f"residscope-user-{server.port}=")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert http.get("api/library/me").json() == {"name": "Ada 👩‍🔬"}
    assert http.delete("api/library/me").json() == http.get("api/library/me").json() == {"name": None}
    assert refused(http.post("api/library/me", json={"name": "\u202eevil"})) == (422, "BadText")


def test_a_forged_or_foreign_cookie_is_nobody(person, server: Server, tmp_path: Path) -> None:
    http, name = person("eve"), f"residscope-user-{server.port}"
    mine, ada = http.cookies[name], People(tmp_path).sign("ada")  # another server's signature
    for forged in (ada, f"{ada.split('.')[0]}.{mine.split('.')[1]}", mine[:-1], "", ".", "ada", f"{mine}0"):
        http.cookies.set(name, forged, domain="127.0.0.1", path="/")
        forged_http = httpx.Client(
            base_url=server.base, headers={"authorization": f"Bearer {server.token}", "cookie": f"{name}={forged}"}
        )
        assert forged_http.get("api/library/me").json() == {"name": None}, forged
        assert refused(forged_http.post("api/library/undo", json={})) == (403, "NoUser")
        forged_http.close()
    assert http.post("api/library/me", json={"name": "eve"}).status_code == 200


def test_the_key_lasts_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    signed = People(tmp_path).sign("ada")
    assert People(tmp_path).name_in(signed) == "ada"
    assert (tmp_path / "library.key").stat().st_mode & 0o777 == 0o600


def test_without_the_token_there_is_no_library(server: Server) -> None:
    with httpx.Client(base_url=server.base) as stranger:
        for method, path in (("GET", "me"), ("POST", "me"), ("GET", "directions"), ("POST", "import")):
            assert refused(stranger.request(method, f"api/library/{path}")) == (401, "NotAllowed")


def test_another_site_s_page_cannot_vote(person, server: Server) -> None:
    http = person("ada")
    entry = save(http, "to be voted on", description="d")
    description = http.get(f"api/library/directions/{entry['id']}").json()["descriptions"][0]["id"]
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = http.put(f"api/library/descriptions/{description}/vote", json={"value": 1}, headers=headers)
        assert refused(answer) == (403, "ForeignHost")
    assert http.get(f"api/library/directions/{entry['id']}").json()["entry"]["votes"] == 0


def test_a_mix_is_saved_found_and_opened_by_its_link(person, server: Server, library: Library) -> None:
    ada, bob = person("ada"), person("bob")
    mix = PC | {"weights": {"0": 1.0, "1": 2.0}}
    entry = save(ada, "a mix <b>", direction=mix, description="one, and two of another")
    assert bob.get("api/library/directions", params={"text": "A MIX"}).json()["entries"] == [entry]
    assert bob.get("api/library/directions", params={"user": "bob"}).json() == {"entries": [], "after": None}
    link = bob.get(f"/?token={server.token}&direction={entry['id']}")
    assert (link.status_code, link.headers["location"].partition("&page=")[0]) == (303, f"./?direction={entry['id']}")
    ref = bob.post(f"api/library/directions/{entry['id']}/open").json()
    assert ref == {"kind": "saved", "name": "a mix <b>"}
    state = server.session.snapshot()[1]
    assert {"name": "a mix <b>", "site": "resid_post.1", "library": entry["id"]}.items() <= state["directions"][
        -1
    ].items()
    want = server.session.reads.resolve(mix)[0]
    opened = server.session.reads.resolve(ref)[0]
    assert torch.equal(opened.read, want.read)
    assert (opened.offset, opened.scale, opened.space) == (want.offset, want.scale, want.space)
    assert ask(bob, "read_direction", direction=ref).status_code == 200
    assert bob.post(f"api/library/directions/{entry['id']}/open").json() == ref  # again: the same one
    file = bob.get(f"api/library/directions/{entry['id']}/file")
    assert file.headers["content-disposition"].endswith('.safetensors"')
    assert torch.equal(load(file.content)["read"], want.read)
    received = bob.post("api/library/import", content=file.content).json()
    assert (received["new"], received["entry"]["id"]) == (False, entry["id"])


def test_a_saved_direction_is_read_along_as_a_dictionary_of_one(person, server: Server) -> None:
    ada = person("ada")
    run = server.session.snapshot()[1]["current"]["a"]

    def coef(dictionary: str) -> dict[str, torch.Tensor]:
        answer = ask(ada, "coef", run=run, dictionary=dictionary)
        assert answer.status_code == 200, answer.text
        return load(answer.content)

    entry = save(ada, "read along")
    assert ada.post(f"api/library/directions/{entry['id']}/open").json()["name"] == "read along"
    found, whole = coef("saved:read along"), coef("pca@resid_post.1")
    assert found["coef"].shape[-1] == 1
    assert torch.allclose(found["coef"][..., 0], whole["coef"] @ torch.tensor([0.6, 0.0, -0.8]), atol=1e-4)
    own = server.session.reads.resolve(PC)[0]
    assert float(found["offset"][2, 0]) == pytest.approx(own.offset, abs=1e-5)  # row 2 is resid_post.1
    assert torch.allclose(found["offset"][:, 0], whole["offset"] @ torch.tensor([0.6, 0.0, -0.8]), atol=1e-4)
    moved = replace(own, offset=7.0, provenance={})  # fitted on another text: its own mean counts at its own place
    server.session.adopt(replace(moved, name="moved"), id="0" * 8)
    assert float(coef("saved:moved")["offset"][2, 0]) == pytest.approx(7.0)
    token = server.session.reads.resolve({"kind": "token", "token": "a"})[0]
    server.session.adopt(replace(token, name="a token"), id="1" * 8)
    lens = coef("saved:a token")
    x = server.session.model.run(list(server.session.state.prompt.ids), ["resid_post.3"])["resid_post.3"][0]
    assert torch.allclose(
        lens["coef"][-1, :, 0].double(), token.project(x, model=server.session.model).double(), atol=1e-3
    )
    assert refused(ask(ada, "coef", run=run, dictionary="saved:none")) == (404, "NotFound")


def test_the_session_takes_an_exported_file_as_it_is(person, server: Server, library: Library) -> None:
    ada = person("ada")
    entry = save(ada, "exported")
    data = ada.get(f"api/library/directions/{entry['id']}/file").content
    ref = send(ada, "import_direction", data).json()["value"]
    want, got = server.session.reads.resolve(PC)[0], server.session.reads.resolve(ref)[0]
    assert (got.offset, got.scale, got.space) == (want.offset, want.scale, want.space)


def test_a_mix_over_dictionaries_is_saved_and_comes_back_whole(person, server: Server) -> None:
    """Its terms are kept in what is said of where it came from."""
    ada = person("ada")
    terms = [{"dictionary": f"pca@resid_post.{i}", "index": i, "weight": weight} for i, weight in ((1, 0.7), (2, -0.5))]
    ref = {"kind": "mix", "terms": terms}
    entry = ada.post("api/library/directions", json={"direction": ref, "name": "over two layers"}).json()
    opened, want = (
        server.session.reads.resolve(each)[0]
        for each in (ada.post(f"api/library/directions/{entry['id']}/open").json(), ref)
    )
    assert torch.equal(opened.read, want.read)
    assert (opened.site, opened.space, opened.offset) == (want.site, want.space, want.offset)
    told = ada.get(f"api/library/directions/{entry['id']}").json()["provenance"]["mix"]
    assert [(term["weight"], term["place"], term["of"]["index"]) for term in told] == [
        (0.7, "resid_post.1", 1),
        (-0.5, "resid_post.2", 2),
    ]


def test_two_directions_of_one_name_stand_side_by_side_in_the_session(person, server: Server, library: Library) -> None:
    ada, bob = person("ada"), person("bob")
    first = save(ada, "twin")
    other = {"kind": "token", "token": "a"}
    second = bob.post("api/library/directions", json={"direction": other, "name": "twin"}).json()
    names = [ada.post(f"api/library/directions/{entry['id']}/open").json()["name"] for entry in (first, second)]
    assert names == ["twin", f"twin ({second['id'][:8]})"]
    assert torch.equal(
        server.session.reads.resolve({"kind": "saved", "name": names[1]})[0].read,
        server.session.reads.resolve(other)[0].read,
    )


def test_a_direction_of_another_model_is_not_opened(person, library: Library) -> None:
    entry = library.save(direction(), model=MODEL, user="ada", name="elsewhere")
    http = person()
    answer = http.post(f"api/library/directions/{entry.id}/open")
    assert refused(answer) == (422, "WrongModel")
    assert "toy" in answer.json()["error"]["message"]


def test_the_rules_are_the_server_s(person) -> None:
    ada, bob, nobody = person("ada"), person("bob"), person()
    entry = save(ada, "the rules", description="mine")
    path = f"api/library/directions/{entry['id']}"
    said = nobody.get(path).json()["descriptions"][0]
    vote = f"api/library/descriptions/{said['id']}/vote"
    for change in (
        lambda http: http.patch(path, json={"name": "taken over"}),
        lambda http: http.delete(path),
        lambda http: http.patch(f"api/library/descriptions/{said['id']}", json={"text": "no"}),
        lambda http: http.delete(f"api/library/descriptions/{said['id']}"),
    ):
        assert refused(change(bob)) == (403, "NotYours")
        assert refused(change(nobody)) == (403, "NoUser")
    assert refused(bob.put(vote, json={"value": 1, "user": "cy"})) == (400, "MalformedJSON")
    assert refused(bob.put(vote, json={"value": 2})) == (400, "MalformedJSON")
    for _ in range(3):
        assert bob.put(vote, json={"value": 1}).json()["up"] == 1
    assert bob.get(path).json()["descriptions"][0]["mine"] == 1
    assert nobody.get(path).json()["descriptions"][0]["mine"] == 0
    comment = bob.post(f"{path}/comments", json={"text": "<i>why?</i>"}).json()
    assert refused(ada.delete(f"api/library/comments/{comment['id']}")) == (403, "NotYours")
    assert refused(ada.patch(path, json={"name": "x", "seen": 99})) == (409, "EditedSince")
    event = ada.delete(path).json()["event"]
    assert refused(bob.get(path)) == (404, "NotFound")
    assert refused(bob.post("api/library/undo", json={"event": event})) == (403, "NotYours")
    assert ada.post("api/library/undo", json={"event": event}).json() == {"kind": "direction", "id": entry["id"]}
    assert refused(ada.post("api/library/undo", json={"event": event})) == (409, "CannotUndo")
    assert bob.get(path).json()["comments"] == [comment]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "directions/none", None, 404),
        ("GET", "directions?limit=1000", None, 422),
        ("GET", "directions?sort=best", None, 422),
        ("GET", "directions?after=x", None, 404),
        ("GET", "directions?text=%00", None, 200),
        ("POST", "directions", {"direction": {"kind": "magic"}, "name": "x"}, 400),
        ("POST", "directions", {"direction": PC, "name": ""}, 422),
        ("POST", "directions", {"direction": PC, "name": "x" * 1_000_000}, 422),
        ("POST", "directions", {"direction": PC}, 400),
        ("POST", "directions", [], 400),
        ("POST", "import", {"not": "safetensors"}, 400),
        ("POST", "directions/none/comments", {"text": "x"}, 404),
        ("PUT", "descriptions/none/vote", {"value": 1}, 404),
        ("DELETE", "comments/none", None, 404),
        ("POST", "undo", {"event": "last"}, 400),
        ("PUT", "directions", {}, 405),
    ],
)
def test_what_is_refused_has_the_one_shape(person, method: str, path: str, body: object, status: int) -> None:
    answer = person("eve").request(method, f"api/library/{path}", json=body)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["error"].keys() == {"type", "message", "received", "allowed", "fix"}
        assert len(answer.text) < 2_000


@pytest.mark.parametrize(
    "text",
    ["<img src=x onerror=alert(1)>", "</script><b>&amp;", "👩‍🔬 🏴\U000e0067\U000e0062\U000e007f", "שלום, مرحبا"],
)
def test_what_is_typed_comes_back_as_it_was_typed(person, text: str) -> None:
    http = person(f"{text} me"[:40].strip())
    entry = save(http, f"{text} named", description=text)
    comment = http.post(f"api/library/directions/{entry['id']}/comments", json={"text": text}).json()
    answer = http.get(f"api/library/directions/{entry['id']}")
    whole = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    told = (whole["entry"]["name"], whole["descriptions"][0]["text"], comment["text"])
    assert told == (f"{text} named", text, text)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("turned \u202e round", (422, "BadText")),
        ("isolated \u2066 for good", (422, "BadText")),
        ("\u200d\ufe0f", (422, "BadText")),
        ("zero\x00", (422, "BadText")),
        ("x" * 1_000_000, (422, "BadText")),
        ("🙂" * 250_000, (422, "BadText")),
        ("x" * (3 << 20), (413, "MalformedJSON")),
    ],
    ids=["override", "isolate", "unseen", "control", "1 MB", "1 MB of emoji", "3 MB"],
)
def test_text_that_misleads_or_never_ends_is_refused_everywhere(person, text: str, refusal: tuple[int, str]) -> None:
    http = person("ada the careful")
    entry = save(http, "with text", description="d")
    path = f"api/library/directions/{entry['id']}"
    description = http.get(path).json()["descriptions"][0]["id"]
    before = http.get(path).json()
    for method, where, body in (
        ("POST", "api/library/directions", {"direction": PC, "name": text}),
        ("POST", "api/library/directions", {"direction": PC, "name": "fine", "description": text}),
        ("PATCH", path, {"name": text}),
        ("POST", f"{path}/descriptions", {"text": text}),
        ("PATCH", f"api/library/descriptions/{description}", {"text": text}),
        ("POST", f"{path}/comments", {"text": text}),
        ("POST", "api/library/me", {"name": text}),
    ):
        answer = http.request(method, where, json=body)
        assert refused(answer) == refusal, (method, where)
        assert len(answer.text) < 2_000
    assert http.get(path).json() == before


def test_too_much_at_once_is_refused_for_that_person_alone(person, monkeypatch: pytest.MonkeyPatch) -> None:
    hurried, calm = person("in a hurry"), person("at leisure")
    monkeypatch.setattr(people, "time", SimpleNamespace(monotonic=lambda: 0.0))  # not a tick passes

    def vote(http: httpx.Client) -> tuple[int, str]:
        return refused(http.put("api/library/descriptions/none/vote", json={"value": 1}))

    answers = [vote(hurried) for _ in range(int(LIMITS["change"].burst) + 1)]
    assert set(answers[:-1]) == {(404, "NotFound")}
    assert answers[-1] == (429, "TooFast")
    assert vote(calm) == (404, "NotFound")


def test_a_bucket_fills_again() -> None:
    bucket = Buckets(Rate(burst=2, per_second=0.5))
    bucket.take("a", now=0.0)
    bucket.take("a", now=0.0)
    bucket.take("b", now=0.0)
    for now in (0.0, 1.9):
        with pytest.raises(TooFast):
            bucket.take("a", now=now)
    bucket.take("a", now=4.0)
    assert LIMITS["change"].burst >= 10
