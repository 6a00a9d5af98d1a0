"""The address and settings of a language model, and the HTTP client for it.

The API key is read from OPENAI_API_KEY, given to the client, and removed from everything that the server says.
Messages name an invalid environment variable, but never its value, which may contain a password.
"""

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from agfsync.errors import ModelError

if TYPE_CHECKING:
    import openai

KEY, BASE_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"

_OPENAI = "https://api.openai.com/v1"
_SHORTEST_SECRET = 12
"""A shorter key is a placeholder, as servers without keys accept."""
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
"""Read in upper and lower case."""
_SOCKS = ("socks5", "socks5h")
_SENT_VARIABLES = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY")
"""Variables that the openai package sends with each request."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A language model and the settings of its requests."""

    model: str
    base_url: str | None
    """default: OPENAI_BASE_URL, else OpenAI's"""
    temperature: float
    structured: bool
    """True to send the JSON schema of the reply"""
    reply_tokens: int
    """token limit of a reply"""
    concurrency: int
    timeout: float
    """seconds to wait for a reply"""
    retries: int
    """total number of retries of a request"""

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.base_url or os.environ.get(BASE_URL) or _OPENAI

    @property
    def server(self) -> str:
        """Host and port of the server, for messages, since the address may contain a password."""
        try:
            return urlsplit(self.url).netloc.rpartition("@")[2] or "its address"
        except ValueError:
            return "its address"


def read_key(endpoint: Endpoint) -> str:
    """Return the key for `endpoint`, or "none" for a server other than OpenAI's.

    Raises:
        ModelError: there is no key for OpenAI's server, or it has invalid characters.
    """
    key = _read_variable()
    if not key and endpoint.url == _OPENAI:
        raise ModelError(f"no key for {endpoint.server}: set {KEY}, or {BASE_URL} to the server that you use")
    if not (key.isascii() and key.isprintable()):
        raise ModelError(f"{KEY} holds what can't be a key: it has other characters than printable ASCII")
    return key or "none"


def hide_key(text: str) -> str:
    """Replace the key in `text` by "[key]". A placeholder such as "none" stays, since it is an ordinary word."""
    key = _read_variable()
    return text.replace(key, "[key]") if len(key) >= _SHORTEST_SECRET else text


def _read_variable() -> str:
    return os.environ.get(KEY, "").strip()


def open_client(endpoint: Endpoint) -> "openai.OpenAI":
    """Return the HTTP client for `endpoint`; nothing is sent.

    Raises:
        ModelError: see `check_endpoint`, or an environment variable that the client reads is invalid.
    """
    import openai

    check_endpoint(endpoint)
    try:
        return openai.OpenAI(api_key=read_key(endpoint), base_url=endpoint.url, timeout=endpoint.timeout)
    except Exception as failure:
        # A chained exception would show the values of the variables in the traceback.
        raise ModelError(f"{endpoint.server} can't be asked: {_explain_failure(failure)}") from None


def check_endpoint(endpoint: Endpoint) -> None:
    """Check `endpoint` without a request.

    Raises:
        ModelError: its address is invalid, its key is missing, or an environment variable can't be sent.
    """
    if fault := find_address_fault(endpoint.url):
        where = "base_url in the recipe" if endpoint.base_url else BASE_URL
        raise ModelError(f"{where} is no server's address: {fault}; one is http://localhost:8000/v1")
    read_key(endpoint)
    for name in _SENT_VARIABLES:
        if not (os.environ.get(name, "").isascii() and os.environ.get(name, "").isprintable()):
            raise ModelError(f"{name} holds other characters than printable ASCII, and can't be sent: mend or unset it")


def find_address_fault(url: str) -> str:
    """Return the reason why `url` can't be the address of a server; empty if it can.

    >>> find_address_fault("localhost:8000/v1")
    "it doesn't begin with http:// or https://"
    """
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


def find_proxy_fault(proxy: str) -> str:
    """Return the reason why `proxy`, the value of an environment variable, is invalid; empty if it is valid."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no address"
    if parts.scheme in _SOCKS and find_spec("socksio") is None:
        return "names a SOCKS proxy, for which the package socksio is missing: pip install socksio, or unset it"
    if parts.scheme not in ("http", "https", *_SOCKS):
        return "names a kind of proxy that isn't known: http://, https://, socks5:// and socks5h:// are"
    return "is no address" if not host or " " in host else ""


def find_proxy(url: str) -> str:
    """Return the name of the environment variable with the proxy for `url`; empty if there is no proxy."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    for name in (f"{parts.scheme.upper()}_PROXY", "ALL_PROXY"):
        if found := next((each for each, _ in _proxy_variables() if each.upper() == name), ""):
            return found
    return "the system's proxy settings" if parts.scheme in getproxies() else ""


def _proxy_variables() -> Iterator[tuple[str, str]]:
    for name in _PROXIES:
        for spelling in (name.lower(), name):
            if value := os.environ.get(spelling):
                yield spelling, value


def _explain_failure(failure: Exception) -> str:
    for name, value in _proxy_variables():
        if fault := find_proxy_fault(value):
            return f"{name} {fault}"
    if isinstance(failure, OSError) and (fault := _find_certificate_fault()):
        return f"{fault}: mend or unset it"
    kind = type(failure).__name__
    return f"no HTTP client can be made ({kind}): look at {', '.join(_PROXIES)} and {BASE_URL}"


def _find_certificate_fault() -> str:
    file, folder, log = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"))
    if file:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
        except ssl.SSLError:
            return "SSL_CERT_FILE names a file without certificates"
        except OSError:
            return "SSL_CERT_FILE names a file that isn't there or can't be read"
    if folder and not os.path.isdir(folder):
        return "SSL_CERT_DIR names a folder that isn't there"
    return "SSLKEYLOGFILE names a file that can't be written" if log else ""
