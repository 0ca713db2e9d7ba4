"""The tools a model may call and the registry that decides which exist (contract 05).

`registry` holds membership and generations over the decisions in `surface`,
`schema` validates arguments, `approval` decides who may run what, `function`
makes tools of functions, and `files`, `search` and `shell` are the built-in
tools under one `FilePolicy`, put together by `builtin`.
"""
