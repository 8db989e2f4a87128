"""Communication graphs and mixing matrices: which node receives from which, and with what weight."""

from flower_kd.topology import graphs  # registers the topologies
from flower_kd.topology.description import Description, describe, neighbors
from flower_kd.topology.mixing import Mixing, mixing_matrix, uniform_matrix
from flower_kd.topology.registry import TOPOLOGIES, build, names, options_of
from flower_kd.topology.spectrum import spectral_gap, stable_step

__all__ = [
    "TOPOLOGIES",
    "Description",
    "Mixing",
    "build",
    "describe",
    "graphs",
    "mixing_matrix",
    "names",
    "neighbors",
    "options_of",
    "spectral_gap",
    "stable_step",
    "uniform_matrix",
]
