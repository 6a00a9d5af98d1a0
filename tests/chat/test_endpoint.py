"""Variables that prevent a client are reported in a line that names them, and never cites their values."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from fake_language import FakeServer

from agfsync.chat.client import Client
from agfsync.chat.endpoint import Endpoint, check_endpoint, find_address_fault, find_proxy, find_proxy_fault
from agfsync.chat.meter import Meter
from agfsync.commands.doctor import Examination
from agfsync.commands.doctor.missing import report_servers
from agfsync.errors import ModelError
from agfsync.language.captions import Descriptions

Make = Callable[..., Endpoint]
GOOD = '{"descriptions": ["a cat"]}'
VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
PASSWORD = "hunter2-of-the-proxy"


@pytest.fixture(autouse=True)
def straight(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask(endpoint: Endpoint) -> list[str]:
    return Client(endpoint, Meter()).ask("Write.", {}, Descriptions, 0).descriptions


def refused(endpoint: Endpoint) -> str:
    with pytest.raises(ModelError) as raised:
        ask(endpoint)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert "\n" not in str(raised.value) and PASSWORD not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy"])
@pytest.mark.parametrize(
    ("proxy", "fault"),
    [
        (
            "socks5://localhost:1080",
            "names a SOCKS proxy, for which the package socksio is missing: pip install socksio",
        ),
        (f"socks5h://me:{PASSWORD}@localhost:1080", "names a SOCKS proxy"),
        (f"socks://me:{PASSWORD}@localhost:1080", "names a kind of proxy that isn't known"),
        ("socks4://localhost:1080", "names a kind of proxy that isn't known"),
        ("ftp://localhost:21", "names a kind of proxy that isn't known"),
        (f"http://me:{PASSWORD}@localhost:port", "is no address"),
        ("http://[::1", "is no address"),
    ],
)
def test_a_proxy_that_cant_be_used_names_its_variable(
    endpoint: Make, monkeypatch: pytest.MonkeyPatch, name: str, proxy: str, fault: str
) -> None:
    if "socksio" in fault and find_spec("socksio"):
        pytest.skip("socksio is installed")
    monkeypatch.setenv(name, proxy)
    with FakeServer(answer=lambda _: GOOD) as server:
        says = refused(endpoint(server))
    assert says.startswith("127.0.0.1:") and f"can't be asked: {name} {fault}" in says


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "127.0.0.1:9", "http://"])
def test_a_proxy_that_doesnt_answer_is_named(endpoint: Make, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with FakeServer(answer=lambda _: GOOD) as server:
        says = refused(endpoint(server, retries=0))
        assert "or HTTP_PROXY, through whose proxy it is asked" in says
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert ask(endpoint(server)) == ["a cat"]


def test_a_proxy_for_other_addresses_is_none(endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert find_proxy("https://api.example.org/v1") == "HTTPS_PROXY" and not find_proxy("http://127.0.0.1:8000/v1")
    with FakeServer(answer=lambda _: GOOD) as server:
        assert ask(endpoint(server)) == ["a cat"]


ADDRESSES = {
    "http://[::1/v1": "brackets",
    "localhost:8000/v1": "doesn't begin with http://",
    "http://localhost:port/v1": "its port",
    "http://localhost:99999/v1": "its port",
    "http://localhost:0/v1": "its port is 0",
    "not a url": "a space",
    "ftp://localhost/v1": "doesn't begin with http://",
    "http:///v1": "names no host",
    "http://local host/v1": "a space",
    "http://\x07/v1": "control character",
    "//localhost/v1": "doesn't begin with http://",
    f"http://{'a' * 300}/v1": "no host can be called so",
    f"me:{PASSWORD}@localhost/v1": "doesn't begin with http://",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_malformed_address_names_where_it_stands(
    endpoint: Make, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with FakeServer() as server:
        says = refused(endpoint(server, base_url=None))
        assert says.startswith("OPENAI_BASE_URL is no server's address: ") and ADDRESSES[address] in says
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert refused(endpoint(server, base_url=address)).startswith("base_url in the recipe is no server's address: ")


@pytest.mark.parametrize("address", ["http://localhost:8000/v1", "https://[::1]:8000/v1", "https://bücher.example/v1"])
def test_an_address_is_one(address: str) -> None:
    assert find_address_fault(address) == ""


def test_proxies_that_are_some() -> None:
    for proxy in ("http://localhost:3128", "localhost:3128", f"https://me:{PASSWORD}@proxy.example:443"):
        assert find_proxy_fault(proxy) == ""


@pytest.mark.parametrize(
    ("name", "holds", "fault"),
    [
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "a file that isn't there or can't be read"),
        ("SSL_CERT_FILE", __file__, "a file without certificates"),
        ("SSLKEYLOGFILE", "/nowhere/keys.txt", "a file that can't be written"),
    ],
)
def test_certificates_that_arent_there_name_the_variable(
    endpoint: Make, monkeypatch: pytest.MonkeyPatch, name: str, holds: str, fault: str
) -> None:
    monkeypatch.setenv(name, holds)
    with FakeServer(answer=lambda _: GOOD) as server:
        assert f"can't be asked: {name} names {fault}: mend or unset it" in refused(endpoint(server))


@pytest.mark.parametrize("name", ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_what_cant_be_sent_names_the_variable(endpoint: Make, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "é")
    with FakeServer(answer=lambda _: GOOD) as server:
        assert refused(endpoint(server)).startswith(f"{name} holds other characters")
        with pytest.raises(ModelError, match=name):
            check_endpoint(endpoint(server))


def test_the_doctor_tells_it_too(monkeypatch: pytest.MonkeyPatch, make_recipe: Any) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:port/v1")
    vqa = {"type": "vqa-openai", "path": "m", "server": {}}
    recipe = make_recipe(scorers={"vqa": vqa}, pairs={"choose": {"weights": {"vqa": 1.0}}})
    found = Examination("r", "cpu")
    report_servers(recipe, found)
    (line,) = found.missing
    assert line.startswith("scorers.vqa.server: OPENAI_BASE_URL is no server's address")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("ALL_PROXY", "socks4://localhost:1080")
    found = Examination("r", "cpu")
    report_servers(recipe, found)
    assert found.missing[0].startswith("scorers.vqa.server: localhost:1 can't be asked: ALL_PROXY names a kind")
