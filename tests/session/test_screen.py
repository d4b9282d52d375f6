"""Copied Python is what is on screen: of every state the lines are run, and their `cells` are those that the page draws.

The page's own arithmetic (web/src/lib/mix.ts) is written here once more, over what the page is sent.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import residscope as rs
from browser.conftest import byte_tokenizer
from residscope import directions
from residscope.directions import Dictionary, EncoderDictionary
from residscope.errors import MalformedJSON, UnknownSite, ZeroDirection
from residscope.session import Session
from session import worlds
from tiny_models import shaken

BEYOND = 6  # ids that the tokenizer has none for
CENTRED = ("centred", "standardised", "folded-centred", "mixed")
TEXTS = {
    "plain": {"text": "a small prompt"},
    "with BOS": {"text": 'it\'s "quoted"\n', "bos": True},
    "emoji": {"text": "I love 👩‍👩‍👧!"},
    "right to left": {"text": "مرحبا שלום \u202e x"},
}
SCALE = {"kind": "scale", "site": "mlp_out.1", "factor": 0.5}
STACKS = {
    "in the blocks": [SCALE, {"kind": "ablate", "site": "z.1", "head": 2, "pos": [1]}],
    "steered": [
        {
            "kind": "steer",
            "site": "resid_post.1",
            "direction": {"kind": "pca", "site": "resid_post.1", "weights": {"1": 1.0}},
            "strength": 3.0,
        }
    ],
    "at the end": [SCALE, {"kind": "scale", "site": "final_norm", "factor": 0.5}],
}


def model_of(family: str, folder: Path, dtype: torch.dtype) -> Any:
    """A tiny random one that reads bytes, its vocabulary larger than its tokenizer's."""
    vocab = len(byte_tokenizer(folder)) + BEYOND
    torch.manual_seed(0)
    if family == "llama":
        config = LlamaConfig(
            vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        hf: Any = LlamaForCausalLM(config)
    else:
        hf = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab, n_embd=32, n_layer=4, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1
            )
        )  # fmt: skip
    from transformers import AutoTokenizer

    return rs.load((shaken(hf).to(dtype), AutoTokenizer.from_pretrained(folder)))


def made(model: Any) -> dict[str, Dictionary]:
    """One dictionary of every kind, and of every way to be read."""
    draw = torch.Generator().manual_seed(11)

    def linear(kind: str, site: str, *, width: int = 32, n: int = 3, **more: Any) -> Dictionary:
        read = torch.randn(n, width, generator=draw)
        mean = torch.randn(width, generator=draw)
        return Dictionary(kind, site, read, read, mean, **more)

    def encoder(site: str, **more: Any) -> EncoderDictionary:
        read, write = torch.randn(20, 32, generator=draw), torch.randn(20, 32, generator=draw)
        parts = {"bias": torch.randn(20, generator=draw), "mean": torch.randn(32, generator=draw)}
        return EncoderDictionary("sae", site, read, write, base=torch.zeros(32), **parts, **more)

    other = {"provenance": {"corpus": "another text"}}
    tokens = directions.unembedding_rows(model, ["a", "b", " "])
    return {
        "pca at another text 1": linear("pca", "resid_post.1", **other),
        "pca at another text 2": linear("pca", "resid_post.3", **other),
        "standardised": linear("pca", "resid_post.2", provenance={"corpus": "noise", "standardised": True}),
        "of a head": linear("pca", "z.2", width=8, head=1),
        "of another head": linear("pca", "z.2", width=8, head=3),
        "of that head before": linear("pca", "z.0", width=8, head=1),
        "into the stream of a head": linear("pca", "result.2", head=1),
        "svd": linear("svd", "attn_out.1", space="raw"),
        "nmf": linear("nmf", "mlp_post.2", width=4 * 32 if model.family.name == "gpt2" else 48, space="raw"),
        "mean difference": linear("mean_difference", "resid_post.2", n=1),
        "mean difference of a place without components": linear("mean_difference", "resid_mid.1", n=1),
        "tokens": tokens,
        "sae": encoder("resid_post.1"),
        "sae of few": encoder("resid_post.2", activation="topk", k=3),
        "transcoder": encoder("mlp_in.1", written="mlp_out.1"),
    }


