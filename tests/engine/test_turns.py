"""A pass that gives way: the same to the last bit, whoever ran meanwhile; it waits outside the lock, and cannot be starved."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch

import residscope as rs
from residscope import edits
from residscope.engine.forced import Forced
from residscope.engine.forward import forward
from residscope.engine.gradients import gradients
from residscope.engine.model import Model
from residscope.engine.turns import give_way, giving_way, lock_of
from residscope.engine.windows import whole_cache
from residscope.errors import Cancelled
from residscope.progress import asking, stage
from tiny_models import VARIANTS, hook_count

PROMPT, OTHER = [list(range(2, 12))], [list(range(12, 22))]
METRIC = rs.logit_diff(5, 7)


class Somebody:
    """Who asks for the model in front of blocks drawn at random, and runs it in a thread while the pass stands aside."""

    def __init__(self, model: Model, *, often: float = 0.4, seed: int = 0) -> None:
        self.model, self.lock, self.often, self.draw = model, lock_of(model.hf), often, Random(seed)
        self.asked, self.gave, self.waited = 0, 0, 0
        self.alone = self._runs()

    def cancel(self) -> bool:
        self.asked += 1
        if self.lock.mine and self.draw.random() < self.often:
            self.gave += 1
            give_way()
        return False

    def waits(self) -> None:
        assert not self.lock.mine
        with ThreadPoolExecutor(1) as pool:
            among = pool.submit(self._runs).result(30)
        assert all(torch.equal(a, b) for a, b in zip(self.alone, among, strict=True))
        self.waited += 1

    def _runs(self) -> list[torch.Tensor]:
        """A plain run, and one that has hooks of every kind and switches attention."""
        plain = self.model.run(OTHER, ["logits"])
        edited = self.model.run(OTHER, ["pattern.2", "logits"], edits=[edits.scale("resid_mid.1", 1.5)])
        return [plain["logits"], edited["pattern.2"], edited["logits"]]


def values(made: Any) -> list[torch.Tensor]:
    if isinstance(made, rs.Result):
        return [made.values]
    if isinstance(made, dict):
        return [value for _, value in sorted(made.items(), key=lambda pair: str(pair[0]))]
    return [made[name] for name in ("resid_pre.2", "pattern.1", "logits")]


def _generated(model: Model, cancel: Any) -> dict[str, torch.Tensor]:
    """Sampled with edits, also of keys and values, and read by the model without them."""
    stack = [edits.freeze("pattern.2"), edits.scale("k.1", 0.5), edits.noise("resid_pre.1", 0.3, seed=1)]
    with stage("Generating", 1, False, cancel):
        out = model.generate(PROMPT, stack, 4, temperature=1.0, seed=1, stop=())
        ids = torch.tensor(out.ids)
        forced = Forced(model._starting(PROMPT, [edits.scale("v.1", 2.0)], 4))
        read = forced.feed(out.ids[:3]) + forced.feed(out.ids[3:])
    return {"ids": ids, "own": torch.tensor([token.log_prob for token in out]), "read": torch.tensor(read)}


CALLS: dict[str, Callable[[Model, Any], Any]] = {
    "a run": lambda model, cancel: _run(model, cancel, edits=[edits.scale("mlp_out.1", 0.5)]),
    "frozen to the unedited run": lambda model, cancel: _run(
        model, cancel, edits=[edits.freeze("pattern.2"), edits.scale("resid_pre.1", 2.0)]
    ),
    "noise": lambda model, cancel: _run(model, cancel, edits=[edits.noise("embed", 0.5, seed=3)]),
    "a window": lambda model, cancel: _run(
        model,
        cancel,
        edits=[edits.ablate("z.2", head=1)],
        window=rs.Window(model.run(PROMPT, ["resid_pre", "pattern.1", "logits"]), start=2),
    ),
    "sites recomputed": lambda model, cancel: _recomputed(model, cancel),
    "a generation": lambda model, cancel: _generated(model, cancel),
    "ablations": lambda model, cancel: rs.ablation_sweep(
        model, PROMPT, METRIC, site="z", cancel=cancel, progress=False
    ),
    "patching": lambda model, cancel: rs.activation_patching(
        model, PROMPT, OTHER, METRIC, cancel=cancel, progress=False
    ),
}


def _recomputed(model: Model, cancel: Any) -> dict[str, torch.Tensor]:
    made = model.run(PROMPT, ["resid_pre.0"], edits=[edits.scale("z.1", 0.5)])
    with stage("Reading", 1, False, cancel):
        return {site: made[site] for site in ("pattern.3", "logits")}


def _run(model: Model, cancel: Any, **options: Any) -> Any:
    with stage("Running", 1, False, cancel):
        capture = ["logits"] if "window" in options else ["resid_pre", "pattern.1", "logits"]
        made = model.run(PROMPT, capture, **options)
        return {"logits": made["logits"]} if "window" in options else made


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("call", CALLS)
def test_given_way_at_random_blocks_it_is_the_same_to_the_last_bit(family: str, call: str) -> None:
    model = Model(VARIANTS[family](), name=family)
    alone = values(CALLS[call](model, None))
    gave = 0
    for seed in range(5):
        somebody = Somebody(model, seed=seed)
        with giving_way(somebody.waits):
            again = values(CALLS[call](model, somebody.cancel))
        gave += somebody.gave
        assert somebody.waited > 0
        assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
        assert hook_count(model.hf) == 0
        assert not somebody.lock.mine
    assert gave > 0


def test_who_asks_without_end_waits_for_one_block_and_the_pass_goes_on_by_one() -> None:
    model = Model(VARIANTS["llama"](), name="llama")
    somebody, ran = Somebody(model, often=1.0), []
    for layer, block in enumerate(model.hf.model.layers):
        block.register_forward_hook(lambda *_, layer=layer: ran.append((layer, threading.get_ident())))
    model.run(OTHER, ["logits"])  # another's hooks are looked at once
    ran.clear()
    with giving_way(somebody.waits):
        _run(model, somebody.cancel)
    own = [i for i, (_, thread) in enumerate(ran) if thread == threading.get_ident()]
    assert [ran[i][0] for i in own] == [*range(model.n_layers)], "no block is run twice"
    between = [b - a - 1 for a, b in pairwise(own)]
    assert between == [2 * model.n_layers] * (model.n_layers - 1), "two runs of somebody's behind each"
    assert somebody.waited == 1 + model.n_layers  # before it begins, and in front of each block


def test_under_a_lock_that_the_caller_holds_it_runs_to_its_end() -> None:
    model = Model(VARIANTS["llama"](), name="llama")
    somebody = Somebody(model, often=1.0)
    with giving_way(somebody.waits), lock_of(model.hf):
        _run(model, somebody.cancel)
    assert (somebody.waited, somebody.gave) == (
        0,
        1 + model.n_layers,
    )  # as the stage begins, and in front of each block


def test_a_pass_that_fills_the_callers_cache_stands_aside_too() -> None:
    model = Model(VARIANTS["llama"](), name="llama")
    somebody = Somebody(model, often=1.0)
    batch, site = model.batch(PROMPT), model.sites.parse("resid_post.3")
    alone = forward(model.layout, batch, capture={site})[site]

    def ask(done: int | None = None) -> None:
        somebody.cancel()

    with giving_way(somebody.waits), asking(ask, somebody.cancel):
        assert torch.equal(forward(model.layout, batch, capture={site}, cache=whole_cache())[site], alone)
    assert somebody.gave == model.n_layers
    assert somebody.waited == 1 + model.n_layers


ABLATED = [edits.ablate("z.1", head=1)]
PLANNED: dict[str, Callable[[Model], Any]] = {
    "the base run of a sweep": lambda model: rs.sweep(model, PROMPT, ABLATED, METRIC),
    "that of a sweep in a background within attention": lambda model: rs.sweep(
        model, PROMPT, ABLATED, METRIC, background=[edits.freeze("pattern.2"), edits.scale("resid_pre.0", 2.0)]
    ),
    "gradients": lambda model: gradients(model, PROMPT, METRIC, ["resid_pre.1"])[1],
    "gradients under edits": lambda model: gradients(
        model, PROMPT, METRIC, ["resid_pre.1"], edits=[edits.freeze("pattern.2"), *ABLATED]
    )[1],
}


@pytest.mark.parametrize("call", PLANNED)
def test_base_runs_and_gradients_give_way_in_front_of_each_block_and_on_the_way_back(call: str) -> None:
    model = Model(VARIANTS["llama"](), name="llama")
    alone = PLANNED[call](model)
    somebody = Somebody(model, often=1.0)

    def ask(done: int | None = None) -> None:
        somebody.cancel()

    with giving_way(somebody.waits), asking(ask, somebody.cancel):
        again = PLANNED[call](model)
    assert somebody.waited == 1 + somebody.gave
    back = model.n_layers - 2 if isinstance(alone, dict) else 0  # gradients at block 1's stream end behind block 2
    assert somebody.gave >= model.n_layers + back
    assert hook_count(model.hf) == 0
    assert not somebody.lock.mine
    if not isinstance(alone, dict):
        alone, again = ({"": plan.run(progress=False).values} for plan in (alone, again))
    assert all(torch.equal(alone[site], again[site]) for site in alone)


def test_who_waits_may_stop_it_and_nothing_is_left_behind() -> None:
    model = Model(VARIANTS["llama"](), name="llama")

    def waits() -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled), giving_way(waits):
        _run(model, lambda: False)
    assert hook_count(model.hf) == 0
    assert not lock_of(model.hf).mine


def test_without_turns_nothing_is_asked() -> None:
    model = Model(VARIANTS["llama"](), name="llama")
    give_way()
    _run(model, lambda: False)


def test_the_lock_is_mine_only_while_this_thread_has_it() -> None:
    lock = lock_of(VARIANTS["llama"]())
    others: list[bool] = []
    with lock:
        with lock:
            assert lock.mine
        assert lock.mine
        thread = threading.Thread(target=lambda: others.append(lock.mine))
        thread.start()
        thread.join(10)
    assert (others, lock.mine) == ([False], False)
