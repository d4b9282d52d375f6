"""What each method takes, made up by the kinds of its fields, and what none may take: a new method needs no row here."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from labelled import labelled, named
from readers import TEXTS, drawn, reader

import residscope as rs
from loopback_chat import ByRule
from residscope.declare.methods import Method
from residscope.directions import EncoderDictionary
from residscope.engine.model import Model
from residscope.methods._lib.tuned import TunedLens
from session import worlds
from tiny_models import tiny_llama

JUMPRELU = Path(__file__).parent.parent / "sae/peers/saelens-jumprelu"
DATA = labelled(24, ragged=False)
SMALL = {"tokens": 300, "length": 8, "draws": 2, "random_texts": 9, "n": 3, "k": 2, "prompts": 4, "resamples": 2,
         "steps": 2, "max_new_tokens": 3, "sample": 2, "controls": 3, "circuits": 2, "features": 16, "largest": 1,
         "each": 2, "edges": 20, "exact_sample": 4, "read": 50, "held_out": 4, "skip": 0, "batch": 8}  # fmt: skip
BESIDE = {  # what else a method is asked, to be quick or to be possible on random weights
    "continuations": {"temperature": 1.0, "edits": [rs.edits.ablate("z.1")]}, "nmf": {"clip": True},
    "probe-map": {"here_only": True}, "sae-load": {"check": False}, "evidence": {"random": 9}, "dose-response": {"random": 3},
    "probe-sweep": {"sites": ["resid_post"], "layers": [1]}, "edge-patching": {"senders": [0], "receivers": [2]},
    "edge-attribution": {"senders": [0], "receivers": [2]}, "das": {"steps": 1},
}  # fmt: skip


@cache
def model() -> Model:
    return reader()


@cache
def not_finite() -> Model:
    """The same with one weight of a late layer that is no number."""
    hf = tiny_llama()
    with torch.no_grad():
        hf.model.layers[2].mlp.down_proj.weight[3, 4] = torch.nan
    return Model(hf, worlds.tokenizer(), name="not finite")


@cache
def other() -> Model:
    return Model(tiny_llama(seed=1), worlds.tokenizer(), name="other")


@cache
def encoder(site: str = "resid_pre.1") -> EncoderDictionary:
    read = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros(32)
    return EncoderDictionary("sae", site, read, read, mean=zero, bias=torch.zeros(24), base=zero)


@cache
def lens() -> str:
    folder = mkdtemp()
    TunedLens(torch.zeros(4, 32, 32), torch.zeros(4, 32)).save(f"{folder}/lens")
    return f"{folder}/lens"


@cache
def fitted() -> Any:
    return rs.pca(model(), TEXTS, "resid_post.1", 2, tokens=300, progress=False)[0]


@cache
def probe() -> Any:
    return rs.fit_probe(model(), DATA, site="resid_pre.1", position="P", label="parity", Cs=(0.01,), progress=False)


@cache
def graph() -> Any:
    return rs.causal_graph(
        model(), "abcdef", [encoder(), encoder("resid_post.2")], errors=False, tokens=0, progress=False
    )


@cache
def atlas() -> Any:
    return rs.features.gather(model(), TEXTS, encoder(), tokens=600, k=3, progress=False)


def good(method: Method) -> dict[str, Any]:
    """Arguments that the method takes: all that it requires, its counts made small, its dictionary where it may have one."""
    given = {one.name: _good(method.id, one) for one in method.arguments}
    quiet = {"progress": False} if "progress" in method.takes else {}
    return {name: value for name, value in given.items() if value is not None} | BESIDE.get(method.id, {}) | quiet


def _good(id: str, one: Any) -> Any:
    name, field, required = one.name, one.field, one.default is one.required
    if field.kind == "count" and not required and name in SMALL:
        return min(max(SMALL[name], field.low), field.high)
    if (
        not required
        and (name, id) not in (("dictionary", "atlas"), ("dictionary", "name-features"))
        and name not in ("corpus", "text")
    ):
        return None
    several = getattr(field, "several", False)
    match field.kind, name:
        case "prompts", "concept_prompts":
            return DATA.subset(range(12))
        case "prompts", "other_prompts":
            return DATA.subset(range(12, 24))
        case "prompts", "data" if id == "signal-split":
            return named(12, ragged=False)
        case "place", _:
            return lens() if id == "tuned-lens-load" else str(JUMPRELU)
        case "direction", _ if id == "stability":
            return fitted()
        case "prompts", "corrupted" | "over":
            return ["abdedf"]
        case "prompts", _:
            return DATA if field.labelled else "abcdef" if field.one else ["abcdef"]
        case "site", _:
            site = "mlp_post.1" if id == "nmf" else "resid_post.1"
            return [site] if several else site
        case "positions", "subject":
            return [1]
        case "positions", _:
            return ["P"] if several else "P" if field.named else 1
        case "dictionary", _:
            return [encoder(), encoder("resid_post.2")] if several else encoder()
        case "head_group", _:
            return (2, 1) if id == "self-repair" else {"some": [(2, 1)]}
        case "edits", _:
            return [rs.lrqp(probe(), to="other")]
        case "item", _:
            return {"report:graph": graph, "report:atlas": atlas}[field.of]()
        case "tokens", _:
            return ["a", "b"] if several else "a"
        case "probe", _:
            return [probe()] if several else probe()
        case "name", _:
            return {"label": "parity", "position": "P"}[field.of]
    return {
        "metric": lambda: rs.logit_diff("a", "b"), "text": lambda: TEXTS, "direction": lambda: drawn(3), "model": other,
        "contrast": lambda: {"a": TEXTS[:30], "b": TEXTS[30:]}, "endpoint": ByRule, "count": lambda: 2, "heads": lambda: 1,
        "indices": lambda: [1, 2],
    }[field.kind]()  # fmt: skip


def bad(method: Method) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of each argument, what is refused: the argument, what is wrong, and the value, with what it needs to mean something."""
    for one in method.arguments:
        beside = {} if one.field.when is None else {one.field.when[0]: one.field.when[1][0]}
        for what, value in _bad(one.field):
            if value or one.default != ():  # where nothing at all is what stands there unless said
                yield one.name, what, {**beside, one.name: value}


