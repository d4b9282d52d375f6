"""Blocks: the modules that the stream goes through one after another, and each block's two branches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from residscope.engine.look.equal import Values, added, flat, same, summed
from residscope.engine.look.norms import Found, as_norm
from residscope.engine.look.trace import Call, Trace, first_tensor
from residscope.engine.places import first_input
from residscope.errors import UnknownFamily


@dataclass(frozen=True)
class Chain:
    """The blocks: their list's path, their calls in order, and the stream before each and after the last, [pos d_model]."""

    path: str
    calls: tuple[Call, ...]
    streams: tuple[Tensor, ...]

    @property
    def d_model(self) -> int:
        return self.streams[0].shape[-1]


@dataclass
class Branch:
    """One branch of a block. Calls: `module` reads `read`, `raw` gives what a post-norm reads, `writer` what is added.

    `raw` and `module` may be one call, `writer` too. factor: what the stream gets is so many times the writer's output.
    beside: another module that reads the same and whose output is added as well; `wrote` is both.
    """

    module: Call
    raw: Call
    writer: Call
    read: Tensor
    wrote: Tensor
    factor: float
    norm: Call | None = None
    post: Call | None = None
    norms: dict[str, Found] = field(default_factory=dict)
    beside: Call | None = None


def find_chain(trace: Trace, close: float) -> Chain:
    """The longest list of modules of which each reads what the one before wrote. Raises UnknownFamily."""
    best: Chain | None = None
    length = trace.ids.shape[1]
    for path, module in trace.hf.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or not len(module):
            continue
        calls = [trace.call(f"{path}.{name}") for name, _ in module.named_children()]
        if any(call is None for call in calls):
            continue
        done = [call for call in calls if call is not None]
        streams = _streams(done, length, close)
        if streams is not None and (best is None or len(done) > len(best.calls)):
            best = Chain(path, tuple(done), streams)
    if best is None:
        raise UnknownFamily(
            "no list of blocks was found that hand one stream on, each to the next",
            received=type(trace.hf).__name__,
            allowed="a decoder whose blocks read and return one tensor [batch pos d_model]",
        )
    return best


def _streams(calls: Sequence[Call], length: int, close: float) -> tuple[Tensor, ...] | None:
    first = flat(calls[0].read, length)
    if first is None:
        return None
    streams = [first]
    for i, call in enumerate(calls):
        wrote = flat(call.wrote, length, first.shape[-1])
        following = flat(calls[i + 1].read, length, first.shape[-1]) if i + 1 < len(calls) else wrote
        if wrote is None or not same(wrote, following, close):
            return None
        streams.append(wrote)
    return tuple(streams)


def find_branches(
    trace: Trace, chain: Chain, layer: int, close: float
) -> tuple[Branch | None, Branch | None, Tensor | None]:
    """A block's branch that mixes tokens, the one that reads each by itself, and the stream between them.

    Either branch may be absent; the stream between is None where both read the block's start, or where there is one branch.

    Raises:
        UnknownFamily: what the block adds to the stream is not the output of one or two of its modules.
    """
    x, y = chain.streams[layer], chain.streams[layer + 1]
    values = Values(trace.inside(chain.calls[layer].path), len(x), chain.d_model, close)
    groups = values.groups(x)
    written = [w for group in groups if (w := values.wrote[group[0].path]) is not None]
    own = chain.calls[layer].read
    sets = added(x, y, written, x.dtype if own is None else own.dtype) or summed(y - x, written, close)
    for chosen, factors in sorted(sets, key=lambda s: s[0], reverse=True):
        found = _branches(values, [groups[i] for i in chosen], factors.tolist(), x)
        if found is not None:
            return found
    where = chain.calls[layer].path
    raise UnknownFamily(
        f"what block {layer} adds to the stream is not the output of two modules, one that mixes tokens and one that does not",
        received=f"{where}, a {type(chain.calls[layer].module).__name__}",
        allowed="resid_post = resid_pre + a attn_out + m mlp_out, where each is what a module gives",
    )


Pairs = tuple[Branch | None, Branch | None, Tensor | None]


