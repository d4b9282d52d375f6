"""Every kind of view, on what SmolLM2 does with indirect objects: `python examples/gallery.py gallery.html`."""

import sys

import torch
from torch import Tensor

import residscope as rs
from residscope import views

PROMPT = "When John and Mary went to the store, John gave a bottle of milk to"
NAMES = ("John", "Mary", "Tom", "Anna", "James", "Sarah", "Paul", "Emma")
HEAD = (23, 3)


def lens(model: rs.Model, rec: rs.Recording) -> Tensor:
    """Logits read from the stream after the embedding and after each block: [layer, pos, d_vocab]."""
    n_layers = model.hf.config.num_hidden_layers
    stream = [rec["resid_pre.0"][0], *(rec[f"resid_post.{layer}"][0] for layer in range(n_layers))]
    with torch.no_grad():
        return torch.stack([model.hf.lm_head(model.hf.model.norm(x)) for x in stream])


def differences(model: rs.Model, first: str, second: str, swapped: bool = False) -> Tensor:
    """logit(second) - logit(first) at the last token after each block; `swapped`: the second name gives."""
    prompt = PROMPT.replace("John", "{A}").replace("Mary", "{B}")
    prompt = prompt.format(A=first, B=second)
    if swapped:
        prompt = prompt[: prompt.rindex(first)] + second + prompt[prompt.rindex(first) + len(first) :]
    logits = lens(model, model.run(prompt, capture=["resid_pre.0", "resid_post"]))[:, -1]
    a, b = (model.tokenizer.encode(" " + name, add_special_tokens=False)[0] for name in (first, second))
    return logits[:, b] - logits[:, a]


def gallery(model: rs.Model) -> list[views.View]:
    layer, head = HEAD
    rec = model.run(PROMPT, capture=["resid_pre.0", "resid_post", f"pattern.{layer}", "pattern.1"])
    tokens = [model.tokenizer.decode([token]) for token in rec.tokens[0].tolist()]
    logits = lens(model, rec)
    mary, john = (model.tokenizer.encode(name, add_special_tokens=False)[0] for name in (" Mary", " John"))
    difference = logits[..., mary] - logits[..., john]
    p, best = logits.softmax(-1).max(-1)
    layers = ["emb", *range(len(logits) - 1)]
    pairs = [(a, b) for a in NAMES for b in NAMES if a != b][:24]
    clean = torch.stack([differences(model, *pair) for pair in pairs])
    swapped = torch.stack([differences(model, *pair, swapped=True) for pair in pairs])
    mean, sd = clean.mean(0), clean.std(0)
    final, final_swapped = clean[:, -1], swapped[:, -1]
    held = int((final > 0).sum())
    patterns = rec[f"pattern.{layer}"][0]
    return [
        views.Text("What is on this page", [f"One prompt, and {len(pairs)} like it with other names: “{PROMPT}”."]),
        views.TokenStrip(tokens, difference[-1], title="Logit Mary − John after the last block", unit="logits"),
        views.Grid(
            [
                views.HeatMap(
                    difference, layers, tokens, title="Logit Mary − John, read from the stream", unit="logits",
                    row_title="layer", column_title="token", bottom_up=True, marks=[(layer + 1, len(tokens) - 1)],
                    note="Framed: after block 23, whose head 3 moves the name.",
                ),
                views.HeatMap(
                    p, layers, tokens, title="Most likely next token, by the logit lens", unit="p", scale="sequential",
                    limit=1.0, row_title="layer", column_title="token", bottom_up=True,
                    texts=[[model.tokenizer.decode([t]) for t in row] for row in best.tolist()],
                ),
                views.Pattern(tokens, patterns[head], title=f"Attention of head {layer}.{head}"),
                views.Curve(
                    layers,
                    [
                        views.Line("IO − S, clean", mean, low=mean - sd, high=mean + sd),
                        views.Line("IO − S, the other name gives", swapped.mean(0), dashed=True),
                    ],
                    title="Logit difference by layer", x_title="layer", y_title="logit difference", unit="logits",
                    references=[views.Reference(0, axis="y")], note=f"Mean of {len(pairs)} prompts; whiskers: one standard deviation.",
                ),
                views.Curve(
                    list(range(len(mean))),
                    [views.Line(f"{a} → {b}", row) for (a, b), row in list(zip(pairs, clean, strict=True))[:4]]
                    + [views.Line("mean", mean, low=mean - sd, high=mean + sd, dashed=True)],
                    title="The same, prompt by prompt", x_title="blocks passed", y_title="logit difference", unit="logits",
                    references=[views.Reference(layer + 1, "head 23.3 has written")],
                ),
                views.Histogram(
                    {"clean": final, "the other name gives": final_swapped}, bins=16, title="Final logit difference",
                    x_title="IO − S", unit="logits", references=[views.Reference(0, "no preference")],
                ),
                views.Scatter(
                    final, final_swapped, groups=[a for a, _ in pairs], texts=[f"{a}, {b}" for a, b in pairs], diagonal=True,
                    title="Each prompt, before and after", x_title="clean", y_title="the other name gives", unit="logits",
                ),
                views.Table(
                    ["indirect object", "giver", "logit difference", "swapped"],
                    [[b, a, x, y] for (a, b), x, y in zip(pairs, final.tolist(), final_swapped.tolist(), strict=True)][:9],
                    title="The first nine prompts",
                ),
            ]
        ),
        views.Grid(
            [views.Pattern(tokens, pattern, title=f"{layer}.{i}") for i, pattern in enumerate(patterns)],
            columns=5, title=f"The nine heads of layer {layer}",
        ),
        views.Grid(
            [
                views.Card(
                    "The model prefers the indirect object on every prompt",
                    {"prompts": len(pairs), "preferred": held, "mean logit difference": float(final.mean())},
                    verdict="passed" if held == len(pairs) else "failed",
                ),
                views.Card(
                    "It still does when the other name gives",
                    {"prompts": len(pairs), "preferred": int((final_swapped > 0).sum()), "mean logit difference": float(final_swapped.mean())},
                    verdict="passed" if bool((final_swapped > 0).all()) else "failed",
                    note="A negative control: the swapped prompt asks for the other name.",
                ),
            ]
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    path = views.save_html(gallery(rs.load("smollm2-135m")), sys.argv[1], title="A gallery of views, on SmolLM2-135M")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
