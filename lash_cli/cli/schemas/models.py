"""Shapes of providers and models: what `lash provider` and `lash model` print (contract 08 §5.4, §6.1)."""

from __future__ import annotations

from lash_cli.cli.schemas.sessions import Usage
from lash_cli.cli.schemas.shape import Count, Object, Shape
from lash_cli.core.policy import ReasoningCapability


class ProviderItem(Shape):
    """A provider a session may name. `key` says where its key is kept; `origin` what makes it available."""

    id: str
    name: str
    provider_kind: str
    base_url: str | None
    key: str | None
    default: bool
    origin: str


class Provider(Shape):
    """A provider that was added to the configuration or removed from it."""

    id: str
    name: str
    provider_kind: str
    base_url: str | None
    key: str | None
    options: Object
    default: bool
    file: str
    added: bool | None
    removed: bool | None


class ProviderTest(Shape):
    """What a provider served when it was called once. Whatever it did not report is null; costs are micro-units."""

    id: str
    provider: str
    provider_kind: str
    base_url: str | None
    model: str
    served_model: str | None
    response_id: str | None
    request_id: str | None
    finish_reason: str | None
    terminal_reason: str
    text: str
    latency_ms: Count
    usage: Usage
    cost_micros: Count | None
    currency: str | None


class Rates(Shape):
    """Micro-units of the currency for a million tokens of each bucket."""

    input: Count | None
    cache_read: Count | None
    cache_write: Count | None
    output: Count | None


class ModelPrices(Rates):
    """What a model costs. `long_context` replaces the rates for a request with more prompt tokens than stated."""

    currency: str
    looked_up: str | None
    valid_until: str | None
    long_context_above_tokens: Count | None
    long_context: Rates | None


class ModelItem(Shape):
    """An alias of the user or a model of the catalogue; what is not known is null."""

    id: str
    name: str
    model: str
    provider_kind: str | None
    alias: bool
    context_window_tokens: Count | None
    max_output_tokens: Count | None
    prices: ModelPrices | None
    efforts: list[str]
    default: bool


class Model(ModelItem):
    """All that is known about one model. `overrides` names the fields the user set, `output_cap_tokens` is what a
    request asks for at most."""

    variant: str | None
    output_cap_tokens: Count | None
    reasoning: ReasoningCapability | None
    cache_control: str | None
    stream_termination: str | None
    thought_signatures: str | None
    in_catalogue: bool
    source: str | None
    looked_up: str | None
    overrides: list[str]


class ModelDefault(Shape):
    """The model of new sessions, null when nothing says which. `origin` is what says it."""

    id: str | None
    name: str | None
    model: str | None
    provider: str
    origin: str
    changed: bool


class ModelAlias(Shape):
    """An alias that was written (`replaced` says whether there was one) or removed."""

    id: str
    name: str
    model: str
    variant: str | None
    file: str
    replaced: bool | None
    removed: bool | None
