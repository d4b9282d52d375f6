"""Reports: what a method answers with where one table is not enough; each is one file, and is read again as it was."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from residscope import views
from residscope.errors import BadResult, DamagedFile, NotPlain
from residscope.files import kind_of, read_plain, write_plain
from residscope.items import nbytes_of, save_item
from residscope.json_values import FORMS, Form, form, from_plain, made, parts_out, refusal, to_plain
from residscope.results import Result
from residscope.same_values import same
from residscope.views import View

if TYPE_CHECKING:
    import pandas

VERSION = 1
# where each kind of report is at home, imported when a file of it is opened
HOMES = {
    "ablation_comparison": "methods.patching.compare_ablations",
    "atlas": "features.atlas",
    "badge": "methods._lib.badges",
    "basis_meter": "methods.reading.basis_meter",
    "composition": "methods.weights.composition",
    "continuations": "methods.reading.continuations",
    "counterfactuals": "tasks.counterfactuals",
    "das": "methods.probes.das",
    "direct_attribution": "methods._lib.direct.report",
    "direct_path": "methods.weights.direct_path",
    "dose_response": "methods.evidence.dose_response",
    "downstream": "methods.probes.downstream",
    "evidence": "methods.evidence.evidence",
    "examples": "corpus.examples",
    "factored": "methods.weights.factored",
    "feature_names": "features.names",
    "feature_page": "features.feature_page",
    "fit_check": "sae.fits",
    "flips": "methods._lib.answers",
    "gradient_attribution": "methods.attribution.gradient_attribution",
    "graph": "graph.graph",
    "graphs": "graph.aggregate",
    "harvest": "corpus.harvest.run",
    "head_roles": "methods.heads.head_roles",
    "head_scores": "methods.heads.head_scores",
    "induction_heads": "methods.heads.induction_heads",
    "induction_mechanism": "methods.heads.induction_mechanism",
    "integrated_gradients": "methods.attribution.integrated_gradients",
    "intervention": "methods.probes.intervention",
    "layer_swap": "methods.comparison.layer_swap",
    "logit_lens": "methods.reading.logit_lens",
    "look": "methods.probes.look",
    "mediation": "methods.patching.mediation",
    "model_comparison": "methods.comparison.compare_models",
    "model_facts": "methods.reading.model_facts",
    "next_token_baselines": "methods.reading.next_token_baselines",
    "norm_effects": "methods.reading.norm_effects",
    "null_directions": "methods.evidence.null_directions",
    "own_tokens": "methods._lib.own_tokens",
    "positions": "methods.weights.positions",
    "probe_map": "probes.probe_map",
    "projection": "methods.probes.look",
    "removal_cost": "methods.evidence.removal_cost",
    "ridge_probe": "methods.probes.ridge_probe",
    "sae_evaluation": "sae.evaluation",
    "sae_splitting": "sae.splitting",
    "sae_training": "sae.training.report",
    "saliency": "methods.attribution.saliency",
    "score": "methods._lib.blind",
    "score_attribution": "graph.scores.report",
    "self_repair": "methods.patching.self_repair",
    "signal_split": "methods.heads.signal_split",
    "skip_trigrams": "methods.weights.skip_trigrams",
    "stability": "methods.evidence.stability",
    "survey": "methods.comparison.survey",
    "task_check": "methods.reading.task_check",
    "tcav": "methods.attribution.tcav",
    "token_losses": "methods.reading.token_losses",
    "token_table": "methods.reading.token_table",
    "tuned_lens": "methods._lib.tuned",
    "validation": "graph.validation.report",
    "weight_difference": "methods.comparison.weight_difference",
    "weight_directions": "methods.weights.weight_directions",
}


class Record:
    """A frozen dataclass (eq=False) that is written as its fields: part of a report, or one itself. `kind`: its word in files."""

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            RECORDS[cls.kind] = cls

    def __eq__(self, other: object) -> bool:
        """Whether the two are the same in every field, tensors by their entries, NaN the same as NaN."""
        return same(self, other) if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        facts = [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]
        return hash((self.kind, *(fact for fact in facts if isinstance(fact, str | int))))

    def __reduce__(self) -> Any:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        parts = {name: dict(x) if isinstance(x, MappingProxyType) else x for name, x in parts.items()}
        return _made, (type(self), parts)


RECORDS: dict[str, type[Record]] = {}


class Report(Record):
    """What a method answers with: results, and what belongs to them.

    Its fields are results, views, tensors, directions, probes, plain values, records, and mappings, tuples and lists of these.
    `main` names the result that its table is of, where it has one.
    """

    main: ClassVar[str | None] = None
    provenance: Mapping[str, Any]

    def view(self) -> View:
        """As a picture."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes, each storage counted once."""
        return nbytes_of(self)

    @property
    def blanks(self) -> int:
        """How many values of its results are no numbers for a reason that it gives."""
        return 0

    def to_dataframe(self) -> "pandas.DataFrame":
        """The table of its main result. Raises BadResult where it has none."""
        table = None if self.main is None else getattr(self, self.main)
        if table is None:
            own = [f.name for f in fields(self) if isinstance(getattr(self, f.name), Result | Report)]  # type: ignore[arg-type]
            raise BadResult(
                f"this {_word(self)} is no one table",
                received="to_dataframe()",
                allowed="the tables of its parts: " + (", ".join(own) or "none"),
            )
        return table.to_dataframe()

    def save(self, path: str | Path) -> None:
        """One safetensors file that `load` reads, whole or not there; a page for `x.html`, a figure for `.png`, `.svg`, `.pdf`.

        Raises:
            WrongEnding, FileNotThere: a name of another kind of file; no such folder. NotPlain: a part that has no form in files.
        """
        about = {"version": VERSION, "residscope": version("residscope"), "report": self}
        save_item(self, path, lambda place: write_plain(place, self.kind, about))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote; `Report.load` opens a report of any kind.

        Raises:
            FileNotThere, DamagedFile: no file, or none that holds such a report of this version.
        """
        path, wanted = Path(path).expanduser(), getattr(cls, "kind", "report")
        said = kind_of(path) if wanted == "report" else wanted
        if not said.startswith("report:"):
            raise DamagedFile(f"{path.name} holds no report", received=said, allowed="a saved report")
        found: Self = read_plain(path, said, only="report", of=cls, check=_check_version)
        if found.kind != said:
            raise DamagedFile(f"{path.name} holds another report than it says", received=found.kind, allowed=said)
        try:
            repr(found)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise DamagedFile(
                f"the parts of {path.name} do not make a report", received=f"{type(error).__name__}: {error}"[:200]
            ) from None
        return found

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()


def _check_version(about: Any) -> None:
    made = about.get("version") if isinstance(about, Mapping) else None
    if made != VERSION:
        by = about.get("residscope", "another version") if isinstance(about, Mapping) else "another program"
        raise NotPlain(
            "it is a report of another version", received=f"version {made}, by residscope {by}", allowed=str(VERSION)
        )


def _made(cls: type[Record], parts: Mapping[str, Any]) -> Record:
    return cls(**parts)


def _word(record: Record) -> str:
    return record.kind.rpartition(":")[2].replace("_", " ")


# ── as plain values ─────────────────────────────────────────────────────────────────────────────────────────────


def _out(record: Record, tensors: Any, name: str) -> dict[str, Any]:
    if RECORDS.get(record.kind) is not type(record):
        raise refusal(name, f"{type(record).__qualname__}, which would come back as a class above it")
    return {"kind": record.kind, "fields": parts_out(record, tensors, name)}


def _back(plain: Any, tensors: Mapping[str, Tensor] | None) -> Record:
    kind, told = plain["kind"], plain["fields"]
    home = HOMES.get(str(kind).rpartition(":")[2])
    if kind not in RECORDS and home is not None:
        import_module(f"residscope.{home}")
    if kind not in RECORDS:
        raise NotPlain("no such report, or part of one", received=str(kind)[:80], allowed=", ".join(sorted(RECORDS)))
    cls = RECORDS[kind]
    own = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    needed = {name for name, f in own.items() if f.default is MISSING and f.default_factory is MISSING}
    if strange := sorted((told.keys() - own.keys()) | (needed - told.keys())):
        raise NotPlain(f"another version's {kind}", received=", ".join(strange), allowed=", ".join(own))
    return made(cls, {name: from_plain(part, tensors) for name, part in told.items()})


def _view_out(part: views.Part, tensors: Any, name: str) -> dict[str, Any]:
    word = type(part).__name__
    if getattr(views, word, None) is not type(part):
        raise refusal(name, f"{type(part).__qualname__}, which is no view of residscope.views")
    shown = {f.name: to_plain(getattr(part, f.name), tensors, name=f"{name}.{f.name}") for f in fields(part)}  # type: ignore[arg-type]
    return {"class": word, "fields": shown}


def _view_back(plain: Any, tensors: Mapping[str, Tensor] | None) -> views.Part:
    cls = getattr(views, str(plain["class"]), None)
    if not (isinstance(cls, type) and issubclass(cls, views.Part)):
        raise NotPlain("no such view", received=str(plain["class"])[:80], allowed=", ".join(views.__all__))
    return cls(**{name: from_plain(part, tensors) for name, part in plain["fields"].items()})


FORMS["$record"] = Form(Record, _out, _back)
FORMS["$view"] = Form(views.Part, _view_out, _view_back)
FORMS["$result"] = form(Result)
