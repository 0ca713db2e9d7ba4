"""The laws of a store, as tests any backend can run.

A backend offers a fixture that opens a fresh store; the suite drives it through
the protocols of `store.base` only, so a second backend passes or fails by the
same words.
"""
