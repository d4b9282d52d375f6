"""One of everything that a public function answers with, on tiny models, made once: by name."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from labelled import labelled, named
from readers import TEXTS, drawn, reader

import residscope as rs
from loopback_chat import ByRule
from residscope.directions import EncoderDictionary
from residscope.engine.model import Model
from residscope.methods._lib.answers import flips
from residscope.methods._lib.blind import score
from residscope.methods._lib.own_tokens import own_tokens
from residscope.methods.patching.mediation import mediated
from residscope.methods.probes.das import das
from residscope.methods.probes.downstream import downstream
from residscope.methods.probes.intervention import METHODS, compare
from tiny_models import tiny_llama

PROMPTS = ["abc defg", "hgf edcb"]
M = rs.logit_diff(5, 7)
PAIR = ([list(range(2, 11))], [list(range(32, 41))])
HEADS = {"some": ((2, 1), (3, 0))}


@cache
def llama() -> Model:
    return Model(tiny_llama(), name="llama")


@cache
def tuned() -> Model:
    return Model(tiny_llama(seed=1), name="tuned")


@cache
def spelling() -> Model:
    return reader()


@cache
def fitted() -> rs.Dictionary:
    return rs.pca(spelling(), TEXTS, "resid_post.1", 4, tokens=800)


@cache
def probed() -> tuple[rs.Probe, rs.PromptSet, rs.PromptSet]:
    train, test = labelled(64).split(0.5, by="parity")
    probe = rs.fit_probe(llama(), train, held_out=test, site="resid_pre.1", position="P", label="parity", Cs=(0.01,))
    return probe, train, test


def _examples() -> list[rs.PromptSet]:
    data = labelled(24, ragged=False)
    return [data.subset(range(12)), data.subset(range(12, 24))]


def encoder() -> rs.Dictionary:
    read = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros(32)
    return EncoderDictionary("sae", "resid_pre.1", read, read, mean=zero, bias=torch.zeros(24), base=zero)


def _intervened() -> Any:
    probe, _, test = probed()
    return rs.intervene(llama(), test, [probe], {"LRQP": METHODS["LRQP"]})[0]


def _downstream() -> Any:
    probe, train, test = probed()
    arms = {"clean": (), "other": (rs.lrqp(probe, to="other"),)}
    return downstream(
        llama(), train, test, arms, label="parity", readers=HEADS["some"], movers={"movers": HEADS["some"]}
    )


def _das() -> Any:
    data = labelled(24, ragged=False)
    probe = rs.fit_probe(llama(), data, site="resid_pre.1", position="P", label="parity", Cs=(0.01,))
    return das(llama(), data, probe, steps=3, batch=24)


def _mediated() -> Any:
    probe, _, test = probed()
    return mediated(llama(), test.subset(range(6)), [rs.lrqp(probe, to="other")], HEADS, draws=1)


SITES = {"sites": ["resid_pre.1"], "position": "P", "label": "parity"}
WHERE = {"label": "parity", "position": "P", "layers": [0, 2]}
CELLS = [rs.edits.ablate("z.1", head=head) for head in range(2)]
MAKERS: dict[str, Callable[[], Any]] = {
    name: cache(make)
    for name, make in {
        "sweep": lambda: rs.sweep(llama(), PAIR[0], CELLS, M).run(False),
        "screened": lambda: rs.screened(rs.sweep(llama(), PAIR[0], CELLS, M), 1.0, by="gradient", progress=False),
        "activation patching": lambda: rs.activation_patching(llama(), *PAIR, M, progress=False),
        "attribution patching": lambda: rs.attribution_patching(llama(), *PAIR, M, sample=4, progress=False),
        "gradient attribution": lambda: rs.gradient_attribution(
            llama(), PAIR[0], M, of="neurons", sample=4, progress=False
        ),
        "tcav": lambda: rs.tcav(llama(), *_examples(), PAIR[0], M, site="resid_pre.1", draws=10, progress=False),
        "integrated gradients": lambda: rs.integrated_gradients(
            llama(), PAIR[0], M, of="heads", baseline="prompt", over=PAIR[1], steps=4, progress=False
        ),
        "saliency": lambda: rs.saliency(llama(), PAIR[0], M, progress=False),
        "ablation sweep": lambda: rs.ablation_sweep(llama(), PAIR[0], M, relative=True, progress=False),
        "causal tracing": lambda: rs.causal_tracing(llama(), PAIR[0], [2], M, draws=2, progress=False),
        "path patching": lambda: rs.path_patching(llama(), *PAIR, M, receivers=[(3, 1)], progress=False),
        "edge patching": lambda: rs.edge_patching(llama(), *PAIR, M, senders=[0, 1], receivers=[2], progress=False),
        "edge attribution": lambda: rs.edge_attribution(llama(), *PAIR, M, receivers=[2], sample=4, progress=False),
        "self repair": lambda: rs.self_repair(llama(), PAIR[0], (1, 1), M, progress=False),
        "ablation comparison": lambda: rs.compare_ablations(llama(), PAIR[0], M, PAIR[1], draws=2, progress=False),
        "head scores": lambda: rs.head_scores(llama(), n=3, length=8, progress=False),
        "induction heads": lambda: rs.induction_heads(llama(), n=3, length=8, progress=False),
        "induction mechanism": lambda: rs.induction_mechanism(llama(), 2, 1, n=3, length=8, draws=2, progress=False),
        "continuations": lambda: rs.continuations(
            llama(), PAIR[0], edits=[rs.edits.scale("z.1", -3.0)], max_new_tokens=6, stop=(), progress=False
        ),
        "token table": lambda: rs.token_table(spelling(), PROMPTS[0]),
        "counterfactuals": lambda: rs.counterfactuals(spelling(), PROMPTS[0], M, progress=False),
        "copying scores": lambda: rs.copying_scores(llama(), progress=False),
        "composition": lambda: rs.composition(llama(), random=20, progress=False),
        "direct path": lambda: rs.direct_path(spelling(), ["a", "b"], k=3, text=["abcabd" * 4], progress=False),
        "positions": lambda: rs.positions(spelling(), PROMPTS[:2], progress=False),
        "skip trigrams": lambda: rs.skip_trigrams(spelling(), 1, 2, ["a", "b"], k=3, progress=False),
        "weight directions": lambda: rs.weight_directions(spelling(), 1, "OV", head=2, n=3, k=3, progress=False),
        "factored": lambda: rs.factored(llama(), 1, 2, "QK", k=4, progress=False),
        "weight difference": lambda: rs.weight_difference(llama(), tuned()),
        "layer swap": lambda: rs.layer_swap(llama(), tuned(), PAIR[0], M),
        "model comparison": lambda: rs.compare_models(llama(), tuned(), PAIR[0], metric=M),
        "direct attribution by source": lambda: rs.direct_attribution(llama(), PAIR[0], M, by="source", progress=False),
        "direct attribution by feature": lambda: rs.direct_attribution(
            llama(), PAIR[0], M, by="feature", dictionary=encoder(), progress=False
        ),
        "direct attribution with parts taken out": lambda: rs.direct_attribution(
            llama(), PAIR[0], M, remove="zero", largest=2, progress=False
        ),
        "direct attribution": lambda: rs.direct_attribution(llama(), PAIR[0], M, progress=False),
        "probe sweep": lambda: rs.probe_sweep(
            llama(), labelled(), label="parity", positions=["P"], layers=[1], Cs=(0.01,)
        ),
        "probe map": lambda: rs.probe_map(llama(), labelled(24), site="resid_pre.1", position="P", label="parity"),
        "flips over C": lambda: rs.flips_over_C(llama(), labelled(), Cs=(0.01, 1.0), **SITES),
        "look": lambda: rs.look(llama(), labelled(), **WHERE),
        "signal split": lambda: rs.signal_split(
            llama(), named(6), heads=[(1, 0)], movers=[(2, 1)], draws=2, progress=False
        ),
        "head roles": lambda: rs.head_roles(llama(), labelled(5), prompts=5),
        "intervention": _intervened,
        "compare": lambda: compare([_intervened()]),
        "mediation": _mediated,
        "downstream": _downstream,
        "ridge probe": lambda: rs.ridge_probe(llama(), labelled(24), site="resid_pre.1", position="P", label="parity"),
        "das": _das,
        "flips": lambda: flips(torch.tensor([2.0, 1.0, -1.0]), torch.tensor([-2.0, 0.5, -3.0])),
        "score": lambda: score([1, 2, 3, 4], [10, 20, 40, 30]),
        "own tokens": lambda: own_tokens(spelling(), fitted()[0]),
        "examples": lambda: rs.top_examples(spelling(), fitted()[0], TEXTS, tokens=300),
        "harvest": lambda: rs.harvest_sites(
            spelling(),
            TEXTS,
            ["resid_post.1"],
            examples=2,
            intervals=True,
            quantiles=True,
            firing=True,
            positions=True,
            tokens=300,
        ),
        "atlas": lambda: rs.features.gather(spelling(), TEXTS, encoder(), tokens=300, k=3),
        "feature page": lambda: rs.features.page(
            spelling(), rs.features.gather(spelling(), TEXTS, encoder(), tokens=300, k=3), 2, encoder()
        ),
        "feature names": lambda: rs.name_features(
            spelling(),
            rs.features.gather(spelling(), TEXTS, encoder(), tokens=300, k=3),
            [1, 2],
            encoder(),
            endpoint=ByRule(),
        ),
        "token losses": lambda: rs.token_losses(spelling(), PROMPTS[0]),
        "model facts": lambda: rs.model_facts(spelling()),
        "task check": lambda: rs.task_check(llama(), labelled(12), by="parity", progress=False),
        "basis meter": lambda: rs.basis_meter(spelling(), PROMPTS[:2], draws=2, progress=False),
        "norm effects": lambda: rs.norm_effects(spelling(), PROMPTS[0]),
        "next-token baselines": lambda: rs.next_token_baselines(spelling(), PROMPTS[0], text=TEXTS, progress=False),
        "tuned lens": lambda: rs.tuned_lens(spelling(), TEXTS, tokens=1000, steps=2, progress=False),
        "logit lens": lambda: rs.logit_lens(spelling(), PROMPTS[0], k=2),
        "score attribution": lambda: rs.score_attribution(spelling(), PROMPTS[0], 2, 1),
        "estimated graph": lambda: rs.causal_graph(
            spelling(), PROMPTS[0], [encoder(), fitted()], method="gradient", tokens=2, exact_sample=6
        ),
        "causal graphs": lambda: rs.graph.causal_graphs(spelling(), PROMPTS[:2], [encoder(), fitted()], progress=False),
        "causal graph": lambda: rs.causal_graph(spelling(), PROMPTS[0], [encoder(), fitted()], tokens=2),
        "validation": lambda: rs.validate_graph(
            spelling(),
            rs.causal_graph(spelling(), PROMPTS[0], [encoder(), fitted()], tokens=2, errors=False),
            [encoder(), fitted()],
            contexts=PROMPTS[1:],
            texts=TEXTS,
            random_texts=9,
            length=8,
            controls=3,
            circuits=2,
            progress=False,
        ),
        "sae evaluation": lambda: rs.sae.evaluate(spelling(), fitted(), TEXTS, tokens=600, progress=False),
        "sae splitting": lambda: rs.sae.split_features(fitted(), fitted()),
        "sae training": lambda: rs.sae.train(
            spelling(), TEXTS, ["resid_post.1"], features=16, k=3, tokens=1500, batch=64, progress=False
        )["training"],
        "null directions": lambda: rs.null_directions(spelling(), fitted()[0], TEXTS, n=19, tokens=600),
        "survey": lambda: rs.survey(
            lambda model, seed: rs.ablation_sweep(model, PROMPTS[0], M), ["one", "two"], load=lambda _: spelling()
        ),
        "stability": lambda: rs.stability(spelling(), fitted()[0], TEXTS, tokens=800),
        "dose response": lambda: rs.dose_response(spelling(), drawn(3), PROMPTS, random=5),
        "removal cost": lambda: rs.removal_cost(spelling(), drawn(3), PROMPTS, random=5),
        "fit check": lambda: rs.sae.fit_check(spelling(), encoder(), TEXTS, tokens=300),
        "evidence": lambda: rs.evidence(spelling(), fitted()[0], TEXTS, tokens=800, prompts=4, length=8, random=5),
    }.items()
}
