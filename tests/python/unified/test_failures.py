"""What kind of failure real exceptions of real packages are."""

from __future__ import annotations

import asyncio
import errno
import http.client
import importlib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import checkrein
from checkrein import FailureKind, failure_kind

STATUSES = {
    400: "invalid",
    401: "auth",
    403: "auth",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    410: "not_found",
    422: "invalid",
    429: "throttled",
    500: "overloaded",
    503: "overloaded",
    529: "overloaded",
}


class Replies(BaseHTTPRequestHandler):
    """Answers `/503` with a 503; `/hang` hangs, `/cut` ends in the middle, `/drop` says nothing."""

    release = threading.Event()

    def do_GET(self) -> None:
        word = self.path.strip("/").split("/")[0]
        if word == "hang":
            self.release.wait(30)
        elif word == "drop":
            self.close_connection = True
        elif word == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{")
            self.close_connection = True
        else:
            self.send_response(int(word))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Replies) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Replies.release.set()
        server.shutdown()


@pytest.fixture(scope="module")
def nobody() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def raised(call: Callable[[], Any]) -> Exception:
    """The exception of a call."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_httpx(name: str, url: str, nobody: str) -> None:
    httpx = pytest.importorskip(name)
    with httpx.Client(timeout=30, trust_env=False) as client:
        for status, kind in STATUSES.items():
            reply = client.get(f"{url}/{status}")
            assert failure_kind(raised(reply.raise_for_status)) == kind, status
        for path, kind in {"/drop": "transport", "/cut": "transport"}.items():
            assert failure_kind(raised(lambda path=path: client.get(url + path))) == kind  # type: ignore[misc]
        assert failure_kind(raised(lambda: client.get(f"{url}/hang", timeout=0.05))) == "timeout"
        assert failure_kind(raised(lambda: client.get(nobody))) == "transport"
        assert failure_kind(raised(lambda: client.get("ftp://127.0.0.1/"))) == "invalid"


def test_requests(url: str, nobody: str) -> None:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        for status, kind in STATUSES.items():
            assert failure_kind(raised(session.get(f"{url}/{status}").raise_for_status)) == kind, status
        for path, kind in {"/drop": "transport", "/cut": "transport"}.items():
            assert failure_kind(raised(lambda path=path: session.get(url + path))) == kind  # type: ignore[misc]
        assert failure_kind(raised(lambda: session.get(f"{url}/hang", timeout=0.05))) == "timeout"
        assert failure_kind(raised(lambda: session.get(nobody))) == "transport"
        assert failure_kind(raised(lambda: session.get("127.0.0.1"))) == "invalid"


def test_urllib3(url: str, nobody: str) -> None:
    urllib3 = pytest.importorskip("urllib3")
    pool = urllib3.PoolManager(retries=False)
    assert failure_kind(raised(lambda: pool.request("GET", f"{url}/drop"))) == "transport"
    assert failure_kind(raised(lambda: pool.request("GET", f"{url}/cut"))) == "transport"
    assert failure_kind(raised(lambda: pool.request("GET", f"{url}/hang", timeout=0.05))) == "timeout"
    assert failure_kind(raised(lambda: pool.request("GET", nobody))) == "transport"
    # Behind its own retries the reason stands in another exception.
    patient = urllib3.PoolManager(retries=1)
    assert failure_kind(raised(lambda: patient.request("GET", nobody))) == "transport"
    assert failure_kind(raised(lambda: patient.request("GET", f"{url}/hang", timeout=0.05))) == "timeout"


def test_the_standard_library(url: str, nobody: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for status, kind in STATUSES.items():
        error = raised(lambda status=status: opener.open(f"{url}/{status}"))  # type: ignore[misc]
        assert failure_kind(error) == kind, status
    assert failure_kind(raised(lambda: opener.open(nobody))) == "transport"
    assert failure_kind(raised(lambda: opener.open(f"{url}/hang", timeout=0.05))) == "timeout"
    assert failure_kind(raised(lambda: opener.open(f"{url}/drop"))) == "transport"
    assert failure_kind(raised(lambda: opener.open("gopher:x"))) == "invalid"
    cut = raised(opener.open(f"{url}/cut").read)
    assert isinstance(cut, http.client.IncompleteRead)
    assert failure_kind(cut) == "transport"


def test_tls(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")

    def handshake() -> None:
        with socket.create_connection((host, int(port)), timeout=30) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")

    error = raised(handshake)
    assert isinstance(error, ssl.SSLError)
    assert failure_kind(error) == "transport"
    assert failure_kind(urllib.error.URLError(error)) == "transport"
    assert failure_kind(ssl.SSLCertVerificationError(1, "self-signed")) == "transport"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "transport"),
        (BrokenPipeError(), "transport"),
        (socket.gaierror(socket.EAI_NONAME, "no such host"), "transport"),
        (OSError(errno.EHOSTUNREACH, "no route"), "transport"),
        (OSError(errno.ENETUNREACH, "no network"), "transport"),
        (OSError(errno.ETIMEDOUT, "late"), "timeout"),
        (FileNotFoundError(errno.ENOENT, "a file"), "unknown"),
        (PermissionError(errno.EACCES, "a file"), "unknown"),
        (http.client.RemoteDisconnected("gone"), "transport"),
        (http.client.BadStatusLine("?"), "transport"),
        (http.client.InvalidURL("?"), "unknown"),
        (asyncio.IncompleteReadError(b"", 1), "transport"),
        (ValueError(), "unknown"),
        (KeyError("status_code"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
        (asyncio.CancelledError(), "unknown"),
        (checkrein.NotExecuted("nothing was sent"), "unknown"),
    ],
)
def test_sockets_and_strangers(error: BaseException, kind: str) -> None:
    assert failure_kind(error) == kind


def test_ours() -> None:
    engine = checkrein.Engine()

    @engine.timeout(0.001)
    async def late() -> None:
        await asyncio.sleep(60)

    assert failure_kind(raised(lambda: asyncio.run(late()))) == "timeout"
    assert failure_kind(raised(engine.rate_limit(0)(lambda: None))) == "unknown"
    refused = checkrein.NotExecuted("nothing was sent")
    refused.__cause__ = ConnectionRefusedError()
    assert failure_kind(refused) == "transport"


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_model_providers(name: str, url: str, nobody: str) -> None:
    package = pytest.importorskip(name)
    client_class = package.OpenAI if name == "openai" else package.Anthropic

    def ask(base: str, timeout: float = 30) -> Any:
        with client_class(api_key="none", base_url=base, max_retries=0, timeout=timeout) as client:
            return client.models.list()

    for status, kind in STATUSES.items():
        assert failure_kind(raised(lambda status=status: ask(f"{url}/{status}"))) == kind, status  # type: ignore[misc]
    assert failure_kind(raised(lambda: ask(f"{url}/hang", 0.05))) == "timeout"
    assert failure_kind(raised(lambda: ask(nobody))) == "transport"


def test_google_genai(url: str, nobody: str) -> None:
    genai = pytest.importorskip("google.genai")

    def ask(base: str) -> Any:
        options = {"base_url": base, "retry_options": {"attempts": 1}}
        client = genai.Client(api_key="none", http_options=options)
        return client.models.generate_content(model="m", contents="hello")

    for status, kind in STATUSES.items():
        assert failure_kind(raised(lambda status=status: ask(f"{url}/{status}"))) == kind, status  # type: ignore[misc]
    assert failure_kind(raised(lambda: ask(nobody))) == "transport"


def test_redis() -> None:
    errors = pytest.importorskip("redis.exceptions")
    for name, kind in {
        "ConnectionError": "transport",
        "TimeoutError": "timeout",
        "BusyLoadingError": "overloaded",
        "AuthenticationError": "auth",
        "ResponseError": "unknown",
    }.items():
        assert failure_kind(getattr(errors, name)("x")) == kind, name


class _Boto(Exception):
    """What `botocore.exceptions.ClientError` is: the reply as a dict."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", 400, "throttled"),
        ("TooManyRequestsException", 429, "throttled"),
        ("ProvisionedThroughputExceededException", 400, "throttled"),
        ("SlowDown", 503, "throttled"),
        ("AccessDeniedException", 400, "auth"),
        ("UnrecognizedClientException", 400, "auth"),
        ("ExpiredTokenException", 400, "auth"),
        ("RequestTimeout", 400, "timeout"),
        ("ValidationException", 400, "invalid"),
        ("ResourceNotFoundException", 404, "not_found"),
        ("InternalServerError", 500, "overloaded"),
    ],
)
def test_boto(code: str, status: int, kind: str) -> None:
    assert failure_kind(_Boto(code, status)) == kind
    exceptions = _imported("botocore.exceptions")
    if exceptions is not None:
        assert failure_kind(exceptions.ClientError(_Boto(code, status).response, "Op")) == kind


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class _Database(Exception):
    def __init__(self, **attributes: Any) -> None:
        super().__init__("database")
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", "transport"),
        ("57P01", "transport"),
        ("53300", "overloaded"),
        ("40001", "conflict"),
        ("40P01", "conflict"),
        ("23505", "conflict"),
        ("23502", "invalid"),
        ("42601", "invalid"),
        ("42501", "auth"),
        ("28P01", "auth"),
        ("57014", "timeout"),
        ("P0001", "unknown"),
    ],
)
def test_sqlstate(state: str, kind: str) -> None:
    for error in (
        _Database(sqlstate=state),
        _Database(pgcode=state),
        _Database(orig=_Database(sqlstate=state)),
        _Database(orig=_Database(pgcode=state)),
    ):
        assert failure_kind(error) == kind


