"""Benthic: a laboratory with an honest bill. Import rooms directly; nothing heavy is imported here."""

__version__ = "0.1.0"
