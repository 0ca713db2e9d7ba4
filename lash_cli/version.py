"""The version as a constant: reading package metadata would cost three times the rest of `lash --version`."""

__version__ = "0.1.0"
