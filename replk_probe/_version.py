"""The version of this package; `setup.cfg` reads it."""

__version__ = "0.1.0.dev0"
"""Version of the package (PEP 440)."""
