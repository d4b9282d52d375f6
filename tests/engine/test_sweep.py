"""The planner: the numbers of one plain forward per cell, for every family, every readout, any prompts; and how it ends early."""

import subprocess
import sys
import threading

import pytest
import torch
from families import FAMILIES
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import VOCAB, hook_count, tiny_llama

EXACT = 4e-6  # as the families' own tests: some stock parts compute in float32, whatever the model's dtype
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_in", "attn_out", "mlp_in", "mlp_out", "z", "q", "k", "v", "pattern",
         "mlp_post", "attn_scale", "result", "final_norm", "embed", "logits", "router")  # fmt: skip
PROMPTS = st.lists(st.lists(st.integers(2, VOCAB - 1), min_size=3, max_size=9), min_size=1, max_size=3)


def close(a, b, what):
    torch.testing.assert_close(a, b, atol=EXACT, rtol=EXACT, msg=lambda text: f"{what}: {text}")


class Stream:
    """A readout of several numbers a row, from two sites."""

    sites = ("resid_pre.1", "logits")

    def __call__(self, rec):
        return torch.stack([rec["resid_pre.1"][:, 1:3, :4].flatten(1).sum(1), rec.logits[:, 2, 5]], 1)


READOUTS = {"metric": rs.logit_diff(5, 7), "early": rs.logit_diff(5, 7, pos=1), "all logits": rs.log_prob(3),
            "one logit": rs.logit((3, 5)), "loss": rs.loss(), "stream": Stream()}  # fmt: skip


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    return Model(FAMILIES[request.param].build(), name=request.param)


def low_rank(model, layer):
    """A weight of the model's, and a change of rank one that fits it."""
    proj = model.layout.blocks[layer].attn_proj
    name = next(n for n, m in model.hf.named_modules() if m is proj)
    d_in, d_out = proj.weight.T.shape if isinstance(proj, torch.nn.Linear) else proj.weight.shape
    return name, (torch.linspace(-1, 1, d_in, dtype=torch.float64), torch.linspace(0, 0.3, d_out, dtype=torch.float64))


@st.composite
def an_edit(draw, model, shortest, source):
    """Any edit that fits the model and the prompts."""
    names = [name for name in SITES if name in model.sites.names]
    name = draw(st.sampled_from(names))
    kind = rs.Site(name).kind
    site = f"{name}.{draw(st.integers(0, model.n_layers - 1))}" if kind.layered else name
    where = {}
    for axis in ("head", "kv_head"):
        if axis in kind.axes and draw(st.booleans()):
            where[axis] = draw(st.integers(0, model.sites.size(rs.Site(name), axis) - 1))
    if draw(st.integers(0, 3)):
        where["pos"] = draw(st.integers(-shortest, shortest - 1))
    how = draw(
        st.sampled_from(
            ["scale", "ablate", "patch", "steer", "freeze", "noise", "nothing", "isolate", "path", "overlay"]
        )
    )
    if how == "isolate":
        return edits.isolate(f"z.{draw(st.integers(0, model.n_layers - 1))}", head=draw(st.integers(0, 3)))
    if how == "path":
        receiver = draw(st.sampled_from(["q.1", "v.1", "final_norm"]))
        return edits.path("z.0", receiver, source, sender_head=draw(st.integers(0, 3)))
    if how == "overlay":
        return edits.overlay(*low_rank(model, draw(st.integers(0, 1))))
    routed = "router" in model.sites.names and name in ("resid_pre", "resid_mid", "resid_post", "mlp_in")
    if routed and how == "ablate":
        how = "steer"  # a stream of zeros ties all experts, and rounding then picks between them
    if name in ("attn_scale", "logits", "pattern", "router") and how in ("ablate", "steer", "noise"):
        how = "scale"
    if how == "patch" and name in ("pattern", "embed", "logits", "router", "result"):
        how = "scale"
    if how == "steer":
        width = model.sites.width(rs.Site(name, 0) if kind.layered else rs.Site(name))
        vector = torch.linspace(-1, 1, width, dtype=torch.float64)
        return edits.steer(site, vector, draw(st.floats(-3, 3, allow_nan=False)), **where)
    if how == "patch":
        return edits.patch(site, source, **where)
    if how == "freeze":
        return edits.freeze(site, **where)
    if how == "noise":
        return edits.noise(site, 0.5, draw(st.integers(0, 3)), **where)
    factor = 1.0 if how == "nothing" else draw(st.sampled_from([0.5, -1.0, 2.0]))
    return edits.ablate(site, **where) if how == "ablate" else edits.scale(site, factor, **where)


