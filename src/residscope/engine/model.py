"""Model: a stock Hugging Face decoder and a map of its sites."""

import hashlib
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.engine import attention, encoding, parameters
from residscope.engine.finite import require_finite_weights
from residscope.engine.forward import forward
from residscope.engine.generation import Generation, check_length, steps
from residscope.engine.layout import Layout, lay_out, weight_in_out
from residscope.engine.look.described import described
from residscope.engine.preparing import join, prepare
from residscope.engine.protocols import Edit, LeastEdit, LogitReadout, Readout, whole
from residscope.engine.recording import Recording
from residscope.engine.sampling import Stops, picker
from residscope.engine.structure import Structure, original
from residscope.engine.timing import Starting, timed
from residscope.engine.turns import in_turn, lock_of
from residscope.engine.window_checks import is_unedited_run, require_base, require_inside, require_reached
from residscope.engine.windows import Window
from residscope.errors import AbsentSite, NoWeights, QuantisedModel
from residscope.model.families import Family
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import HeadSizes, Site, SiteTable, rank
from residscope.model.token_text import Reading, TokenText

Prompt = Any  # text, token ids, several of either, a tokenizer's output, a PromptSet, a Batch: see `Model.batch`
STREAM = ("resid_pre", "resid_post")


class Model:
    """A stock model object, untouched, and what Residscope knows of it.

    `rs.load` makes one. `hf` and `tokenizer` are the Hugging Face objects themselves; between runs they behave as if
    Residscope were not there.
    """

    def __init__(
        self,
        hf: Any,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        hash: str = "",
        bos: bool | None = None,
        family: Family | None = None,
    ) -> None:
        attention.register()
        hf = original(hf)
        self.hf = hf
        self.tokenizer = tokenizer
        self.name = name or getattr(hf.config, "_name_or_path", "") or type(hf).__name__
        self.hash = hash
        self._structure, self._watch = Structure(hf), parameters.Watch(hf)
        self._certified: Structure | None = self._structure
        self._restructured = 0
        self._laid_out = 0
        self.layout: Layout = lay_out(hf, family or described(hf, hash))
        self.certificate: Any = None
        _ = self.device  # refuses a model without weights
        self._hashes = {self.weights_version(): hash} if hash else {}
        self._finite: tuple[int, ...] | None = (
            None  # the version of the weights whose every entry was seen to be a number
        )
        self.bos = encoding.adds_bos(tokenizer) if bos is None else bos
        self._vocabulary: tuple[Any, TokenText] | None = None

    @property
    def sites(self) -> SiteTable:
        """Which sites exist here; each absent one says why."""
        return self.layout.table

    @property
    def family(self) -> Any:
        return self.layout.family

    @property
    def n_layers(self) -> int:
        return self.layout.sizes.n_layers

    @property
    def n_heads(self) -> int:
        return self.layout.sizes.n_heads

    @property
    def n_kv_heads(self) -> int:
        return self.layout.sizes.n_kv_heads

    @property
    def d_model(self) -> int:
        return self.layout.sizes.d_model

    @property
    def d_head(self) -> int:
        return self.layout.sizes.d_head

    def heads_at(self, layer: int) -> HeadSizes:
        """One layer's heads: their numbers and lengths differ from layer to layer in some models."""
        return self.layout.sizes.at(layer)

    @property
    def d_mlp(self) -> int:
        return self.layout.sizes.d_mlp

    @property
    def d_vocab(self) -> int:
        return self.layout.sizes.d_vocab

    @property
    def context(self) -> int:
        """The most tokens a prompt may have."""
        return self.layout.sizes.context

    @property
    def device(self) -> torch.device:
        return self.layout.device

    @property
    def dtype(self) -> torch.dtype:
        return self.layout.dtype

    @property
    def quantised(self) -> str | None:
        """The method its weights are quantised by; None for a model that has them in full."""
        return self.layout.quantised

    def require_exact_weights(self, what: str) -> None:
        """Refuse what reads the weights or differentiates through them, where they are quantised (QuantisedModel) or spread over
        ranks (NoWeights). Raises what `follow` does."""
        self.follow()
        if self.quantised is not None:
            raise QuantisedModel(
                f"{what} needs the weights in full",
                received=f"{self.name}, quantised by {self.quantised}",
                allowed="capturing, the lens, and edits at sites: they are of the forward pass",
                fix=parameters.FIX,
            )
        if self.layout.ranks > 1:
            raise NoWeights(
                f"{what} needs every weight whole, and each process holds a part",
                received=f"{self.name}, spread over {self.layout.ranks} ranks",
                allowed="capturing, the lens, and edits at the stream's and the branches' sites",
                fix="load the model in one process, with device_map where it is large",
            )

    def require_plain_mix(self, what: str, layers: Iterable[int] | None = None) -> None:
        """Refuse, with AbsentSite, what takes a head's write for pattern v W_O: a gate stands between, or no head is seen."""
        for layer in range(self.n_layers) if layers is None else layers:
            self.sites.parse(Site("z", layer))
            if self.layout.blocks[layer].z_changed:
                raise AbsentSite(
                    f"{what} needs each head's write to be pattern v W_O",
                    received=f"layer {layer}, where a gate or a norm stands between pattern v and what W_O reads",
                    allowed="z and result, which are what W_O reads and what it gives",
                )

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, a view of the model's own weight."""
        return weight_in_out(self.layout.unembed)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a number of this model's is to be quoted with."""
        return {
            "model": self.name,
            "hash": self.fingerprint() if self.hash else "",
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "versions": {name: version(name) for name in ("residscope", "torch", "transformers")},
        }

    def weights_version(self) -> tuple[int, ...]:
        """Changes with the model: when a weight is replaced or written in place, a module, its settings or its forward
        replaced, a hook put on or taken off, an adapter added or switched, code compiled for it, its configuration edited.

        (Of what is written through `.data`, which torch does not count, it sees what changes most of a weight on the CPU.)
        """
        if not self._structure.unchanged():
            self._structure, self._watch = Structure(self.hf), parameters.Watch(self.hf)
            self._restructured += 1
        return (self._restructured, *self._watch.version())

    def fingerprint(self) -> str:
        """The hash of the weights as they are: `hash`, or their own bytes' once the model has changed since loading."""
        version = self.weights_version()
        if version not in self._hashes:
            self._hashes = {version: weights_hash(self.hf)}
        return self._hashes[version]

    def described_as(self, family: Family) -> None:
        """Lay the model out as this family says."""
        self.layout = lay_out(self.hf, family)

    def follow(self) -> None:
        """Take the model as it is now: where its structure has changed since it was laid out, find its parts again and
        measure the certificate again.

        Raises:
            ModelError: it is of no kind that is served any more (an unmerged adapter, a part that is gone), or fails a check.
            NotFinite: a weight is NaN or infinite; they are looked through once, and again when they have changed.
        """
        with lock_of(self.hf):
            if (version := self.weights_version()) != self._finite:
                require_finite_weights(self.hf)
                self._finite = version
            if self._laid_out == self._restructured:
                return
            if self._certified is not None and self._certified.unchanged():  # a hook that came and went
                self._laid_out = self._restructured
                return
            self.layout, self._certified = lay_out(self.hf, described(self.hf)), self._structure
            self._laid_out = self._restructured
            if self.certificate is not None:
                from residscope.engine.certificate import measure
                from residscope.engine.look.judge import judged

                try:
                    self.certificate = judged(self, by=measure)
                except BaseException:
                    self._laid_out, self._certified = -1, None
                    raise

    # ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────

    def tokens(self, text: Any, bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Token ids of a text or several, right-padded with the tokenizer's own padding id; `model.run` knows where they end.

        `bos`: whether to begin with BOS; the model's own habit unless said. Other prompts are taken as `run` takes them.

        Raises:
            PromptError: NoTokenizer, EmptyPrompt, BadPrompt, PromptTooLong, NoBOS ...
        """
        return self.batch(text, bos=bos).ids

    def chat(self, messages: Any, *, answer: bool = True) -> Int[Tensor, "batch pos"]:
        """Token ids of a conversation in the model's own template; `answer` opens the assistant's turn.

        messages: `[{"role": "user", "content": "Hello"}, ...]`. A BOS that is the model's habit stands in front exactly once,
        whether the template writes it or not.

        Raises:
            NoChatTemplate. BadConversation: messages of another shape, or that the template refuses.
        """
        text, bos = encoding.chat_text(self, messages, answer=answer)
        return self.tokens(text, bos=bos)

    def batch(self, prompt: Prompt, *, bos: bool | None = None) -> Batch:
        """Any prompt as one right-padded batch; every form `run` takes.

        Texts, token ids as Python, numpy or torch have them, what a tokenizer returns (padding on either side goes by its
        attention mask), a PromptSet. Ids stay as they are, whatever `bos` says.

        Raises:
            PromptError: BadPrompt, EmptyPrompt, PaddedPrompt, PromptTooLong, UnknownToken, NoTokenizer, NoBOS.
        """
        return encoding.batch_of(self, prompt, bos)

    def encode(self, text: str, bos: bool | None = None) -> list[int]:
        """A text's token ids, however many; none for a text that leaves no token. BOS in front as `tokens` has it.

        Raises:
            NoTokenizer, NoBOS. BadPrompt: half a surrogate pair, NUL, or characters that the tokenizer would drop.
        """
        return encoding.encode(self, text, bos)

    _encode = encode

    def text(self, ids: Any) -> str:
        """One row of token ids as the text that they are in a prompt.

        A BOS that is the model's own habit is left out, and the space that a tokenizer puts before a text.
        `model.text(model.tokens(text))` is the text, as far as the tokenizer keeps it.
        """
        return self._token_text().text(encoding.without_bos(self, encoding.row_of(ids)))

    def token_texts(self, ids: Iterable[int]) -> list[str]:
        """Each token by itself, told apart from all others; `token_id` is the way back.

        The text it has in the middle of a text: " Mary" keeps its space. Bytes that are no whole characters are `<0xE2><0x80>`,
        an id that the tokenizer does not have is `<id 49160>`, and without a tokenizer id 5 is `<5>`.
        """
        return self._token_text().named(encoding.row_of(ids))

    def token_kinds(self, ids: Iterable[int]) -> list[str]:
        """What each token is: "text", "bytes" (no whole characters), "special" (BOS, the end of a turn ...) or "unknown"."""
        return self._token_text().kinds(encoding.row_of(ids))

    @property
    def special_tokens(self) -> list[str]:
        """The names of the special tokens, in the order of their ids."""
        tokens = self._token_text()
        return tokens.named(sorted(tokens.special))

    def token_id(self, token: Any) -> int:
        """The id of a string that is exactly one token (mind the leading space), or an id checked; undoes `token_texts`.

        Raises:
            UnknownToken: none, or several tokens; the message shows them, and what is near.
        """
        return encoding.token_id(self, token, self._token_text())

    def _token_text(self) -> TokenText:
        """The tokenizer's vocabulary as text, worked out once."""
        size = 0 if self.tokenizer is None else len(self.tokenizer)
        if self._vocabulary is None or self._vocabulary[0] is not self.tokenizer or self._vocabulary[1].size != size:
            self._vocabulary = self.tokenizer, TokenText(self.tokenizer)
        return self._vocabulary[1]

    def _reading(self, prompt: Sequence[int]) -> Reading:
        """The text that goes on from a prompt, as its tokens come."""
        reading = Reading(self._token_text())
        for token in encoding.without_bos(self, prompt):
            reading.feed(token)
        return reading

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────

    def run(
        self,
        prompt: Prompt,
        capture: Iterable[str | Site] = STREAM,
        *,
        edits: Sequence[LeastEdit] | LeastEdit = (),
        readout: Readout | None = None,
        window: Window | None = None,
        bos: bool | None = None,
        memory: int | None = None,
    ) -> Recording:
        """Run the model on a prompt and record the sites asked for.

        capture: sites (`pattern.3`) or names (`resid_post`: every layer); the stream unless said. The forward stops
        after the last one. edits: one, or several in order. readout: evaluated on the recording, as `rec.readout`. memory:
        the most bytes that the recording may take, half of what is free unless said.

        Raises:
            PromptError, SiteError, EditError: see `residscope.errors`; the model is as it was. TooLarge: what is to be recorded
            does not fit. ModelError: the model was changed into one that cannot be served; see `follow`.
        """
        self.follow()
        batch = self.batch(prompt, bos=bos)
        names = [capture] if isinstance(capture, str) else [*capture]
        expanded = [site for name in names for site in self.sites.expand(name)]
        if window is not None:
            require_base(self, window, batch)
            if capture is STREAM:
                last = self.n_layers - 1 if window.stop is None else window.stop
                expanded = [site for site in expanded if window.start <= rank(site, self.n_layers) <= last]
        given = tied(edits, prompt)
        if readout is not None:
            expanded += [site for name in self._needed(readout, given, window) for site in self.sites.expand(name)]
        if window is not None:
            require_inside(self, window, expanded)
        sites = {self.sites.canonical(site) for site in expanded}
        prepared = prepare(self, given, batch.lengths)
        if window is not None:
            require_reached(self, window, prepared)

        with in_turn(self.hf):
            unedited = self._unedited(batch, prepared, window)
            values = forward(
                self.layout, batch, capture=sites, edits=prepared, window=window, unedited=unedited, memory=memory
            )
            version = self.weights_version()
        record = Recording(self, batch, values, edits=prepared, window=window, unedited=unedited, weights=version)
        if readout is not None:
            record.readout = readout(record)
        return record

    def generate(
        self,
        prompt: Prompt,
        edits: Sequence[LeastEdit] | LeastEdit = (),
        max_new_tokens: int = 20,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        at: str | Sequence[str] = "both",
        stop: str | int | Sequence[str | int] | None = None,
        bos: bool | None = None,
    ) -> Generation:
        """Continue a prompt, or several, token by token; nothing runs until the tokens are read.

        at: whether edits act at the "prompt", at "new" tokens or at "both" (or one such for each edit); what holds a site to
        another run's values (freeze, patch ...) does so at the prompt alone. pos= below zero counts from the prompt's end.
        stop: texts or token ids that end a row; the model's own end of text unless said, `()` for none.

        Raises:
            PromptError, SiteError, EditError, BadSampling: see `residscope.errors`.
        """
        pick, stops = picker(temperature, top_k, top_p), Stops(self, stop)
        start = self._starting(prompt, edits, max_new_tokens, at=at, bos=bos)
        tokens = steps(start, max_new_tokens, pick, seed=seed, stops=stops)
        about = {
            **self.provenance,
            "method": "generate",
            "temperature": temperature,
            "seed": seed,
            "edits": len(start.edits),
        }
        return Generation(tokens, len(start.batch), about)

    def _starting(
        self,
        prompt: Prompt,
        edits: Sequence[LeastEdit] | LeastEdit,
        new: int,
        *,
        at: str | Sequence[str] = "both",
        bos: bool | None = None,
    ) -> Starting:
        """What a continuation of so many tokens begins with. Raises PromptError, SiteError, EditError."""
        self.follow()
        batch = self.batch(prompt, bos=bos)
        check_length(batch, new, self.context)
        resolved = [whole(edit.prepare(self)) for edit in tied(edits, prompt)]
        join(resolved, self.sites, batch.lengths)
        return Starting(self, batch, timed(resolved, at, self.sites, batch, new))

    def _unedited(self, batch: Batch, edits: Sequence[Edit], window: Window | None = None) -> dict[Site, Tensor]:
        """What the unedited run has at the sites that edits hold to it: the window's base says it, where it is that run."""
        held_sites = {site for edit in edits if edit.needs_unedited for site in edit.places(self.sites)}
        base = None if window is None else window.base
        if base is not None and is_unedited_run(base) and torch.equal(base.tokens, batch.ids):
            return {site: base[site] for site in held_sites}
        return forward(self.layout, batch, capture=held_sites) if held_sites else {}

    def _needed(self, readout: Readout, edits: Sequence[Edit], window: Window | None) -> Sequence[str]:
        """The sites to record for a readout: of the logits at one position, no more than what they are made from."""
        changed = any(site.name == "logits" for edit in edits for site in edit.places(self.sites))
        if changed or not isinstance(readout, LogitReadout):
            return readout.sites
        late = window is not None and window.start == self.n_layers
        return ("final_norm",) if late else (f"resid_post.{self.n_layers - 1}",)

    # ── reading the stream ──────────────────────────────────────────────────────────────────────────────────

    def final_scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """The final norm's divisor for a stream x."""
        return self.layout.final_norm.sigma(x)

    def lens(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """The logits the model would give were x the end of the stream: its own final norm, unembedding, scale and cap.

        Of the model as it is, without edits; a run's own logits are `rec.logits`, `rec.logits_at`.
        """
        self.follow()
        with lock_of(self.hf), torch.no_grad():
            flat = x.reshape(1, -1, self.d_model)
            normed = self.layout.final_norm.module(flat.to(self.dtype))
            return self.layout.logits(normed).reshape(*x.shape[:-1], -1)

    def __repr__(self) -> str:
        s = self.layout.sizes
        heads = f"{s.n_heads} heads" + ("" if s.n_kv_heads == s.n_heads else f" ({s.n_kv_heads} KV)")
        dtype = str(self.dtype).removeprefix("torch.")
        sizes = f"{s.n_layers} layers, {heads}, d_model {s.d_model}"
        return f"Model({self.name}: {self.family.name}, {sizes}, {dtype} on {self.device})"


def weights_hash(hf: Any) -> str:
    """sha256 of a model's configuration and weights: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(hf.config.to_json_string(use_diff=False).encode())
    for name, weight in parameters.kept(hf):
        for part in parameters.parts_of(weight):
            if part.is_meta:
                raise NoWeights(
                    "a weight of the model is not in memory",
                    received=f"{name} on the meta device",
                    allowed="models whose weights are loaded, on any device",
                    fix="load it by name: rs.load(name, device_map=...) offloads and still knows which weights it has",
                )
            plain = part.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tied(edits: Sequence[LeastEdit] | LeastEdit, prompt: Prompt) -> list[Edit]:
    """One edit or several as a list, those that act at named positions tied to the prompts that name them."""
    given = [whole(edit) for edit in ([edits] if isinstance(edits, LeastEdit) else edits)]
    return [edit.on(prompt) for edit in given] if isinstance(prompt, PromptSet) else given
