"""Every signature is checked while tests run: of shapes by jaxtyping, of all others by beartype alone."""

import ast
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from residscope.engine.recording import Recording
from residscope.model.sites import SiteTable
from shape_checker import checked, jaxtyped, names_shapes


def test_the_library_is_watched(llama):
    with pytest.raises(TypeError):
        llama.sites.parse(3)
    with pytest.raises(TypeCheckError):
        llama.lens(torch.zeros(4, dtype=torch.int64))
    assert SiteTable.parse.__module__ == "residscope.model.sites"
    assert Recording.logits_at.__name__ == "logits_at"


def test_a_shape_is_one_whether_alone_or_within():
    assert names_shapes(Float[Tensor, "batch pos"])
    assert names_shapes(dict[str, Float[Tensor, "d_model"] | None])
    assert names_shapes("Float[Tensor, 'pos']")
    assert not any(map(names_shapes, (int, str | None, dict[str, Tensor], "Model", ast.AST)))


def test_what_is_wrong_is_refused_with_a_shape_and_without():
    watch = jaxtyped(typechecker=checked)

    def sums(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return x + y

    def times(x: int) -> int:
        return 2 * x

    times.__qualname__ = "times"
    watched = watch(sums), watch(times)
    assert watched[0](torch.ones(2), torch.ones(2)).tolist() == [2, 2]
    assert watched[1](2) == 4
    with pytest.raises(TypeCheckError):
        watched[0](torch.ones(2), torch.ones(1))
    with pytest.raises(TypeError, match="violates"):
        watched[1]("a")


def test_the_parts_of_a_dataclass_are_checked():
    @dataclass
    class Shaped:
        x: Float[Tensor, "n"]
        y: Float[Tensor, "n"]

    @dataclass
    class Plain:
        n: int

    watch = jaxtyped(typechecker=checked)
    with pytest.raises(TypeCheckError):
        watch(Shaped)(torch.ones(2), torch.ones(1))
    with pytest.raises(TypeError, match="violates"):
        watch(Plain)("a")


class Known:
    """Named before it is there, below."""


def takes(x: "Known", several: list["Known"]) -> "Known":
    return x


def takes_unknown(x: "Nowhere") -> int:  # noqa: F821 - as one that only type checkers import
    return 1


def test_a_class_that_is_named_is_checked_where_it_is_there():
    watch = jaxtyped(typechecker=checked)
    watched, free = watch(takes), watch(takes_unknown)
    one = Known()
    assert watched(one, [one]) is one
    for wrong in ((3, [one]), (one, [3])):
        with pytest.raises(TypeError, match="violates"):
            watched(*wrong)
    assert free(3) == 1
