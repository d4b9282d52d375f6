"""What must hold of the measuring techniques on every family, whatever their numbers are: by plain hooks on the stock modules."""

from contextlib import contextmanager

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits
from residscope.engine.model import Model

CLEAN, OTHER = [5, 9, 3, 17, 8, 2], [5, 31, 3, 17, 40, 2]
RIGHT, WRONG = 5, 7
DIFF = rs.logit_diff(RIGHT, WRONG)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}  # float64, but many stock families norm in float32


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


def stock(model, ids):
    with torch.no_grad():
        return model.hf(torch.tensor([ids]), use_cache=False).logits[0]


def diff(logits, cap=None):
    before = logits if cap is None else cap * torch.atanh(logits / cap)
    return before[..., RIGHT] - before[..., WRONG]


@contextmanager
def hooked(module, forward=None, before=None):
    """A plain hook on a stock module, of its output or of its input."""
    handle = (
        module.register_forward_hook(forward) if forward else module.register_forward_pre_hook(before, with_kwargs=True)
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def skipped(blocks):
    """The stock model with some of its last blocks giving back the stream that they read."""
    handles = []
    for parts in blocks:
        held = {}

        def reads(_module, args, kwargs, held=held):
            held["x"] = args[0] if args else kwargs["hidden_states"]

        def gives(_module, _args, output, held=held):
            return (held["x"], *output[1:]) if isinstance(output, tuple) else held["x"]

        handles += [
            parts.block.register_forward_pre_hook(reads, with_kwargs=True),
            parts.block.register_forward_hook(gives),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_the_lens_at_a_layer_is_the_stock_model_without_its_later_blocks(model):
    lens = rs.logit_lens(model, CLEAN, k=3)
    whole = stock(model, CLEAN).argmax(-1)
    for row in range(model.n_layers + 1):
        with skipped(model.layout.blocks[row:]):
            said = stock(model, CLEAN).float().softmax(-1)
        torch.testing.assert_close(lens.probability[row].float(), said.topk(3).values, **CLOSE)
        chance = said.gather(-1, whole[:, None])[:, 0]
        torch.testing.assert_close(lens.chance.values[row].float(), chance, **CLOSE)


def test_everything_patched_is_the_clean_run_and_nothing_is_the_corrupted_one(model):
    found = rs.activation_patching(model, [CLEAN], [OTHER], DIFF, positions="all", progress=False)
    clean, corrupted = (diff(stock(model, ids)[-1]) for ids in (CLEAN, OTHER))
    torch.testing.assert_close(found.values, clean.expand(model.n_layers).to(found.values), **CLOSE)
    assert abs(float(clean - corrupted)) > 1e-4
    own = rs.activation_patching(model, [OTHER], [OTHER], DIFF, progress=False)
    torch.testing.assert_close(own.values, corrupted.expand_as(own.values).to(own.values), **CLOSE)


def test_the_last_writer_s_edge_to_the_logits_is_one_plain_forward(model):
    """Nothing but the logits reads what is written last, so that the edge is the whole part taken from the other prompt."""
    last, held = model.layout.blocks[-1], {}
    module = last.attn_proj if last.mlp is None else last.mlp_down or last.mlp

    def keeps(_module, _args, output):
        held["theirs"] = tuple(map(torch.clone, output)) if isinstance(output, tuple) else output.clone()

    with hooked(module, keeps):
        stock(model, OTHER)
    with hooked(module, lambda *_: held["theirs"]):
        patched = diff(stock(model, CLEAN)[-1])
    found = rs.edge_patching(model, [CLEAN], [OTHER], DIFF, senders=[model.n_layers - 1], read="all", progress=False)
    receiver = [*found.coords["receiver"]].index("logits")
    rows = [i for i, name in enumerate(found.coords["sender"]) if last.mlp is None or str(name).startswith("mlp")]
    told = patched - diff(stock(model, CLEAN)[-1])
    if len(rows) == 1:
        assert float(found.values[rows[0], receiver]) == pytest.approx(float(told), abs=1e-5)
    else:  # the heads of a block without an MLP: their norm is shared, so that together they are no sum of effects
        one = edits.ablate(f"z.{model.n_layers - 1}", to=model.run([OTHER], ["z"])[f"z.{model.n_layers - 1}"], head=1)
        alone = float(DIFF(model.run([CLEAN], ["logits"], edits=[one]))) - float(diff(stock(model, CLEAN)[-1]))
        assert float(found.values[rows[1], receiver]) == pytest.approx(alone, abs=1e-5)


def test_an_edge_between_heads_is_what_plain_edits_make_of_it(model):
    """The sender's own change, put into what the receiver's layer reads; what one head makes of it, put into a run of its own."""
    attends = [site.layer for site in model.sites.expand("q")]
    if len(attends) < 2:
        pytest.skip("one layer with queries")
    a, b = attends[0], attends[-1]
    one, two = model.heads_at(a).n_heads - 1, model.heads_at(b).n_heads - 1
    group = model.heads_at(b).n_heads // model.heads_at(b).n_kv_heads

    def ran(read, *stack):
        return model.run([CLEAN], [*read], edits=[*stack])

    theirs = model.run([OTHER], ["z"])[f"z.{a}"]
    swapped = ran([f"attn_out.{a}"], edits.ablate(f"z.{a}", to=theirs, head=one))[f"attn_out.{a}"]
    own = ran([f"attn_out.{a}", f"resid_pre.{b}", "logits"])
    moved = own[f"resid_pre.{b}"] + swapped - own[f"attn_out.{a}"]
    inputs = ran([f"{read}.{b}" for read in "qkv"], edits.ablate(f"resid_pre.{b}", to=moved))
    found = rs.edge_patching(
        model, [CLEAN], [OTHER], DIFF, nodes="heads", read="each", senders=[a], receivers=[b], progress=False
    )
    effects = {}
    for read in "qkv":
        place = {"head": two} if read == "q" else {"kv_head": two // group}
        z = ran([f"z.{b}"], edits.ablate(f"{read}.{b}", to=inputs[f"{read}.{b}"], **place))[f"z.{b}"]
        told = DIFF(ran(["logits"], edits.ablate(f"z.{b}", to=z, head=two))) - DIFF(own)
        edge = found.select(sender=f"{a}.{one}", receiver=f"{b}.{two} {read}").values
        effects[read] = float(edge), float(told)
    told = torch.tensor([*effects.values()], dtype=torch.float64)
    assert told.abs().max() > 5e-6
    torch.testing.assert_close(told[:, 0], told[:, 1], atol=3e-8, rtol=1e-3)


class BeforeCap:
    """A linear readout of the final norm, which no cap of the logits bends."""

    sites = ("final_norm",)

    def __call__(self, recording):
        W_U = recording.model.W_U
        return recording["final_norm"][:, -1] @ (W_U[:, RIGHT] - W_U[:, WRONG])


def test_path_effects_over_all_heads_sum_to_the_whole_effect_where_all_else_is_held(model):
    held = [edits.freeze("norms"), edits.freeze("patterns")]
    held += [] if "mlp_out" in model.sites.absent else [edits.freeze("mlp_out")]
    metric = BeforeCap()
    found = rs.path_patching(model, [CLEAN], [OTHER], metric, direct=True, background=held, progress=False)
    theirs = model.run([OTHER], ["z"], edits=held)
    whole = [edits.ablate(f"z.{i}", to=theirs[f"z.{i}"]) for i in range(model.n_layers)]
    a, b = (metric(model.run([CLEAN], metric.sites, edits=stack)) for stack in (held, [*held, *whole]))
    assert float(found.values.sum()) == pytest.approx(float(b - a), rel=1e-4, abs=1e-6)


def test_the_terms_of_a_score_sum_to_it(model):
    record = model.run(CLEAN, ["resid_pre", "scores"])
    cap = model.layout.factors.scores_cap
    for layer in {0, model.n_layers - 1}:
        for head in (0, model.n_heads - 1):
            found = rs.attribute_scores(record, (layer, head), -1, len(CLEAN) - 2)
            whole = found.terms.values.sum()
            whole = whole if cap is None else cap * torch.tanh(whole / cap)
            own = float(record["scores", layer][0, head, -1, -2])
            assert float(whole) + found.slope == pytest.approx(own, abs=1e-4), (layer, head)


def test_direct_effects_are_plain_autograd_where_the_norm_s_own_share_is_put_back(model):
    """With x the end of the stream (less its mean where the norm centres), m a write, g = dM/dx, M the metric without biases,

        m . g = direct(m) - M (m . x) / (x . x + n eps)

    for a norm x gain / sqrt(x . x / n + eps): the second term is what the write does through the divisor.
    """
    norm, held = model.layout.final_norm, {}

    def reads(_module, args, _kwargs):
        held["x"] = args[0].detach().requires_grad_()
        return (held["x"], *args[1:]), _kwargs

    with hooked(norm.module, before=reads), torch.enable_grad():
        logits = model.hf(torch.tensor([CLEAN]), use_cache=False).logits[0, -1]
        metric = diff(logits, model.layout.factors.logits_cap)
        (g,) = torch.autograd.grad(metric, held["x"])
    x, g = held["x"][0, -1].detach().double(), g[0, -1].double()
    centred = "Layer" in type(norm.module).__name__
    eps = next(getattr(norm.module, name) for name in ("variance_epsilon", "eps") if hasattr(norm.module, name))
    found = rs.direct_attribution(model, [CLEAN], DIFF, by="component", progress=False)
    terms = {
        str(name): float(v)
        for name, v in zip(found.components.coords["component"], found.components.values, strict=True)
    }
    written = {
        name: v for name, v in terms.items() if name.partition(".")[0] in ("embed", "pos_embed", "attn_out", "mlp_out")
    }
    M = sum(written.values())
    run = model.run(CLEAN, [*written])
    centre = x - x.mean() if centred else x
    for name, direct in written.items():
        m = run[name][0, -1].double()
        m = m - m.mean() if centred else m
        through = M * float(m @ centre) / (float(centre @ centre) + len(x) * eps)
        assert float(m @ g) == pytest.approx(direct - through, abs=2e-4 * max(1.0, abs(M))), name
