"""What the Features tab is told: atlases of the shelf, the features they hold, one feature's page, what a prompt makes active."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from residscope.corpus.chunks import captured
from residscope.directions import DICTIONARY_HASH, Dictionary
from residscope.errors import BadArguments, NotFound, ResidscopeError, UnknownPosition
from residscope.features import search
from residscope.features.atlas import NEURON, Atlas
from residscope.features.feature_page import page as page_of
from residscope.features.gathering import only
from residscope.features.names import FeatureName, FeatureNames
from residscope.json_values import finite
from residscope.manifest import find_method
from residscope.session.editing import find_run
from residscope.session.read.feature_parts import (
    Opened,
    Values,
    active,
    in_order,
    links,
    neuronpedia,
    tokens,
    values_of,
)
from residscope.session.read.feature_shapes import (
    ActiveIn,
    Atlases,
    AtlasInfo,
    FeatureDetail,
    FeatureList,
    FeatureOn,
    FeatureRow,
    FeaturesOn,
    Order,
    ProposedName,
)
from residscope.session.state import State
from residscope.shelf.items import ItemShelf, Kept
from residscope.views import TokenStrip
from residscope.world.loaded import Loaded
from residscope.world.session_world import need_model
from residscope.world.values import Run, RunKey
from residscope.world.writer import SessionWriter

KEPT_VALUES = 12


class Features:
    """Answers from the atlases on the shelf. now: the session's state; quiet: waits until no live run does."""

    def __init__(self, now: Callable[[], State], items: ItemShelf, quiet: Callable[[], object]) -> None:
        self._now, self._items, self._quiet = now, items, quiet
        self._values: OrderedDict[tuple[RunKey, int], tuple[Atlas, Values]] = OrderedDict()
        self._lock = threading.Lock()

    def atlases(self) -> Atlases:
        """The atlases of the shelf, the latest first."""
        found = sorted(self._items.items.values(), key=lambda kept: -kept.made)
        return {"atlases": [self._describe(kept) for kept in found if isinstance(kept.item, Atlas)]}

    def rows(
        self,
        name: str,
        *,
        order: Order = "highest",
        descending: bool = True,
        first: int = 0,
        count: int = 50,
        token: str | None = None,
        text: str | None = None,
        like: int | None = None,
    ) -> FeatureList:
        """Features of an atlas in order, or those that a token, a text or a feature finds, the best first.

        token: that most of their highest tokens are; text: on which they are most active relative to the highest value known
        of each; like: whose write vector theirs are most alike.

        Raises:
            NotFound, WrongModel, UnknownToken, PromptError, DirectionError. BadArguments: more than one search.
        """
        kept = self._find(name)
        atlas: Atlas = kept.item  # type: ignore[assignment]
        found = self._search(name, token, text, like)
        if found is None:
            indices = in_order(atlas, order, descending=descending)
            values: dict[int, float] = {}
        else:
            values = {one.index: one.value for one in found}
            indices = [*values]
        shown = indices[first : first + count]
        labels, names = self._labels(kept), self._names(atlas)
        ids = atlas.top.ids[shown, 0, atlas.top.at] if shown else torch.empty(0, dtype=torch.int64)
        texts = iter(need_model(self._now().model).model.token_texts(ids[ids >= 0].tolist()))
        rows: list[FeatureRow] = [
            {
                "index": index,
                "label": labels(index),
                "address": atlas.address(index),
                "highest": finite(float(atlas.highest[index])),
                "density": float(atlas.density[index]),
                "token": next(texts) if id >= 0 else None,
                "value": values.get(index),
                "name": names.get(index),
            }
            for index, id in zip(shown, ids.tolist(), strict=True)
        ]
        return {**self._describe(kept), "total": len(indices), "rows": rows}

    def page(self, name: str, index: int) -> FeatureDetail:
        """One feature's page, but for what taking it out does. Raises NotFound, WrongModel, DirectionError."""
        opened, loaded = self.open(name), need_model(self._now().model)
        atlas, dictionary = opened.atlas, opened.dictionary
        made = page_of(loaded.model, atlas, index, dictionary, effects=False)
        told = atlas.provenance
        return {
            "atlas": name,
            "index": index,
            "address": made.address,
            "label": made.label,
            "place": made.place,
            "site": atlas.site,
            "head": atlas.head,
            "neuron": atlas.of == NEURON,
            "flat": dictionary is not None and dictionary.flat,
            "dictionary": opened.id,
            "name": self._names(atlas).get(index),
            "proposed": self._proposal(atlas, index),
            "unit": made.unit,
            "read": f"{atlas.firing.count:,} tokens of {told.get('corpus', 'texts')}",
            "density": made.density,
            "highest": finite(made.highest),
            "mean_active": finite(made.mean_active),
            "histogram": made.histogram().to_dict(),
            "raised": [] if made.tokens is None else tokens(made.tokens.top),
            "lowered": [] if made.tokens is None else tokens(made.tokens.bottom),
            "nearest": links(made.nearest),
            "partners": links(made.partners),
            "examples": made.examples().to_dict(),
            "neuronpedia": neuronpedia(dictionary, index),
            "code": self._code(opened, index),
        }

    def on(self, name: str, index: int, *, run: str) -> FeatureOn:
        """A feature at each token of a run; tokens that its atlas leaves out have no value. Raises NotFound, DirectionError."""
        opened = self.open(name)
        opened.atlas.check_index(index)
        found, (read,) = self._read(run, [opened])
        values = read.values[:, index].clone()
        values[~read.keep] = torch.nan
        both_ways = opened.atlas.bottom is not None
        highest = finite(float(opened.atlas.highest[index]))
        limit = max([abs(highest or 0.0), *(abs(v) for v in values.tolist() if v == v)])
        view = TokenStrip(
            [token.text for token in found.prompt.tokens],
            values.tolist(),
            unit="x·d" if both_ways else "activation",
            scale="diverging" if both_ways else "sequential",
            limit=limit or None,
        )
        return {"run": run, "view": view.to_dict()}

    def strongest(self, run: str, names: Sequence[str], *, pos: int = -1, k: int = 10) -> FeaturesOn:
        """Of each atlas the strongest features at one token of a run, and at any that is kept, by value.

        Raises NotFound, UnknownPosition. An atlas that cannot be read says why.
        """
        found = find_run(self._now(), run)
        length = len(found.prompt.ids)
        if not -length <= pos < length:
            raise UnknownPosition(
                f"the prompt has {length} tokens", received=f"position {pos}", allowed=f"0 to {length - 1}"
            )
        at = pos % length
        several: list[Opened] = []
        refused: dict[str, str] = {}
        for name in names:
            try:
                several.append(self.open(name))
            except ResidscopeError as error:
                refused[name] = str(error)
        values = self._read(run, several)[1]
        read = {one.kept.name: (one, own) for one, own in zip(several, values, strict=True)}
        atlases: list[ActiveIn] = [
            {"atlas": name, "at": [], "overall": [], "refused": refused[name]}
            if name in refused
            else active(*read[name], at, k)
            for name in names
        ]
        return {"run": run, "pos": at, "atlases": atlases}

    def forget(self) -> None:
        """Drop what is kept of runs."""
        with self._lock:
            self._values.clear()

    def open(self, name: str) -> Opened:
        """An atlas with its dictionary. Raises NotFound, also where the dictionary is not loaded; WrongModel."""
        kept = self._find(name)
        atlas: Atlas = kept.item  # type: ignore[assignment]
        loaded = need_model(self._now().model)
        id, dictionary = self._dictionary(atlas, loaded)
        atlas.check(loaded.model, dictionary)
        return Opened(kept, atlas, id, dictionary)

    def latest_of(self, hash: str) -> Opened | None:
        """The latest atlas of a dictionary that pages can be made of, by the dictionary's hash."""
        for kept in sorted(self._items.items.values(), key=lambda kept: -kept.made):
            if isinstance(kept.item, Atlas) and kept.item.hash == hash:
                with suppress(ResidscopeError):
                    return self.open(kept.name)
        return None

    def _find(self, name: str) -> Kept:
        kept = self._items.find(name)
        if not isinstance(kept.item, Atlas):
            raise NotFound(
                "that is no atlas", received=f"{name}, {kept.item.kind}", fix='gather one: the method "Gather features"'
            )
        return kept

    def _dictionary(self, atlas: Atlas, loaded: Loaded) -> tuple[str | None, Dictionary | None]:
        if not atlas.hash:
            return None, None
        for id, dictionary in loaded.dictionaries.items():
            if dictionary.hash == atlas.hash:
                return id, dictionary
        for name, direction in self._now().directions.items():
            if (alone := only(direction)).hash == atlas.hash:
                return f"saved:{name}", alone
        raise NotFound(
            "the dictionary that the atlas is of is not loaded",
            received=f"{atlas.of} at {atlas.place}, sha256 {atlas.hash[:16]}",
            allowed=", ".join([*loaded.dictionaries][:4]) or "no dictionary is here",
            fix="import its file under Methods, or load it (`rs.sae.load`) and put it on the shelf",
        )

    def _describe(self, kept: Kept) -> AtlasInfo:
        atlas: Atlas = kept.item  # type: ignore[assignment]
        loaded, id, missing = need_model(self._now().model), None, None
        try:
            id, dictionary = self._dictionary(atlas, loaded)
            atlas.check(loaded.model, dictionary)
        except ResidscopeError as error:
            missing = str(error)
        return {
            "name": kept.name,
            "of": atlas.of,
            "place": atlas.place,
            "count": len(atlas),
            "tokens": atlas.firing.count,
            "corpus": str(atlas.provenance.get("corpus", "texts")),
            "dead": atlas.dead,
            "hash": atlas.hash,
            "dictionary": id,
            "address": atlas.address(0).rpartition("/")[0],
            "missing": missing,
        }

    def _labels(self, kept: Kept) -> Callable[[int], str]:
        atlas: Atlas = kept.item  # type: ignore[assignment]
        try:
            dictionary = self._dictionary(atlas, need_model(self._now().model))[1]
        except NotFound:
            dictionary = None
        return atlas.label if dictionary is None else dictionary.label

    def _names(self, atlas: Atlas) -> dict[int, str]:
        """What features are called here: as saved directions, by their dictionary's hash and their number in it; else by a
        service, where its name foretells where the feature is active."""
        proposed = {index: row.name for names in self._proposed(atlas) for index, row in names.items() if row.better}
        told = {name: direction.provenance for name, direction in self._now().directions.items()}
        saved = {
            about["index"]: name
            for name, about in told.items()
            if atlas.hash and about.get(DICTIONARY_HASH) == atlas.hash and isinstance(about.get("index"), int)
        }
        return {**proposed, **saved}

    def _proposed(self, atlas: Atlas) -> list[dict[int, FeatureName]]:
        """Names that services gave features of this atlas' kind, the latest last."""
        kept = sorted(self._items.items.values(), key=lambda kept: kept.made)
        names = [one.item for one in kept if isinstance(one.item, FeatureNames)]
        return [
            {row.index: row for row in found.rows if row.name}
            for found in names
            if (found.hash, found.of, found.place) == (atlas.hash, atlas.of, atlas.place)
        ]

    def _proposal(self, atlas: Atlas, index: int) -> ProposedName | None:
        """The latest name that a service gave a feature."""
        row = next((names[index] for names in reversed(self._proposed(atlas)) if index in names), None)
        return None if row is None else {"name": row.name, "said": row.said, "better": row.better}

    def _search(
        self, name: str, token: str | None, text: str | None, like: int | None
    ) -> Sequence[search.Found] | None:
        if sum(one is not None for one in (token, text, like)) > 1:
            raise BadArguments("features are looked for in one way at a time", allowed="token, text or like")
        if token is None and text is None and like is None:
            return None
        opened, loaded = self.open(name), need_model(self._now().model)
        atlas, dictionary, n = opened.atlas, opened.dictionary, len(opened.atlas)
        if token is not None:
            return search.on_token(loaded.model, atlas, token, n)
        if text is not None:
            self._quiet()
            return search.on_text(loaded.model, atlas, text, dictionary, n)
        assert like is not None
        atlas.check_index(like)
        if dictionary is None:
            raise BadArguments(
                "no two dimensions of a site are alike: each is an axis of its own", received=atlas.label(like),
                fix="look for a token or a text",
            )  # fmt: skip
        found = search.similar(dictionary, dictionary.write[like].float(), n)
        return [one for one in found if one.index != like]

    def _read(self, run: str, several: Sequence[Opened]) -> tuple[Run, list[Values]]:
        """The features of some atlases on a run, in one forward up to the last site."""
        state = self._now()
        found = find_run(state, run)
        keys = [(found.key, id(one.atlas)) for one in several]
        with self._lock:
            held = {key: self._values[key][1] for key in keys if key in self._values}
        lacking = {key: one for key, one in zip(keys, several, strict=True) if key not in held}
        if lacking:
            self._quiet()
            model, edits = state.loaded_of(found).model, state.world().on(found.prompt).made(found.active)
            places = captured(model, [one.atlas.site for one in lacking.values()])
            record = model.run(list(found.prompt.ids), [*places], edits=edits)
            held |= {key: values_of(record, one) for key, one in lacking.items()}
            with self._lock:
                self._values.update({key: (one.atlas, held[key]) for key, one in lacking.items()})
                while len(self._values) > KEPT_VALUES:
                    self._values.popitem(last=False)
        return found, [held[key] for key in keys]

    def _code(self, opened: Opened, index: int) -> str:
        if opened.id is not None and opened.id.startswith("saved:"):
            return ""
        writer = SessionWriter(self._now().world())
        kept, given = opened.kept, "" if opened.id is None else f", {writer.dictionary(opened.id)}"
        line = f"rs.load_item({f'{kept.name}.safetensors'!r})"
        if kept.method == "atlas" and kept.args:
            method = find_method("atlas")
            line = method.code(method.check(dict(kept.args)), writer, "model")
        return writer.whole(
            [f"atlas = {line}", f"page = rs.features.page(model, atlas, {index}{given})", "print(page)"]
        )
