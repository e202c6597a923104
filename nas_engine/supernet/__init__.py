"""The super-network around a Hugging Face model: elastic layers, channel order, extraction and export."""

from nas_engine.errors import CheckpointError, ExportError, FamilyError
from nas_engine.families.descriptions import FAMILIES, family_of
from nas_engine.families.family import Family
from nas_engine.supernet.elastic_model import AdapterSettings
from nas_engine.supernet.subnetwork import Subnetwork
from nas_engine.supernet.supernetwork import SuperNetwork

__all__ = [
    "FAMILIES",
    "AdapterSettings",
    "CheckpointError",
    "ExportError",
    "Family",
    "FamilyError",
    "Subnetwork",
    "SuperNetwork",
    "family_of",
]