@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_a_sweep_equals_one_forward_per_cell(model, data):
    prompts = data.draw(PROMPTS)
    shortest = min(map(len, prompts))
    other = [[(t * 7 + 3) % (VOCAB - 2) + 2 for t in row] for row in prompts]
    source = model.run(other, capture=[name for name in SITES if name in model.sites.names])
    one = an_edit(model, shortest, source)
    cells = data.draw(st.lists(st.lists(one, min_size=1, max_size=3), min_size=1, max_size=8))
    background = data.draw(st.lists(one, max_size=2))
    readout = READOUTS[data.draw(st.sampled_from(list(READOUTS)))]
    try:
        found = rs.sweep(model, prompts, cells, readout, background).run().values
    except errors.ClashingEdits:
        reject()
    for cell, values in zip(cells, found, strict=True):
        plain = readout(model.run(prompts, readout.sites, edits=[*background, *cell]))
        scale = max(1.0, float(plain.abs().max()))
        close(values / scale, plain / scale, f"{background} {cell} {prompts}")
    assert hook_count(model.hf) == 0


# ── what costs nothing, and what is shared ──────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def pair():
    ids = torch.randint(2, VOCAB, (1, 12), generator=torch.Generator().manual_seed(3))
    other = ids.clone()
    other[0, 7] = (other[0, 7] + 5) % VOCAB
    return ids, other


def patches(model, source, length):
    return [edits.patch(f"resid_pre.{la}", source, pos=p) for la in range(model.n_layers) for p in range(length)]


class Midway:
    """A readout that ends in the middle of the model."""

    def __init__(self, site):
        self.sites = (site,)

    def __call__(self, rec):
        return rec[self.sites[0]].double().flatten(1).pow(2).sum(1)


@pytest.mark.parametrize("site", ["pattern.1", "resid_pre.2", "resid_pre.0", "z.0", "mlp_out.2"])
def test_a_readout_that_ends_midway_sees_what_changes_below_it_and_nothing_above(llama, ids, site):
    cells = [edits.scale(f"{name}.{layer}", 1.5, pos=4) for name in ("z", "resid_pre", "mlp_out") for layer in range(4)]
    plan = rs.sweep(llama, ids, cells, Midway(site))
    told = torch.stack([Midway(site)(llama.run(ids, [site], edits=cell)) for cell in cells])
    close(plan.run(False).values, told, site)
    changed = (told - plan.baseline()).abs().amax(1) > 1e-6
    assert 0 < changed.sum() < len(cells)


def test_cells_that_change_nothing_cost_nothing(llama, pair):
    ids, other = pair
    source = llama.run(other, capture=["resid_pre"])
    plan = rs.sweep(llama, ids, patches(llama, source, 12), rs.logit_diff(5, 7))
    assert (
        plan.cost.unchanged == 4 * 7 + 4
    )  # all before the one difference, and those after it that nothing has reached yet
    assert plan.cost.rows == 16
    clean = rs.logit_diff(5, 7)(llama.run(ids, ["logits"]))
    values = plan.run().values
    assert torch.equal(values[0], plan.base)
    torch.testing.assert_close(values[0], clean)


def test_an_edit_after_the_readouts_position_is_answered_from_the_base(llama, ids):
    plan = rs.sweep(llama, ids, [edits.ablate("resid_pre.1", pos=6)], rs.logit_diff(5, 7, pos=3))
    assert plan.cost.rows == 0
    assert rs.sweep(llama, ids, [edits.ablate("resid_pre.1", pos=3)], rs.logit_diff(5, 7, pos=3)).cost.rows == 2


def test_a_sweep_is_cheaper_than_plain_forwards_and_says_so_before_it_runs(llama, pair):
    ids, other = pair
    source = llama.run((other + 1) % VOCAB, capture=["resid_pre"])
    cost = rs.sweep(llama, ids, patches(llama, source, 12), rs.logit_diff(5, 7)).cost
    assert cost.flops < 0.6 * cost.plain_flops
    assert cost.passes < 12
    assert cost.seconds > 0
    assert cost.bytes > 0
    assert "GFLOP" in str(cost)


def test_memory_decides_how_much_runs_at_once_and_changes_no_number(llama, ids):
    cells = [edits.scale(f"z.{la}", 0.5, head=h) for la in range(4) for h in range(4)]
    metric = rs.logit_diff(5, 7)
    wide = rs.sweep(llama, ids, cells, metric)
    narrow = rs.sweep(llama, ids, cells, metric, memory=60_000)
    assert narrow.cost.passes > wide.cost.passes
    torch.testing.assert_close(narrow.run().values, wide.run().values, atol=1e-9, rtol=1e-9)


def test_prompts_in_several_parts_keep_their_order_and_their_own_sources(llama):
    prompts = [list(range(2, 2 + n)) for n in (9, 4, 7, 5)]
    other = llama.run([[t + 20 for t in row] for row in prompts], capture=["resid_pre"])
    cells = [edits.patch("resid_pre.2", other), edits.patch("resid_pre.1", other, pos=-1), edits.freeze("attn_out.1")]
    metric = rs.kl(llama.run(prompts, ["logits"]))
    plan = rs.sweep(llama, prompts, cells, metric, memory=50_000)
    assert len(plan._chunks) > 1
    found = plan.run().values
    for cell, values in zip(cells, found, strict=True):
        torch.testing.assert_close(values, metric(llama.run(prompts, ["logits"], edits=cell)), atol=1e-6, rtol=1e-6)


