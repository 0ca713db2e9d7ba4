"""The `lash` command: parse, call `api`, render.

`table` lists every command without importing it; each command module is loaded
only when it runs (design D16).
"""
