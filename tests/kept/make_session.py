"""The folder of a session of version 0.1, what the page said to it, what it answered and the state it came to."""

import json
from pathlib import Path
from typing import Any

import torch

import residscope as rs
from kept import things
from kept.replay import VOLATILE, opened, say, state_of
from residscope.engine.model import Model
from residscope.session import Session

SMOL_PROMPT = "When John and Mary went to the store, John gave a bottle of milk to"
UNUSUAL = " ünïcode 🙂\nand a second line\t"
SMOL_EDITS: list[dict[str, Any]] = [
    {"id": "e1", "enabled": True, "kind": "ablate", "site": "z.23", "head": 3, "to": "zero", "pos": None},
    {"id": "e2", "enabled": False, "kind": "scale", "site": "mlp_out.4", "factor": 0.5, "pos": None},
    {
        "id": "e3", "enabled": True, "kind": "steer", "site": "resid_post.12", "strength": -2, "unit": "sd", "pos": [15],
        "direction": {"kind": "pca", "site": "resid_post.12", "weights": {"7": 1.0, "3": -0.5}},
    },
]  # fmt: skip


def make(model: Model, folder: Path) -> dict[str, Any]:
    lines = [{"id": n, **line} for n, line in enumerate(things.said(), 1)]
    with opened(model, folder=folder / "session") as session:
        answers = say(session, lines, folder)
        state = state_of(session)
        read = {id: session.reads.dictionary(id) for id in ("pca@resid_post.1", "svd@resid_pre.2")}
        reading = session.reads.probe_reading(things.TASK_PROBE, run=state["runs"][-1]["id"], pos=10)
        vectors = fitted(session)
    write_lines(folder / "intents.jsonl", lines)
    write_lines(folder / "answers.jsonl", [{"id": n, "value": value} for n, value in enumerate(answers, 1)])
    (folder / "state.json").write_text(json.dumps(without_clocks(state), ensure_ascii=False, indent=1))
    problems = [edit["error"] for edit in state["edits"] if edit["error"]]
    assert not problems, problems
    assert all(job["phase"] == "done" for job in state["jobs"])
    assert len(state["probes"]) == 2
    return {
        "after": list(state),
        "saved": [entry["text"] for entry in state["saved"]],
        "tops": {id: d["components"][0]["top"][0]["text"] for id, d in read.items()},
        "log_prob at 10": reading["log_prob"],
        "fitted": vectors,
        "unedited": plain_top(model, things.PROMPT),
    }


def fitted(session: Session) -> dict[str, Any]:
    """The dictionaries that its folder keeps, by a few of their numbers."""
    loaded = session.state.model
    assert loaded is not None
    return {
        id: {"n": len(d), "site": d.site, "head": d.head, "first": d.read[0, :4].tolist()}
        for id, d in loaded.fitted.items()
    }


def plain_top(model: Model, text: str) -> list[list[Any]]:
    """The three likeliest next tokens, by transformers alone."""
    with torch.no_grad():
        p = model.hf(torch.tensor([model.tokenizer(text)["input_ids"]])).logits[0, -1].double().softmax(-1)
    values, ids = p.topk(3)
    return [[int(id), model.tokenizer.decode([int(id)]), float(value)] for id, value in zip(ids, values, strict=True)]


def smol(folder: Path) -> dict[str, Any]:
    """A recording and a link's session on SmolLM2, with logits that transformers gives under hooks of its own."""
    model = rs.load("smollm2-135m")
    run = model.run("The Eiffel Tower is in", ["resid_pre.20"], edits=[rs.edits.ablate("z.9", head=6)])
    rs.save_recording(run, folder / "smollm2.safetensors")
    last = run.logits[0, -1]
    wanted = hooked(model, "The Eiffel Tower is in", {9: 6}, None)
    assert (last - wanted).abs().max() < 1e-3
    pca = rs.directions.shipped(model)["resid_post.12"]
    mixed = pca.write[7] - 0.5 * pca.write[3]
    sd = float((pca.sd[7] ** 2 + (0.5 * pca.sd[3]) ** 2) ** 0.5) / 1.25**0.5
    steered = hooked(model, SMOL_PROMPT, {23: 3}, (12, 15, -2 * sd * mixed / mixed.norm()))
    mary, john = model.token_id(" Mary"), model.token_id(" John")
    plain = hooked(model, SMOL_PROMPT, {}, None)
    lines = [
        {"intent": "set_prompt", "args": {"text": SMOL_PROMPT, "bos": False}},
        {"intent": "set_metric", "args": {"positive": " Mary", "negative": " John"}},
        {"intent": "set_edits", "args": {"edits": SMOL_EDITS}},
    ]
    with opened(model, folder=folder / "session") as session:
        say(session, lines, folder)
        say(session, [{"intent": "save_prompt", "args": {"text": UNUSUAL}}], folder)
        runs = state_of(session)["runs"]
    metrics = [float(x[mary] - x[john]) for x in (plain, steered)]
    assert all(abs(run["metric"] - metric) < 1e-3 for run, metric in zip(runs[-2:], metrics, strict=True)), (
        runs,
        metrics,
    )
    return {
        "hash": model.hash,
        "recording": {"ids": wanted.topk(5).indices.tolist(), "logits": wanted.topk(5).values.tolist()},
        "metrics": metrics,
        "lines": lines,
        "saved": UNUSUAL,
    }


def hooked(model: Any, text: str, heads: dict[int, int], push: tuple[int, int, torch.Tensor] | None) -> torch.Tensor:
    """Logits after the text of the stock model, heads silenced by layer and a vector added after a block."""
    hf, width = model.hf, model.hf.config.hidden_size // model.hf.config.num_attention_heads
    handles = []
    for layer, head in heads.items():

        def silence(_: Any, args: Any, head: int = head) -> Any:
            x = args[0].clone()
            x[..., head * width : (head + 1) * width] = 0
            return (x,)

        handles.append(hf.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(silence))
    if push is not None:
        layer, pos, vector = push

        def add(_: Any, args: Any) -> Any:
            x = args[0].clone()
            x[:, pos] += vector
            return (x, *args[1:])

        handles.append(hf.model.layers[layer + 1].register_forward_pre_hook(add))
    try:
        with torch.no_grad():
            return hf(torch.tensor([model.tokenizer(text)["input_ids"]])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(part) for key, part in value.items() if key not in VOLATILE}
    return [without_clocks(part) for part in value] if isinstance(value, list) else value


def write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
