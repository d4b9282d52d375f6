"""Where the nodes of a layered graph are drawn: in rows by level, each on a place of its own, edges crossing little."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDE = 24  # places in a row
SWEEPS = 12
Edge = tuple[int, int, float]


@dataclass(frozen=True)
class Layout:
    """x and y of each node, in places from the left and rows from the bottom; nodes of one row are at least one place apart.

    rows: the level that each row is of, from the bottom. places: the column that each place is of, from the left; none where
    the nodes have no columns.
    """

    x: tuple[float, ...]
    y: tuple[int, ...]
    rows: tuple[int, ...]
    places: tuple[int, ...]


def layered(
    levels: Sequence[int], edges: Sequence[Edge], columns: Sequence[int] | None = None, *, wide: int = WIDE
) -> Layout:
    """A layout of nodes by their levels, and by their columns where they have some. It is deterministic.

    Within a level (or a cell of a level and a column) nodes are ordered by the weighted mean place of their neighbours, in a
    fixed number of sweeps up and down (the barycentre heuristic: Sugiyama, Tagawa, Toda, 1981). A level with more nodes than
    `wide` takes several rows. Edges: (source, target, weight).

    >>> layered([0, 0, 1, 1], [(0, 3, 1.0), (1, 2, 1.0)]).x
    (0.0, 1.0, 1.0, 0.0)
    """
    cells = _cells(levels, columns)
    neighbours = _neighbours(len(levels), edges)
    where = _ordered(cells, levels, columns, neighbours)
    if columns is None:
        return _free(cells, levels, neighbours, where, wide)
    return _in_columns(cells, levels, columns, wide)


def _cells(levels: Sequence[int], columns: Sequence[int] | None) -> dict[tuple[int, int], list[int]]:
    """The nodes of each level and column, levels from the bottom."""
    cells: dict[tuple[int, int], list[int]] = {}
    for node, level in enumerate(levels):
        cells.setdefault((level, 0 if columns is None else columns[node]), []).append(node)
    return dict(sorted(cells.items()))


def _neighbours(n: int, edges: Sequence[Edge]) -> list[list[tuple[int, float]]]:
    found: list[list[tuple[int, float]]] = [[] for _ in range(n)]
    for source, target, weight in edges:
        if source != target:
            found[source].append((target, abs(weight)))
            found[target].append((source, abs(weight)))
    return found


def _ordered(
    cells: dict[tuple[int, int], list[int]],
    levels: Sequence[int],
    columns: Sequence[int] | None,
    neighbours: Sequence[Sequence[tuple[int, float]]],
) -> list[float]:
    """Each cell put into its order; answers how far along its level (its column and its share of the cell) each node is."""
    where = [0.0] * len(levels)

    def spread(cell: list[int]) -> None:
        for i, node in enumerate(cell):
            where[node] = (0 if columns is None else columns[node]) + (i + 0.5) / len(cell)

    for cell in cells.values():
        spread(cell)
    for sweep in range(SWEEPS):
        up = sweep % 2 == 0
        for (level, _), cell in sorted(cells.items(), reverse=not up):
            near = {
                node: [(where[m], w) for m, w in neighbours[node] if (levels[m] < level if up else levels[m] > level)]
                for node in cell
            }
            cell.sort(key=lambda node: (_mean(near[node], where[node]), where[node], node))
            spread(cell)
    return where


def _mean(near: Sequence[tuple[float, float]], own: float) -> float:
    """The weighted mean of where the neighbours are; where the node is itself, if it has none."""
    total = sum(weight for _, weight in near)
    return sum(x * weight for x, weight in near) / total if total > 0 else own


def _free(
    cells: dict[tuple[int, int], list[int]],
    levels: Sequence[int],
    neighbours: Sequence[Sequence[tuple[int, float]]],
    where: Sequence[float],
    wide: int,
) -> Layout:
    """Without columns: each node near its neighbours, as far as the order and the room between nodes allow."""
    stacked = {level: -(-len(cell) // wide) for (level, _), cell in cells.items()}
    width = max((len(cell) / stacked[level] for (level, _), cell in cells.items()), default=1.0)
    x = [at * width for at in where]
    for sweep in range(SWEEPS):
        for (level, _), cell in sorted(cells.items(), reverse=sweep % 2 == 1):
            wanted = [_mean([(x[m], w) for m, w in neighbours[node] if levels[m] != level], x[node]) for node in cell]
            for node, place in zip(cell, apart(wanted, 1 / stacked[level]), strict=True):
                x[node] = place
    left = min(x, default=0.0)
    y, rows = _stacked(cells, stacked)
    return Layout(tuple(round(at - left, 6) for at in x), tuple(y[node] for node in range(len(x))), rows, ())


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """The places nearest to those wanted, by squares, that keep the order and are at least `gap` apart.

    Isotonic regression of wanted[i] - i gap, by pooling adjacent violators.

    >>> apart([0.0, 0.0, 5.0], 1.0)
    [-0.5, 0.5, 5.0]
    """
    blocks: list[tuple[float, int]] = []  # mean, how many
    for i, place in enumerate(wanted):
        mean, n = place - i * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, m = blocks.pop()
            mean, n = (before * m + mean * n) / (m + n), m + n
        blocks.append((mean, n))
    level = [mean for mean, n in blocks for _ in range(n)]
    return [at + i * gap for i, at in enumerate(level)]


def _in_columns(
    cells: dict[tuple[int, int], list[int]], levels: Sequence[int], columns: Sequence[int], wide: int
) -> Layout:
    """By columns: each as many places wide as its fullest row needs, all together about twice `wide`; nodes in the middle."""
    used = sorted({*columns})
    share = max(1, 2 * wide // max(1, len(used)))
    stacked: dict[int, int] = {}
    for (level, _), cell in cells.items():
        stacked[level] = max(stacked.get(level, 1), -(-len(cell) // share))
    widths = dict.fromkeys(used, 1)
    for (level, column), cell in cells.items():
        widths[column] = max(widths[column], -(-len(cell) // stacked[level]))
    starts = {column: sum(widths[c] for c in used if c < column) for column in used}
    x = [0.0] * len(levels)
    for (level, column), cell in cells.items():
        rows = stacked[level]
        for i, node in enumerate(cell):
            beside = -(-(len(cell) - i % rows) // rows)  # nodes in its row of the cell
            x[node] = starts[column] + (widths[column] - beside) / 2 + i // rows
    y, rows_of = _stacked(cells, stacked)
    places = tuple(column for column in used for _ in range(widths[column]))
    return Layout(tuple(x), tuple(y[node] for node in range(len(x))), rows_of, places)


def _stacked(
    cells: dict[tuple[int, int], list[int]], stacked: dict[int, int]
) -> tuple[dict[int, int], tuple[int, ...]]:
    """The row of each node, neighbours in the order in rows above each other; and the level of each row."""
    rows = tuple(level for level in sorted(stacked) for _ in range(stacked[level]))
    first = {level: rows.index(level) for level in stacked}
    y = {node: first[level] + i % stacked[level] for (level, _), cell in cells.items() for i, node in enumerate(cell)}
    return y, rows
