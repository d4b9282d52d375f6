"""`residscope directions fit`. Nothing heavy is imported before the command runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residscope.cli_parts import Device, Dtype, bar, readable, token_of, torch_dtype
from residscope.endings import check_ending
from residscope.errors import BadFit, FileNotThere
from residscope.model.catalog import DEFAULT, Progress

if TYPE_CHECKING:
    from residscope.directions import Dictionary

SHOWN, POLES = 8, 6


class Method(StrEnum):
    pca = "pca"
    svd = "svd"
    nmf = "nmf"
    mean_difference = "mean_difference"
    unembedding = "unembedding"


DEFAULT_N = {Method.pca: 30, Method.svd: 30, Method.nmf: 10}
OWN = {
    "n": tuple(DEFAULT_N),
    "second": (Method.mean_difference,),
    "standardise": (Method.pca,),
    "clip": (Method.nmf,),
    "words": (Method.unembedding,),
}
"""Options that some methods alone take."""


def fit(
    method: Annotated[Method, typer.Argument(metavar="METHOD", help=", ".join(Method), show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="the .safetensors file to write")],
    site: Annotated[str | None, typer.Option(help="resid_pre.6, result.9, mlp_post.3 ...")] = None,
    head: Annotated[int | None, typer.Option(min=0, help="whose, at a site with heads")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="how many directions (pca, svd: 30; nmf: 10)")] = None,
    text: Annotated[
        str | None, typer.Option(help="python-docs (the default), a .txt or .jsonl file, hub:org/name@revision#field")
    ] = None,
    second: Annotated[str | None, typer.Option(help="mean_difference: the text whose mean is taken off")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="how many tokens of each text to read")] = 20_000,
    standardise: Annotated[bool, typer.Option("--standardise", help="pca: divide each axis by its deviation")] = False,
    clip: Annotated[bool, typer.Option("--clip", help="nmf: set what is below zero to zero")] = False,
    words: Annotated[str | None, typer.Option(help='unembedding: tokens with their spaces, " Mary, John"')] = None,
    model: Annotated[str, typer.Option(help="a catalog name, a folder, or a hub repository")] = DEFAULT,
    dtype: Dtype = "float32",
    device: Device = "cpu",
) -> None:
    """Find directions at a site over a text, and write them to a file."""
    given = {"n": n, "second": second, "standardise": standardise, "clip": clip, "words": words}
    check_options(method, given, site=site, text=text)
    check_ending(out, "dictionaries")
    if not out.expanduser().parent.is_dir():
        raise FileNotThere("there is no such folder", received=str(out.parent), fix="make it first")
    import residscope as rs
    from residscope import directions
    from residscope.session.loaded import Loaded

    with bar() as progress:
        loaded = rs.load(model, dtype=torch_dtype(dtype), device=device, progress=progress)
        found = fitted(loaded, method, given, site=site, head=head, text=text, tokens=tokens, progress=progress)
    directions.save(out, [found], loaded)
    typer.echo(f"{found.name} at {found.place}, {len(found)} directions of width {found.read.shape[1]}")
    for key, value in found.provenance.items():
        if key not in ("model", "ids"):
            typer.echo(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    table(found, Loaded.of(loaded))
    typer.echo(f"{out}: {out.expanduser().stat().st_size:,} bytes, {directions.new_id(found)}")


def check_options(method: Method, given: dict[str, Any], *, site: str | None, text: str | None) -> None:
    """Refuse options that the method does not take, and the lack of one that it needs."""
    for option, methods in OWN.items():
        if given[option] not in (None, False, []) and method not in methods:
            raise BadFit(f"{method} takes no --{option}", received=f"--{option}", allowed=f"with {', '.join(methods)}")
    needs = {Method.mean_difference: "second", Method.unembedding: "words"}.get(method)
    if needs and not given[needs]:
        raise BadFit(f"{method} needs --{needs}", received=f"no --{needs}", fix="see residscope directions fit --help")
    if method is Method.unembedding:
        if text is not None:
            raise BadFit("unembedding reads no text", received=f"--text {text}", allowed="--words")
    elif site is None:
        raise BadFit("say where", received="no --site", allowed="--site resid_pre.6, --site result.9 --head 3 ...")


def fitted(
    model: Any,
    method: Method,
    given: dict[str, Any],
    *,
    site: str | None,
    head: int | None,
    text: str | None,
    tokens: int,
    progress: Progress | None,
) -> "Dictionary":
    """What the options ask for."""
    import residscope as rs

    if method is Method.unembedding:
        if head is not None:
            raise BadFit("unembedding is of no head", received=f"--head {head}", allowed="no --head")
        words = [word for word in given["words"].split(",") if word] or [given["words"]]
        return rs.unembedding_rows(model, [token_of(model, word) for word in words], site=site)
    text = text or "python-docs"
    common: dict[str, Any] = {"head": head, "tokens": tokens, "progress": progress}
    assert site is not None
    if method is Method.mean_difference:
        return rs.mean_difference(model, named(text, given["second"]), site, **common)
    n = given["n"] or DEFAULT_N[method]
    if method is Method.pca:
        return rs.pca(model, text, site, n, standardise=given["standardise"], **common)
    if method is Method.svd:
        return rs.svd(model, text, site, n, **common)
    return rs.nmf(model, text, site, n, clip=given["clip"], **common)


def named(text: str, second: str) -> dict[str, str]:
    """Two texts by what tells them apart: the file's name where that is enough."""
    if text == second:
        raise BadFit("a text does not differ from itself", received=text, allowed="two texts")
    short = [Path(part).stem if Path(part).suffix in (".txt", ".jsonl") else part for part in (text, second)]
    return dict(zip(short if short[0] != short[1] else (text, second), (text, second), strict=True))


def table(found: "Dictionary", loaded: Any) -> None:
    """The first directions: variance share, standard deviation, and what each writes to."""
    tops = poles(found, loaded)
    lines = []
    for index in range(min(SHOWN, len(found))):
        share = "" if found.variance is None else f"{float(found.variance[index]):.1%}"
        deviation = "" if found.sd is None else f"{float(found.sd[index]):.3g}"
        lines.append((readable(found.label(index)), share, deviation, tops[index]))
    width = max(len("direction"), *(len(line[0]) for line in lines))
    typer.echo(
        f"{'direction':<{width}} {'share':>6} {'sd':>8}  " + ("top tokens" if loaded_wide(found, loaded) else "axes")
    )
    for label, share, deviation, top in lines:
        typer.echo(f"{label:<{width}} {share:>6} {deviation:>8}  {top}")
    if len(found) > SHOWN:
        rest = "" if found.variance is None else f", {float(found.variance[SHOWN:].sum()):.1%}"
        typer.echo(f"... and {len(found) - SHOWN} more{rest}")


def loaded_wide(found: "Dictionary", loaded: Any) -> bool:
    return bool(found.read.shape[1] == loaded.model.d_model)


def poles(found: "Dictionary", loaded: Any) -> list[str]:
    """The common tokens whose logits each direction raises most; where it is not of the stream, its largest axes."""
    write = found.write[:SHOWN].float()
    if not loaded_wide(found, loaded):
        top = write.abs().topk(min(POLES, write.shape[1])).indices
        return [" ".join(f"{i}:{write[row, i]:+.2f}" for i in ids) for row, ids in enumerate(top.tolist())]
    texts, rows = loaded.common
    if not texts:
        return [""] * len(write)
    top = (write.to(rows) @ rows.T).topk(min(POLES, len(texts))).indices
    return [" ".join(repr(texts[i]) for i in ids) for ids in top.tolist()]
