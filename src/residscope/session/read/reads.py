"""What is read of a session: runs in tensors; directions, dictionaries, probes, methods, jobs and items in words."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from residscope.directions import Dictionary, Direction
from residscope.engine.model import Model
from residscope.errors import NotFound, ResidscopeError
from residscope.manifest import find_method
from residscope.methods._lib.tuned import TunedLens
from residscope.methods.evidence.evidence import Evidence
from residscope.methods.reading.continuations import Continuations
from residscope.session import compute, wire
from residscope.session.compute import Elsewhere, Held
from residscope.session.editing import find_run
from residscope.session.held import HeldRuns
from residscope.session.jobs import Jobs, find_job, seconds_of
from residscope.session.maps.lens import LensFile, lens_file
from residscope.session.read import continuations as shown_continuations
from residscope.session.read import evidence as shown_evidence
from residscope.session.read import probes
from residscope.session.read.prompt_page import PageCoefFile, PromptPages
from residscope.session.state import State, token, top
from residscope.shelf.items import ItemShelf
from residscope.shelf.shown import file_of, table_of, views_of
from residscope.world.dictionaries import beside_stream
from residscope.world.fitted import find_map
from residscope.world.loaded import Loaded
from residscope.world.mixing import dictionary_of, reads
from residscope.world.python import method_code
from residscope.world.read import DictionaryDetail, DirectionReading, describe, describe_dictionary
from residscope.world.session_world import need_model
from residscope.world.stack import parse_ref


class Reads:
    """Answers from a session as it is. now: its state; quiet: waits until no live run does."""

    def __init__(
        self,
        now: Callable[[], State],
        held: HeldRuns,
        pages: PromptPages,
        jobs: Jobs,
        items: ItemShelf,
        quiet: Callable[[], object],
    ) -> None:
        self._now, self._held, self._pages, self._jobs, self._items, self._quiet = now, held, pages, jobs, items, quiet

    def stream(self, run: str, *, next: Literal["all", "last"] = "all") -> compute.StreamFile:
        """A run's lengths, sinks and next tokens; next: "last" waits for those of no other position."""
        held, loaded = self._held.of(run)
        likely = held.next.at_end() if next == "last" else held.next.all(self._quiet)
        return compute.stream(held, loaded, likely)

    def pictures(self, runs: Sequence[str], sent: set[tuple[str, str]]) -> list[tuple[str, dict[str, Any], bytes]]:
        """What a page asks of these runs first, as queries and their answers, where it has not been sent: the stream, the metric.

        `sent` is added to. A run that is no longer held is left out: the page asks for it.
        """
        metric = self._now().metric
        found: list[tuple[str, dict[str, Any], bytes]] = []
        pair: dict[str, Any] | None = (
            None if metric is None else {"positive": metric.positive.id, "negative": metric.negative.id}
        )
        for run in runs:
            with contextlib.suppress(ResidscopeError):
                if (run, "") not in sent:
                    found.append(("stream", {"run": run, "next": "last"}, self.stream(run, next="last")))
                    sent.add((run, ""))
                if pair is not None and (run, str(pair)) not in sent:
                    found.append(("logits", dict(pair, run=run), self.logits(run, **pair)))
                    sent.add((run, str(pair)))
        return found

    def coef(self, run: str, *, dictionary: str, indices: Sequence[int] | None = None) -> compute.CoefFile:
        """A run's rows in the coordinates of a dictionary, or of a saved direction, `saved:NAME`; `indices`: of these alone.

        Raises NotFound, DirectionError.
        """
        loaded, known, held = self._read_by(run, dictionary)
        return compute.coef(held, loaded, known, indices=indices)

    def strongest(self, run: str, *, dictionary: str, row: int, pos: int, k: int) -> compute.StrongestCoordinates:
        """The strongest coordinates of a dictionary at one cell of a run. Raises NotFound, DirectionError."""
        loaded, known, held = self._read_by(run, dictionary)
        return compute.strongest(held, loaded, known, row=row, pos=pos, k=k)

    def _read_by(self, run: str, dictionary: str) -> tuple[Loaded, Dictionary, Held | Elsewhere]:
        """A dictionary, and what it reads of a run."""
        state = self._now()
        found, loaded = find_run(state, run), need_model(state.model)
        of = state.loaded_of(found)
        known = dictionary_of(dictionary, loaded, state.directions)
        if beside_stream(known, loaded.model.sites):
            return loaded, known, self._held.of(run)[0]
        site = loaded.model.sites.parse(known.site)
        return loaded, known, self._held.elsewhere(of, found, state, site.name, known.head)

    def page_coef(self, page: str, dictionary: str, row: int, *, indices: Sequence[int] | None = None) -> PageCoefFile:
        """A row of a page of prompts in a dictionary's coordinates, or a saved direction's; `indices`: in these alone.

        Raises NotFound, UnknownLayer, DirectionError.
        """
        directions = self._now().directions
        return self._pages.coef(
            page, lambda loaded: dictionary_of(dictionary, loaded, directions), row=row, indices=indices
        )

    def gram(self, of: Sequence[str]) -> compute.Gram:
        """Inner products of read vectors: of whole dictionaries, by id, of single directions, `ID/INDEX` or `saved:NAME`."""
        state = self._now()
        return compute.gram([reads(name, need_model(state.model), state.directions) for name in of])

    def logits(self, run: str, *, positive: int, negative: int) -> compute.LogitFile:
        held, loaded = self._held.of(run)
        return compute.logits(held, loaded, loaded.model.token_id(positive), loaded.model.token_id(negative))

    def tokens(self, text: str) -> wire.Spelling:
        """The token that a text names, or else those that it is made of. Raises PromptError."""
        return {"tokens": [token(one) for one in need_model(self._now().model).spelled(text)]}

    def lens(self, run: str, *, layer: int, pos: int) -> wire.LensReading:
        held, loaded = self._held.of(run)
        return {"top": top(compute.lens(held, loaded, layer=layer, pos=pos))}

    def lens_grid(
        self, run: str, *, first: int, count: int, token: str | None = None, through: str | None = None
    ) -> LensFile:
        """The logit lens at every row of some positions of a run; through: a tuned lens of the shelf.

        Raises NotFound, UnknownPosition, UnknownToken, WrongModel.
        """
        held, loaded = self._held.of(run)
        tuned = None if through is None else self._now().world().item(through, TunedLens.kind)
        self._quiet()
        return lens_file(held, loaded.model, first=first, count=count, token=token, through=tuned)

    def dictionary(self, id: str, *, indices: Sequence[int] | None = None) -> DictionaryDetail:
        """What a dictionary is and what its components say; `indices`: of these alone. Raises NotFound, DirectionError."""
        return describe_dictionary(need_model(self._now().model), id, self._now().metric, indices=indices)

    def read(self, ref: Any) -> DirectionReading:
        parsed, state = parse_ref(ref), self._now()
        return describe(parsed, state.world())

    def probe(self, name: str) -> probes.ProbeDetail:
        return probes.describe_probe(*find_map(name, self._now().probes), need_model(self._now().model).model)

    def probe_reading(self, name: str, *, run: str, pos: int, named: bool = False) -> probes.ProbeReading:
        """What a probe reads in a run at a token; `named`: at its own position, where that is known.

        Raises:
            NotFound, UnknownPosition.
        """
        state = self._now()
        (fitted, mapped), found, loaded = find_map(name, state.probes), find_run(state, run), need_model(state.model)
        place = probes.place_of(fitted, mapped, found.prompt, loaded.model)
        at = place.pos if named and place.pos is not None else pos
        compute.check_cell(loaded.model.n_layers, len(found.prompt.tokens), layer=0, pos=at)
        of = state.loaded_of(found).model
        x = compute.vector(state.world(), found.prompt, found.active, of, site=mapped.probe.site, pos=at)
        return {
            "run": run,
            "pos": at,
            "own": place.own,
            "label": place.label,
            "place": place.pos,
            **probes.read_vector(mapped, x),
        }

    def probe_prompt(self, name: str, row: int) -> probes.ProbeExample:
        """One of a probe's own prompts, as it is typed, with its answers. Raises NotFound."""
        return probes.describe_prompt(find_map(name, self._now().probes)[1], row, need_model(self._now().model).model)

    def read_data(self, data: Any) -> probes.ProbeChoices:
        """Which labels and positions some labelled prompts have. Raises BadTable, TaskError, NotFound."""
        return probes.describe_data(self._now().world().prompts(data))

    def cost(self, method: str, args: Any) -> wire.Cost:
        """What a call would take, in seconds, about; null where nobody has said."""
        found, world = find_method(method), self._now().world()
        plain = found.check(args)
        found.look(plain, world)
        return {"seconds": seconds_of(found, plain, world)}

    def method_python(self, method: str, args: Any) -> wire.Code:
        """A call as Python that runs as pasted."""
        found = find_method(method)
        return {"code": method_code(found, found.check(args), self._now().world())}

    def job(self, id: str) -> wire.JobDetail:
        """The latest picture of a job. Raises NotFound."""
        job, latest = find_job(self._now(), id), self._jobs.partial(id)
        if latest is None:
            return {"job": id, "revision": 0, "done": job.ended, "views": [], "table": None}
        revision, item = latest
        return {"job": id, "revision": revision, "done": job.ended, "views": views_of(item), "table": table_of(item)}

    def item(self, name: str) -> wire.ItemDetail:
        """An item of the shelf: its picture, its first rows, what made it. Raises NotFound."""
        kept = self._items.find(name)
        return {
            **kept.about,
            "args": dict(kept.args),
            "provenance": dict(kept.item.provenance),
            "code": kept.code,
            "views": views_of(kept.item),
            "table": table_of(kept.item),
        }

    def item_file(self, name: str, ending: str) -> tuple[str, bytes]:
        """An item as a file of this ending: its name and its bytes. Raises NotFound, WrongEnding."""
        return file_of(self._items.find(name), ending)

    def evidence(self, *, job: str | None = None, item: str | None = None) -> shown_evidence.Evidence:
        """What a job has gathered so far, or what is on the shelf. Raises NotFound."""
        if job is not None:
            at, latest = find_job(self._now(), job), self._jobs.partial(job)
            revision, evidence = latest or (0, None)
            done = at.ended
        else:
            revision, evidence, done = 0, self._items.find(item or "").item, True
        if not isinstance(evidence, Evidence):
            raise NotFound("no evidence of that name is held", received=job or item, fix="gather it again")
        return {
            "job": job,
            "item": item,
            "revision": revision,
            "done": done,
            **shown_evidence.describe_evidence(evidence),
        }

    def continuations(
        self, *, job: str | None = None, item: str | None = None
    ) -> shown_continuations.ContinuationsFound:
        """What a job has continued so far, or what is on the shelf. Raises NotFound."""
        args: Mapping[str, Any]
        if job is not None:
            at, latest = find_job(self._now(), job), self._jobs.partial(job)
            revision, found = latest or (0, None)
            done, args, code = at.ended, at.args, self._jobs.code(job)
        else:
            kept = self._items.find(item or "")
            revision, found, done, args, code = 0, kept.item, True, kept.args, kept.code
        if not isinstance(found, Continuations):
            raise NotFound("no continuations of that name are held", received=job or item, fix="generate them again")
        parts = shown_continuations.describe_continuations(found)
        return {
            "job": job,
            "item": item,
            "revision": revision,
            "done": done,
            "edits": args.get("edits"),
            "code": code,
            **parts,
        }

    def resolve(self, ref: Any) -> tuple[Direction, Model]:
        """The direction that a reference names, and the model it is one of."""
        state = self._now()
        return state.world().direction(parse_ref(ref)), need_model(state.model).model
