"""Measuring techniques beside TransformerLens 4.3's own, on a tiny GPT-2: where `make peers` has been run.

On SmolLM2: `python -m bench.peers.check_methods`.
"""

import pytest
import torch
from bench.peers import PYTHON, Peer
from bench.peers.check_methods import TECHNIQUES, TOLERANCE, Case
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import residscope as rs
from tiny_models import VOCAB, tiny_gpt2

pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="the peers' environment is not there: make peers")
ANSWERS = [5, 7]
PAIR = [5, 9, 3, 17, 8, 2, 11], [5, 9, 4, 30, 8, 21, 11]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Weights large enough that a float32 effect is well above its rounding."""
    folder = tmp_path_factory.mktemp("tiny")
    hf = tiny_gpt2(tied=False).float()
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            weight.mul_(4.5 if weight.ndim == 2 and ".h." in name else 8 if name == "lm_head.weight" else 1)
    hf.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="t0", eos_token="t1").save_pretrained(folder)
    with Peer("transformer_lens", folder=folder, threads=1) as peer:
        yield Case(rs.load(str(folder)), peer, *PAIR, ANSWERS, "t5 t9 t3 t5 t9 t3 t8")


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.__name__)
def test_it_is_transformer_lens_own(case, technique):
    found = dict(technique(case))
    assert found
    assert all(worst < TOLERANCE for worst in found.values()), found


def test_another_answer_would_show(case):
    theirs = case.peer.call("attribution", ids=case.clean, answers=[5, 8], unit="head")
    ours = rs.direct_attribution(case.model, [case.clean], case.metric, by="head", progress=False).heads
    assert case.apart(ours.values.flatten(), theirs["values"][: ours.values.numel()]) > 100 * TOLERANCE
