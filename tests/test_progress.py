"""Every long call tells how far it is in words, can be stopped at any of its steps, and leaves the model as it was."""

import inspect
import pkgutil
import re
import threading
from copy import deepcopy
from functools import cache
from importlib import import_module
from itertools import pairwise
from tempfile import TemporaryDirectory

import pytest
import torch

import residscope as rs
from loopback_chat import ByRule
from methods.labelled import labelled, named
from methods.readers import TEXTS, reader
from residscope import edits, errors
from residscope.corpus import chunks, held_out
from residscope.corpus.harvest import fits
from residscope.directions import EncoderDictionary
from residscope.graph import shares as graph_shares
from residscope.graph.build import Setting
from residscope.methods._lib import activations, answers
from residscope.methods._lib.tuned import TunedLens
from residscope.methods.evidence import blind_contexts
from residscope.methods.patching import mediation
from residscope.methods.probes import das, downstream, probe_fit
from residscope.progress import keeping, stage
from tiny_models import hook_count

TABLE = "text,corrupted,tense\n" + "".join(f"The cat sat {i},The dog sat {i},past\n" for i in range(6))
DATA = labelled(40, ragged=False)
PROMPT = [2, 3, 4, 5, 6, 7, 8, 9]
TRAIN, TEST = DATA.split(0.5, by="parity")
AT = {"position": "P", "label": "parity"}
GRID = [edits.scale(f"z.{layer}", 0.5, head=head) for layer in range(4) for head in range(4)]
PATCHED = {"clean": [DATA.prompts[0]], "corrupted": [DATA.prompts[3]], "metric": rs.logit_diff(5, 7)}


@cache
def model():
    return reader()


@cache
def beside():
    """The same with other weights in its last block."""
    hf = deepcopy(model().hf)
    with torch.no_grad():
        for weight in [*hf.parameters()][-6:]:
            weight.mul_(1.2)
    return rs.load((hf, model().tokenizer))


@cache
def components():
    return rs.pca(model(), TEXTS, "resid_post.2", 3, tokens=800)


@cache
def component():
    return components()[0]


@cache
def encoder(site="resid_pre.1"):
    read = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros(32)
    return EncoderDictionary("sae", site, read, read, mean=zero, bias=torch.zeros(24), base=zero)


def later():
    return encoder("resid_post.2")


def atlas(**told):
    return rs.features.gather(model(), TEXTS, encoder(), tokens=1200, k=3, **told)


def exported(**told):
    with TemporaryDirectory() as folder:
        return rs.features.export(model(), atlas(), folder, encoder(), indices=[1, 2], **told)


def loaded_lens(**told):
    with TemporaryDirectory() as folder:
        TunedLens(torch.zeros(4, 32, 32), torch.zeros(4, 32)).save(f"{folder}/lens")
        return rs.load_tuned_lens(model(), f"{folder}/lens", **told)


@cache
def setting():
    return Setting.of(model(), PROMPT, [encoder(), later()])


@cache
def drawn():
    return rs.causal_graph(model(), PROMPT, [encoder(), later()], errors=False, tokens=0)


@cache
def probe():
    return rs.fit_probe(model(), TRAIN, held_out=TEST, site="resid_pre.1", **AT, Cs=(0.01,))


@cache
def smollm2():
    return rs.load("smollm2-135m")


def plan():
    return rs.sweep(model(), [[2, 3, 4], [5, 6, 7]], GRID, rs.logit_diff(5, 7))


def halves():
    return [activations.recorded(model(), half, ["resid_pre.1"], ["P"]) for half in (TRAIN, TEST)]


def to_other():
    return [rs.lrqp(probe(), to="other")]


def vectors_of_parity():
    return halves()[0].vectors["resid_pre.1", "P"], TRAIN


