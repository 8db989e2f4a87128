"""Communication graphs and mixing matrices: which node receives from which, and with what weight."""

from flower_kd.topology import graphs, varying  # registers the topologies
from flower_kd.topology.contacts import Contacts
from flower_kd.topology.description import Description, describe, neighbors
from flower_kd.topology.mixing import Mixing, mixing_matrix, uniform_matrix
from flower_kd.topology.registry import TOPOLOGIES, build, check, is_file, names, sequence
from flower_kd.topology.sequence import GraphSequence
from flower_kd.topology.spectrum import spectral_gap, stable_step

__all__ = [
    "TOPOLOGIES",
    "Contacts",
    "Description",
    "GraphSequence",
    "Mixing",
    "build",
    "check",
    "describe",
    "graphs",
    "is_file",
    "mixing_matrix",
    "names",
    "neighbors",
    "sequence",
    "spectral_gap",
    "stable_step",
    "uniform_matrix",
    "varying",
]
