"""Scree plots: how much of the whole each direction of a dictionary carries."""

from itertools import accumulate
from typing import TYPE_CHECKING

from torch.nn.functional import cosine_similarity

from residscope.errors import DirectionError
from residscope.views import Curve, Grid, Line, Table

if TYPE_CHECKING:
    from residscope.directions.dictionary import Dictionary

SHARES = {
    "pca": "share of the variance",
    "svd": "share of the sum of squares",
    "nmf": "share of the sum of squares, by itself",
    "mean_difference": "share of the variance that is between the texts",
}
ADD_UP = ("pca", "svd")
MOST = 500
FEW = 12  # so many are labels on the axis; of numbers it would show halves


def scree(dictionary: "Dictionary") -> Curve:
    """The variance share of each direction and, where shares add up, their sum so far; the note says the standard deviations.

    Raises:
        DirectionError: directions without shares, such as the rows of an unembedding.
    """
    if dictionary.variance is None:
        raise DirectionError(
            f"{dictionary.name} at {dictionary.place} has no variance shares",
            received=repr(dictionary),
            allowed="dictionaries fitted to a text: " + ", ".join(SHARES),
        )
    shares = dictionary.variance.tolist()
    lines = [Line("share", shares)]
    if dictionary.name in ADD_UP:
        lines.append(Line("sum so far", list(accumulate(shares))))
    title = f"{dictionary.name} of {dictionary.place}"
    if dictionary.provenance.get("standardised"):
        title += ", standardised"
    note = ""
    if dictionary.sd is not None:
        first, last = dictionary.sd[0].item(), dictionary.sd[-1].item()
        note = f"standard deviation: {first:.3g} along {dictionary.label(0)}"
        note += f", {last:.3g} along {dictionary.label(len(dictionary) - 1)}" if len(dictionary) > 1 else ""
    return Curve(
        x=_at(dictionary),
        lines=lines,
        title=title,
        x_title="direction",
        y_title=SHARES.get(dictionary.name, "share"),
        note=note,
    )


def listed(dictionary: "Dictionary") -> Table:
    """Each direction with the lengths of its two vectors and the cosine between them; the first of very many."""
    read, write = dictionary.read.double(), dictionary.write.double()
    if read.shape[1] != write.shape[1]:
        cosine = read.new_full((len(read),), float("nan"))  # of two widths, as a transcoder's may be
    else:
        cosine = cosine_similarity(read, write, dim=1)
    shown = range(min(len(dictionary), MOST))
    rows = [
        [dictionary.label(i), float(x), float(y), float(z)]
        for i, x, y, z in zip(shown, read.norm(dim=1), write.norm(dim=1), cosine, strict=False)
    ]
    columns = ["direction", "|read|", "|write|", "cosine of the two"]
    note = "" if len(rows) == len(dictionary) else f"The first {len(rows):,} of {len(dictionary):,}."
    return Table(columns, rows, title=f"{dictionary.name} of {dictionary.place}", note=note)


def shown(dictionary: "Dictionary") -> Curve | Grid:
    """What a notebook shows: the scree plot, and the standard deviation along each direction beside it."""
    if dictionary.variance is None or dictionary.sd is None:
        return scree(dictionary)
    spread = Curve(
        x=_at(dictionary),
        lines=[Line("sd", dictionary.sd.tolist())],
        title="along each direction",
        x_title="direction",
        y_title="standard deviation",
    )
    return Grid([scree(dictionary), spread])


def _at(dictionary: "Dictionary") -> list[str] | list[int]:
    if dictionary.names:
        return list(dictionary.names)
    return list(range(len(dictionary))) if len(dictionary) > FEW else list(map(str, range(len(dictionary))))
