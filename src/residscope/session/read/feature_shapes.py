"""The shapes of what the Features tab is told."""

from typing import Annotated, Literal, TypedDict

from residscope.views.view import PlainView
from residscope.world.read import PoleToken

MOST_ROWS, MOST_ATLASES, MOST_ACTIVE = 200, 12, 50
Order = Literal["highest", "density", "index"]


class AtlasInfo(TypedDict):
    """An atlas of the shelf, by the name that it has there."""

    name: str
    of: Annotated[str, "What its features are called: the dictionary's name, neuron or dimension."]
    place: str
    count: int
    tokens: int
    corpus: str
    dead: Annotated[float, "The share that was never above zero."]
    hash: Annotated[str, "Of its dictionary; empty for a site's own dimensions."]
    dictionary: Annotated[str | None, "The id that its dictionary has here."]
    address: Annotated[str, "What the addresses of its features begin with: all but the number."]
    missing: Annotated[str | None, "Why no page can be made of it here, and what to do."]


class Atlases(TypedDict):
    atlases: list[AtlasInfo]


class FeatureRow(TypedDict):
    """One feature of a list. value: what a search went by. token: the text at its highest token."""

    index: int
    label: str
    address: str
    highest: float | None
    density: float
    token: str | None
    value: float | None
    name: Annotated[str | None, "What it is called here: as a saved direction, or by a service whose name held."]


class FeatureList(AtlasInfo):
    total: Annotated[int, "How many there are in this list; of a search those that it found."]
    rows: list[FeatureRow]


class FeatureLink(TypedDict):
    """Another feature: `value` is a cosine, or P(it is active | this one is)."""

    index: int
    label: str
    value: float


class ProposedName(TypedDict):
    """What a service called a feature."""

    name: str
    said: Annotated[str, "How well the name did on held-out contexts, or why it was not tested."]
    better: Annotated[bool | None, "Whether it did better than other features' names; null where that was not tested."]


class FeatureDetail(TypedDict):
    """The page of one feature, without what taking it out does."""

    atlas: str
    index: int
    address: str
    label: str
    place: str
    site: str
    head: int | None
    neuron: bool
    flat: Annotated[bool, "Whether it reads all heads' vectors end to end, and is no direction of one place."]
    dictionary: str | None
    name: str | None
    proposed: ProposedName | None
    unit: str
    read: Annotated[str, "How many tokens of which text were read."]
    density: float
    highest: float | None
    mean_active: float | None
    histogram: PlainView
    raised: Annotated[
        list[PoleToken], "Common tokens by the cosine of their unembedding with what it writes; none where it has none."
    ]
    lowered: list[PoleToken]
    nearest: list[FeatureLink]
    partners: list[FeatureLink]
    examples: PlainView
    neuronpedia: Annotated[str | None, "Its page there, where its dictionary names its id."]
    code: Annotated[str, "Lines of Python that give this page; empty where there are none."]


class FeatureEffects(TypedDict):
    """Its examples with what taking it out at each does to the next token."""

    atlas: str
    index: int
    examples: PlainView


class FeatureOn(TypedDict):
    """A feature on the tokens of a run."""

    run: str
    view: PlainView


class ActiveFeature(TypedDict):
    """pos: where its value is the highest. share: of the highest value that the atlas knows."""

    index: int
    label: str
    pos: int
    value: float
    share: float | None


class ActiveIn(TypedDict):
    """refused: why an atlas cannot be read here."""

    atlas: str
    at: list[ActiveFeature]
    overall: list[ActiveFeature]
    refused: str | None


class FeaturesOn(TypedDict):
    run: str
    pos: int
    atlases: list[ActiveIn]


class EffectsLeft(TypedDict):
    """left: whether what was asked for was still being measured."""

    left: bool
