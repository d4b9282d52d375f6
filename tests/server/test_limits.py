"""What a server that several people use leaves to its owner: files of its machine, and services that are asked for names."""

from pathlib import Path

import httpx
import pytest

from loopback_chat import KEY, chat
from residscope.errors import NoEndpoint, OwnersAlone
from residscope.fields.endpoints import EndpointRef, read_endpoint
from residscope.server import Server
from residscope.world.limits import Limits, Offered
from server.asking import do, refused
from session import worlds
from session.asked import start

PEERS = Path(__file__).parents[1] / "sae" / "peers"
OWN = Limits.of(shared=True, folders=[PEERS])
URL = "https://api.example.org/v1"


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd", "/", "~/.ssh", "~root/x", "./here", "../up", ".", "owner/name/../../etc", "shipped/../../etc",
        str(PEERS / ".." / ".." / "conftest.py"), f"{PEERS}-beside/x", str(PEERS.parent),
    ],
)  # fmt: skip
def test_files_of_the_machine_are_its_owner_s(source: str) -> None:
    with pytest.raises(OwnersAlone, match=r"--dictionaries|import the file"):
        OWN.place(source)
    assert Limits().place(source) == source


def test_a_link_out_of_an_own_folder_leads_nowhere(tmp_path: Path) -> None:
    inside, outside = tmp_path / "own", tmp_path / "other"
    inside.mkdir()
    outside.mkdir()
    (inside / "out").symlink_to(outside)
    limits = Limits.of(shared=True, folders=[inside])
    assert limits.place(str(inside / "sae")) == str(inside / "sae")
    with pytest.raises(OwnersAlone):
        limits.place(str(inside / "out" / "sae"))


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("shipped", "shipped"), ("shipped/sae@resid_post.8", "shipped/sae@resid_post.8"),
        ("owner/name", "hub:owner/name"), ("hub:owner/name/a@main", "hub:owner/name/a@main"),
        (str(PEERS / "saelens-jumprelu"), str((PEERS / "saelens-jumprelu").resolve())),
    ],
)  # fmt: skip
def test_what_ships_the_hub_and_own_folders_stay_open(source: str, meant: str) -> None:
    assert OWN.place(source) == meant


def test_a_folder_where_the_server_was_started_is_no_name_of_the_hub_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert OWN.place("owner/name") == "hub:owner/name"


OFFERED = (f"{URL} small NAMING_TEST_KEY", "http://127.0.0.1:9/v1")
SHARED = Limits.of(shared=True, endpoints=OFFERED)


@pytest.mark.parametrize(
    "words",
    [
        "http://169.254.169.254/latest x", "http://localhost:8080/v1 x", f"{URL} large", f"{URL} small PATH",
        "http://127.0.0.1:9/v1/../admin x", "http://127.0.0.1:9/v1 x HOME", f"{URL}/other small", "http://127.0.0.1:90/v1 x",
    ],
)  # fmt: skip
def test_a_shared_server_asks_no_service_but_its_owner_s(words: str) -> None:
    asked = EndpointRef(**read_endpoint(words))
    with pytest.raises(OwnersAlone, match="naming-endpoint"):
        SHARED.endpoint(asked)
    with pytest.raises(OwnersAlone, match="none was named"):
        Limits.of(shared=True).endpoint(asked)


def test_the_owner_s_key_goes_with_the_owner_s_service_alone() -> None:
    for words in (
        f"{URL} small",
        f"{URL}/ small NAMING_TEST_KEY",
        "HTTPS://API.example.org/v1 small".replace("HTTPS", "https"),
    ):
        assert SHARED.endpoint(EndpointRef(**read_endpoint(words))).key == "NAMING_TEST_KEY"
    other = SHARED.endpoint(EndpointRef(**read_endpoint("http://127.0.0.1:9/v1 any")))
    assert (other.model, other.key) == ("any", None)
    assert Limits().endpoint(EndpointRef(**read_endpoint("http://127.0.0.1:1/v1 x KEY"))).key == "KEY"
    with pytest.raises(NoEndpoint):
        Offered.parse("a b c d")


def test_over_the_door_both_are_refused_and_the_owner_s_own_service_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")
    monkeypatch.setenv("NAMING_TEST_KEY", KEY)
    with chat() as service, worlds.session() as session:
        service.key = KEY
        offered = [f"{service.url} by-rule NAMING_TEST_KEY"]
        behind = ["https://hub.example.org/proxy/8765/"]
        with Server(session, port=0, page=tmp_path, behind=behind, folders=[PEERS], endpoints=offered) as running:
            headers = {"authorization": f"Bearer {running.token}"}
            with httpx.Client(base_url=running.base, headers=headers, timeout=60) as http:
                secret = do(http, "start", method="sae-load", args={"source": "/etc"})
                assert refused(secret) == (403, "OwnersAlone")
                said = secret.json()["error"]["message"]
                assert "import the file" in said
                text = {"kind": "typed", "name": "t.txt", "text": "\n\n".join(f"line {n} of it all" for n in range(80))}
                start(session, "atlas", name="neurons", corpus=text, site="mlp_post.1", tokens=1000, k=6)
                assert session.wait(60)
                asked = {
                    "atlas": "neurons",
                    "features": [1, 2],
                    "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "x"},
                }
                assert refused(do(http, "start", method="name-features", args=asked)) == (403, "OwnersAlone")
                assert service.asked == []
                asked["endpoint"] = {"url": service.url, "model": "by-rule"}
                assert do(http, "start", method="name-features", args=asked).status_code == 200
                load = do(
                    http, "start", method="sae-load", args={"source": str(PEERS / "saelens-jumprelu"), "check": False}
                )
                assert load.status_code == 200
                assert session.wait(60)
    assert {headers["authorization"] for headers in service.headers} == {f"Bearer {KEY}"}
    assert [job.phase for job in session.state.jobs] == ["done"] * 3
    (names,) = [item for item in session.items.values() if item.kind == "report:feature_names"]
    assert KEY not in str(names.provenance)
    assert "NAMING_TEST_KEY" not in str(session.snapshot()[1]["items"])
