"""A model as the session holds it: with its dictionaries, what the page is told of it, and its common tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary, shipped
from residscope.engine.model import Model
from residscope.errors import UnknownSite
from residscope.model.sites import KINDS
from residscope.session.state import Prompt, Tok

COMMON = 10_000  # byte-pair vocabularies are learnt commonest first, so low ids are common tokens


@dataclass(frozen=True, eq=False)
class Loaded:
    """One loaded model."""

    model: Model
    dictionaries: Mapping[str, Dictionary]
    source: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    components_code: str = "directions.shipped(model)[{site!r}]"

    @classmethod
    def of(cls, model: Model, *, source: str | None = None, **options: Any) -> "Loaded":
        return cls(model, shipped(model), source, options)

    def prompt(self, text: str, *, bos: bool | None = None) -> Prompt:
        """The prompt's tokens.

        Raises:
            EmptyPrompt, PromptTooLong.
        """
        ids = self.model.tokens(text, bos=bos)[0].tolist()
        texts = self.model.token_texts(ids)
        begins = self.model.bos if bos is None else bos
        return Prompt(text, bos, tuple(Tok(id, text) for id, text in zip(ids, texts, strict=True)), begins)

    def token(self, text: str) -> Tok:
        """The one token a string is.

        Raises:
            UnknownToken.
        """
        return Tok(self.model.token_id(text), text)

    def dictionary(self, site: str) -> Dictionary:
        if site not in self.dictionaries:
            self.model.sites.parse(site)
            known = list(self.dictionaries)
            raise UnknownSite(
                f"no components are fitted at {site}",
                received=site,
                allowed=f"{known[0]} to {known[-1]}" if known else "none: this model ships without components",
            )
        return self.dictionaries[site]

    @cached_property
    def common(self) -> "tuple[list[str], Float[Tensor, 'token d_model']]":
        """Common tokens, and the direction that raises each one's logit (norm gain folded in), at unit length."""
        ids = list(range(min(COMMON, self.model.d_vocab)))
        texts = self.model.token_texts(ids)
        special = set(getattr(self.model.tokenizer, "all_special_ids", ()))
        kept = [i for i in ids if i not in special and _readable(texts[i])]
        norm = self.model.layout.final_norm
        rows = norm.center(norm.gain.float() * self.model.W_U.T[kept].float())
        return [texts[i] for i in kept], rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    @cached_property
    def row_means(self) -> Float[Tensor, "row d_model"]:
        """The data-set mean of each row of the stream, `embed` first; NaN where none is known."""
        sites = self.model.sites
        known = {str(sites.canonical(site)): d.mean.float().cpu() for site, d in self.dictionaries.items()}
        names = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(self.model.n_layers))]
        unknown = torch.full((self.model.d_model,), torch.nan)
        return torch.stack([known.get(str(sites.canonical(name)), unknown) for name in names])

    @cached_property
    def info(self) -> dict[str, Any]:
        """`State.model` of the wire."""
        m, c = self.model, self.model.certificate
        checks = [
            {f: getattr(check, f) for f in ("name", "error", "first", "tolerance", "passed", "about")}
            for check in c.checks
        ]
        return {
            "name": m.name,
            "family": m.family.name,
            "n_layers": m.n_layers,
            "n_heads": m.n_heads,
            "n_kv_heads": m.n_kv_heads,
            "d_model": m.d_model,
            "d_vocab": m.d_vocab,
            "context": m.context,
            "dtype": str(m.dtype).removeprefix("torch."),
            "device": str(m.device),
            "threads": torch.get_num_threads(),
            "hash": m.hash,
            "bos": m.bos,
            "certificate": {
                "passed": c.passed,
                "worst": c.worst,
                "worst_check": c.worst_check,
                "cached": c.cached,
                "seconds": c.seconds,
                "checks": checks,
            },
            "sites": [
                {
                    "name": name,
                    "layers": m.n_layers if kind.layered else 1,
                    "dims": kind.dims,
                    "absent": m.sites.absent.get(name),
                }
                for name, kind in KINDS.items()
            ],
            "dictionaries": [
                {"site": site, "kind": "pca", "n": len(d.read), "fitted_on": fitted_on(d)}
                for site, d in self.dictionaries.items()
            ],
        }


def fitted_on(dictionary: Dictionary) -> str:
    return str(dictionary.provenance.get("corpus", ""))


def _readable(text: str) -> bool:
    return text.isprintable() and "�" not in text and any(c.isalnum() for c in text)
