"""How an effect is run once and remembered: the inline host and the SQL-journalled host (contract 03 §2, §3).

An effect is anything a turn reaches out for: a model call, a tool attempt, a
checkpoint, a sleep, a wait. A host runs it through a local executor and answers
a replay from its journal. `host` holds what hosts share, `inline` forgets,
`journal` remembers, and `resolver` waits for promises; the protocols are in
`core.protocols`.
"""