class Page:
    """The page's arithmetic over what it is sent, in numpy."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def runs(self) -> dict[str, str | None]:
        current = self.session.snapshot()[1]["current"]
        return {"base": current["a"], "edit": current["b"]}

    def info(self, term: dict[str, Any]) -> dict[str, Any]:
        state = self.session.snapshot()[1]
        if "saved" in term:
            return next(
                {**one, "kind": "saved", "linear": True} for one in state["directions"] if one["name"] == term["saved"]
            )
        return next(one for one in state["model"]["dictionaries"] if one["id"] == term["dictionary"])

    def units(self, terms: list[dict[str, Any]]) -> list[str]:
        infos = [self.info(term) for term in terms]
        linear = [info for info in infos if info["linear"]]
        if not linear:
            return ["activation"]
        if len(linear) < len(infos):
            return ["mixed", "mixed-raw"]
        if all(info["space"] == "lens" for info in infos):
            return ["folded", "folded-centred"]
        standardised = all(info.get("standardised") for info in infos)
        at_stream = all(info["width"] == 32 and info["site"] not in ("mlp_in.1",) for info in infos)
        return ["standardised" if standardised else "centred", "raw", *(["cos"] if at_stream else [])]

    def length(self, terms: list[dict[str, Any]]) -> float:
        names = [f"saved:{t['saved']}" if "saved" in t else f"{t['dictionary']}/{t['index']}" for t in terms]
        gram = np.array(self.session.query("gram", {"of": names})["gram"])
        weights = np.array([term["weight"] for term in terms])
        return float(np.sqrt(weights @ gram @ weights))

    def rows(self, term: dict[str, Any]) -> list[str]:
        data = self._coef(self.runs()["base"], term)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        return list(json.loads(header["rows"]))

    def field(self, run: str, terms: list[dict[str, Any]], unit: str) -> np.ndarray:
        encoded = any(not self.info(term)["linear"] for term in terms)
        own_units = len(terms) == 1 and unit != "cos"
        divisor = abs(terms[0]["weight"]) if own_units else 1.0 if encoded else self.length(terms)
        total: Any = 0.0
        for term in terms:
            sent = load(bytes(self._coef(run, term)))
            coef, offset = sent["coef"][..., 0].astype(np.float64), sent["offset"].astype(np.float64)
            share = offset / sent["sigma"] if "sigma" in sent else offset
            total = total + term["weight"] / divisor * (coef - (share if unit in CENTRED else 0.0))
        if unit == "cos":
            total = total / load(bytes(self.session.reads.stream(run)))["norm"]
        return np.asarray(total)

    def logits(self, run: str, unit: str) -> np.ndarray:
        metric = self.session.state.metric
        sent = load(bytes(self.session.reads.logits(run, positive=metric.positive.id, negative=metric.negative.id)))
        return sent["value"] - (sent["offset"] if unit == "logit-centred" else 0.0)

    def shown(self, mode: str, field: Any) -> np.ndarray:
        runs = self.runs()
        if mode == "delta":
            return field(runs["edit"]) - field(runs["base"])
        return np.asarray(field(runs[mode]))

    def _coef(self, run: Any, term: dict[str, Any]) -> bytes:
        source = f"saved:{term['saved']}" if "saved" in term else term["dictionary"]
        return bytes(self.session.reads.coef(run, dictionary=source, indices=[term.get("index", 0)]))


def copied(session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> tuple[Any, str]:
    """What the lines leave as `cells`, run where nothing else has a name; and the lines."""
    code = session.intent("python", asked)["code"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(rs, "load", lambda name, **options: session.state.model.model)
    monkeypatch.setattr("residscope.directions.shipped", worlds.components)
    namespace: dict[str, Any] = {}
    exec(compile(code, "<pasted>", "exec"), namespace)
    cells = namespace["cells"]
    return ([x.double().numpy() for x in cells] if isinstance(cells, list) else cells.double().numpy()), code


def cells_of(lines: tuple[Any, str]) -> list[np.ndarray]:
    """Of each prompt its own."""
    assert isinstance(lines[0], list)
    return lines[0]


def close(found: np.ndarray, wanted: np.ndarray, *, tolerance: float = 2e-5) -> None:
    """Alike to rounding, and NaN where the page has none."""
    assert found.shape == wanted.shape
    assert (np.isnan(found) == np.isnan(wanted)).all()
    scale = np.nanmax(np.abs(wanted)) if np.isfinite(wanted).any() else 1.0
    assert np.nanmax(np.abs(found - wanted), initial=0.0) <= tolerance * max(scale, 1e-6)


@pytest.fixture(scope="module", params=["llama", "gpt2", "llama in bfloat16"])
def screen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Path]]:
    """A session with every kind of dictionary and saved direction, and the folder that holds their files."""
    patch = pytest.MonkeyPatch()
    patch.setattr("residscope.world.loaded.shipped", worlds.components)
    folder = tmp_path_factory.mktemp("screen")
    family, _, dtype = request.param.partition(" in ")
    model = model_of(family, folder / "tokenizer", torch.bfloat16 if dtype else torch.float64)
    with worlds.session(model) as session:
        session.intent("set_prompt", TEXTS["plain"])
        for name, dictionary in made(model).items():
            directions.save(folder / f"{name}.safetensors", dictionary, model)
            session.import_item((folder / f"{name}.safetensors").read_bytes(), name)
        vector = torch.randn(32, generator=torch.Generator().manual_seed(8))
        for space, offset in (("raw", 0.0), ("centred", 1.5), ("lens", 0.25)):
            direction = rs.Direction(vector, vector, "resid_post.1", name=space, space=space, offset=offset)
            direction.save(folder / "sent.safetensors")
            session.import_direction((folder / "sent.safetensors").read_bytes())
        assert session.wait(60)
        for item in session.snapshot()[1]["items"]["items"]:
            file, data = session.reads.item_file(item["name"], ".safetensors")
            (folder / file).write_bytes(data)
        yield session, folder
    patch.undo()


def at(session: Session, *, text: str = "plain", stack: str = "in the blocks") -> Page:
    """The page with a prompt and edits, both runs there."""
    session.intent("compare_run", {})
    session.intent("set_prompt", TEXTS[text])
    session.intent("set_edits", {"edits": STACKS[stack]})
    assert session.wait(60)
    page = Page(session)
    assert page.runs()["edit"] is not None
    return page


def term(dictionary: str, index: int = 0, weight: float = 1.0) -> dict[str, Any]:
    return {"dictionary": dictionary, "index": index, "weight": weight}


def every_mix(session: Session) -> list[list[dict[str, Any]]]:
    """One direction of each dictionary, of either sign and several of one; of different ones that the page lets mix."""
    infos = session.snapshot()[1]["model"]["dictionaries"]
    ids = [info["id"] for info in infos]
    alone = [[term(info["id"], weight=1.0)] for info in infos]
    weak = [[term(info["id"], info["n"] - 1, -0.2)] for info in infos]
    several = [[term(i["id"], 0, 0.5), term(i["id"], i["n"] - 1, -0.75)] for i in infos if i["n"] > 1]
    saved = [[{"saved": name, "weight": weight}] for name in ("raw", "centred", "lens") for weight in (1.0, -0.5)]
    pca = "pca@resid_post.1"
    assert pca in ids
    mixes = [
        [term(pca), term("pca@resid_post.3", 2, -0.5)],
        [term(pca), term("pca@resid_post.1#2", 1, 0.5)],
        [term(pca), {"saved": "centred", "weight": 0.5}],
        [term(pca), {"saved": "raw", "weight": 0.5}],
        [{"saved": "lens", "weight": 0.5}, term("unembedding@resid_post.3", 1, -1.0)],
        [term("mean_difference@resid_post.2"), term("svd@attn_out.1", 1)],
        [term("pca@z.2.h1"), term("pca@z.2.h3", 1, -0.5)],
        [term("pca@z.2.h1"), term("pca@z.0.h1", 1, 0.5)],
        [term("pca@result.2.h1"), term(pca, 1)],
        [term("sae@resid_post.1", 3), term(pca, 1, -2.0)],
        [{"saved": "centred", "weight": 0.5}, term("sae@resid_post.2", 4), term("svd@attn_out.1")],
        [term("sae@resid_post.1", 3, 0.5), term("sae@resid_post.2", 7, -1.0)],
    ]
    return [*alone, *weak, *several, *saved, *mixes]


def test_every_direction_in_every_unit_and_of_every_run(screen: Any, monkeypatch: Any) -> None:
    session, folder = screen
    page, modes, compared = at(session), cycle(("base", "edit", "delta")), 0
    for terms in every_mix(session):
        for unit in page.units(terms):
            mode = next(modes)
            asked = {
                "direction": {"kind": "mix", "terms": terms},
                "unit": unit,
                "mode": mode,
                "rows": page.rows(terms[0]),
            }
            found, code = copied(session, folder, monkeypatch, **asked)
            wanted = page.shown(mode, lambda run, t=terms, u=unit: page.field(run, t, u))
            try:
                close(found, wanted, tolerance=1e-4)
            except AssertionError as error:
                raise AssertionError(f"{terms} {unit} {mode}\n{code}") from error
            compared += np.isfinite(found).any()
    assert compared > 100


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("mode", ["base", "edit", "delta"])
def test_every_prompt_and_stack(screen: Any, monkeypatch: Any, text: str, stack: str, mode: str) -> None:
    session, folder = screen
    page = at(session, text=text, stack=stack)
    pair = {
        "kind": "logit_diff",
        **{side: getattr(session.state.metric, side).text for side in ("positive", "negative")},
    }
    for unit in ("logit", "logit-centred"):
        found, code = copied(session, folder, monkeypatch, direction=pair, unit=unit, mode=mode)
        close(found, page.shown(mode, lambda run, u=unit: page.logits(run, u)), tolerance=1e-4)
    terms = [term("pca@resid_post.1", 2)]
    for unit in ("centred", "cos"):
        ref = {"kind": "pca", "site": "resid_post.1", "weights": {"2": 1.0}}
        found, code = copied(session, folder, monkeypatch, direction=ref, unit=unit, mode=mode)
        close(found, page.shown(mode, lambda run, u=unit: page.field(run, terms, u)), tolerance=1e-4)
    assert ("bos=True" in code) == (text == "with BOS")


def test_answers_of_bytes_and_of_ids_beyond_the_tokenizer_are_named_by_id(screen: Any, monkeypatch: Any) -> None:
    session, folder = screen
    page = at(session, text="emoji")
    beyond = session.state.model.model.d_vocab - 1
    for positive, negative in (("<0xE2>", "<0x80>"), (f"<id {beyond}>", "a"), (" ", "\n"), ("<s>", "<0xD9>")):
        session.intent("set_metric", {"positive": positive, "negative": negative})
        try:
            ref = {"kind": "logit_diff", "positive": positive, "negative": negative}
            found, code = copied(session, folder, monkeypatch, direction=ref, unit="logit", mode="edit")
            close(found, page.shown("edit", lambda run: page.logits(run, "logit")), tolerance=1e-4)
            assert "<0x" not in code
            assert "<id" not in code
        finally:
            session.intent("set_metric", {})


def test_another_run_that_is_compared_with(screen: Any, monkeypatch: Any) -> None:
    session, folder = screen
    page = at(session)
    steered = page.runs()["edit"]
    session.intent("set_edits", {"edits": [{"kind": "scale", "site": "z.2", "factor": 3.0}]})
    session.intent("compare_run", {"run": steered})
    assert session.wait(60)
    terms, runs = [term("pca@resid_post.1", 1)], []
    for edits in (True, False):
        if not edits:
            session.intent("set_edits", {"edits": []})
            assert session.wait(60)
        assert page.runs()["base"] == steered
        for mode in ("base", "edit", "delta"):
            found, _ = copied(
                session, folder, monkeypatch, direction={"kind": "mix", "terms": terms}, unit="raw", mode=mode
            )
            close(found, page.shown(mode, lambda run: page.field(run, terms, "raw")), tolerance=1e-4)
            runs.append(found)
    assert not np.allclose(runs[1], runs[4])
    session.intent("compare_run", {})


def test_the_rows_that_are_shown_and_no_others(screen: Any, monkeypatch: Any) -> None:
    session, folder = screen
    page = at(session)
    ref = {"kind": "pca", "site": "resid_post.1", "weights": {"0": 1.0}}
    whole = page.shown("edit", lambda run: page.field(run, [term("pca@resid_post.1")], "centred"))
    for rows, chosen in ((["resid_post.1"], [2]), (["embed", "resid_post.3"], [0, 4])):
        found, _ = copied(session, folder, monkeypatch, direction=ref, unit="centred", mode="edit", rows=rows)
        close(found, whole[chosen], tolerance=1e-4)
    with pytest.raises(UnknownSite, match="no such row"):
        session.intent("python", {"direction": ref, "rows": ["z.1"]})
    with pytest.raises(ZeroDirection):
        session.intent("python", {"direction": {"kind": "mix", "terms": [term("svd@attn_out.1", weight=0.0)]}})
    for wrong in ({"unit": "metres"}, {"mode": "both"}, {"rows": []}):
        with pytest.raises(MalformedJSON):
            session.intent("python", {"direction": ref, **wrong})


def test_the_units_and_runs_that_nobody_names_are_the_direction_s_own_of_the_edited_run(
    screen: Any, monkeypatch: Any
) -> None:
    session, folder = screen
    page = at(session)
    for terms in every_mix(session):
        unit = page.units(terms)[0]
        if unit == "centred" and not all(page.info(t)["space"] == "centred" for t in terms):
            unit = "raw"
        if unit == "mixed" and not all(page.info(t)["space"] == "centred" for t in terms if page.info(t)["linear"]):
            unit = "mixed-raw"
        found, _ = copied(session, folder, monkeypatch, direction={"kind": "mix", "terms": terms})
        close(found, page.shown("edit", lambda run, t=terms, u=unit: page.field(run, t, u)), tolerance=1e-4)


WORDS = {
    "kind": "typed",
    "name": "words.txt",
    "text": "\n\n".join(f"the {n} paragraph, of {n * n} words" for n in range(60)),
}


def test_a_page_of_prompts_in_place_of_the_runs(screen: Any, monkeypatch: Any) -> None:
    session, folder = screen
    page, own = at(session), ["one of mine", "I love 👩!"]
    drawing = {"text": WORDS, "n": 3, "length": 9, "seed": 2}
    job = session.intent("draw_prompts", drawing)["job"]
    assert session.wait(60)
    id = session.query("prompts", {"own": own, "drawn": job})["id"]
    asked = {"prompts": {"own": own, "drawn": {"kind": "drawn", **drawing}}}
    bfloat16 = (
        session.state.model.model.dtype == torch.bfloat16
    )  # a batch and its prompts alone are then alike to 8 bits
    tolerance = 3e-2 if bfloat16 else 1e-4

    def same(wanted: np.ndarray, **more: Any) -> None:
        found = cells_of(copied(session, folder, monkeypatch, **asked, **more))
        close(np.concatenate(found), wanted, tolerance=tolerance)
        assert len(found) == 5
        assert len({cell.tobytes() for cell in found}) == 5

    for name, row, site in (
        ("pca@resid_post.1", 3, "resid_post.2"),
        ("pca@z.2.h1", 0, "z.0"),
        ("sae@resid_post.1", 0, "embed"),
    ):
        sent = load(bytes(session.reads.page_coef(id, name, row, indices=[2])))
        coef, offset = sent["coef"][:, 0], sent["offset"][0]
        for unit in ("activation",) if "sae" in name else ("centred", "raw"):
            direction = {"kind": "mix", "terms": [term(name, 2)]}
            same(coef - (offset if unit == "centred" else 0.0), direction=direction, unit=unit, rows=[site])
    pair = session.state.metric
    logits = {"page": id, "row": 2, "positive": pair.positive.id, "negative": pair.negative.id}
    sent = load(bytes(session.query("prompts_logits", logits)))
    ref = {"kind": "logit_diff", "positive": pair.positive.text, "negative": pair.negative.text}
    for unit in ("logit", "logit-centred"):
        wanted = sent["value"] - (sent["offset"] if unit == "logit-centred" else 0.0)
        same(wanted, direction=ref, unit=unit, rows=["resid_post.1"])
    assert page.runs()["edit"] is not None, "edits are of the runs, and no part of a page of prompts"


IOI = "When John and Mary went to the store, John gave a bottle of milk to"


def test_on_the_real_model_in_a_process_of_its_own(smollm2: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The seed's example, layer 0 and component 7, and the logits of two byte tokens."""
    monkeypatch.setattr("residscope.world.loaded.shipped", directions.shipped)
    with worlds.session(smollm2, load=lambda name, **_: smollm2) as session:
        session.intent("load_model", {"name": "smollm2-135m"})
        session.intent("set_prompt", {"text": IOI})
        assert session.wait(120)
        session.intent("set_edits", {"edits": [{"kind": "ablate", "site": "z.20", "head": 1}]})
        session.intent("set_metric", {"positive": "<0xE2><0x80>", "negative": " Mary"})
        assert session.wait(120)
        page, lines, wanted = Page(session), [], {}
        terms = [term("pca@resid_post.0", 7)]
        for unit, mode in (("centred", "base"), ("cos", "edit"), ("centred", "delta")):
            ref = {"kind": "pca", "site": "resid_post.0", "weights": {"7": 1.0}}
            lines += [session.intent("python", {"direction": ref, "unit": unit, "mode": mode})["code"]]
            wanted[f"{unit} {mode}"] = page.shown(mode, lambda run, u=unit: page.field(run, terms, u))
            lines += [f"torch.save(cells, {f'{unit} {mode}.pt'!r})\n"]
        pair = {"kind": "logit_diff", "positive": "<0xE2><0x80>", "negative": " Mary"}
        lines += [session.intent("python", {"direction": pair, "unit": "logit-centred", "mode": "edit"})["code"]]
        lines += ["torch.save(cells, 'logits.pt')\n"]
        wanted["logits"] = page.shown("edit", lambda run: page.logits(run, "logit-centred"))
        env = os.environ | {"PYTHONPATH": str(Path(rs.__file__).parents[1])}
        command = [sys.executable, "-c", "".join(lines)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
        for name, cells in wanted.items():
            close(torch.load(tmp_path / f"{name}.pt").double().numpy(), cells, tolerance=1e-4)
            assert cells.shape == (31, 16)
