"""The queue laws, over SQLite."""

from __future__ import annotations

from lash_cli.store.conformance.demand import DemandLaws
from lash_cli.store.conformance.drains import DrainLaws
from lash_cli.store.conformance.given_back import GivenBackLaws
from lash_cli.store.conformance.ingress import IngressLaws
from lash_cli.store.conformance.input_claims import InputClaimLaws
from lash_cli.store.conformance.lane_order import LaneOrderLaws
from lash_cli.store.conformance.settlement import SettlementLaws
from lash_cli.store.conformance.work import WorkLaws
from lash_cli.store.conformance.work_claims import WorkClaimLaws


class TestSqliteIngress(IngressLaws):
    pass


class TestSqliteInputClaims(InputClaimLaws):
    pass


class TestSqliteGivenBack(GivenBackLaws):
    pass


class TestSqliteWork(WorkLaws):
    pass


class TestSqliteWorkClaims(WorkClaimLaws):
    pass


class TestSqliteDrains(DrainLaws):
    pass


class TestSqliteLaneOrder(LaneOrderLaws):
    pass


class TestSqliteSettlement(SettlementLaws):
    pass


class TestSqliteDemand(DemandLaws):
    pass