PATCHING = "methods.patching.activation_patching.activation_patching"
CALLS = {
    "corpus.chunks.chunks": lambda **told: [*chunks.chunks(model(), TEXTS, ["resid_post.1"], tokens=900, **told)],
    "corpus.drawn.draw_prompts": lambda **told: rs.draw_prompts(model(), TEXTS, 6, length=8, **told),
    "corpus.examples.top_examples": lambda **told: rs.top_examples(model(), component(), TEXTS, tokens=900, **told),
    "corpus.held_out.held_out": lambda **told: held_out.held_out(model(), TEXTS, skip=400, length=10, **told),
    "corpus.mean_difference.mean_difference": lambda **told: rs.mean_difference(
        model(), {"a": TEXTS[:30], "b": TEXTS[30:]}, "resid_post.1", tokens=500, **told
    ),
    "corpus.nmf.nmf": lambda **told: rs.nmf(model(), TEXTS, "resid_post.1", 2, clip=True, tokens=600, **told),
    "corpus.pca.pca": lambda **told: rs.pca(model(), TEXTS, "resid_post.1", 2, tokens=600, **told),
    "corpus.svd.svd": lambda **told: rs.svd(model(), TEXTS, "resid_post.1", 2, tokens=600, **told),
    "corpus.harvest.method.harvest_sites": lambda **told: rs.harvest_sites(
        model(), TEXTS, ["resid_post.1"], quantiles=True, tokens=600, **told
    ),
    "corpus.harvest.run.harvest": lambda **told: rs.harvest(
        model(), TEXTS, [rs.statistics.TopTokens("mlp_post.1")], tokens=600, shard=8, **told
    ),
    "corpus.harvest.fits.moments_of": lambda **told: fits.moments_of(model(), TEXTS, ["z.1"], head=1, tokens=600, **told),
    "features.gathering.gather": lambda **told: atlas(**told),
    "features.feature_page.page": lambda **told: rs.features.page(model(), atlas(), 2, encoder(), **told),
    "features.removal.effects": lambda **told: rs.features.effects(model(), atlas(), 2, [(0, 3), (1, 4)] * 20, encoder(), **told),
    "features.exporting.export": lambda **told: exported(**told),
    "features.naming.name_features": lambda **told: rs.name_features(
        model(), atlas(progress=False), [1, 2, 3], encoder(), endpoint=ByRule(), **told
    ),
    "methods.reading.token_losses.token_losses": lambda **told: rs.token_losses(model(), PROMPT, edit=GRID[:1], **told),
    "methods.reading.model_facts.model_facts": lambda **told: rs.model_facts(model(), **told),
    "methods.reading.task_check.task_check": lambda **told: rs.task_check(model(), DATA, by="parity", batch=8, **told),
    "methods.reading.task_average.task_average": lambda **told: rs.task_average(model(), DATA, **told),
    "methods.reading.basis_meter.basis_meter": lambda **told: rs.basis_meter(model(), PROMPT, draws=2, **told),
    "methods.reading.norm_effects.norm_effects": lambda **told: rs.norm_effects(model(), PROMPT, **told),
    "methods.reading.logit_lens.logit_lens": lambda **told: rs.logit_lens(model(), PROMPT, **told),
    "methods.reading.next_token_baselines.next_token_baselines": lambda **told: rs.next_token_baselines(
        model(), PROMPT, text=TEXTS, tokens=900, **told
    ),
    "methods.reading.tuned_lens.tuned_lens": lambda **told: rs.tuned_lens(model(), TEXTS, tokens=1000, steps=2, **told),
    "methods.reading.tuned_lens_load.load_tuned_lens": lambda **told: loaded_lens(**told),
    "graph.build.causal_graph": lambda **told: rs.causal_graph(model(), PROMPT, [encoder(), later()], tokens=2, **told),
    "graph.validation.validate.validate_graph": lambda **told: rs.validate_graph(
        model(), drawn(), [encoder(), later()], contexts=[PROMPT, [4, 9, 2, 5]], texts=TEXTS, random_texts=40, length=8,
        controls=4, circuits=2, **told
    ),
    "graph.aggregate.causal_graphs": lambda **told: rs.graph.causal_graphs(
        model(), [PROMPT, PROMPT[::-1], PROMPT[:6]], [encoder(), later()], **told
    ),
    "graph.scores.build.score_attribution": lambda **told: rs.score_attribution(model(), PROMPT, 2, 1, **told),
    "graph.estimates.build.estimated": lambda **told: rs.causal_graph(
        model(), PROMPT, [encoder(), later()], method="attribution", tokens=2, exact_sample=4, **told
    ),
    "graph.estimates.gradients.by_gradient": lambda **told: rs.causal_graph(
        model(), PROMPT, [encoder(), later()], method="gradient", tokens=2, exact_sample=4, **told
    ),
    "graph.estimates.gradients.by_integration": lambda **told: rs.causal_graph(
        model(), PROMPT, [encoder(), later()], method="integrated", tokens=2, exact_sample=4, **told
    ),
    "graph.shares.shares": lambda **told: graph_shares.shares(setting(), drawn(), memory=1, **told),
    "sae.fits.fit_check": lambda **told: rs.sae.fit_check(model(), encoder(), TEXTS, tokens=300, **told),
    "sae.evaluation.evaluate": lambda **told: rs.sae.evaluate(model(), components(), TEXTS, tokens=600, **told),
    "sae.training.train.train": lambda **told: rs.sae.train(
        model(), TEXTS, ["resid_post.1"], features=16, k=3, tokens=1500, batch=64, **told
    ),
    "engine.planner.screening.screened": lambda **told: rs.screened(plan(), 0.3, by="gradient", **told),
    "engine.planner.sweep.Sweep.run": lambda **told: plan().run(**told),
    "methods.patching.ablation_sweep.ablation_sweep": lambda **told: rs.ablation_sweep(
        model(), [[2, 3, 4]], rs.logit_diff(5, 7), **told
    ),
    PATCHING: lambda **told: rs.activation_patching(
        model(), **PATCHED, screen="neighbours", **told
    ),
    "methods._lib.activations.activations": lambda **told: activations.activations(
        model(), DATA, ["resid_pre.1"], ["P"], batch=8, **told
    ),
    "methods._lib.answers.answer_diffs": lambda **told: answers.answer_diffs(model(), DATA, [[], to_other()], batch=8, **told),
    "methods.evidence.blind_contexts.contexts": lambda **told: blind_contexts.contexts(
        model(), component(), source=TEXTS, n=4, length=5, candidates=20, **told
    ),
    "methods.reading.continuations.continuations": lambda **told: rs.continuations(
        model(), [2, 3, 4], edits=GRID[:2], max_new_tokens=6, temperature=1.0, n=2, stop=(), **told
    ),
    "methods.comparison.compare_models.compare_models": lambda **told: rs.compare_models(model(), beside(), [[2, 3, 4]], **told),
    "methods.patching.causal_tracing.causal_tracing": lambda **told: rs.causal_tracing(
        model(), [[2, 3, 4]], [1], rs.logit_diff(5, 7), draws=2, **told
    ),
    "methods.patching.attribution_patching.attribution_patching": lambda **told: rs.attribution_patching(
        model(), **PATCHED, sample=6, **told
    ),
    "methods.attribution.gradient_attribution.gradient_attribution": lambda **told: rs.gradient_attribution(
        model(), [[2, 3, 4]], rs.logit_diff(5, 7), sample=6, **told
    ),
    "methods.attribution.tcav.tcav": lambda **told: rs.tcav(
        model(), TRAIN, TEST, [[2, 3, 4]], rs.logit_diff(5, 7), site="resid_pre.1", draws=10, **told
    ),
    "methods.attribution.integrated_gradients.integrated_gradients": lambda **told: rs.integrated_gradients(
        model(), [2, 3, 4], rs.logit_diff(5, 7), of="heads", baseline="prompt", over=[6, 3, 4], steps=2, **told
    ),
    "methods.attribution.saliency.saliency": lambda **told: rs.saliency(model(), PROMPT, rs.logit_diff(5, 7), **told),
    "methods.patching.path_patching.path_patching": lambda **told: rs.path_patching(
        model(), **PATCHED, receivers=[(3, 1)], **told
    ),
    "methods.patching.edge_patching.edge_patching": lambda **told: rs.edge_patching(
        model(), **PATCHED, senders=[0, 1], receivers=[2, 3], **told
    ),
    "methods.patching.edge_attribution.edge_attribution": lambda **told: rs.edge_attribution(
        model(), **PATCHED, receivers=[2, 3], sample=6, **told
    ),
    "methods.patching.self_repair.self_repair": lambda **told: rs.self_repair(
        model(), DATA, (1, 1), rs.logit_diff(), batch=8, **told
    ),
    "methods.patching.compare_ablations.compare_ablations": lambda **told: rs.compare_ablations(
        model(), [[2, 3, 4]], rs.logit_diff(5, 7), [[5, 6, 7], [4, 3, 9]], draws=2, **told
    ),
    "methods.comparison.layer_swap.layer_swap": lambda **told: rs.layer_swap(
        model(), beside(), [[2, 3, 4]], rs.logit_diff(5, 7), **told
    ),
    "methods.comparison.survey.survey": lambda **told: rs.survey(
        lambda of, seed: rs.ablation_sweep(of, [[2, 3, 4]], rs.logit_diff(5, 7)), ["a", "b"], load=lambda _: model(), **told
    ),
    "methods.comparison.weight_difference.weight_difference": lambda **told: rs.weight_difference(model(), beside(), **told),
    "methods.heads.copying_scores.copying_scores": lambda **told: rs.copying_scores(model(), **told),
    "methods.weights.composition.composition": lambda **told: rs.composition(model(), ["result.0"], ["q.1"], random=20, **told),
    "methods.weights.direct_path.direct_path": lambda **told: rs.direct_path(model(), [5, 9], k=3, **told),
    "methods.weights.positions.positions": lambda **told: rs.positions(model(), [PROMPT, PROMPT[::-1]], **told),
    "methods.weights.skip_trigrams.skip_trigrams": lambda **told: rs.skip_trigrams(model(), 1, 2, [5, 9], k=3, **told),
    "methods.weights.weight_directions.weight_directions": lambda **told: rs.weight_directions(model(), 1, "OV", head=2, **told),
    "methods.weights.factored.factored": lambda **told: rs.factored(model(), 1, 2, k=3, **told),
    "methods.probes.das.das": lambda **told: das.das(model(), DATA, probe(), steps=4, **told),
    "methods.attribution.direct_attribution.direct_attribution": lambda **told: rs.direct_attribution(
        model(), DATA, rs.logit_diff(), remove="zero", largest=2, batch=8, **told
    ),
    "methods.evidence.dose_response.dose_response": lambda **told: rs.dose_response(
        model(), component(), ["abcd", "dcba"], random=4, doses=(-1, 1), **told
    ),
    "methods.probes.downstream.downstream": lambda **told: downstream.downstream(
        model(), TRAIN, TEST, {"clean": [], "other": to_other()}, label="parity", readers=[(2, 1), (2, 2)],
        movers={"movers": [(3, 0)]}, batch=8, **told,
    ),
    "methods.probes.downstream.later_heads": lambda **told: downstream.later_heads(
        model(), TRAIN, TEST, to_other(), label="parity", readers={"read": [(2, 1), (2, 2)]}, movers={"movers": [(3, 0)]},
        batch=8, **told,
    ),
    "methods.evidence.evidence.evidence": lambda **told: rs.evidence(
        model(), component(), TEXTS, tokens=600, prompts=3, length=8, random=4, **told
    ),
    "methods.probes.flips_over_c.flips_over_C": lambda **told: rs.flips_over_C(
        model(), DATA, sites=["resid_pre.1", "resid_pre.2"], **AT, Cs=(0.01, 0.1), batch=8, **told
    ),
    "methods.heads.head_roles.head_roles": lambda **told: rs.head_roles(model(), DATA, prompts=6, **told),
    "methods.heads.head_scores.head_scores": lambda **told: rs.head_scores(model(), n=9, length=8, **told),
    "methods.heads.signal_split.signal_split": lambda **told: rs.signal_split(
        model(), named(), heads=[(1, 0)], movers=[(2, 1)], draws=1, **told
    ),
    "methods.heads.induction_heads.induction_heads": lambda **told: rs.induction_heads(model(), n=5, length=6, **told),
    "methods.heads.induction_mechanism.induction_mechanism": lambda **told: rs.induction_mechanism(
        model(), 2, 1, n=4, length=8, draws=2, **told
    ),
    "methods.probes.intervention.intervene": lambda **told: rs.intervene(model(), TEST, [probe()], batch=8, **told),
    "methods.probes.look.look": lambda **told: rs.look(model(), DATA, **AT, **told),
    "methods.patching.mediation.mediated": lambda **told: mediation.mediated(
        model(), TEST, to_other(), {"some": [(2, 1)]}, batch=8, **told
    ),
    "methods.evidence.null_directions.null_directions": lambda **told: rs.null_directions(
        model(), component(), TEXTS, tokens=600, n=9, **told
    ),
    "methods.probes.probe_fit.fit_halves": lambda **told: probe_fit.fit_halves(
        *vectors_of_parity(), label="parity", site="resid_pre.1", position="P", **told
    ),
    "methods.probes.probe_fit.fit_probe": lambda **told: rs.fit_probe(model(), DATA, site="resid_pre.1", **AT, **told),
    "methods.probes.ridge_probe.ridge_probe": lambda **told: rs.ridge_probe(
        model(), DATA, site="resid_pre.1", **AT, **told
    ),
    "methods.probes.probe_map.probe_map": lambda **told: rs.probe_map(model(), DATA, site="resid_pre.1", **AT, **told),
    "methods.probes.probe_sweep.probe_sweep": lambda **told: rs.probe_sweep(
        model(), DATA, positions=["P"], label="parity", Cs=(0.01,), **told
    ),
    "methods.evidence.removal_cost.removal_cost": lambda **told: rs.removal_cost(
        model(), component(), ["abcd", "dcba"], random=4, **told
    ),
    "methods.evidence.stability.stability": lambda **told: rs.stability(model(), component(), TEXTS, tokens=600, **told),
    "tasks.counterfactuals.counterfactuals": lambda **told: rs.counterfactuals(
        smollm2(), "John and Mary met, John said to", rs.logit_diff(" Mary", " John"), n=9, **told
    ),
    "tasks.gender.gender": lambda **told: rs.tasks.gender(smollm2(), 6, prefixes=True, **told),
    "tasks.ioi.ioi": lambda **told: rs.tasks.ioi(smollm2(), 6, text=["The quick dog went home again. " * 3], **told),
    "tasks.colours.colours": lambda **told: rs.tasks.colours(smollm2(), 6, **told),
    "tasks.docstring.docstring": lambda **told: rs.tasks.docstring(smollm2(), 6, **told),
    "tasks.factual.factual": lambda **told: rs.tasks.factual(smollm2(), 6, **told),
    "tasks.greater_than.greater_than": lambda **told: rs.tasks.greater_than(smollm2(), 6, **told),
    "tasks.in_context.in_context": lambda **told: rs.tasks.in_context(smollm2(), 6, **told),
    "tasks.induction.induction": lambda **told: rs.tasks.induction(smollm2(), 6, **told),
    "tasks.skip_trigrams.skip_trigrams": lambda **told: rs.tasks.skip_trigrams(smollm2(), 6, **told),
    "tasks.translation.translation": lambda **told: rs.tasks.translation(smollm2(), 6, **told),
    "tasks.labelled.from_text": lambda **told: rs.tasks.from_text(smollm2(), TABLE, name="some.csv", **told),
}  # fmt: skip

