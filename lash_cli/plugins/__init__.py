"""Extension points for code outside this package (contract 05 §4).

The hook host and the standard plugins live here.
"""
