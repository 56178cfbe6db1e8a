"""Bounds: what nobody of a stated class can do better than. They see the private batch, and attacks never see them."""

from gradleak.bounds.information import FisherInformation
from gradleak.bounds.layer_ranks import LayerRank, layer_ranks
from gradleak.bounds.leakage_bound import LeakageBound, leakage_bound

__all__ = ["FisherInformation", "LayerRank", "LeakageBound", "layer_ranks", "leakage_bound"]