WITHIN = {
    "sae.loading.load", "sae.loading.sae_load", "sae.training.train.run", "sae.training.train.training",
    "corpus.nmf.factorised", "corpus.pca.pca_many", "corpus.svd.svd_many", "corpus.vectors.vectors_of",
    "graph.validation.measure.measured",
    "graph.validation.others.elsewhere", "graph.validation.others.in_contexts", "graph.validation.others.read",
    "graph.validation.others.windows", "graph.validation.own.in_its_prompt", "graph.validation.validate.validating",
    "graph.exact.effects_of", "graph.drawn.with_logits",
    "graph.estimates.linear.by_attribution", "graph.estimates.sample.sampled", "graph.exact.effects", "graph.exact.effects_at",
    "methods.reading.continuations.continued", "methods._lib.activations.recorded", "methods.evidence.evidence.gather",
    "methods.probes.flips_over_c.flip_rates",
    "methods.probes.flips_over_c.probes_over_C", "methods.probes.look.project", "methods.probes.probe_fit.fit",
    "methods.probes.probe_fit.fit_each",
    "methods.probes.probe_map.mapped", "methods.probes.probe_sweep.fit_probes", "methods.evidence.stability.stability_of",
    "methods._lib.atp_star.estimated",
    "tasks.labelled.from_file", "tasks.prefixes.prefixes", "tasks.drafts.drawn_prompts",
    "methods._lib.checklist.checklist", "methods._lib.checklist.verdict", "engine.planner.first_order.first_order",
}  # fmt: skip
"""Those that another of the calls is made of."""

