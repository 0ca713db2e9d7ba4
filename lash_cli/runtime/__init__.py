"""What drives: a turn from lane to commit, and everything that survives it (design §3).

`turns` takes a turn from lane to commit, `drive` feeds its machine,
`model_calls` and `dispatch` run what the machine asks for. `lane` holds the
session lease, `gate` and `cancellation` stop a turn from anywhere, `session` is
the resident state behind a handle, and `ephemeral` is the turn of a session
that is never stored.
"""