def _branches(values: Values, groups: list[list[Call]], factors: list[float], x: Tensor) -> Pairs | None:
    """What groups of calls, each with its factor, are: attention and MLP, one of them alone, or one with a module beside it."""
    made: list[tuple[Branch, bool]] = []  # each with whether it reads the stream between
    mid = None
    for group, factor in zip(groups, factors, strict=True):
        branch, between = None, False
        if mid is not None and (branch := _branch(values, group, factor, mid)) is not None:
            between = True
        branch = branch or _branch(values, group, factor, x)
        if branch is None:
            return None
        if made and made[-1][1] == between and _alike(made[-1][0], branch, values.close):
            branch.beside, branch.wrote = made[-1][0].module, branch.wrote + made.pop()[0].wrote
        made.append((branch, between))
        if not between:
            mid = x + sum((b.wrote * b.factor for b, _ in made), torch.zeros_like(x))
    mixes = [_mixes(branch.module, values.close) for branch, _ in made]
    if len(made) == 1:
        return (made[0][0], None, None) if mixes[0] else (None, made[0][0], None)
    if len(made) != 2 or sorted(mixes) != [False, True] or (mixes[1] and made[1][1]):
        return None
    attn, mlp = made if mixes[0] else made[::-1]  # or side by side, computed the other way round
    return attn[0], mlp[0], mid if made[1][1] else None


def _alike(one: Branch, other: Branch, close: float) -> bool:
    """Whether two modules are one branch: they read the same through the same norm, and both mix tokens, or neither."""
    plain = one.post is None and other.post is None and one.beside is None and abs(one.factor - other.factor) < 1e-6
    if not plain or one.norm is not other.norm or one.writer.ended > other.writer.ended:
        return False
    return _mixes(one.module, close) == _mixes(other.module, close)


def _branch(values: Values, group: list[Call], factor: float, source: Tensor) -> Branch | None:
    """The branch that ends in the value that a group of calls gave, if it begins at `source`."""
    wrote = values.wrote[group[0].path]
    assert wrote is not None
    post, raws, kinds = None, group, {}
    for call in group:
        read = values.read[call.path]
        if (kind := as_norm(call.module, read, values.wrote[call.path], values.close)) is not None:
            made = [c for c in values.writing(read) if c.ended < call.ended]
            if made:
                post, raws, kinds = call, made, {"post": kind}
                break
    raw = _best(raws)
    inputs = _input(values, raw, source)
    if inputs is None:
        return None
    module, norm, kind = inputs
    if kind is not None:
        kinds["norm"] = kind
    read = values.read[module.path]
    assert read is not None
    own = [c for c in raws if c.path == module.path]
    raw = own[0] if own else raw
    return Branch(module, raw, post or raw, read, wrote, factor, norm, post, kinds)


def _best(calls: Sequence[Call]) -> Call:
    """Of calls with one value: the outermost that has weights."""
    with_weights = [c for c in calls if c.weights] or [*calls]
    return min(with_weights, key=lambda c: (c.path.count("."), c.ended))


def _input(values: Values, raw: Call, source: Tensor) -> tuple[Call, Call | None, Found | None] | None:
    """The module in which a branch's work is done, and the norm between it and the stream."""
    around = [c for c in values.calls if raw.path == c.path or raw.path.startswith(f"{c.path}.")]
    around.sort(key=lambda c: c.path.count("."))
    norms = [
        (c, kind)
        for c in values.reading(source)
        if (kind := as_norm(c.module, values.read[c.path], values.wrote[c.path], values.close)) is not None
    ]
    for call in around:
        for norm, kind in norms:
            if same(values.read[call.path], values.wrote[norm.path], values.close) and norm.ended < call.began:
                return call, norm, kind
    for call in around:
        if same(values.read[call.path], source, values.close) and not any(
            norm.path.startswith(f"{call.path}.") for norm, _ in norms
        ):
            return call, None, None
    for norm, kind in norms:  # no module holds the branch: its first matrix and its last stand in the block
        for call in values.reading(values.wrote[norm.path]):
            if norm.ended < call.began < raw.ended and call.weights:
                return call, norm, kind
    for call in values.reading(source):
        if call.began < raw.ended and call.weights and call not in [n for n, _ in norms]:
            return call, None, None
    return None


def _mixes(call: Call, close: float) -> bool:
    """Whether a module's output at the last token depends on what it reads at those before.

    They are changed in two ways: a head that is certain may look at the last token alone once the others are turned round, and
    then again not when they are longer.
    """
    args, kwargs = call.args, call.kwargs
    read = first_input(args, kwargs)
    assert read is not None
    if read.ndim == 2:
        return False  # tokens by themselves, as a mixture of experts takes them
    length = read.shape[1]
    earlier = read[:, :-1]
    with torch.no_grad():
        before = first_tensor(call.module(*args, **kwargs))
        for changed in (-earlier.flip(-1), 1.25 * earlier):
            other = torch.cat([changed, read[:, -1:]], 1)
            own, named = (
                [other if v is read else v for v in args],
                {k: other if v is read else v for k, v in kwargs.items()},
            )
            after = first_tensor(call.module(*own, **named))
            if before is None or after is None or before.shape != after.shape:
                return True
            if not same(before.reshape(length, -1)[-1], after.reshape(length, -1)[-1], close):
                return True
    return False
