"""A model as the session holds it: with its dictionaries, what the page is told of it, and its common tokens."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary, new_id, shipped
from residscope.engine.certificate import recertify
from residscope.engine.encoding import chat_text
from residscope.engine.model import Model
from residscope.errors import DirectionError, NotFound, PromptError, UnknownToken
from residscope.methods._lib.own_tokens import readable
from residscope.model.sites import KINDS
from residscope.world.dictionaries import DictionaryInfo, Means, describe_row, row_sites
from residscope.world.values import Chat, Prompt, Tok

if TYPE_CHECKING:
    from residscope.shelf.items import ItemShelf

PIN = "~sha256:"  # after an id: which dictionary of that id is meant, by its hash or the beginning of it
LEAST_PIN = 16
COMMON = 10_000  # byte-pair vocabularies are learnt commonest first, so low ids are common tokens


class Check(TypedDict):
    name: str
    error: float
    first: Annotated[float, "The first position's own."]
    tolerance: float
    passed: bool
    about: str


class Certificate(TypedDict):
    passed: bool
    worst: float
    worst_check: str
    cached: bool
    seconds: float
    checks: list[Check]


class SiteInfo(TypedDict):
    name: str
    layers: int
    dims: str
    absent: Annotated[str | None, "Why there is none here."]


class ModelInfo(TypedDict):
    name: str
    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    shared: Annotated[list[int], "How many heads read one KV head, by layer."]
    d_model: int
    d_vocab: int
    context: Annotated[int, "Most tokens that a prompt may have."]
    dtype: str
    device: str
    threads: int
    hash: str
    bos: bool
    special: Annotated[list[str], "The names of its special tokens: the end of a turn, the beginning of a text ..."]
    template: Annotated[str | None, "Which chat template its tokenizer has."]
    certificate: Certificate
    sites: list[SiteInfo]
    dictionaries: list[DictionaryInfo]


@dataclass(frozen=True, eq=False)
class Loaded:
    """One loaded model.

    dictionaries: by id, such as `pca@resid_post.23`. shipped: the ids of those that came with Residscope. shelved: of those that
    are items of the shelf. code: lines of Python that give each. file: where version 0.1 kept those that were fitted.
    """

    model: Model
    dictionaries: Mapping[str, Dictionary]
    source: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    shipped: frozenset[str] = frozenset()
    shelved: frozenset[str] = frozenset()
    file: Path | None = None

    @classmethod
    def of(cls, model: Model, *, source: str | None = None, **options: Any) -> "Loaded":
        found = shipped(model)
        ids = {new_id(d): key for key, d in found.items()}
        code = {id: f"directions.shipped(model)[{key!r}]" for id, key in ids.items()}
        dictionaries = {id: found[key] for id, key in ids.items()}
        return cls(model, dictionaries, source, options, code, frozenset(ids))

    def again(self) -> "Loaded":
        """The same model as it is by now, certified again; of its dictionaries those stay that are not of the weights it had.

        Raises:
            ModelError.
        """
        before = self.model.hash
        recertify(self.model)
        if self.model.hash == before:
            return replace(self)
        fresh = Loaded.of(self.model)
        kept = {id: d for id, d in self.fitted.items() if id not in fresh.dictionaries}
        code = {id: line for id, line in self.code.items() if id in kept}
        return replace(
            fresh, dictionaries={**fresh.dictionaries, **kept}, code={**fresh.code, **code}, shelved=self.shelved
        )

    def prompt(self, text: str, *, bos: bool | None = None) -> Prompt:
        """The prompt's tokens.

        Raises:
            EmptyPrompt, PromptTooLong.
        """
        ids = self.model.tokens(text, bos=bos)[0].tolist()
        texts = self.model.token_texts(ids)
        begins = self.model.bos if bos is None else bos
        return Prompt(text, bos, tuple(Tok(id, text) for id, text in zip(ids, texts, strict=True)), begins)

    def prompt_of(self, ids: Sequence[int]) -> Prompt:
        """The prompt of these very tokens: the one that their text is, where that is read as the same.

        Raises:
            EmptyPrompt, PromptTooLong, UnknownToken.
        """
        ids = self.model.batch([[*ids]]).ids[0].tolist()
        text = self.model.text(ids)
        for bos in (None, True, False):
            with suppress(PromptError):
                if (typed := self.prompt(text, bos=bos)).ids == tuple(ids):
                    return typed
        begins = self.model.tokenizer is not None and ids[0] == self.model.tokenizer.bos_token_id
        tokens = tuple(map(Tok, ids, self.model.token_texts(ids)))
        return Prompt(text, None, tokens, begins, by_ids=True)

    def conversation(self, chat: Chat) -> Prompt:
        """A conversation in the model's own template, as its text and its exact tokens.

        Raises:
            NoChatTemplate, BadConversation, EmptyPrompt, PromptTooLong.
        """
        text, bos = chat_text(self.model, chat.messages, answer=chat.answer)
        return replace(self.prompt(text, bos=bos), chat=chat)

    @property
    def template(self) -> str | None:
        """Which chat template the tokenizer has, in words; None where it has none."""
        template = getattr(self.model.tokenizer, "chat_template", None)
        if not template:
            return None
        told = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        digest = hashlib.sha256(told.encode(errors="replace")).hexdigest()[:8]
        return f"{self.model.name}'s own template, {len(told):,} characters, sha256 {digest}"

    def token(self, text: str) -> Tok:
        """The one token a string is, under its own name.

        Raises:
            UnknownToken.
        """
        id = self.model.token_id(text)
        return Tok(id, self.model.token_texts([id])[0])

    def spelled(self, text: str) -> tuple[Tok, ...]:
        """The token that a string names, or else those that it is made of in the middle of a text. Raises PromptError."""
        try:
            return (self.token(text),)
        except UnknownToken:
            ids = self.model.encode(text, bos=False)
            return tuple(Tok(id, name) for id, name in zip(ids, self.model.token_texts(ids), strict=True))

    def id_of(self, reference: str) -> str:
        """The id of what is referred to: by its id, or as `ID~sha256:HASH`, which no other dictionary of that id answers to.

        One of that hash is found under whatever id it has here. Raises NotFound, by id and hash.
        """
        id, pinned, digest = reference.partition(PIN)
        if not pinned:
            return id
        alike = [one for one, d in self.dictionaries.items() if len(digest) >= LEAST_PIN and d.hash.startswith(digest)]
        if alike:
            return id if id in alike else alike[0]
        other = self.dictionaries.get(id)
        raise NotFound(
            "the dictionary that is referred to is not here"
            + ("" if other is None else ": that of its id has another hash"),
            received=f"{id[:200]}, sha256 {digest[:64]}",
            allowed="none of that id" if other is None else f"{id[:200]}, sha256 {other.hash}",
            fix="bring in its file",
        )

    def dictionary(self, id: str) -> Dictionary:
        """By its id, or by id and hash (`id_of`). Raises NotFound."""
        id = self.id_of(id)
        if id not in self.dictionaries:
            known = list(self.dictionaries)
            raise NotFound(
                "there is no dictionary of that id",
                received=id[:200],
                allowed=", ".join(known[:4]) + (f" ... {known[-1]}" if len(known) > 4 else "")
                if known
                else "none: this model ships without components",
                fix=None if known else "fit some",
            )
        return self.dictionaries[id]

    def with_shelf(self, shelf: "ItemShelf") -> "Loaded":
        """With the dictionaries of the shelf as they are now, and the Python that gives each."""
        kept = shelf.dictionaries
        dictionaries = {id: d for id, d in self.dictionaries.items() if id not in self.shelved}
        dictionaries |= {id: item.item for id, item in kept.items() if isinstance(item.item, Dictionary)}
        code = {id: line for id, line in self.code.items() if id in dictionaries and id not in kept}
        code |= {id: item.line or f"rs.load_item({_file(shelf, item.name)!r})" for id, item in kept.items()}
        same = dictionaries.keys() == self.dictionaries.keys() and code == self.code
        if same and all(dictionaries[id] is d for id, d in self.dictionaries.items()):
            return self
        return self._with(dictionaries=dictionaries, code=code, shelved=frozenset(kept))

    def without(self, id: str) -> "Loaded":
        """Raises NotFound; DirectionError for one that came with Residscope."""
        self.dictionary(id)
        if id in self.shipped:
            fitted = [other for other in self.dictionaries if other not in self.shipped]
            raise DirectionError(
                "that dictionary comes with Residscope and stays",
                received=id,
                allowed=", ".join(fitted) or "none is fitted",
            )
        return self._with(dictionaries={other: d for other, d in self.dictionaries.items() if other != id})

    def _with(self, **changed: Any) -> "Loaded":
        """The same model with other dictionaries; its common tokens are not worked out again."""
        new = replace(self, **changed)
        if "common" in self.__dict__:
            new.__dict__["common"] = self.common
        return new

    @property
    def fitted(self) -> dict[str, Dictionary]:
        """The dictionaries that did not come with Residscope, by id."""
        return {id: d for id, d in self.dictionaries.items() if id not in self.shipped}

    @cached_property
    def common(self) -> "tuple[list[str], Float[Tensor, 'token d_model']]":
        """Common tokens, and the direction that raises each one's logit (norm gain folded in), at unit length."""
        ids = list(range(min(COMMON, self.model.d_vocab)))
        texts, kinds = self.model.token_texts(ids), self.model.token_kinds(ids)
        kept = [i for i in ids if kinds[i] == "text" and readable(texts[i])]
        norm = self.model.layout.final_norm
        rows = norm.center(norm.gain.float() * self.model.W_U.T[kept].float())
        return [texts[i] for i in kept], rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    @cached_property
    def means(self) -> Means:
        """The data-set mean of each place, as far as a dictionary knows it."""
        return Means(self.dictionaries, self.model.sites)

    @cached_property
    def row_means(self) -> Float[Tensor, "row d_model"]:
        """The data-set mean of each row of the stream, `embed` first; NaN where none is known."""
        return self.means.stack(row_sites(None, self.model.sites), None)

    @cached_property
    def info(self) -> ModelInfo:
        """`State.model` of the wire."""
        m, c = self.model, self.model.certificate
        checks = [
            Check(
                name=check.name, error=check.error, first=check.first, tolerance=check.tolerance, passed=check.passed,
                about=check.about,
            )
            for check in c.checks
        ]  # fmt: skip
        return {
            "name": m.name,
            "family": m.family.name,
            "n_layers": m.n_layers,
            "n_heads": m.n_heads,
            "n_kv_heads": m.n_kv_heads,
            "shared": [m.heads_at(layer).groups for layer in range(m.n_layers)],
            "d_model": m.d_model,
            "d_vocab": m.d_vocab,
            "context": m.context,
            "dtype": str(m.dtype).removeprefix("torch."),
            "device": str(m.device),
            "threads": torch.get_num_threads(),
            "hash": m.hash,
            "bos": m.bos,
            "special": m.special_tokens,
            "template": self.template,
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
                describe_row(id, d, m.sites, shipped=id in self.shipped) for id, d in self.dictionaries.items()
            ],
        }


def _file(shelf: "ItemShelf", name: str) -> str:
    """Where an item is, or what it is called once it is saved."""
    return str(shelf.file(name) or f"{name}.safetensors")
