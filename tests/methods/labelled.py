"""Random prompts with a label at P, answers, partners and the positions of IOI, for tiny models."""

import torch

import residscope as rs


def labelled(n=48, length=9, seed=4, ragged=True):
    drawn = torch.Generator().manual_seed(seed)
    rows = tuple(
        tuple(torch.randint(2, 97, (length + (i % 3 if ragged else 0),), generator=drawn).tolist()) for i in range(n)
    )
    at = tuple(4 + (i % 2 if ragged else 0) for i in range(n))
    partner = tuple((*row[:p], (row[p] + 7) % 90 + 2, *row[p + 1 :]) for row, p in zip(rows, at, strict=True))
    positions = {"P": at, "IO": (1,) * n, "S1": (2,) * n, "S2": at, "END": tuple(len(row) - 1 for row in rows)}
    labels = {"parity": tuple(row[p] % 2 for row, p in zip(rows, at, strict=True))}
    answers = tuple((10 + i % 40, 60 + i % 30) for i in range(n))
    return rs.PromptSet(rows, corrupted=partner, answers=answers, labels=labels, positions=positions)


def named(n=12, **how):
    """The same with the token at S2 that of S1, and the right answer that of IO."""
    data = labelled(n, **how)
    rows = tuple((*row[:p], row[2], *row[p + 1 :]) for row, p in zip(data.prompts, data.at("P"), strict=True))
    partner = tuple((*row[:p], row[1], *row[p + 1 :]) for row, p in zip(rows, data.at("P"), strict=True))
    answers = tuple((row[1], row[2]) for row in rows)
    return rs.PromptSet(rows, corrupted=partner, answers=answers, labels=data.labels, positions=data.positions)
