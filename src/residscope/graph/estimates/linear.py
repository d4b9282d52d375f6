"""Attribution graphs: a run made linear by holding its patterns and norms, so that what a feature reads is a sum over sources."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import EncoderDictionary, LinearDictionary
from residscope.engine.slopes import Held, Live, Marked
from residscope.errors import GraphError, NotAdditive
from residscope.graph.drawn import Drawn
from residscope.graph.estimates.gradients import asked, put
from residscope.graph.estimates.numbers import Graphed, Numbers, entry_of, parts_of
from residscope.graph.nodes import Level, when
from residscope.graph.setting import Setting
from residscope.model.sites import Site, rank
from residscope.progress import Cancel, Progress, stage

STREAM = ("resid_pre", "resid_mid", "resid_post")
READ = (*STREAM, "attn_in", "mlp_in", "v", "z", "attn_raw", "attn_out")
ENDS = ("final_norm", "logits")
WRITTEN = (*STREAM, "embed", "z", "attn_raw", "attn_out", "mlp_out")
SLACK = 16.0  # roundings that a sum may be off by
SINGLE = float(torch.finfo(torch.float32).eps)  # stock norms are no finer


def by_attribution(drawn: Drawn, *, reach: str, scale: float, progress: Progress, cancel: Cancel) -> dict[str, Any]:
    """Direct effects in the run made linear: attention patterns and the norms' divisors held, MLPs what they write.

        weight(s -> t) = (1 - scale) read_t . J (a_s write_s),    J = d (what t reads) / d (the sources' site)

    A source is whatever is written into that linear run: the embeddings, each MLP's output, as its transcoder's features and
    error where there is one (a linear path beside them stays a path); where a dictionary reads and writes the stream itself, its
    features and error stand for all that came before. So what t reads, before its activation function, is their sum, and
    what remains of no source at all (biases): that is checked, at every t, and how far it is off is told.

    Ameisen et al. (2025), "Circuit tracing"; Dunefsky et al. (2024), arXiv:2406.11944. Raises NotAdditive.
    """
    setting = drawn.setting
    jobs = [job for job in asked(drawn, reach, before_activation) if job[0].site.name in (*READ, *ENDS)]
    sums = Sums()
    with stage("Taking gradients", sum(len(numbers) for numbers, _ in jobs), progress, cancel) as tell:
        done = 0
        for numbers, levels in jobs:
            cut = Cut.of(setting, numbers.site)
            run = cut.run(setting, numbers.site)
            total = torch.zeros(len(numbers), dtype=torch.float64)
            size = torch.zeros_like(total)
            for some, slopes in run.slopes(numbers):
                for number in levels:
                    level, sources = setting.levels[number], drawn.sources[number]
                    if level.write_site in slopes:
                        found = parts_of(level, sources, slopes[level.write_site], keep=setting.keep, scale=scale)
                        put(drawn, number, numbers, some, found)
                for site, slope in slopes.items():
                    each = (slope * run.marked.after[site].detach()[0].flatten(1)).flatten(1).double().cpu()
                    total[some.start : some.stop] += each.sum(1)
                    size[some.start : some.stop] += each.abs().sum(1)
                done += len(some)
                tell(done)
            if numbers.target is not None:
                rest = cut.run(setting, numbers.site, empty=True).read(numbers)
                sums.add(setting, numbers, run.read(numbers), total, size, rest)
    return sums.told()


@dataclass(frozen=True, eq=False)
class Cut:
    """Where the linear run is cut for what is read at a site: the places of its sources, from a block on."""

    sites: tuple[Site, ...]
    start: int
    live: dict[Site, Live]

    @classmethod
    def of(cls, setting: Setting, read: Site) -> "Cut":
        model = setting.model
        earlier = [level for level in setting.levels if when(level.write_site, model) < when(read, model)]
        whole = [level.write_site for level in earlier if level.write_site.name in STREAM]
        last = max(whole, key=lambda site: when(site, model), default=None)
        if last is not None:
            earlier = [level for level in earlier if when(level.write_site, model) >= when(last, model)]
        sites = tuple(level.write_site for level in earlier)
        live = {level.write_site: Live(level.read_site, _skip(level)) for level in earlier if _skips(level)}
        return cls(sites, 0 if last is None else entry_of(last), live)

    def run(self, setting: Setting, read: Site, *, empty: bool = False) -> Graphed:
        held = Held(frozen(setting, self.start, rank(read, setting.model.n_layers)))
        marked = Marked(self.sites, cut=True, empty=empty, live=self.live)
        return Graphed.of(setting, [read], marked, [held], start=self.start)


def frozen(setting: Setting, first: int, last: int) -> dict[Site, Tensor]:
    """Patterns and divisors of norms as the run has them, in the blocks first to last; of the final norm where those are all."""
    model, names = setting.model, ("pattern", "attn_scale", "attn_post_scale", "mlp_scale", "mlp_post_scale")
    layers = range(first, min(last, model.n_layers - 1) + 1)
    sites = [Site(name, layer) for layer in layers for name in names if name in model.sites.names]
    return setting.record.several([*sites, *([Site("final_scale")] if last >= model.n_layers else [])])


def with_writers(setting: Setting, *, tokens: bool) -> Setting:
    """The setting with all that is written beside its dictionaries as levels of their own: embeddings, and MLPs without one.

    Those alone that reach a dictionary, or next tokens where those are asked for.

    Raises GraphError: dictionaries that the linear run does not reach; two that write to one place.
    """
    model, table = setting.model, setting.model.sites
    for level in setting.levels:
        _require(level, setting)
    taken = {level.write_site for level in setting.levels}
    names = [name for name in ("embed", "pos_embed", "mlp_out") if name in table.names]
    sites = [site for name in names for site in table.expand(name) if site not in taken]
    values = setting.record.several(sites)
    writers = [_writer(site, values[site][0]) for site in sites]
    levels = sorted([*setting.levels, *writers], key=lambda level: when(level.write_site, model))
    every = replace(setting, levels=levels)
    ends = [level.read_site for level in setting.levels if level.read_site.name in READ]
    ends += [Site("final_norm")] if tokens else []
    used = {site for end in ends for site in Cut.of(every, end).sites}
    return replace(setting, levels=[level for level in levels if len(level.dictionary) or level.write_site in used])


def before_activation(level: Level, x: Tensor, indices: list[int]) -> Float[Tensor, "pos some"]:
    """What some features read, before their activation function; of one that is active its activation too."""
    dictionary = level.dictionary
    if not isinstance(dictionary, EncoderDictionary):
        return dictionary.encode(x, indices=indices)
    r = (x - dictionary.mean.to(x)) @ dictionary.read[indices].to(x).T
    if dictionary.gate_scale is not None:
        r = r * dictionary.gate_scale[indices].to(x).exp()
    return r + dictionary.bias[indices].to(x)


class Sums:
    """How far what features read is from the sum over their sources."""

    def __init__(self) -> None:
        self.count, self.apart, self.share = 0, 0.0, 0.0

    def add(self, setting: Setting, numbers: Numbers, read: Tensor, total: Tensor, size: Tensor, rest: Tensor) -> None:
        """total: over the sources; size: without their signs; rest: what there is without any. Raises NotAdditive."""
        read, rest = read.detach().double().cpu(), rest.detach().double().cpu()
        apart = (total + rest - read).abs()
        eps = max(float(torch.finfo(setting.model.dtype).eps), SINGLE)
        allowed = SLACK * eps * (size + rest.abs() + read.abs())
        if not bool((apart <= allowed).all()):
            worst = int((apart - allowed).nan_to_num(torch.inf).argmax())
            raise NotAdditive(
                "what a feature reads is not the sum over its sources",
                received=f"{float(total[worst] + rest[worst]):.6g} against {float(read[worst]):.6g} at {numbers.site}",
                allowed=f"a difference of {float(allowed[worst]):.2g}, which rounding explains",
                fix="check the model's certificate, and that no hook of your own changes what is written",
            )
        self.count += len(numbers)
        self.apart = max(self.apart, float(apart.max()))
        self.share = max(self.share, float((apart / read.abs().clamp_min(1e-12)).max()))

    def told(self) -> dict[str, Any]:
        return {"features": self.count, "largest difference": self.apart, "largest share": self.share}


def _writer(site: Site, value: Float[Tensor, "pos d"]) -> Level:
    """What is written at a site as a level without features: all of it is left out."""
    none, d = value[:0], value.shape[-1]
    empty = LinearDictionary(site.name, str(site), none, none, value.new_zeros(d))
    return Level(str(site), empty, site, site, value, value.new_zeros(len(value), 0), value)


def _skips(level: Level) -> bool:
    dictionary = level.dictionary
    skip = isinstance(dictionary, EncoderDictionary) and dictionary.skip is not None
    return skip and level.read_site != level.write_site


def _skip(level: Level) -> Any:
    """The linear path beside a transcoder's features."""
    skip = getattr(level.dictionary, "skip", None)
    return lambda x: x @ skip.to(x).T  # type: ignore[union-attr]


def _require(level: Level, setting: Setting) -> None:
    dictionary = level.dictionary
    if level.write_site.name not in WRITTEN or level.read_site.name not in (*READ, "mlp_out"):
        raise GraphError(
            "an attribution graph is linear in what is written into the stream, and this dictionary stands elsewhere",
            received=f"{level.id}: {level.read_site} to {level.write_site}",
            allowed="dictionaries of the stream, of what attention writes, and transcoders from mlp_in to mlp_out",
            fix='method="gradient"',
        )
    if getattr(dictionary, "normalise", "none") != "none" or dictionary.space == "lens":
        raise GraphError(
            "a dictionary that normalises what it reads does not read it linearly",
            received=level.id,
            fix='method="gradient"',
        )
    twice = [other.id for other in setting.levels if other.write_site == level.write_site]
    if len(twice) > 1:
        raise GraphError(
            "what is written at one place is a sum over one dictionary's features",
            received=", ".join(twice),
            allowed="one dictionary for each place",
        )
