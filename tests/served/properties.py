"""What holds on any model that is served: each property gives the largest relative error of what it compares, on random draws."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import residscope as rs
from residscope import edits
from residscope.engine.model import Model
from residscope.model.sites import KINDS

EXACT = 1e-4  # relative; float64, but many stock modules norm or softmax in float32
ROWS = ((5, 17, 42, 3, 61, 8, 29), (8, 11, 70, 2), (33, 6, 12, 40, 19))  # of unequal lengths
SKIPPED = ("scores", "logits", "final_scale")  # an edit of the divisor, or of minus infinity, says little
STREAM = (
    "embed",
    "resid_pre",
    "resid_mid",
    "resid_post",
    "final_norm",
)  # zeros there: ties among keys or experts
Property = Callable[[Model, random.Random], float]
PROPERTIES: dict[str, Property] = {}


def prop(check: Property) -> Property:
    PROPERTIES[check.__name__.replace("_", " ")] = check
    return check


def error(got: Tensor, expected: Tensor) -> float:
    """|got - expected| / |expected|; where something is masked, it must be so on both sides."""
    assert got.shape == expected.shape, f"shapes differ: {tuple(got.shape)} and {tuple(expected.shape)}"
    hidden = expected < -1e30
    assert torch.equal(got < -1e30, hidden)
    got, expected = (x.masked_fill(hidden, 0).double() for x in (got, expected))
    return float((got - expected).norm() / expected.norm().clamp_min(1e-6))


class LastLogits:
    """A readout: the logits at each prompt's last token."""

    sites = ("logits",)

    def __call__(self, recording: Any) -> Tensor:
        logits = recording["logits"]
        last = torch.tensor(recording.lengths) - 1 - recording.offset
        return logits[torch.arange(len(last)), last]


def by_row(model: Model, cell: Any) -> Tensor:
    """The last logits of each prompt under some edits, from a plain run of it alone."""
    return torch.stack([model.run([*row], ["logits"], edits=cell)["logits"][0, -1] for row in ROWS])


def sites_of(model: Model) -> list[rs.Site]:
    table = model.sites
    return [site for name in table.names if name not in SKIPPED for site in table.expand(name)]


def some_edit(model: Model, draw: random.Random, pos: list[int] | None) -> Any:
    """An ablation, a scaling or a noise, of one head where the site has heads."""
    site = draw.choice(sites_of(model))
    axes = KINDS[site.name].axes
    where: dict[str, Any] = {} if pos is None else {"pos": pos}
    for axis in ("head", "kv_head"):
        if axis in axes and draw.random() < 0.7:
            where[axis] = draw.randrange(model.sites.size(site, axis) or 1)
    if site.name.endswith(("_scale", "_in")) or site.name in STREAM or draw.random() < 0.4:
        return edits.scale(str(site), 1.5, **where)
    return edits.ablate(str(site), **where)


def cells_of(model: Model, draw: random.Random, count: int, *, placed: bool) -> list[list[Any]]:
    return [
        [some_edit(model, draw, [draw.randrange(4)] if placed else None) for _ in range(draw.choice((1, 1, 2)))]
        for _ in range(count)
    ]


@prop
def sweeps_are_runs(model: Model, draw: random.Random) -> float:
    """The planner's answers = one plain run for each cell and prompt."""
    cells = cells_of(model, draw, 4, placed=False)
    swept = rs.sweep(model, [[*row] for row in ROWS], cells, LastLogits()).run(False).values
    return max(error(swept[i], by_row(model, cell)) for i, cell in enumerate(cells))


@prop
def sweeps_at_positions_are_runs(model: Model, draw: random.Random) -> float:
    cells = cells_of(model, draw, 4, placed=True)
    swept = rs.sweep(model, [[*row] for row in ROWS], cells, LastLogits()).run(False).values
    return max(error(swept[i], by_row(model, cell)) for i, cell in enumerate(cells))