QUICK = {
    "methods.heads.head_roles.of_one_length",
    "methods.patching.activation_patching.planned",
    "methods.reading.model_facts.local_layers",
    "methods.reading.norm_effects.norms_of",
    "methods._lib.parts.require_parts",
    "graph.parts.heads", "graph.parts.neurons",
    "graph.aggregate.price_of_each", "graph.cost.cost_of", "graph.cost.price",
    "sae.shipped.shipped", "sae.training.train.check", "sae.training.train.price",
    "corpus.chunks.captured", "corpus.chunks.recorded", "corpus.vectors.check_direction", "corpus.harvest.checkpoint.identity",
    "corpus.harvest.mapping.read_shard", "corpus.harvest.run.check", "corpus.harvest.copies.save_model",
    "corpus.mean_difference.price_of_each", "corpus.vectors.check_place", "corpus.vectors.check_places",
    "corpus.vectors.named_sites", "corpus.vectors.one_vector", "corpus.vectors.price", "corpus.vectors.price_of_sites",
    "features.exporting.cost", "features.held_out.halves", "features.held_out.with_inactive",
    "features.search.on_text", "features.search.on_token", "features.search.values_on", "graph.build.check",
    "graph.validation.asked.asked", "graph.validation.asked.check", "graph.validation.asked.prompt_of",
    "graph.validation.asked.target_of", "graph.validation.cuts.cut", "graph.validation.cuts.cut_others",
    "graph.validation.validate.price",
    "graph.exact.planned", "graph.last.passes", "graph.last.read_at", "graph.nodes.levels_of",
    "methods._lib.cells.price", "engine.planner.sweep.sweep",
    "methods._lib.activations.batches",
    "methods._lib.activations.check_vector", "methods.probes.probe_map.check", "methods.probes.probe_map.price",
    "methods.probes.intervention.price", "methods.probes.look.price", "methods.patching.mediation.price",
    "methods.probes.downstream.price",
    "tasks.gender.find_positions", "tasks.ioi.find_positions",
    "methods._lib.activations.recorded_halves", "methods._lib.answers.answer_ids",
    "methods.evidence.dose_response.prompt_moments",
    "methods._lib.circuits.embedding_to_logits", "methods._lib.circuits.head_weights",
    "methods._lib.circuits.output_weights", "methods._lib.circuits.value_weights",
    "methods.weights.factored.circuit_of", "methods._lib.translators.lens_logits",
    "methods.reading.logit_lens.lens_cells", "methods._lib.lens_reading.read_rows",
    "methods._lib.by_head.filled", "methods._lib.by_head.every_head", "methods._lib.by_head.there",
    "methods.reading.tuned_lens.price",
    "methods._lib.edges.edges_of", "methods.patching.edge_patching.ends_of", "methods._lib.own_tokens.common_tokens",
    "methods.heads.head_scores.repeated_tokens",
    "methods._lib.dropout.dropout_of", "methods._lib.cells.grid", "methods._lib.own_tokens.own_tokens",
    "methods._lib.own_tokens.to_stream",
    "methods._lib.pairs.paired",
    "methods.reading.token_table.token_table",
    "methods._lib.heads.lists.few_shot", "methods._lib.heads.lists.translation",
    "methods._lib.heads.telling.name_movers", "methods._lib.heads.writing.unembedding",
    "tasks.spans.locate", "tasks.spans.single_tokens", "tasks.drafts.check",
}  # fmt: skip
"""Functions of a model that take one run or none, or that hand on what they are told."""