def _bad(field: Any) -> list[tuple[str, Any]]:
    several = getattr(field, "several", False)
    found: list[tuple[str, Any]] = []
    match field.kind:
        case "prompts":
            found = [
                ("no prompts", []),
                ("an empty prompt", [[]]),
                ("no text", ""),
                ("a token that is not there", [[2, 10**6]]),
            ]
        case "layers":
            found = [("no layers", []), ("a layer that is not there", [99])]
        case "heads":
            found = [("a head that is not there", 99)]
        case "head_group":
            found = [("no heads", []), ("a head that is not there", [(9, 9)])]
        case "positions":
            found = [("a name that is not there", ["nowhere"] if several else "nowhere")]
            found += [] if several else [("a position that is not there", 99)]
            found += [] if field.single else [("no positions", [])]
        case "site":
            bent = ["nowhere.1", "resid_post.99", "router.1"]
            found = [(site, [site] if several else site) for site in bent] + ([("no sites", [])] if several else [])
        case "text":
            found = [("no text", [])]
        case "tokens":
            found = [("a token that is not there", ["of several"] if several else "of several")]
            found += [("no tokens", [])] if several else []
        case "dictionary":
            wide = EncoderDictionary("wide", "resid_pre.1", torch.ones(3, 40), torch.ones(3, 40), mean=torch.zeros(40),
                                     bias=torch.zeros(3), base=torch.zeros(40))  # fmt: skip
            found = [("too wide", [wide] if several else wide)] + ([("no dictionaries", [])] if several else [])
        case "direction":
            found = [("too wide", drawn(3, d=40)), ("of a layer that is not there", drawn(3, site="resid_post.99"))]
            found += [("no directions", [])] if several else []
        case "choice":
            found = [("no such choice", "no such choice")]
        case "name":
            found = [("no such name", "no such name")] if field.of else []  # else any text will do
        case "contrast":
            found = [("no texts", {}), ("an empty text", {"a": [], "b": TEXTS})]
        case "probe":
            found = [("no probes", [])] if several else []
        case "metric":
            found = [("of a token that is not there", rs.logit_diff(10**6, 3)), ("without answers", rs.logit_diff())]
    return found