@prop
def stream_edits_are_hooks(model: Model, draw: random.Random) -> float:
    """An edit of the stream in front of a block = a plain hook on that block of the stock model."""
    layer, ids = draw.randrange(model.n_layers), torch.tensor([ROWS[0]])

    def half(module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (args[0] * 0.5, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * 0.5}

    block = model.hf.get_submodule(model.family.blocks)[layer]
    handle = block.register_forward_pre_hook(half, with_kwargs=True)
    try:
        with torch.no_grad():
            expected = model.hf(ids, use_cache=False).logits
    finally:
        handle.remove()
    return error(model.run(ids, ["logits"], edits=[edits.scale(f"resid_pre.{layer}", 0.5)])["logits"], expected)


@prop
def recomputed_sites_are_captured_ones(model: Model, draw: random.Random) -> float:
    ids = [[*row] for row in ROWS[:1]]
    cut = cells_of(model, draw, 1, placed=False)[0]
    whole, lazy = model.run(ids, model.sites.names, edits=cut), model.run(ids, edits=cut)
    asked = draw.sample(sites_of(model), min(12, len(sites_of(model))))
    return max(error(lazy[site], whole[site]) for site in asked)


@prop
def a_batch_is_its_prompts(model: Model, draw: random.Random) -> float:
    cut = cells_of(model, draw, 1, placed=False)[0]
    asked = ["logits", *map(str, draw.sample([s for s in sites_of(model) if "key" not in s.kind.axes], 6))]
    many, worst = model.run([[*row] for row in ROWS], asked, edits=cut), 0.0
    for i, row in enumerate(ROWS):
        one = model.run([*row], asked, edits=cut)
        worst = max(worst, *(error(many[site][i : i + 1, : len(row)], one[site]) for site in one.sites))
    return worst


@prop
def windows_are_runs(model: Model, draw: random.Random) -> float:
    """A run of the later positions, and of the later layers, on a base = the whole run's; so are the logits at its end."""
    ids, cut = torch.tensor([ROWS[0]]), cells_of(model, draw, 1, placed=False)[0]
    pos, start = draw.randrange(1, 6), draw.randrange(model.n_layers)
    base = model.run(ids, edits=cut)
    late = model.run(ids, ["logits"], edits=cut, window=rs.Window(base, 0, None, pos))["logits"]
    deep = model.run(ids, ["logits"], edits=[], window=rs.Window(model.run(ids), start))["logits"]
    end = error(model.run(ids, edits=cut).logits_at(-1), base["logits"][:, -1])
    return max(end, error(late, base["logits"][:, pos:]), error(deep, model.run(ids, ["logits"])["logits"]))


@prop
def paths_are_hooks(model: Model, draw: random.Random) -> float:
    """A direct path to the final norm = the stock model whose final norm alone reads the sender's other write."""
    layer, ids, source = draw.randrange(model.n_layers), torch.tensor([ROWS[0]]), [ROWS[0][::-1]]
    senders = [name for name in ("attn_out", "mlp_out") if model.sites.has(name, layer)]
    sender = f"{draw.choice(senders)}.{layer}"
    own, other = model.run(ids, [sender])[sender], model.run(source, [sender])[sender]
    norm, passed = model.hf.get_submodule(model.family.final_norm), list[bool]()
    last = model.hf.get_submodule(model.family.blocks)[-1]

    def before(_module, args):  # of a norm that stands behind the embedding as well, its last call
        return (args[0] + (other - own), *args[1:]) if passed else None

    handles = [
        last.register_forward_pre_hook(lambda module, args: passed.append(True)),
        norm.register_forward_pre_hook(before),
    ]
    try:
        with torch.no_grad():
            expected = model.hf(ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    path = edits.path(sender, "final_norm", source)
    run = error(model.run(ids, ["logits"], edits=[path])["logits"], expected)
    swept = rs.sweep(model, ids, [[path]], LastLogits()).run(False).values
    return max(run, error(swept[0], expected[:, -1]))


@prop
def paths_between_layers_sweep_as_they_run(model: Model, draw: random.Random) -> float:
    source, cells = [[*ROWS[0][::-1]]], []
    for receiver in ("q", "k", "v", "mlp_in"):
        for site in draw.sample(
            there := model.sites.expand(receiver) if model.sites.has(receiver) else [], min(1, len(there))
        ):
            late = site.layer or 0
            early = [
                Site for Site in sites_of(model) if Site.name in ("attn_out", "mlp_out") and (Site.layer or 0) < late
            ]
            cells += [[edits.path(str(draw.choice(early)), str(site), source)]] if early else []
    if not cells:
        return 0.0
    swept = rs.sweep(model, [[*ROWS[0]]], cells, LastLogits()).run(False).values
    return max(
        error(swept[i], model.run([[*ROWS[0]]], ["logits"], edits=cell)["logits"][:, -1])
        for i, cell in enumerate(cells)
    )


@prop
def generation_is_whole_runs(model: Model, draw: random.Random) -> float:
    """Each token that comes = the likeliest of a whole run of all before it, without and with edits."""
    for cut in ([], cells_of(model, draw, 1, placed=False)[0]):
        ids = [*ROWS[1]]
        made = [token.id for token in model.generate(ids, cut, 4, stop=())]
        for token in made:
            logits = model.run(ids, ["logits"], edits=cut)["logits"][0, -1]
            gap = float(logits.max() - logits[token])
            assert gap <= 1e-4 * float(logits.abs().max()), f"token {token} of {made}, {gap:.1e} below the likeliest"
            ids.append(token)
    return 0.0


def held(model: Model, seed: str, *, only: tuple[str, ...] = ()) -> dict[str, tuple[float, str | None]]:
    """Each property's error, and what broke; a refusal of ours by its name."""
    found: dict[str, tuple[float, str | None]] = {}
    for name, check in PROPERTIES.items():
        if only and name not in only:
            continue
        try:
            worst = check(model, random.Random(f"{seed} {name}"))
            found[name] = worst, None if worst <= EXACT else f"error {worst:.1e}"
        except rs.errors.ResidscopeError as refused:
            found[name] = 0.0, f"{type(refused).__name__}: {' '.join(str(refused).split())[:200]}"
        except Exception as broken:
            found[name] = float("inf"), f"{type(broken).__name__}: {' '.join(str(broken).split())[:200]}"
    return found
