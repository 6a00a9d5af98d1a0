"""Make the HTTP client for an endpoint, and tell in a line which variable keeps it from being made."""

import os
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from agfsync.chat.endpoint import BASE_URL, Endpoint, key
from agfsync.errors import ModelError

if TYPE_CHECKING:
    import openai

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
"""Read in capitals and in small letters."""
SOCKS = ("socks5", "socks5h")
IN_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY")
"""What the openai package sends with each request."""


def open_client(endpoint: Endpoint) -> "openai.OpenAI":
    """Return the HTTP client for `endpoint`; nothing is sent.

    Raises:
        ModelError: see `validate_endpoint`, or a variable of the environment that the client reads can't be used.
    """
    import openai

    validate_endpoint(endpoint)
    try:
        return openai.OpenAI(api_key=key(endpoint), base_url=endpoint.url, timeout=endpoint.timeout)
    except Exception as failure:
        # The chain would carry what the variables hold, which may be passwords, into a traceback.
        raise ModelError(_explain_failure(endpoint, failure)) from None


def validate_endpoint(endpoint: Endpoint) -> None:
    """Check what can be checked of `endpoint` without a request.

    Raises:
        ModelError: its address is none, it needs a key and has none, or a variable can't be sent.
    """
    if fault := address_fault(endpoint.url):
        whose = "base_url in the recipe" if endpoint.base_url else BASE_URL
        raise ModelError(f"{whose} is no server's address: {fault}; one is http://localhost:8000/v1")
    key(endpoint)
    for name in IN_HEADERS:
        if not (os.environ.get(name, "").isascii() and os.environ.get(name, "").isprintable()):
            raise ModelError(f"{name} holds other characters than printable ASCII, and can't be sent: mend or unset it")


def address_fault(url: str) -> str:
    """Return what keeps `url` from being the address of a server; empty where nothing does. It isn't cited."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as failure:
        return "its port isn't a number up to 65535" if "ort" in str(failure) else "its brackets don't match"
    if not url.isprintable() or any(character.isspace() for character in url):
        return "it holds a space or a control character"
    if parts.scheme not in ("http", "https"):
        return "it doesn't begin with http:// or https://"
    if not host or port == 0:
        return "it names no host" if not host else "its port is 0"
    try:
        host.encode("idna")
    except UnicodeError:
        return "no host can be called so"
    return ""


def proxy_fault(proxy: str) -> str:
    """Return what keeps `proxy`, a variable's value, from being used; empty where nothing does. It isn't cited."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no address"
    if parts.scheme in SOCKS and find_spec("socksio") is None:
        return "names a SOCKS proxy, for which the package socksio is missing: pip install socksio, or unset it"
    if parts.scheme not in ("http", "https", *SOCKS):
        return "names a kind of proxy that isn't known: http://, https://, socks5:// and socks5h:// are"
    if not host or " " in host:
        return "is no address"
    return ""


def proxy_in_use(url: str) -> str:
    """Return the name of the variable whose proxy requests to `url` go through; empty where they go straight."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    for name in (f"{parts.scheme.upper()}_PROXY", "ALL_PROXY"):
        if found := next((each for each, _ in _proxies() if each.upper() == name), ""):
            return found
    return "the system's proxy settings" if parts.scheme in getproxies() else ""


def _proxies() -> Iterator[tuple[str, str]]:
    """Yield the variables that name proxies, with what they hold."""
    for name in PROXIES:
        for spelling in (name.lower(), name):
            if held := os.environ.get(spelling):
                yield spelling, held


def _explain_failure(endpoint: Endpoint, failure: Exception) -> str:
    server = endpoint.server
    for name, held in _proxies():
        if fault := proxy_fault(held):
            return f"{server} can't be asked: {name} {fault}"
    if isinstance(failure, OSError):
        for name, held in _certificates():
            return f"{server} can't be asked: {name} names {held}: mend or unset it"
    kind = type(failure).__name__
    return f"{server} can't be asked: no HTTP client can be made ({kind}): look at {', '.join(PROXIES)} and {BASE_URL}"


def _certificates() -> Iterator[tuple[str, str]]:
    """Yield the variables for certificates that can't be used, each with what is wrong with it."""
    file, folder, log = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"))
    if file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
        except ssl.SSLError:
            yield "SSL_CERT_FILE", "a file without certificates"
        except OSError:
            yield "SSL_CERT_FILE", "a file that isn't there or can't be read"
    if folder and not os.path.isdir(folder):
        yield "SSL_CERT_DIR", "a folder that isn't there"
    if log:
        yield "SSLKEYLOGFILE", "a file that can't be written"
