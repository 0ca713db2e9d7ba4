"""Turn protocols: how a model answer becomes the next step of a turn.

`standard` is the native tool loop.
"""
