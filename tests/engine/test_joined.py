"""Paths, weight changes, embedding edits and joined edits in one pass: on every family the numbers of one plain run per cell."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits
from residscope.engine.gradients import gradients
from residscope.engine.model import Model
from residscope.engine.protocols import Edit
from tiny_models import VOCAB, hook_count

EXACT = 4e-6
PROMPTS = [[5, 9, 33, 14, 21, 8, 40], [7, 30, 12, 11], [3, 18, 25, 6, 50]]
OTHER = [[(t * 7 + 3) % (VOCAB - 2) + 2 for t in row] for row in PROMPTS]
SENDERS = ("embed", "pos_embed", "z", "attn_out", "mlp_out")


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


class Inside:
    """A readout of several numbers a row, from sites all over the model."""

    def __init__(self, *sites):
        self.sites = sites

    def __call__(self, rec):
        values = [rec[site].double() for site in self.sites]
        return torch.stack([x[:, :3].clamp(-50, 50).flatten(1).pow(2).mean(1) for x in values], 1)


def compared(model, cells, readout, background=(), passes=None):
    """A sweep beside one plain run for each cell; how many of its rows differ from the base."""
    plan = rs.sweep(model, PROMPTS, cells, readout, background)
    found = plan.run(False).values
    told = torch.stack([readout(model.run(PROMPTS, readout.sites, edits=[*background, *cell])) for cell in cells])
    scale = max(1.0, float(told.abs().max()))
    torch.testing.assert_close(found / scale, told / scale, atol=EXACT, rtol=EXACT)
    if passes is not None:
        assert plan.cost.passes <= passes, plan.cost
    assert hook_count(model.hf) == 0
    differs = (told - plan.base).abs().reshape(len(cells), len(PROMPTS), -1).amax(2)
    return int((differs > 1e-8).sum())


def senders(model, before):
    """Every sender of the layers before one, each head of z by itself."""
    for name in SENDERS:
        if name in ("embed", "pos_embed") and name in model.sites.names:
            yield name, None
        elif name in model.sites.names and name not in ("embed", "pos_embed"):
            for layer in range(before):
                yield from ((f"{name}.{layer}", head) for head in (range(model.n_heads) if name == "z" else [None]))


def paths(model, source, receiver, before, **where):
    return [
        [edits.path(sender, receiver, source, sender_head=head, **where)] for sender, head in senders(model, before)
    ]


def source_of(model):
    return model.run(OTHER, [name for name in SENDERS if name in model.sites.names])


def weights(model):
    """A change of rank one of every matrix of the model, small enough to keep it sane."""
    for i, (name, module) in enumerate(model.hf.named_modules()):
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim != 2 or "Norm" in type(module).__name__:
            continue
        d_in, d_out = weight.T.shape
        if isinstance(module, torch.nn.Embedding) or type(module).__name__ == "Conv1D":
            d_in, d_out = weight.shape
        draw = torch.Generator().manual_seed(i)
        yield edits.overlay(
            name,
            (0.1 * torch.randn(d_in, generator=draw).double(), 0.1 * torch.randn(d_out, generator=draw).double()),
        )


def test_path_patching_is_one_pass_for_each_receiver(model):
    source, n = source_of(model), model.n_layers
    metric = rs.logit_diff(5, 7)
    assert compared(model, paths(model, source, "final_norm", n), metric, passes=1) > 2 * model.n_heads
    for receiver, where in (("q", {"head": 2}), ("k", {"kv_head": 0}), ("v", {}), ("mlp_in", {"pos": [1, -1]})):
        if receiver in model.sites.names:
            assert compared(model, paths(model, source, f"{receiver}.{n - 1}", n - 1, **where), metric, passes=2) > 2


def test_cells_of_every_receiver_share_a_pass(model):
    source, n = source_of(model), model.n_layers
    readout = Inside("resid_pre.1", f"pattern.{n - 1}", f"resid_post.{n - 1}", "logits")
    cells = [
        edits.path("z.0", f"{name}.{layer}", source, sender_head=1)
        for name in ("q", "k", "v", "mlp_in")
        if name in model.sites.names
        for layer in range(1, n)
    ]
    several = [
        [cells[0], edits.scale("z.0", 0.5, head=1)],
        [edits.freeze("norms"), cells[1]],
        [edits.path("embed", "q.1", source, head=0), edits.path("z.0", "q.1", source, head=[0, 3])],
        [edits.scale("attn_in.1", 0.5, pos=2), cells[0], edits.path("embed", "final_norm", source)],
    ]
    assert compared(model, [*([cell] for cell in cells), *several], readout, passes=2) > 3 * len(cells) // 2


def test_every_weight_changes_in_one_pass(model):
    cells = [[overlay] for overlay in weights(model)]
    n = model.n_layers
    readout = Inside("resid_pre.1", f"result.{n - 1}" if "result" in model.sites.names else "z.1", "logits")
    shared = (
        2 if model.name == "toy, shortformer" else 1
    )  # its positions are added in front of every block, to all rows
    assert compared(model, cells, readout, passes=shared) > 2 * len(cells)
    assert compared(model, cells[::3], rs.logit_diff(5, 7), passes=shared) > 2 * len(cells[::3])


def test_the_embedding_joins_the_batch(model):
    source = model.run(OTHER, [name for name in ("embed", "pos_embed", "resid_pre") if name in model.sites.names])
    names = [name for name in ("embed", "pos_embed") if name in model.sites.names]
    cells = [[edits.scale(name, 1.5, pos=p)] for name in names for p in (0, 2, -1)]
    cells += [[edits.patch("embed", source, pos=1)], [edits.patch("resid_pre.0", source, pos=1)]]
    cells += [[edits.scale("embed", 0.5, pos=2), edits.scale("resid_pre.0", 2.0, pos=-1), edits.freeze("attn_out.1")]]
    cells += [[edits.steer("resid_post.1", torch.ones(model.d_model).double(), 2.0, pos=3)]]
    readout = Inside(*names, "resid_pre.0", "q.1", "logits")
    before = [edits.scale("embed", 0.9), edits.scale("resid_pre.0", 1.1, pos=2)]
    for background in ((), before):
        assert compared(model, cells, readout, background) > len(cells)
        assert compared(model, cells, Inside("embed"), background) > 2


def test_cells_run_under_a_background_of_paths_isolates_and_weights(model):
    source, n = source_of(model), model.n_layers
    overlay = list(weights(model))[2]
    background = [
        edits.path("z.0", "q.1", source, sender_head=1, head=[0, 2]),
        edits.isolate("z.0", head=[1, 3]),
        edits.path("embed", "final_norm", source, pos=1),
        overlay,
    ]
    cells = [
        [edits.path("z.0", "q.1", source, sender_head=0, head=0)],  # adds up with the background's
        [edits.isolate("z.0", head=2)],  # keeps the union
        [edits.path(f"z.{n - 1}", "final_norm", source, sender_head=3)],
        [edits.scale("z.0", 0.3, head=1, pos=2)],
        [edits.scale("embed", 1.2, pos=1)],
        [edits.scale("resid_pre.1", 1.2, pos=-1), edits.path("embed", "v.1", source)],
        [overlay, edits.ablate("z.1", head=2)],
        [edits.isolate("z.1", head=0)],
    ]
    assert compared(model, cells, Inside("q.1", f"z.{n - 1}", "final_norm", "logits"), background) > len(cells)


def test_memory_decides_how_many_of_them_run_at_once(model):
    source = source_of(model)
    cells = [*paths(model, source, "final_norm", 1), *([overlay] for overlay in list(weights(model))[:4])]
    cells += [[edits.scale("embed", 1.1, pos=p)] for p in range(3)]
    wide = rs.sweep(model, PROMPTS, cells, rs.log_prob(3))
    narrow = rs.sweep(model, PROMPTS, cells, rs.log_prob(3), memory=40_000)
    assert narrow.cost.passes > wide.cost.passes
    torch.testing.assert_close(narrow.run(False).values, wide.run(False).values, atol=EXACT, rtol=EXACT)


def test_a_prompt_that_many_cells_take_values_from_is_run_once(llama, monkeypatch):
    calls = []
    run = Model.run
    monkeypatch.setattr(Model, "run", lambda self, *a, **k: calls.append(a[0]) or run(self, *a, **k))
    cells = [edits.path(f"z.{layer}", "final_norm", OTHER, sender_head=h) for layer in range(4) for h in range(4)]
    found = rs.sweep(llama, PROMPTS, cells, rs.log_prob(3)).run(False).values
    assert calls == [OTHER]
    told = rs.sweep(llama, PROMPTS, paths(llama, source_of(llama), "final_norm", 4), rs.log_prob(3)).run(False).values
    torch.testing.assert_close(found, told[1:17], atol=1e-9, rtol=1e-9)


# ── edits of other people's ─────────────────────────────────────────────────────────────────────────────────────


class Least:
    """The five members that the engine has always asked for, and no more."""

    def __init__(self, by):
        self.by = by

    needs_unedited = False

    def places(self, table):
        return [table.canonical("z.1")]

    def reads(self, table):
        return []

    def prepare(self, model):
        return self

    def apply(self, value, at):
        return value * self.by


class Reading(Least):
    """A path of its own making: it asks for a second reading, and does not say beforehand which."""

    rereads = True

    def places(self, table):
        return [table.canonical("q.1")]

    def reads(self, table):
        return [table.canonical(site) for site in ("embed", "resid_pre.1")]

    def apply(self, value, at):
        return at.reread(at.site, [(rs.Site("embed"), at.seen(rs.Site("embed")) * self.by)])


def test_an_edit_of_the_least_kind_runs_everywhere(llama):
    assert not isinstance(Least(2.0), Edit)
    metric, plain = rs.log_prob(3), edits.scale("z.1", 2.0)
    run, other = (llama.run(PROMPTS, ["logits", "z.1"], edits=edit) for edit in (Least(2.0), [plain]))
    assert torch.equal(run.logits, other.logits)
    assert torch.equal(run["pattern.3"], other["pattern.3"])  # which is recomputed
    assert repr(run.edits[0]) == repr(run.edits[0].edit)
    found = rs.sweep(llama, PROMPTS, [Least(2.0), [plain]], metric, [Least(0.5)]).run(False).values
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-12)
    ids = [t.id for t in llama.generate(PROMPTS[0], Least(2.0), 3)]
    assert ids == [t.id for t in llama.generate(PROMPTS[0], plain, 3)]
    a, b = (gradients(llama, PROMPTS, metric, ["resid_pre.1"], edits=[edit])[1] for edit in (Least(2.0), plain))
    assert torch.equal(a[rs.Site("resid_pre", 1)], b[rs.Site("resid_pre", 1)])


def test_an_edit_may_reread_without_saying_what_beforehand(llama):
    cells = [[Reading(by)] for by in (0.1, -0.4, 0.0)]
    assert compared(llama, cells, rs.log_prob(3), passes=1) == 2 * len(PROMPTS)
