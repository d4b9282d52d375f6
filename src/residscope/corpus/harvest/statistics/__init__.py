"""The statistics that a harvest gathers: `rs.statistics`."""

from residscope.corpus.harvest.statistics.base import Columns as Columns
from residscope.corpus.harvest.statistics.base import Partial as Partial
from residscope.corpus.harvest.statistics.base import Statistic as Statistic
from residscope.corpus.harvest.statistics.firing import Firing as Firing
from residscope.corpus.harvest.statistics.firing import Together as Together
from residscope.corpus.harvest.statistics.moments import MomentsOf as MomentsOf
from residscope.corpus.harvest.statistics.positions import MeansByPosition as MeansByPosition
from residscope.corpus.harvest.statistics.quantiles import Quantiles as Quantiles
from residscope.corpus.harvest.statistics.store import FeatureStore as FeatureStore
from residscope.corpus.harvest.statistics.store import StoreFeatures as StoreFeatures
from residscope.corpus.harvest.statistics.top import ByInterval as ByInterval
from residscope.corpus.harvest.statistics.top import TopTokens as TopTokens
