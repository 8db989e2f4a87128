"""Communication graphs and mixing matrices: which node receives from which, and with what weight."""

from flower_kd.topology import graphs  # registers the topologies
from flower_kd.topology.description import Description, describe, neighbors
from flower_kd.topology.mixing import Mixing, mixing_matrix, uniform_matrix
from flower_kd.topology.registry import TOPOLOGIES, build, check, is_file, names
from flower_kd.topology.spectrum import spectral_gap, stable_step

__all__ = [
    "TOPOLOGIES",
    "Description",
    "Mixing",
    "build",
    "check",
    "describe",
    "graphs",
    "is_file",
    "mixing_matrix",
    "names",
    "neighbors",
    "spectral_gap",
    "stable_step",
    "uniform_matrix",
]
