"""The standard plugins, one module each, behind the protocols of `core` (contract 05 §4, §5)."""
