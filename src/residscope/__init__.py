"""Residscope: one workbench for the residual stream of transformer language models.

    import residscope as rs
    model = rs.load("smollm2-135m")
    rec = model.run("The Eiffel Tower is in")

Names are imported on first use, so that `import residscope` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residscope import corpus as corpus
    from residscope import directions as directions
    from residscope import edits as edits
    from residscope import errors as errors
    from residscope import features as features
    from residscope import sae as sae
    from residscope import tasks as tasks
    from residscope import views as views
    from residscope.corpus.drawn import draw_prompts as draw_prompts
    from residscope.corpus.examples import top_examples as top_examples
    from residscope.corpus.harvest import statistics as statistics
    from residscope.corpus.harvest.method import harvest_sites as harvest_sites
    from residscope.corpus.harvest.run import harvest as harvest
    from residscope.corpus.mean_difference import mean_difference as mean_difference
    from residscope.corpus.nmf import nmf as nmf
    from residscope.corpus.pca import pca as pca
    from residscope.corpus.sources.sampled import sampled_text as sampled_text
    from residscope.corpus.svd import svd as svd
    from residscope.corpus.text import text as text
    from residscope.directions import Dictionary as Dictionary
    from residscope.directions import Direction as Direction
    from residscope.directions import mix as mix
    from residscope.directions import unembedding_rows as unembedding_rows
    from residscope.edits.align import align_tokens as align_tokens
    from residscope.engine.generation import Generation as Generation
    from residscope.engine.loading import load as load
    from residscope.engine.model import Model as Model
    from residscope.engine.planner import Sweep as Sweep
    from residscope.engine.planner import ValuesAt as ValuesAt
    from residscope.engine.planner import screened as screened
    from residscope.engine.planner import sweep as sweep
    from residscope.engine.recording import Recording as Recording
    from residscope.engine.windows import Window as Window
    from residscope.features.naming import name_features as name_features
    from residscope.graph import Graph as Graph
    from residscope.graph.build import causal_graph as causal_graph
    from residscope.graph.planted import planted as planted
    from residscope.graph.scores import attribute_scores as attribute_scores
    from residscope.graph.scores import score_attribution as score_attribution
    from residscope.graph.validation.validate import validate_graph as validate_graph
    from residscope.items import Item as Item
    from residscope.items import load_item as load_item
    from residscope.methods._lib.heads import register_head_score as register_head_score
    from residscope.methods.attribution.direct_attribution import attribute_logits as attribute_logits
    from residscope.methods.attribution.direct_attribution import direct_attribution as direct_attribution
    from residscope.methods.attribution.gradient_attribution import gradient_attribution as gradient_attribution
    from residscope.methods.attribution.integrated_gradients import integrated_gradients as integrated_gradients
    from residscope.methods.attribution.saliency import saliency as saliency
    from residscope.methods.attribution.tcav import tcav as tcav
    from residscope.methods.comparison.compare_models import compare_models as compare_models
    from residscope.methods.comparison.layer_swap import layer_swap as layer_swap
    from residscope.methods.comparison.survey import survey as survey
    from residscope.methods.comparison.weight_difference import weight_difference as weight_difference
    from residscope.methods.evidence.dose_response import dose_response as dose_response
    from residscope.methods.evidence.evidence import evidence as evidence
    from residscope.methods.evidence.null_directions import null_directions as null_directions
    from residscope.methods.evidence.removal_cost import removal_cost as removal_cost
    from residscope.methods.evidence.stability import stability as stability
    from residscope.methods.heads.copying_scores import copying_scores as copying_scores
    from residscope.methods.heads.head_roles import head_roles as head_roles
    from residscope.methods.heads.head_scores import head_scores as head_scores
    from residscope.methods.heads.head_scores import repeated_tokens as repeated_tokens
    from residscope.methods.heads.induction_heads import induction_heads as induction_heads
    from residscope.methods.heads.induction_mechanism import induction_mechanism as induction_mechanism
    from residscope.methods.heads.signal_split import signal_split as signal_split
    from residscope.methods.patching.ablation_sweep import ablation_sweep as ablation_sweep
    from residscope.methods.patching.activation_patching import activation_patching as activation_patching
    from residscope.methods.patching.attribution_patching import attribution_patching as attribution_patching
    from residscope.methods.patching.causal_tracing import causal_tracing as causal_tracing
    from residscope.methods.patching.compare_ablations import compare_ablations as compare_ablations
    from residscope.methods.patching.edge_attribution import edge_attribution as edge_attribution
    from residscope.methods.patching.edge_patching import edge_patching as edge_patching
    from residscope.methods.patching.path_patching import path_patching as path_patching
    from residscope.methods.patching.self_repair import self_repair as self_repair
    from residscope.methods.probes.flips_over_c import flips_over_C as flips_over_C
    from residscope.methods.probes.intervention import intervene as intervene
    from residscope.methods.probes.look import look as look
    from residscope.methods.probes.probe_fit import fit_probe as fit_probe
    from residscope.methods.probes.probe_map import probe_map as probe_map
    from residscope.methods.probes.probe_sweep import probe_sweep as probe_sweep
    from residscope.methods.probes.ridge_probe import ridge_probe as ridge_probe
    from residscope.methods.reading.basis_meter import basis_meter as basis_meter
    from residscope.methods.reading.continuations import continuations as continuations
    from residscope.methods.reading.logit_lens import logit_lens as logit_lens
    from residscope.methods.reading.model_facts import model_facts as model_facts
    from residscope.methods.reading.next_token_baselines import next_token_baselines as next_token_baselines
    from residscope.methods.reading.norm_effects import norm_effects as norm_effects
    from residscope.methods.reading.task_average import task_average as task_average
    from residscope.methods.reading.task_check import task_check as task_check
    from residscope.methods.reading.token_losses import token_losses as token_losses
    from residscope.methods.reading.token_table import token_table as token_table
    from residscope.methods.reading.tuned_lens import tuned_lens as tuned_lens
    from residscope.methods.reading.tuned_lens_load import load_tuned_lens as load_tuned_lens
    from residscope.methods.weights.composition import composition as composition
    from residscope.methods.weights.direct_path import direct_path as direct_path
    from residscope.methods.weights.factored import factored as factored
    from residscope.methods.weights.positions import positions as positions
    from residscope.methods.weights.skip_trigrams import skip_trigrams as skip_trigrams
    from residscope.methods.weights.weight_directions import weight_directions as weight_directions
    from residscope.metrics import kl as kl
    from residscope.metrics import log_prob as log_prob
    from residscope.metrics import logit as logit
    from residscope.metrics import logit_diff as logit_diff
    from residscope.metrics import loss as loss
    from residscope.model.prompts import PromptSet as PromptSet
    from residscope.model.sites import Site as Site
    from residscope.notebook.workbench import Workbench as Workbench
    from residscope.notebook.workbench import workbench as workbench
    from residscope.probes import concepts as concepts
    from residscope.probes.lrqp import lrqp as lrqp
    from residscope.probes.probe import Probe as Probe
    from residscope.recording_files import load_recording as load_recording
    from residscope.recording_files import save_recording as save_recording
    from residscope.reports import Report as Report
    from residscope.results import Result as Result
    from residscope.store import open_library as open_library
    from residscope.tasks.counterfactuals import counterfactuals as counterfactuals
    from residscope.terms import glossary as glossary

__version__ = "0.1.0"

_HOME = {
    "Dictionary": "directions", "Direction": "directions", "Generation": "engine.generation", "Model": "engine.model",
    "Probe": "probes.probe", "PromptSet": "model.prompts", "Recording": "engine.recording", "Result": "results",
    "Site": "model.sites", "Sweep": "engine.planner", "Window": "engine.windows",
    "ablation_sweep": "methods.patching.ablation_sweep",
    "align_tokens": "edits.align", "causal_graph": "graph.build", "Graph": "graph", "planted": "graph.planted",
    "validate_graph": "graph.validation.validate", "attribute_scores": "graph.scores", "score_attribution": "graph.scores",
    "attribution_patching": "methods.patching.attribution_patching",
    "activation_patching": "methods.patching.activation_patching", "fit_probe": "methods.probes.probe_fit",
    "attribute_logits": "methods.attribution.direct_attribution", "direct_attribution": "methods.attribution.direct_attribution",
    "basis_meter": "methods.reading.basis_meter",
    "continuations": "methods.reading.continuations", "copying_scores": "methods.heads.copying_scores",
    "counterfactuals": "tasks.counterfactuals", "head_scores": "methods.heads.head_scores",
    "induction_heads": "methods.heads.induction_heads", "repeated_tokens": "methods.heads.head_scores",
    "induction_mechanism": "methods.heads.induction_mechanism",
    "register_head_score": "methods._lib.heads",
    "Item": "items", "Report": "reports", "load_item": "items",
    "flips_over_C": "methods.probes.flips_over_c", "logit_lens": "methods.reading.logit_lens",
    "token_losses": "methods.reading.token_losses",
    "model_facts": "methods.reading.model_facts",
    "next_token_baselines": "methods.reading.next_token_baselines",
    "norm_effects": "methods.reading.norm_effects", "task_check": "methods.reading.task_check",
    "task_average": "methods.reading.task_average",
    "head_roles": "methods.heads.head_roles", "signal_split": "methods.heads.signal_split",
    "gradient_attribution": "methods.attribution.gradient_attribution",
    "tcav": "methods.attribution.tcav",
    "integrated_gradients": "methods.attribution.integrated_gradients", "saliency": "methods.attribution.saliency",
    "glossary": "terms",
    "causal_tracing": "methods.patching.causal_tracing", "compare_ablations": "methods.patching.compare_ablations",
    "self_repair": "methods.patching.self_repair", "path_patching": "methods.patching.path_patching",
    "edge_patching": "methods.patching.edge_patching",
    "edge_attribution": "methods.patching.edge_attribution",
    "intervene": "methods.probes.intervention", "kl": "metrics", "look": "methods.probes.look",
    "load": "engine.loading", "load_recording": "recording_files", "log_prob": "metrics", "logit": "metrics",
    "logit_diff": "metrics",
    "loss": "metrics", "lrqp": "probes.lrqp", "mean_difference": "corpus.mean_difference", "mix": "directions",
    "name_features": "features.naming", "nmf": "corpus.nmf", "open_library": "store", "pca": "corpus.pca",
    "probe_sweep": "methods.probes.probe_sweep",
    "probe_map": "methods.probes.probe_map", "ridge_probe": "methods.probes.ridge_probe",
    "save_recording": "recording_files", "screened": "engine.planner", "svd": "corpus.svd", "sweep": "engine.planner",
    "token_table": "methods.reading.token_table", "tuned_lens": "methods.reading.tuned_lens",
    "load_tuned_lens": "methods.reading.tuned_lens_load",
    "unembedding_rows": "directions", "ValuesAt": "engine.planner",
    "Workbench": "notebook.workbench", "workbench": "notebook.workbench",
    "harvest": "corpus.harvest.run", "harvest_sites": "corpus.harvest.method",
    # weights
    "composition": "methods.weights.composition", "direct_path": "methods.weights.direct_path",
    "factored": "methods.weights.factored", "positions": "methods.weights.positions",
    "skip_trigrams": "methods.weights.skip_trigrams", "weight_directions": "methods.weights.weight_directions",
    # two models
    "compare_models": "methods.comparison.compare_models", "layer_swap": "methods.comparison.layer_swap",
    "survey": "methods.comparison.survey", "weight_difference": "methods.comparison.weight_difference",
    # evidence for a direction
    "draw_prompts": "corpus.drawn", "sampled_text": "corpus.sources.sampled", "text": "corpus.text",
    "dose_response": "methods.evidence.dose_response", "evidence": "methods.evidence.evidence",
    "null_directions": "methods.evidence.null_directions",
    "removal_cost": "methods.evidence.removal_cost", "stability": "methods.evidence.stability", "top_examples": "corpus.examples",
}  # fmt: skip
_ROOMS = {
    "concepts": "probes.concepts", "corpus": "corpus", "directions": "directions", "edits": "edits", "errors": "errors",
    "features": "features",
    "sae": "sae", "statistics": "corpus.harvest.statistics", "tasks": "tasks", "views": "views",
}  # fmt: skip
__all__ = ["__version__", *_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{_ROOMS[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
