"""What a person may be asked for: one kind a file. A field parses, refuses, and says itself as JSON, as Python and as an option.

def ablate(site: Annotated[str, fields.site()], to: Annotated[str, fields.choice("zero", "mean")] = "zero", ...): ...
"""

from residscope.fields.aligns import AlignField
from residscope.fields.atlases import AtlasField
from residscope.fields.base import Field, Spec, World, Writer
from residscope.fields.choices import ChoiceField
from residscope.fields.contrasts import ContrastField
from residscope.fields.counts import CountField
from residscope.fields.dictionaries import DictionaryField
from residscope.fields.directions import DirectionField
from residscope.fields.edits import EditsField
from residscope.fields.endpoints import EndpointField
from residscope.fields.flags import FlagField
from residscope.fields.head_groups import HeadGroupField
from residscope.fields.heads import HeadsField
from residscope.fields.indices import IndicesField
from residscope.fields.items import ItemField
from residscope.fields.layers import LayersField
from residscope.fields.metrics import MetricField
from residscope.fields.models import ModelField
from residscope.fields.names import NameField
from residscope.fields.numbers import NumberField
from residscope.fields.places import PlaceField
from residscope.fields.positions import PositionsField
from residscope.fields.probes import ProbeField
from residscope.fields.prompts import PromptsField
from residscope.fields.rank_one import RankOneField
from residscope.fields.seeds import SeedField
from residscope.fields.sites import SiteField
from residscope.fields.sources import SourceField
from residscope.fields.texts import TextField
from residscope.fields.tokens import TokensField

align = AlignField
atlas = AtlasField
choice = ChoiceField
contrast = ContrastField
count = CountField
dictionary = DictionaryField
direction = DirectionField
edits = EditsField
endpoint = EndpointField
flag = FlagField
head_group = HeadGroupField
heads = HeadsField
indices = IndicesField
item = ItemField
layers = LayersField
metric = MetricField
model = ModelField
name = NameField
number = NumberField
place = PlaceField
positions = PositionsField
probe = ProbeField
prompts = PromptsField
rank_one = RankOneField
seed = SeedField
site = SiteField
source = SourceField
text = TextField
tokens = TokensField

KINDS = {
    cls.kind: cls
    for cls in (
        align, atlas, choice, contrast, count, dictionary, direction, edits, endpoint, flag, head_group, heads, indices, item,
        layers, metric, model, name, number, place, positions, probe, prompts, rank_one, seed, site, source, text, tokens,
    )
}  # fmt: skip

__all__ = [
    "KINDS", "Field", "Spec", "World", "Writer", "align", "atlas", "choice", "contrast", "count", "dictionary", "direction",
    "edits", "endpoint", "flag", "head_group", "heads", "indices", "item", "layers", "metric", "model", "name", "number", "place",
    "positions", "probe", "prompts", "rank_one", "seed", "site", "source", "text", "tokens",
]  # fmt: skip