def test_what_sqlalchemy_wraps() -> None:
    assert failure_kind(_Database(orig=ConnectionResetError())) == "transport"
    assert failure_kind(_Database(orig=ValueError(), connection_invalidated=True)) == "transport"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("UNAVAILABLE", "transport"),
        ("DEADLINE_EXCEEDED", "timeout"),
        ("RESOURCE_EXHAUSTED", "overloaded"),
        ("UNAUTHENTICATED", "auth"),
        ("PERMISSION_DENIED", "auth"),
        ("INVALID_ARGUMENT", "invalid"),
        ("NOT_FOUND", "not_found"),
        ("ALREADY_EXISTS", "conflict"),
        ("CANCELLED", "unknown"),
    ],
)
def test_grpc(name: str, kind: str) -> None:
    class Code:
        def __init__(self) -> None:
            self.name = name

    class RpcError(Exception):
        def code(self) -> Code:
            return Code()

    assert failure_kind(RpcError()) == kind


def test_an_exception_that_raises_when_it_is_looked_at_is_unknown() -> None:
    class Hostile(Exception):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def code(self) -> None:
            raise RuntimeError

    assert failure_kind(Hostile()) == "unknown"


def test_one_that_wraps_itself_ends() -> None:
    first, second = _Database(), _Database()
    first.__dict__["orig"], second.__dict__["orig"] = second, first
    assert failure_kind(first) == "unknown"


def test_kinds_are_words() -> None:
    assert str(FailureKind.NOT_FOUND) == "not_found" == FailureKind.NOT_FOUND
    assert sorted(checkrein.FAIL_ON_DEFAULT) == ["overloaded", "timeout", "transport"]
