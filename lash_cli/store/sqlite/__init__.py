"""The default store: one SQLite file per user holds every session (design D1).

`database` owns connections and the one writer thread with group commit,
`schema` the numbered migrations, and one module per table family holds its SQL
as named constants: `sessions`, `graph`, `commit`, `leases`, `inputs`,
`batches`, `journal`, `waits`, `attachments`, `live` and what they are made of.
`store` says which of them answers what.
"""