def public():
    """Every public function of the rooms where methods live, by its name."""
    for room in (
        "corpus",
        "corpus.harvest",
        "sae",
        "features",
        "graph",
        "graph.pruning",
        "graph.shown",
        "graph.validation",
        "graph.estimates",
        "graph.scores",
        "sae.training",
        "probes",
        "methods.attribution",
        "methods.comparison",
        "methods.evidence",
        "methods.heads",
        "methods.patching",
        "methods.probes",
        "methods.reading",
        "methods.weights",
        "methods._lib",
        "methods._lib.heads",
        "reproduce.lrqp",
        "tasks",
        "engine.planner",
    ):
        package = import_module(f"residscope.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            here = import_module(f"residscope.{room}.{module.name}")
            for name, thing in vars(here).items():
                if inspect.isfunction(thing) and thing.__module__ == here.__name__ and not name.startswith("_"):
                    yield f"{room}.{module.name}.{name}", inspect.signature(thing).parameters


def test_what_takes_a_model_takes_progress_and_cancel_or_is_quick():
    found = dict(public())
    long = {name for name, takes in found.items() if "progress" in takes}
    assert {name for name, takes in found.items() if "cancel" in takes and name.rpartition(".")[2] != "run"} <= long
    assert all("cancel" in found[name] for name in long)
    assert {name for name, takes in found.items() if next(iter(takes), "") == "model"} - long == QUICK
    hidden = {
        "methods._lib.cells.run",
        "reproduce.lrqp.study.lrqp_study",
    }  # what others are made of; what is made of others
    assert long - hidden == (CALLS.keys() | WITHIN) - {"engine.planner.sweep.Sweep.run"}


@cache
def steps(name):
    told = []
    CALLS[name](progress=lambda *step: told.append(step))
    return told


@pytest.mark.parametrize("name", CALLS)
def test_progress_counts_up_to_its_total_in_words(name):
    stages = {}
    for what, done, total in steps(name):
        stages.setdefault((what, total), []).append(done)
    assert len({what for what, _ in stages}) == len(stages), "a stage has one total"
    for (what, total), done in stages.items():
        assert re.fullmatch(r"[A-Z][a-z']+\b.*", what), what
        assert done == sorted({*done}), what
        assert (done[0], done[-1]) == (0, total), what
    assert any(len(done) > 2 for done in stages.values()), "something is told between start and end"


@pytest.mark.parametrize("how", ["first", "middle", "event", "interrupt"])
@pytest.mark.parametrize("name", CALLS)
def test_it_stops_where_it_is_asked_to_and_leaves_the_model_as_it_was(name, how):
    whole, of = len(steps(name)), smollm2() if name.startswith("tasks.") else model()
    at = 0 if how == "first" else whole // 2
    before, version = of.run([2, 3, 4]).logits, of.weights_version()
    seen, stop = [], threading.Event()

    def progress(*step):
        seen.append(step)
        if len(seen) > at:
            stop.set()
            if how == "interrupt":
                raise KeyboardInterrupt

    expected = (errors.Cancelled, KeyboardInterrupt) if how == "interrupt" else errors.Cancelled
    with pytest.raises(expected) as caught:
        CALLS[name](progress=progress, cancel=stop if how in ("event", "interrupt") else stop.is_set)
    assert isinstance(caught.value, errors.Cancelled)
    assert isinstance(caught.value, KeyboardInterrupt) == (how == "interrupt")
    assert len(seen) == at + 1, "nothing is done after it was asked to stop"
    assert hook_count(of.hf) == 0
    assert of.weights_version() == version
    assert torch.equal(of.run([2, 3, 4]).logits, before)
    assert [*steps(name)][: len(seen)] == seen


FORWARDS = [
    "corpus.chunks.chunks", "corpus.examples.top_examples", "corpus.harvest.fits.moments_of", "engine.planner.sweep.Sweep.run",
    "methods._lib.activations.activations", "methods.evidence.blind_contexts.contexts", "methods.probes.das.das",
]  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_asks_in_front_of_each_block(name):
    """A pass over thousands of tokens takes seconds: it is not run to its end."""
    seen = []
    blocks = [layer.register_forward_pre_hook(lambda *_: seen.append("block")) for layer in model().hf.model.layers]
    try:
        CALLS[name](progress=lambda *_: seen.append("told"), cancel=lambda: seen.append("asked"))
    finally:
        for handle in blocks:
            handle.remove()
    inside = seen[seen.index("told") :]
    assert inside.count("block") > 1
    assert ("block", "block") not in pairwise(inside)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_it_stops_within_a_forward(n):
    asked = []
    with pytest.raises(errors.SweepCancelled) as caught:
        plan().run(False, lambda: asked.append(0) or len(asked) > n)
    assert caught.value.partial is None or bool(caught.value.partial.values.isnan().all())
    assert hook_count(model().hf) == 0


def test_what_runs_between_two_items_of_a_generator_is_not_its_own_to_stop():
    stop = threading.Event()
    reading = chunks.chunks(model(), TEXTS, ["resid_post.1"], tokens=900, progress=False, cancel=stop)
    next(reading)
    stop.set()
    assert model().run([2, 3, 4]).logits.shape[1] == 3
    with pytest.raises(errors.Cancelled):
        next(reading)
    assert model().run([2, 3, 4]).logits.shape[1] == 3


# ── what is finished is kept ────────────────────────────────────────────────────────────────────────────────────


def stopped(name, n, **more):
    seen = []
    with pytest.raises(errors.Cancelled) as caught:
        CALLS[name](progress=lambda *step: seen.append(step), cancel=lambda: len(seen) > n, **more)
    return caught.value


@pytest.mark.parametrize("error", [errors.SweepCancelled, KeyboardInterrupt])
def test_a_stopped_sweep_keeps_the_cells_that_are_done(error):
    def progress(stage, done, total):
        if done >= 5:
            if error is KeyboardInterrupt:
                raise KeyboardInterrupt
            stop.set()

    stop, planned, whole = threading.Event(), plan(), plan().run().values
    with pytest.raises(error) as caught:
        planned.run(progress, stop)
    assert isinstance(caught.value, errors.SweepCancelled)
    partial = caught.value.partial
    assert planned.partial is partial
    done = ~partial.values.isnan()
    assert 5 <= int(done.sum()) < done.numel()
    torch.testing.assert_close(partial.values[done], whole[done])


def test_a_stopped_method_keeps_what_it_has_in_its_own_form():
    cells = stopped("methods.patching.ablation_sweep.ablation_sweep", 3).partial
    assert cells.dims == ("layer", "head")
    assert 0 < int((~cells.values.isnan()).sum()) < cells.values.numel()
    last = next(i for i, step in enumerate(steps(PATCHING)) if step[0].startswith("Round")) + 3
    patched, whole = stopped(PATCHING, last).partial, CALLS[PATCHING]()
    exact = ~patched.values.isnan()
    assert patched.dims == whole.dims
    assert 4 < int(exact.sum()) < exact.numel()
    alone = rs.activation_patching(model(), **PATCHED)
    torch.testing.assert_close(patched.values[exact], alone.values[exact])
    found = stopped("methods.probes.das.das", len(steps("methods.probes.das.das")) - 2).partial
    assert len(found.effect) == 3
    assert float(found.unit.norm()) == pytest.approx(1)
    looked = stopped("methods.probes.look.look", len(steps("methods.probes.look.look")) - 2).partial
    assert len(looked.projections) == 3
    so_far = stopped("methods.evidence.evidence.evidence", len(steps("methods.evidence.evidence.evidence")) - 2).partial
    assert so_far.dose is not None
    assert so_far.removal is None
    assert stopped("corpus.pca.pca", 1).partial is None


def test_what_a_call_inside_kept_is_made_into_what_this_one_gives():
    with pytest.raises(errors.Cancelled) as caught, keeping(lambda kept: kept * 2):
        raise errors.Cancelled("stopped", partial=21)
    assert caught.value.partial == 42


# ── the ways to say it ──────────────────────────────────────────────────────────────────────────────────────────


class Listener:
    def __init__(self):
        self.heard = []

    def three(self, stage, done, total):
        self.heard.append((stage, done, total))

    def two(self, done, total):
        self.heard.append((done, total))

    def with_a_default(self, done, total, colour="red", *, more=None):
        self.heard.append((done, total, colour))


def test_progress_of_two_arguments_is_told_the_numbers_alone():
    for name, told in (
        ("three", [("Counting", 0, 2), ("Counting", 2, 2)]),
        ("two", [(0, 2), (2, 2)]),
        ("with_a_default", [(0, 2, "red"), (2, 2, "red")]),
    ):
        listener = Listener()
        with stage("Counting", 2, getattr(listener, name)):
            pass
        assert listener.heard == told
    told = []
    with stage("Counting", 1, lambda *step: told.append(step)):
        pass
    assert told == [("Counting", 0, 1), ("Counting", 1, 1)]
    with stage("Counting", 1, print):
        pass


def test_what_is_no_progress_and_no_cancel_is_refused():
    for progress in (lambda done: None, lambda a, b, c, d: None, 5, "bar"):
        with pytest.raises(errors.BadArguments, match="progress"), stage("Counting", 1, progress):
            pass
    for cancel in (True, 5, "yes"):
        with pytest.raises(errors.BadArguments, match="cancel"), stage("Counting", 1, False, cancel):
            pass


def test_a_bar_where_one_is_asked_for_and_none_where_nobody_watches(capsys):
    for progress, drawn in ((None, False), (False, False), (True, True)):
        with stage("Counting sheep", 3, progress) as tell:
            tell(1)
        assert ("Counting sheep" in capsys.readouterr().err) == drawn
