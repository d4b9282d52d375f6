"""What an exact graph costs, before it is built."""

from collections.abc import Mapping, Sequence
from typing import Any

from residscope.directions import Dictionary
from residscope.engine.model import Model, Prompt
from residscope.graph.estimates.gradients import STEPS
from residscope.graph.exact import sources_of
from residscope.graph.setting import Setting, targets_of


def cost_of(
    model: Model,
    prompt: Prompt,
    dictionaries: Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary,
    *,
    ablate: str = "all",
    read: str = "last",
    reach: str = "next",
    errors: bool = True,
    tokens: int = 5,
) -> str:
    """In words: what is taken out, how many blocks and whole forwards of the prompt that is. One forward finds the features.

    A feature taken out takes the blocks from its dictionary to the last that is read, and for the next tokens those to the end.

    Raises:
        As `causal_graph`.
    """
    setting = Setting.of(model, prompt, dictionaries)
    taken, blocks = _work(setting, each=ablate == "each", reach=reach, errors=errors, tokens=bool(tokens))
    return (
        f"{taken:,} features of {len(setting.levels)} dictionaries are taken out in turn, over {setting.last + 1} tokens: "
        f"{blocks:,} blocks, as much as {blocks / model.n_layers:,.0f} forwards of the prompt"
    )


def price(
    model: Model,
    prompt: Prompt,
    dictionaries: Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary,
    *,
    ablate: str = "all",
    read: str = "last",
    reach: str = "next",
    method: str = "exact",
    errors: bool = True,
    tokens: int | Sequence[str | int] = 5,
    **_: Any,
) -> float:
    """Tokens through the whole model, about. A backward pass is two forwards, for each number that slopes are taken of."""
    setting = Setting.of(model, prompt, dictionaries)
    asked = tokens if isinstance(tokens, int) else len(tokens)
    if method == "exact":
        blocks = _work(setting, each=ablate == "each", reach=reach, errors=errors, tokens=bool(asked))[1]
    else:
        blocks = _slopes(setting, method=method, read=read, reach=reach, tokens=asked)
    return (setting.last + 1) * (1 + blocks / model.n_layers)


def _work(setting: Setting, *, each: bool, reach: str, errors: bool, tokens: bool) -> tuple[int, int]:
    """How many features are taken out, and how many blocks their changes go through."""
    n_layers = setting.model.n_layers
    taken = blocks = 0
    for number, level in enumerate(setting.levels):
        sources = len(sources_of(level, setting.keep, each=each, errors=errors))
        layer = _layer(str(level.write_site), n_layers)
        read = [_layer(str(target.read_site), n_layers) for _, target in targets_of(setting, number, reach)]
        taken += sources
        blocks += sources * (max(1, max(read, default=layer) - layer) + (n_layers - layer if tokens else 0))
    return taken, blocks


def _slopes(setting: Setting, *, method: str, read: str, reach: str, tokens: int) -> int:
    """How many blocks an estimate goes through, forward and backward."""
    n_layers, levels = setting.model.n_layers, setting.levels
    entry = [_layer(str(level.write_site), n_layers) for level in levels]
    rows = setting.keep if read == "all" else [setting.last]
    blocks = 0
    for target, level in enumerate(levels):
        sources = [n for n in range(len(levels)) if any(t == target for t, _ in targets_of(setting, n, reach))]
        end, active = _layer(str(level.read_site), n_layers), int((level.coordinates[rows] != 0).sum())
        begin = min((entry[n] for n in sources), default=end)
        if method == "attribution":  # from the stream that a dictionary stands for, or the embedding
            stream = [n for n, one in enumerate(levels) if one.write_site.name.startswith("resid")]
            begin = max((entry[n] for n in stream if entry[n] < end), default=0)
        times = STEPS * len(sources) if method == "integrated" else 1
        blocks += times * (end - begin) * (1 + 2 * active)
    times = STEPS * len(levels) if method == "integrated" else 1
    return blocks + (times * (n_layers - min(entry)) * (1 + 2 * tokens) if tokens else 0)


def _layer(site: str, n_layers: int) -> int:
    """How many blocks lie before a site."""
    name, _, layer = site.partition(".")
    number = int(layer.partition(" ")[0]) if layer.partition(" ")[0].isdigit() else (0 if "embed" in name else n_layers)
    return number + (name == "resid_post")
