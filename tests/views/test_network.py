"""Layered graphs as pictures: what they refuse, what a figure of one says, links and hover of its SVG."""

import math
import re
from xml.etree import ElementTree

import pytest

from residscope.errors import BadView
from residscope.views import Network, NetworkEdge, NetworkNode

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


def two(**given):
    nodes = [NetworkNode("a", "8.12", 0, 0, **given), NetworkNode("b", "9.7", 0, 1)]
    return Network(nodes, [NetworkEdge(0, 1, 2.0, "8.12 → 9.7: +2")], ["resid_post.8", "resid_post.9"], [], unit="act")


def parsed(view, tmp_path):
    view.save(tmp_path / "some.svg")
    return ElementTree.fromstring((tmp_path / "some.svg").read_text())


def words(svg):
    return ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NetworkNode("a", "a", math.nan, 0), "x is no place"),
        (lambda: NetworkNode("a", "a", 0, 0, value=math.inf), "value is no number"),
        (lambda: NetworkNode("a", "a", 0, 0, link="javascript:alert(1)"), "not followed"),
        (lambda: NetworkNode("a", "a", 0, 0, link="#a b"), "not followed"),
        (lambda: NetworkEdge(0, 1, math.nan), "value is no number"),
        (lambda: Network([NetworkNode("a", "a", 0, 0)], [NetworkEdge(0, 1, 1.0)], [], []), "leads to no node"),
        (lambda: Network([NetworkNode("a", "a", 0, 0)] * 2, [], [], []), "two of its nodes have one id"),
        (lambda: Network(["a"], [], [], []), "node of another kind"),
        (lambda: Network([], [], [], [], limit=0.0), "no length of a scale"),
    ],
)
def test_what_it_refuses(make, message):
    with pytest.raises(BadView, match=message):
        make()


def test_the_svg_keeps_links_and_says_what_is_told_of_a_node(tmp_path):
    link = "https://www.neuronpedia.org/gpt2-small/8-res-jb/12?a=1&b=2"
    svg = parsed(two(link=link, text="twelve <of> 8 & more"), tmp_path)
    assert {a.get(HREF) for a in svg.iter(f"{SVG}a")} == {link}
    titles = [title.text for title in svg.iter(f"{SVG}title")]
    assert "twelve <of> 8 & more" in titles
    assert "8.12 → 9.7: +2" in titles
    inside = next(a for a in svg.iter(f"{SVG}a"))
    assert list(inside.iter(f"{SVG}path"))


def test_a_view_without_links_has_none(tmp_path):
    assert not list(parsed(two(), tmp_path).iter(f"{SVG}a"))


def test_levels_columns_units_and_signs_are_said_in_words(tmp_path):
    view = Network(
        [NetworkNode("a", "x", 0, 0, 0.5), NetworkNode("b", "y", 1, 0), NetworkNode("c", "z", 2, 1, error=True)],
        [NetworkEdge(0, 2, -1.0)], ["sae@resid_post.8", "sae@resid_post.9"], ["The", "", " cat"], node_unit="nats",
    )  # fmt: skip
    said = words(parsed(view, tmp_path))
    assert {"sae@resid_post.8", "sae@resid_post.9", "The", "·cat", "x", "y", "z", "nats"} <= {*said}
    legend = " ".join(said)
    assert "Red: the source raises the target (taking it out lowers it)" in legend
    assert "Dashed: what a dictionary leaves out." in legend
    assert "Dashed" not in " ".join(words(parsed(two(), tmp_path)))


def test_the_signs_have_the_pages_colours(tmp_path):
    def most_saturated(value):
        view = Network(
            [NetworkNode("a", "", 0, 0), NetworkNode("b", "", 0, 1)], [NetworkEdge(0, 1, value)], ["", "b"], []
        )
        view.save(tmp_path / "some.svg")
        return re.findall(r"opacity: 0.9; stroke: (#[0-9a-f]{6})", (tmp_path / "some.svg").read_text())

    assert most_saturated(2.0) == ["#b2182b"]
    assert most_saturated(-2.0) == ["#2166ac"]


def test_the_stronger_is_the_wider(tmp_path):
    nodes = [NetworkNode(str(i), "", i, i // 3) for i in range(6)]
    view = Network(nodes, [NetworkEdge(i, 3 + i, w) for i, w in enumerate([0.25, 0.5, 1.0])], ["a", "b"], [])
    view.save(tmp_path / "some.svg")
    found = re.findall(r"opacity: ([\d.]+); stroke: #\w+; stroke-width: ([\d.]+)", (tmp_path / "some.svg").read_text())
    opacity, width = zip(*((float(a), float(b)) for a, b in found), strict=True)
    assert sorted(opacity) == list(opacity)
    assert sorted(width) == list(width)
    assert len({*width}) == 3


def test_long_labels_are_cut_by_their_measure(tmp_path):
    nodes = [NetworkNode("a", "W" * 60, 0, 0), NetworkNode("b", "i" * 60, 1, 0), NetworkNode("c", "short", 2, 0)]
    said = words(parsed(Network(nodes, [], ["level"], []), tmp_path))
    wide, narrow = (next(word for word in said if word.startswith(letter)) for letter in ("W", "i"))
    assert wide.endswith("…")
    assert len(wide) <= len(narrow)
    assert "short" in said


def test_three_hundred_nodes_are_drawn_each_with_its_label(tmp_path):
    nodes = [NetworkNode(str(i), f"{i // 20}.{i}", i % 20, i // 20, math.sin(i)) for i in range(300)]
    edges = [NetworkEdge(i, i + 20, math.cos(i)) for i in range(280)]
    view = Network(nodes, edges, [f"level {i}" for i in range(15)], [])
    svg = parsed(view, tmp_path)
    assert {node.label for node in nodes} <= {*words(svg)}
    boxes = [title.text for title in svg.iter(f"{SVG}title")]
    assert len(boxes) == 2 * len(nodes)
