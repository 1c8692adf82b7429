"""Benthic: a laboratory with an honest bill. Nothing heavy is imported here."""

__version__ = "0.1.0"
