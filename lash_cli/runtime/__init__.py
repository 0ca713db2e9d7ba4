"""What drives: a turn from lane to commit, and everything that survives it (design §3).

`lane` holds the session lease, `turns` runs one turn, `dispatch` its tool
batches, `cancellation` the gate that another process can close, `session` the
resident state behind a handle.
"""
