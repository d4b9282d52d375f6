"""The shapes of what the Graph tab is told."""

from typing import Annotated, TypedDict

from residscope.views.view import PlainView
from residscope.world.read import PoleToken

MOST_DRAWN = 300
MOST_SET = 2_000


class GraphNode(TypedDict):
    """A node as it is drawn: a feature, what a dictionary leaves out, several taken as one, or a next token."""

    id: Annotated[str, "Its own, or what the picture calls a group or a token."]
    label: str
    named: Annotated[bool, "A person gave it that label."]
    group: Annotated[str, "The name of the group that it is; empty: it is one node."]
    members: Annotated[list[str], "The ids of the graph's nodes that it stands for; none of a token."]
    dictionary: Annotated[str, "The graph's name for it; empty of a group over several, and of a token."]
    index: Annotated[int | None, "Which feature; -1: what the dictionary leaves out."]
    pos: int | None
    activation: float | None
    effect: Annotated[float | None, "What it adds to the log-probability of the graph's first token, in nats."]


class GraphEdge(TypedDict):
    """exact: of an estimate that was measured too."""

    source: Annotated[int, "The number of a node in `nodes`."]
    target: int
    weight: float
    exact: float | None


class GraphDictionary(TypedDict):
    """A dictionary of a graph. here: the id that the session has it by; null of the model's own heads and neurons."""

    id: str
    read_site: str
    write_site: str
    features: int
    active: int
    unexplained: float | None
    here: str | None
    missing: Annotated[str | None, "Why it is not at hand, and what to do."]


class GraphGroup(TypedDict):
    name: str
    nodes: list[str]


class GraphShown(TypedDict):
    """A graph of the shelf, pruned as asked, laid out: `nodes` and `edges` are in the order of the picture's."""

    item: str
    prompt: list[str]
    ids: Annotated[list[int] | None, "The prompt's tokens, where they are known."]
    positions: Annotated[list[int] | None, "Where features are taken out: all but the first token and attention sinks."]
    view: PlainView
    nodes: list[GraphNode]
    edges: list[GraphEdge]
    dictionaries: list[GraphDictionary]
    tokens: Annotated[list[str], "The next tokens on which effects were measured."]
    base: Annotated[list[float | None], "Their log-probabilities in the whole run."]
    how: Annotated[str, "How its edges were found, in words."]
    estimated: bool
    scale: Annotated[float, "What a feature is multiplied by where it is taken out."]
    of_nodes: Annotated[int, "How many nodes the whole graph has."]
    of_edges: int
    left: Annotated[list[int], "Nodes and edges that the thresholds leave, before the picture's own limit."]
    range: Annotated[list[float], "The least and the largest |weight| of its edges."]
    effects: Annotated[bool, "Whether effects on the next token were measured: then nodes have an influence."]
    groups: list[GraphGroup]
    partial: str
    can_undo: Annotated[bool, "A name or a group was given that can be taken back."]
    code: str


class Neighbour(TypedDict):
    id: str
    label: str
    weight: float


class NodePage(TypedDict):
    """What its dictionary, and an atlas of it, say of a feature."""

    address: Annotated[str | None, "Of its page, where an atlas of its dictionary is on the shelf."]
    atlas: str | None
    examples: Annotated[PlainView | None, "Its highest in that atlas."]
    raised: Annotated[list[PoleToken], "Tokens that what it writes is most alike, by cosine."]
    lowered: list[PoleToken]


class GraphNodeDetail(NodePage):
    """One node: where it is active, what it writes, what it is joined with."""

    item: str
    id: str
    label: str
    own: Annotated[str, "What its dictionary calls it."]
    place: str
    index: int
    pos: int | None
    activation: float
    group: str
    effects: Annotated[list[PoleToken], "What it adds to the log-probability of each of the graph's tokens, in nats."]
    sources: Annotated[list[Neighbour], "What raises it, and lowers it: the strongest edges into it."]
    targets: list[Neighbour]
    missing: Annotated[str | None, "Why no more can be said of it here."]


class GraphFound(TypedDict):
    """Nodes of a graph by what is written in their id, their label or their token, in the order of the graph."""

    item: str
    total: Annotated[int, "How many there are."]
    nodes: list[GraphNode]


class MovedToken(TypedDict):
    """A next token: how likely it is, and how likely without."""

    id: int
    text: str
    base: float
    without: float


class GraphEdgeRun(TypedDict):
    """What taking the source out did, just now: to the target, and to the next token."""

    item: str
    source: str
    target: str
    weight: Annotated[float, "As the graph has it; of several, their sum."]
    measured: Annotated[
        float | None, "The target's activation less what it is without; null of a token, whose change is below."
    ]
    base: Annotated[float | None, "The target's activation in the whole run."]
    without: float | None
    tokens: Annotated[list[MovedToken], "The likeliest of either run, the likeliest first."]
    kl: Annotated[float, "KL of the next token's distribution from the one without, in nats."]


class GraphLeft(TypedDict):
    left: Annotated[bool, "Whether something was under way for the one who left."]


class ProposedGroup(TypedDict):
    name: str
    nodes: list[str]
    likeness: float


class GraphProposals(TypedDict):
    item: str
    rule: str
    groups: list[ProposedGroup]
    missing: Annotated[list[str], "Dictionaries that are not at hand, of whose features nothing is proposed."]
