"""Patterns of heads in full, against the stock model's own attention and the outputs of its own projections."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

import residscope as rs
from residscope.errors import MalformedJSON, NotFound, PromptTooLong, UnknownHead, UnknownLayer
from residscope.session import Session
from residscope.session.maps import attention
from session import worlds
from tiny_models import shaken, tiny_gpt2

TEXT = "a small prompt"


@pytest.fixture(scope="module")
def one() -> Any:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": TEXT})
        assert session.wait(60)
        yield session


def asked(session: Session, heads: Any, *, which: str = "a", **args: Any) -> Any:
    run = session.snapshot()[1]["current"][which]
    return load(session.query("attention", {"run": run, "heads": heads, **args}))["pattern"].numpy()


def stock(session: Session) -> tuple[Any, Any]:
    """The stock Llama's attention [layer, head, query, key], and |v W_O| [layer, head, key]: by hooks on its own modules."""
    hf, lengths, hooks = copy.deepcopy(worlds.model().hf), [], []
    hf.set_attn_implementation("eager")
    c = hf.config
    d_head = c.hidden_size // c.num_attention_heads

    def measure(block: Any, v: torch.Tensor) -> None:
        rows = []
        for head in range(c.num_attention_heads):
            shared = head // (c.num_attention_heads // c.num_key_value_heads)
            alone = torch.zeros(v.shape[1], c.hidden_size, dtype=v.dtype)
            alone[:, head * d_head : (head + 1) * d_head] = v[0, :, shared * d_head : (shared + 1) * d_head]
            rows.append(block.self_attn.o_proj(alone).norm(dim=-1))
        lengths.append(torch.stack(rows))

    hooks = [
        block.self_attn.v_proj.register_forward_hook(lambda m, a, out, block=block: measure(block, out))
        for block in hf.model.layers
    ]
    prompt = session.state.prompt
    assert prompt is not None
    with torch.no_grad():
        found = hf(torch.tensor([[*prompt.ids]]), output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    return torch.stack(found)[:, 0].numpy(), torch.stack(lengths).numpy()


def test_one_head_s_pattern_is_the_stock_model_s_and_weighted_is_what_each_pair_writes(one: Session) -> None:
    pattern, written = stock(one)
    for layer, head in ((0, 1), (2, 3)):
        np.testing.assert_allclose(asked(one, [[layer, head]]), pattern[layer, head], atol=1e-6)
        want = pattern[layer, head] * written[layer, head]
        np.testing.assert_allclose(asked(one, [[layer, head]], weighted=True), want, atol=1e-5, rtol=1e-5)


def test_several_are_their_mean_or_at_each_pair_the_largest(one: Session) -> None:
    pattern, written = stock(one)
    heads = [[0, 1], [2, 3], [0, 2]]
    several = np.stack([pattern[layer, head] for layer, head in heads])
    np.testing.assert_allclose(asked(one, heads), several.mean(0), atol=1e-6)
    np.testing.assert_allclose(asked(one, heads, over="max"), several.max(0), atol=1e-6)
    weighted = np.stack([pattern[layer, head] * written[layer, head] for layer, head in heads])
    np.testing.assert_allclose(asked(one, heads, over="max", weighted=True), weighted.max(0), atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(asked(one, [[0, 1], [0, 1]]), asked(one, [[0, 1]]))  # once is enough


def test_weighted_pairs_of_another_family_make_up_what_the_head_writes() -> None:
    """sum_k A[q, k] v_k W_O = result, so that of a query with one key its length is the weight; of others it is no larger."""
    model = rs.load((shaken(tiny_gpt2()), None))
    run = model.run(torch.tensor([[5, 9, 2, 7]]), ["resid_pre", "result"])
    weights = attention.attention(run, [(1, 2)], weighted=True)
    written = run["result", 1][0, :, 2].norm(dim=-1)
    assert float(weights[0, 0]) == pytest.approx(float(written[0]), rel=1e-5)
    assert (weights.sum(-1) >= written - 1e-5).all()


def test_the_run_s_edits_are_done_in_it(one: Session) -> None:
    before = asked(one, [[1, 0]])
    one.intent("set_edits", {"edits": [{"kind": "ablate", "site": "resid_pre.1", "to": "zero", "pos": [2]}]})
    assert one.wait(60)
    after = asked(one, [[1, 0]], which="b")
    np.testing.assert_array_equal(after[:2], before[:2])
    assert abs(after[2:] - before[2:]).max() > 1e-4
    one.intent("set_edits", {"edits": []})
    assert one.wait(60)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"run": "none"}, NotFound),
        ({"heads": [[99, 0]]}, UnknownLayer),
        ({"heads": [[0, 99]]}, UnknownHead),
        ({"heads": []}, MalformedJSON),
        ({"heads": [[0, 1, 2]]}, MalformedJSON),
        ({"heads": [[0, 1]], "over": "median"}, MalformedJSON),
    ],
)
def test_what_is_not_there_is_refused(one: Session, args: dict[str, Any], error: type[Exception]) -> None:
    run = one.snapshot()[1]["current"]["a"]
    with pytest.raises(error):
        one.query("attention", {"run": run, "heads": [[0, 0]]} | args)


def test_a_prompt_that_is_too_long_to_draw_is_refused(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MOST_TOKENS", 3)
    with pytest.raises(PromptTooLong, match=r"tokens.*Allowed: 3"):
        asked(one, [[0, 0]])
