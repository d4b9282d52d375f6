"""The logit lens: what the model would say next were each layer's stream its last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import Edit
from residscope.errors import BadArguments, PromptError
from residscope.methods._lib.lens_reading import Said, read_rows
from residscope.methods._lib.tuned import TunedLens
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, View

PART = 128  # positions of a row unembedded at once
TOGETHER = 2048  # positions of several rows: the unembedding is read once for them
UNTRAINED = "a tuned lens means nothing at tokens it was not trained on, as a rule the first and attention sinks"
SITES = ("resid_post", "resid_mid", "resid_pre")


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Report):
    """What the stream says at every row (the embedding first, then each layer) and position.

    top[row, pos, k], probability[row, pos, k]: the k likeliest next tokens, by id, and how likely. entropy, in nats. kl: from the
    run's own next-token distribution at that position to the row's, KL(run || row), in nats: 0 at the last row of an unedited
    end. rank[row, pos], chance[row, pos]: of `token`, 0 the likeliest; without a token, of what the run itself says there.
    """

    kind: ClassVar[str] = "report:logit_lens"
    main: ClassVar[str] = "chance"
    prompt: tuple[str, ...]
    rows: tuple[str, ...]
    token: str
    texts: Mapping[int, str]
    top: Int[Tensor, "row pos k"]
    probability: Float[Tensor, "row pos k"]
    entropy: Float[Tensor, "row pos"]
    kl: Float[Tensor, "row pos"]
    rank: Int[Tensor, "row pos"]
    chance: Result
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """The likeliest token everywhere with its probability; how far each row is from the end; the followed token's."""
        labels, columns = [*self.rows], [*self.prompt]
        said = [[self.texts[int(id)] for id in row] for row in self.top[..., 0]]
        shape: dict[str, Any] = {"rows": labels, "columns": columns, "bottom_up": True, "row_title": "stream"}
        followed = repr(self.token) if self.token else "what the run says"
        return Grid(
            [
                HeatMap(
                    self.probability[..., 0], texts=said, scale="sequential", limit=1.0, title="The likeliest next token",
                    unit="probability", **shape,
                ),
                HeatMap(
                    self.kl, scale="sequential", title="KL from the run's own next token", unit="nats",
                    note=UNTRAINED if "lens" in self.provenance else "", **shape,
                ),
                HeatMap(
                    self.chance.values, scale="sequential", limit=1.0, title=f"Probability of {followed}",
                    unit="probability", texts=[[str(int(r)) for r in row] for row in self.rank], note="written: its rank",
                    **shape,
                ),
            ],
            columns=1,
            title="Tuned lens" if "lens" in self.provenance else "Logit lens",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"LogitLens({len(self.rows)} rows x {len(self.prompt)} positions)"


@method("logit-lens", title="Logit lens", group="reading")
def logit_lens(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    *,
    site: Annotated[
        str, fields.choice(*SITES, help="after each block, after its attention, or before it")
    ] = "resid_post",
    token: Annotated[str | None, fields.tokens()] = None,
    k: Annotated[int, fields.count(low=1, high=50)] = 5,
    lens: Annotated[TunedLens | None, fields.item(of="report:tuned_lens", title="tuned lens")] = None,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> LogitLens:
    """The next token as each layer's stream would have it, at every position, through the model's own final norm and unembedding.

        logits(row) = cap(scale · W_U norm(x_row))

    with the final norm's divisor that of the row itself, and the model's own logit scale and softcap where it has them. For a
    model whose blocks only add to the stream this is the model's output with every later block's additions taken as zero:
    nostalgebraist (2020), "interpreting GPT: the logit lens".

    site: "resid_post" has the embedding and the stream after each block. token: one to follow; else what the run itself says at
    each position. k: how many of the likeliest are kept. lens: a tuned lens (`rs.tuned_lens`, `rs.load_tuned_lens`), whose
    translators then stand before the final norm. background: edits under which the run is made; the lens itself is the unedited
    model's. Logits of all positions are never held: of 2,048 at a time, of one row or of several, some columns.

    Raises:
        PromptError: several prompts. SiteError: the family has no such stream. BadArguments: resid_mid through a tuned lens.
        WrongModel: a tuned lens of another model's sizes. UnknownToken. Cancelled.
    """
    if site not in SITES:
        raise BadArguments("the lens reads the stream", received=repr(site), allowed=", ".join(SITES))
    if lens is not None:
        lens.check(model)
    batch = model.batch(prompt)
    if len(batch) != 1:
        raise PromptError("a lens is of one prompt", received=f"{len(batch)} prompts", fix="ask for each")
    names = [str(one) for one in model.sites.expand(site)]
    names = ["resid_pre.0", *names] if site != "resid_pre" else names
    layers = [None if lens is None else lens.layer_of(name) for name in names]
    rec = model.run(batch, capture=names, edits=background)
    followed = None if token is None else model.token_id(token)
    parts = [*range(0, batch.lengths[0], PART)]
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in names]
    with stage("Reading the stream", len(parts) * len(names), progress, cancel) as tell:
        for number, (first, own) in enumerate(zip(parts, rec.logits_in_parts(PART), strict=True)):
            said = Said(own[0], followed)
            size = max(1, TOGETHER // len(said.ids))
            for group in (range(at, min(at + size, len(names))) for at in range(0, len(names), size)):
                streams = []
                for row in group:
                    x, layer = rec[names[row]][0, first : first + PART], layers[row]
                    streams.append(x if lens is None or layer is None else lens.translated(x, layer))
                behind = number * len(names) + group.start

                def within(share: float, behind: int = behind, many: int = len(group)) -> None:
                    tell(behind + int(share * many))

                read = read_rows(model, torch.stack(streams), said, k, within)
                for row, of_row in zip(group, zip(*read, strict=True), strict=True):
                    found[row].append(of_row)
    top, probability, entropy, kl, rank, chance = (
        torch.stack([torch.cat([part[i] for part in row]) for row in found]).cpu() for i in range(6)
    )
    texts = {id: model.token_texts([id])[0] for id in {*top.flatten().tolist()}}
    tokens, rows = tuple(model.token_texts(batch.ids[0].tolist())), tuple(map(_called, names))
    about: dict[str, Any] = {**model.provenance, "method": "logit_lens", "site": site}
    about |= {} if lens is None else {"lens": dict(lens.provenance)}
    coords = {"row": rows, "pos": tuple(range(len(tokens)))}
    result = Result(
        chance, ("row", "pos"), coords, name="probability of the next token", unit="probability", provenance=about
    )
    return LogitLens(tokens, rows, token or "", texts, top, probability, entropy, kl, rank, result, about)


def _called(site: str) -> str:
    return "embedding" if site == "resid_pre.0" else site


def lens_cells(
    model: Model, rows: Float[Tensor, "row pos d_model"], own: Float[Tensor, "pos vocab"], token: int | None, k: int
) -> tuple[Tensor, ...]:
    """The same of some positions of a run that is there: top, probability [row, pos, k]; entropy, kl, rank, chance [row, pos].

    rows: the stream. own: the run's own logits at these positions. token: the one that is followed; None: what the run says.
    """
    said, size = Said(own, token), max(1, TOGETHER // len(own))
    found = [read_rows(model, rows[at : at + size], said, k) for at in range(0, len(rows), size)]
    return tuple(torch.cat(column).cpu() for column in zip(*found, strict=True))
