"""Opening an address without ever being kept waiting by a network that is not there. Free of torch."""

from __future__ import annotations

import contextlib
import email.message
import http.client
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPMessage
from typing import IO, Protocol

from replk_probe.errors import WeightsError

_STALL_SECONDS = 30.0


class Response(Protocol):
    """What is used of an open HTTP answer."""

    status: int
    headers: email.message.Message

    def read(self, amount: int = ...) -> bytes:
        """At most ``amount`` bytes; none at the end."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


class UnreachableError(WeightsError):
    """The host gave no answer at all.

    Attributes:
        host: Its name.
        reason: Why, as a sentence without its full stop.
    """

    def __init__(self, host: str, reason: str = "No answer") -> None:
        """Compose the sentences."""
        super().__init__(f"Cannot reach {host}. {reason}. Check the network, or pass a file or random weights.")
        self.host = host
        self.reason = reason


def check_reachable(url: str, timeout: float = 5.0) -> None:
    """Fail fast where the host of ``url`` does not answer at all.

    Args:
        url: Address whose host (or the proxy in charge of it) is asked.
        timeout: Seconds in total, name look-up and every address of the host included.

    Raises:
        WeightsError: No answer in time.
    """
    try:
        open_url(urllib.request.Request(url, method="HEAD"), timeout).close()
    except urllib.error.HTTPError as error:  # An error status is an answer.
        error.close()


def open_url(request: urllib.request.Request, budget: float) -> Response:
    """Open ``request``, giving up after ``budget`` seconds in all.

    Socket timeouts count per address and per packet and do not cover name look-up at all, which is what keeps an
    offline machine waiting; so the opening runs in a thread that can be left behind.
    """
    answers: queue.Queue[Response | BaseException] = queue.Queue()
    abandoned = threading.Event()

    def work() -> None:
        try:
            answer: Response | BaseException = _opener().open(request, timeout=_STALL_SECONDS)
        except BaseException as error:
            answer = error
        answers.put(answer)
        if abandoned.is_set():
            _discard(answers)

    threading.Thread(target=work, name="replk-probe-connect", daemon=True).start()
    host = urllib.parse.urlsplit(request.full_url).netloc
    try:
        answer = answers.get(timeout=budget)
    except queue.Empty:
        abandoned.set()
        _discard(answers)
        raise UnreachableError(host, f"No answer within {budget:g} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        raise answer
    if isinstance(answer, OSError | http.client.HTTPException | ValueError):
        reason = getattr(answer, "reason", None) or answer
        reason = getattr(reason, "strerror", None) or reason
        raise UnreachableError(host, one_line(reason)) from answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _discard(answers: queue.Queue[Response | BaseException]) -> None:
    with contextlib.suppress(queue.Empty):
        late = answers.get_nowait()
        if not isinstance(late, BaseException) or isinstance(late, urllib.error.HTTPError):
            late.close()


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to an address that anyone on the way could answer for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """The request for ``newurl``."""
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if old.scheme == "https" and new.scheme != "https":
            fp.close()
            raise WeightsError(
                f"Refused to go on from {old.netloc} to {new.scheme}://{new.netloc}. The redirect leaves https, so "
                f"that anyone on the way could change the file. Fetch the file another way and pass its path."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS alone: a redirect to ``file:`` or ``ftp:`` finds no handler."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _NoDowngrade(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def one_line(error: object) -> str:
    """What another library said, as the middle of a sentence of ours: no line break, no full stop."""
    text = " ".join((str(error) or type(error).__name__).split()).rstrip(".")
    return text[:1].upper() + text[1:200]
