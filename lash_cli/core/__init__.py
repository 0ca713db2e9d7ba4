"""The pure core: records, rules and state machines. No I/O, no clock, no asyncio.

Read `content` and `graph` for what a session remembers, `machine` for how a
turn moves, `ingress` and `lease` for who may write, `commit` for what one
write contains, `effect` and `wait` for what outlives an await, and `protocols`
for what the outer layers must offer. Everything here takes its time, ids and
randomness as arguments.
"""
