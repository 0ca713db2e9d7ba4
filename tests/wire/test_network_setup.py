"""What a call makes of the environment and of the headers it is configured with (contract 06 §11, 08 §6.6)."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from support import wire
from support.clock import ManualCancel, ManualClock
from support.wire import ChatServer, Reply, error_reply, text_reply
from support.wires import HELLO

from lash_cli.core.llm import DeliberateStop, LlmCallResult
from lash_cli.core.protocols import EventSink
from lash_cli.errors import ConfigError, LlmTransportError
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.providers.http import HttpRequest, Httpx2Transport

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def call(address: str, **options: object) -> LlmCallResult:
    settings = ProviderSettings("p", "openai_chat", address, None, {"max_attempts": 1} | options)
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
    try:
        return await caller.call(HELLO, sink=_ignored, cancel=ManualCancel())
    finally:
        await caller.aclose()


async def _nothing(event: object) -> None: ...


_ignored: EventSink = _nothing


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "ftp://user:proxypassword@proxy.test:1"),
        ("HTTP_PROXY", "http://user:proxypassword@[::bad"),
        ("https_proxy", "http://user:proxypassword/x@proxy.test:3128"),
        ("ALL_PROXY", "socks5://user:proxypassword@127.0.0.1:9"),
        ("HTTP_PROXY", "http://user:proxypassword@127.0.0.1:99999"),
        ("SSL_CERT_FILE", "/nowhere/at/all.pem"),
        ("SSL_CERT_FILE", str(Path(__file__))),
    ],
)
async def test_an_environment_the_network_cannot_be_set_up_with_is_named_and_its_values_are_not(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    result = await call("http://127.0.0.1:9/v1")
    assert result.error is not None
    assert (result.error.kind, result.error.code, result.error.retryable) == (
        "validation", "network_setup_invalid", False,
    )  # fmt: skip
    assert variable.upper() in result.error.message
    assert "proxypassword" not in repr(result) and "user" not in result.error.message


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_named_by_its_number_and_its_words_are_not_repeated(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ChatServer(default=Reply((b"proxypassword is not the one of me",), 407)) as proxy:
        host = proxy.base_url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setitem(wire._REASONS, 407, "Authentication of me:proxypassword failed")
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:proxypassword@{host}")
        result = await call(f"{scheme}://provider.invalid/v1")
    assert (result.error.kind, result.error.code, result.error.retryable) == (
        "validation", "network_setup_invalid", False,
    )  # fmt: skip
    assert len(result.record.attempts) == 1
    assert result.error.message == f"the proxy refused to connect (407); check {scheme.upper()}_PROXY"
    assert "proxypassword" not in repr(result)


async def test_a_proxy_that_hangs_up_without_a_word_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        result = await call("https://provider.invalid/v1")
    assert result.error.message.endswith("failed: it broke off; a proxy is set, check HTTPS_PROXY")


@pytest.mark.parametrize("said", [b"", b"no HTTP at all\r\n\r\n"], ids=["nothing", "garbage"])
async def test_a_proxy_that_makes_no_tunnel_of_it_is_not_taken_for_the_provider(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        result = await call("https://provider.invalid/v1")
    assert (result.error.kind, result.error.code) == ("transport", "remote_protocol_error")
    assert result.error.message.endswith("; a proxy is set, check HTTPS_PROXY")


async def test_who_is_not_answered_behind_a_proxy_is_told_that_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    async def wait(request: httpx2.Request, **_: object) -> None:
        await asyncio.Event().wait()

    transport = Httpx2Transport()
    transport._client_of_this_loop().send = wait  # type: ignore[method-assign, assignment]
    with pytest.raises(LlmTransportError, match=r"did not answer within 0\.01 s .*; a proxy is set, check HTTPS"):
        await transport.send(HttpRequest("POST", "https://test.invalid", {}, b""), start_timeout=0.01)
    await transport.aclose()


async def test_who_cannot_connect_in_time_is_told_that_there_is_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    async def connect(request: httpx2.Request, **_: object) -> None:
        raise httpx2.ConnectTimeout("", request=request)

    transport = Httpx2Transport()
    transport._client_of_this_loop().send = connect  # type: ignore[method-assign, assignment]
    with pytest.raises(LlmTransportError, match=r"took too long; a proxy is set, check HTTPS_PROXY$"):
        await transport.send(HttpRequest("POST", "https://test.invalid", {}, b""), start_timeout=None)
    await transport.aclose()


async def test_who_cannot_connect_behind_a_proxy_is_told_that_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:proxypassword@127.0.0.1:9")
    result = await call("http://provider.invalid/v1")
    assert (result.error.code, result.error.retryable) == ("connect_error", True)
    assert result.error.message.endswith("; a proxy is set, check HTTP_PROXY")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    result = await call("http://127.0.0.1:9/v1")
    assert result.error.code == "connect_error" and "proxy" not in result.error.message


async def test_calls_go_through_a_proxy_and_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ChatServer(default=text_reply("hello")) as proxy, ChatServer(default=text_reply("hello")) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for address, asked in (("http://provider.invalid/v1", proxy), (server.base_url, server)):
            assert (await call(address)).error is None
            assert [request.path for request in asked.requests][-1].endswith("/v1/chat/completions")
        assert (len(proxy.requests), len(server.requests)) == (1, 1)
        assert proxy.requests[0].path.startswith("http://provider.invalid/")


async def test_a_proxy_that_could_not_be_used_is_no_matter_to_an_address_that_is_asked_past_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ChatServer(default=text_reply("hello")) as server:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:99999")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert (await call(server.base_url)).error is None
        monkeypatch.delenv("NO_PROXY")
        assert (await call(server.base_url)).error.code == "network_setup_invalid"


@pytest.mark.parametrize("password", ["pa[ss", "pa]ss", "p[x]y", "p@ss", "℀"])
async def test_a_password_of_a_proxy_may_hold_what_a_port_may_not(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    async with ChatServer(default=text_reply("hello")) as proxy:
        address = proxy.base_url.removesuffix("/v1").replace("://", f"://me:{password}@")
        monkeypatch.setenv("HTTP_PROXY", address)
        assert (await call("http://provider.invalid/v1")).error is None
        assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X Bad": "1"},
        {"": "1"},
        {"a:b": "1"},
        {"X-Title": "naïve ☃"},
        {"X-Title": "two\nlines"},
        {"X-Title": "nul\0"},
        {"Content-Length": "5"},
        {"transfer-encoding": "chunked"},
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_when_the_provider_is_built(headers: dict[str, str]) -> None:
    settings = ProviderSettings("p", "openai_chat", "http://127.0.0.1:9/v1", None, {"headers": headers})
    with pytest.raises(ConfigError) as refused:
        build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
    (name, value), *_ = headers.items()
    assert repr(name) in refused.value.message and (len(value) < 4 or value not in refused.value.message)


@pytest.mark.parametrize(
    ("written", "echoed"),
    [
        ("Bearer headersecret+81c5/07=", "headersecret+81c5/07="),
        ("Basic  aGVhZGVyc2VjcmV0", "aGVhZGVyc2VjcmV0"),
        ("Bearer headersecret+81c5/07=", "headersecret%2B81c5%2F07%3D"),
        ("Bearer headersecret+81c5/07=", "Bearer%20headersecret%2B81c5%2F07%3D"),
    ],
)
async def test_a_secret_header_is_a_secret_without_its_scheme_and_inside_an_address(written: str, echoed: str) -> None:
    async with ChatServer([error_reply(500, {"error": {"message": f"bad {echoed}", "code": echoed}})]) as server:
        result = await call(server.base_url, headers={"Authorization": written})
        assert server.requests[0].headers["authorization"] == written
    assert "[redacted]" in result.error.message and echoed not in repr(result)


@pytest.mark.parametrize(
    "echoed",
    [
        'key\\\\with\\"all/of+it==',
        'key\\\\with\\"all\\/of+it==',
        "key\\\\with\\u0022all/of\\u002Bit==",
        "key%5Cwith%22all%2Fof%2Bit%3D%3D",
    ],
)
async def test_a_key_is_a_secret_as_a_document_would_hold_it(echoed: str) -> None:
    # No document of ours, so that it is quoted as it is: the one has another form, the other is cut off.
    for body in (f'{{"errors":["bad {echoed}"]}}', f'{{"error":{{"message":"bad {echoed}'):
        async with ChatServer([error_reply(500, body)]) as server:
            settings = ProviderSettings(
                "p", "openai_chat", server.base_url, 'key\\with"all/of+it==', {"max_attempts": 1}
            )
            caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
            result = await caller.call(HELLO, sink=_ignored, cancel=ManualCancel())
            await caller.aclose()
        assert "[redacted]" in result.error.message and echoed not in result.error.message


async def test_a_server_without_tls_behind_an_https_address_is_named_as_such() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await call(f"https://127.0.0.1:{port}/v1")
    assert result.error is not None
    assert (result.error.kind, result.error.code, result.error.retryable) == ("transport", "connect_error", True)
    assert "does not speak TLS" in result.error.message


AUTHORITY = "an authority of your own goes into SSL_CERT_FILE"


@pytest.mark.parametrize(
    ("verify_code", "reason", "said"),
    [
        (18, "self-signed certificate", f"its certificate is not trusted (self-signed certificate); {AUTHORITY}"),
        (20, "no local issuer", f"its certificate is not trusted (no local issuer); {AUTHORITY}"),
        (10, "certificate has expired", "its certificate is not valid (certificate has expired)"),
        (62, "Hostname mismatch, not for 'x'.", "its certificate is not valid (Hostname mismatch, not for 'x')"),
    ],
)
async def test_a_certificate_that_is_refused_says_what_to_do(verify_code: int, reason: str, said: str) -> None:
    refused = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] ... (_ssl.c:1006)")
    refused.verify_code, refused.verify_message = verify_code, reason

    async def connect(*_: object, **__: object) -> None:
        raise httpx2.ConnectError(str(refused)) from refused

    transport = Httpx2Transport()
    transport._client_of_this_loop().send = connect  # type: ignore[method-assign, assignment]
    with pytest.raises(LlmTransportError) as caught:
        await transport.send(HttpRequest("POST", "https://test.invalid", {}, b""), start_timeout=None)
    assert caught.value.message == f"the connection to the provider failed: {said}"
    await transport.aclose()


async def test_any_number_of_calls_run_at_a_time() -> None:
    count = 130
    everybody = asyncio.Barrier(count + 1)
    async with ChatServer(default=text_reply("hello")) as server, asyncio.TaskGroup() as group:
        settings = ProviderSettings("p", "openai_chat", server.base_url, None, {"max_attempts": 1})
        caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)

        async def wait_for_all(event: object) -> None:
            await everybody.wait()
            raise DeliberateStop

        async def one() -> LlmCallResult:
            return await caller.call(HELLO, sink=wait_for_all, cancel=ManualCancel())

        tasks = [group.create_task(one()) for _ in range(count)]
        async with asyncio.timeout(30):
            await everybody.wait()
        results = await asyncio.gather(*tasks)
        await caller.aclose()
    assert all(result.response is not None for result in results)


async def test_a_server_puts_nothing_into_the_next_request() -> None:
    cookies = iter(range(100))

    def answer(_: object) -> Reply:
        reply = text_reply("hello")
        return replace(reply, headers=reply.headers | {"Set-Cookie": f"visitor{next(cookies)}={'x' * 4000}; Path=/"})

    async with ChatServer(default=answer) as server:
        settings = ProviderSettings("p", "openai_chat", server.base_url, None, {"max_attempts": 1})
        caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
        for _ in range(3):
            assert (await caller.call(HELLO, sink=_ignored, cancel=ManualCancel())).error is None
        await caller.aclose()
    first, *others = server.requests
    assert others == [first, first]
