"""`residscope families`: the data files, what looking finds of a model, and of a tiny random copy of any type."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residscope.cli.parts import bar, print_json

if TYPE_CHECKING:
    from residscope.model.families import Family

families = typer.Typer(
    help="How models are described: by a data file, or by looking.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="print JSON instead")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="run the code that a folder or repository brings")]
_PARTS = ("embed", "embed_norm", "pos_embed", "blocks", "final_norm", "unembed", "attention", "positions")


@families.command("list")
def list_families(json: Json = False) -> None:
    """The data files, plugins' too, and the sites that each lacks. Any other decoder is looked at when it is loaded."""
    from residscope.model.families import families

    listed = dict(sorted(families().items()))
    if json:
        print_json([{"model_type": kind, "file": f.name, "lacks": dict(f.absent)} for kind, f in listed.items()])
        return
    width = max(map(len, listed))
    for kind, family in listed.items():
        typer.echo(f"{kind:<{width}}  lacks {', '.join(family.absent) or 'nothing'}")
    typer.echo("\nany other decoder is looked at: residscope families try TYPE")


@families.command()
def show(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a catalog name, a folder, a hub repository, or a model type")
    ],
    save: Annotated[
        str | None, typer.Option(metavar="FILE.py", help="write it as a family file, which a plugin can name")
    ] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """The description that serves a model: where its parts are, and which sites it lacks, with the reasons."""
    from residscope.engine.look.kept import written

    family, config = _described(model, trust)
    if save is not None:
        _save(family, config, save)
    if json:
        print_json(written(family))
    elif save is None:
        typer.echo(told(family))


@families.command("try")
def try_family(
    model: Annotated[str, typer.Argument(metavar="TYPE", help="a model type, a folder, or a hub repository")],
    every: Annotated[
        bool, typer.Option("--variants", help="of a type: also with each of its switches the other way")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the random weights")] = 0,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """What looking finds of a tiny random copy, made from the configuration alone: no weights are fetched.

    Exit code 1 where it is refused.
    """
    from residscope.engine.tried import tried
    from residscope.model import tiny

    if model in tiny.causal_types():
        configs = tiny.variants(model)
        configs = configs if every else {"default": configs["default"]}
        note = tiny.not_decoders().get(model)
    else:
        configs, note = {"as configured": tiny.shrink(_config(model, trust))}, None
    answers = []
    for name, config in configs.items():
        answers.append(tried(config, name, seed=seed, trust=trust))
        if not json:
            typer.echo(f"{answers[-1]}\n")
    if json:
        print_json([answer.to_dict() for answer in answers])
    elif note:
        typer.echo(f"{model} is no decoder of text: {note}")
    raise typer.Exit(any(answer.refused is not None for answer in answers))


def told(family: "Family") -> str:
    """A description in lines: the parts, the usual block, the layers that differ, the constants, what is absent."""
    source = "found by looking" if family.found else "from its data file"
    lines = [f"{family.name}: {source}"]
    lines += [f"  {part:<12}{value}" for part in _PARTS if (value := getattr(family, part)) is not None]
    lines += [f"  {'norm':<12}{family.norm}, eps {family.norm_eps}, gain w + {family.norm_gain_offset:g}"]
    lines += [
        f"  {role:<12}{kind}, eps {eps}, gain w + {offset:g}" for role, (kind, eps, offset) in family.norms.items()
    ]
    lines += [f"  {'factors':<12}{', '.join(f'{name} {value}' for name, value in family.factors.items()) or 'none'}"]
    lines += ["each block", *_block(family.block)]
    for layer, block in family.others.items():
        lines += [f"block {layer} instead", *_block(block)]
    lines += ["absent", *(f"  {name:<16}{why}" for name, why in family.absent.items())]
    if family.whole:
        lines.append("later positions run together with those before them")
    return "\n".join(lines)


def _block(block: Any) -> list[str]:
    return [f"  {name:<16}{value}" for name, value in vars(block).items() if value not in (None, False)]


def _described(model: str, trust: bool) -> tuple["Family", Any]:
    """The family of a type's data file or of its tiny copy, or of a model that is loaded; and a configuration of it."""
    from residscope.engine.loading import load
    from residscope.engine.tried import found
    from residscope.model import tiny
    from residscope.model.families import families

    if model in families() and not Path(model).is_dir():
        return families()[model], None
    if model in tiny.causal_types() and not Path(model).is_dir():
        hf = tiny.build(tiny.variants(model)["default"])
        return found(hf, model)[0].family, hf.config
    with bar() as progress:
        loaded = load(model, trust_remote_code=trust, progress=progress)
    return loaded.family, loaded.hf.config


def _save(family: "Family", config: Any, save: str) -> None:
    from residscope.drafts import replace_whole
    from residscope.engine.look.pinned import pinned
    from residscope.errors import ResidscopeError

    if not family.found:
        raise ResidscopeError(
            "this family is a file already", received=family.name, allowed="a description that was found by looking"
        )
    if not save.endswith(".py"):
        raise ResidscopeError("a family file is Python", received=save, allowed="FILE.py")
    replace_whole(Path(save), lambda draft: draft.write_text(pinned(family, config)))
    typer.echo(f"wrote {save}: name it in an entry point of the group residscope.families")


def _config(model: str, trust: bool) -> Any:
    """The configuration in a folder, or of a hub repository: nothing else is fetched."""
    from transformers import AutoConfig

    from residscope.errors import ModelNotFound
    from residscope.model.catalog import CATALOG
    from residscope.model.weights import hub_repository, resolve

    name = hub_repository(model) or model
    if name in CATALOG:
        name = str(resolve(name).path)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            "no configuration of that name", received=f"{model}: {' '.join(str(error).split())[:200]}",
            allowed="a model type of transformers, a folder with a config.json, or a hub repository (owner/name)",
        ) from error  # fmt: skip
