"""Where sessions live: the persistence protocols and the backends behind them.

`base` says what a store must offer, `sqlite/` is the default backend, and
`conformance/` is the suite of laws every backend must pass. Rules are not
decided here: `core` judges, a store applies the judgement in one transaction.
"""
