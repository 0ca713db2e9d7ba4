"""Model endpoints over plain HTTP (contract 06, design D12).

`http` is the transport seam with our own SSE framing, `retry` the one ladder
that retries and records attempts, `catalog` turns configuration into callers,
and each wire has its module. Nothing here is imported until a model is called.
"""