# ── ending early, and failing ───────────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_sweep_keeps_what_is_finished(llama, ids):
    cells = [edits.scale(f"z.{la}", 0.5, head=h) for la in range(4) for h in range(4)]
    plan = rs.sweep(llama, ids[:1], cells, rs.logit_diff(5, 7), memory=60_000)
    whole = rs.sweep(llama, ids[:1], cells, rs.logit_diff(5, 7)).run().values
    seen = []
    with pytest.raises(errors.SweepCancelled, match="after") as caught:
        plan.run(progress=lambda done, total: seen.append((done, total)), cancel=lambda: len(seen) > 2)
    partial = caught.value.partial.values
    finished = ~partial.isnan()
    assert 0 < finished.sum() < 16
    torch.testing.assert_close(partial[finished], whole[finished], atol=1e-9, rtol=1e-9)
    assert seen[-1][1] == 16
    assert plan.partial is caught.value.partial
    assert hook_count(llama.hf) == 0


def test_an_event_cancels_too(llama, ids):
    stop = threading.Event()
    stop.set()
    with pytest.raises(errors.SweepCancelled):
        rs.sweep(llama, ids, [edits.ablate("z.1", head=0)], rs.logit_diff(5, 7)).run(cancel=stop)


OUT_OF_MEMORY = """
import importlib, resource, sys
sys.path[:0] = ["tests", "tests/engine"]
import torch
torch.set_num_threads(1)
import residscope as rs
from residscope import edits
from residscope.engine.model import Model
from tiny_models import VOCAB, tiny_llama
importlib.import_module("residscope.engine.planner.sweep")._CACHED = 8192
model = Model(tiny_llama())
ids = torch.randint(2, VOCAB, (1, 60))
cells = [edits.scale("resid_pre.0", 0.1 * i + 2) for i in range(600)]
plan = rs.sweep(model, ids, cells, rs.loss(), memory=10**12)
model.run(ids, ["logits"], edits=cells[0])
assert plan.cost.passes < 8
with open("/proc/self/statm") as f:
    now = int(f.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 12_000_000, now + 12_000_000))
found = plan.run()
want = torch.stack([rs.loss()(model.run(ids, ["logits"], edits=cell)) for cell in cells[::60]])
torch.testing.assert_close(found.values[::60], want, atol=1e-6, rtol=1e-6)
print(found.provenance["notes"])
"""


def test_when_memory_runs_out_the_batch_is_halved_and_the_sweep_goes_on():
    """In a process of its own, under a real limit on its address space."""
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "memory ran out" in done.stdout


def test_weights_that_change_after_planning_are_refused():
    model = Model(tiny_llama())
    plan = rs.sweep(model, [[3, 4, 5]], [edits.ablate("z.1")], rs.logit_diff(5, 7))
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(2)
    with pytest.raises(errors.WeightsChanged, match="plan it again"):
        plan.run()


def test_what_cannot_be_planned_is_refused_at_once(llama, gpt2, ids):
    metric = rs.logit_diff(5, 7)
    with pytest.raises(errors.BadSweep):
        rs.sweep(llama, ids, [], metric)
    with pytest.raises(errors.UnknownHead):
        rs.sweep(llama, ids, [edits.ablate("z.1", head=9)], metric)
    with pytest.raises(errors.AbsentSite):
        rs.sweep(gpt2, ids, [edits.ablate("mlp_gate.1")], metric)
    with pytest.raises(errors.UnknownPosition):
        rs.sweep(llama, ids, [edits.ablate("z.1", pos=40)], metric)
    with pytest.raises(errors.PromptError):
        rs.sweep(llama, ids, [edits.ablate("z.1")], rs.logit_diff())
    with pytest.raises(errors.EmptyPrompt):
        rs.sweep(llama, [], [edits.ablate("z.1")], metric)


class Greedy:
    """Reads a site that it does not declare."""

    sites = ("resid_pre.3",)

    def __call__(self, rec):
        return rec["z.1"].sum((1, 2, 3))


def test_a_readout_reads_only_what_it_declares(llama, ids):
    with pytest.raises(errors.NotRecorded, match="declares"):
        rs.sweep(llama, ids, [edits.scale("z.0", 2.0)], Greedy()).run()


def test_eight_threads_get_the_numbers_of_one(llama, ids):
    metric = rs.logit_diff(5, 7)
    cells = [[edits.scale(f"{site}.{la}", 0.3, pos=p)] for site in ("z", "mlp_out") for la in range(4) for p in (1, 5)]
    alone = [rs.sweep(llama, ids, cells[i::8], metric).run().values for i in range(8)]
    together = [None] * 8

    def work(i):
        together[i] = rs.sweep(llama, ids, cells[i::8], metric).run().values

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)
