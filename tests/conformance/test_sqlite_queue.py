"""The queue laws, over SQLite."""

from __future__ import annotations

from lash_cli.store.conformance.ingress import IngressLaws
from lash_cli.store.conformance.input_claims import InputClaimLaws


class TestSqliteIngress(IngressLaws):
    pass


class TestSqliteInputClaims(InputClaimLaws):
    pass
