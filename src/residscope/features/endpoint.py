"""A service of the user's own choice that answers questions, over the OpenAI chat completions protocol."""

import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from residscope.errors import EndpointFailed, NoEndpoint

MOST_ANSWER = 1 << 20  # bytes
MOST_SAID = 300  # characters of what a service says of a refusal
TRIES = 3
LATER = (429, 500, 502, 503, 504, 529)  # what is asked again after a pause
LONGEST_PAUSE = 20.0  # seconds


@runtime_checkable
class Namer(Protocol):
    """What answers questions: a service, or any object of one's own."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What it is, for the provenance."""

    def ask(self, question: str) -> str:
        """Its answer. Called from several threads. Raises EndpointFailed."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible service: `POST url/chat/completions`.

        Endpoint("http://127.0.0.1:11434/v1", "qwen3:8b")
        Endpoint("https://api.openai.com/v1", "gpt-5-mini", key="OPENAI_API_KEY", temperature=None)

    key: the name of an environment variable, read at each question and kept nowhere. seconds: the most that one answer may take.
    temperature: None leaves it to the service. A redirection is not followed.

    Raises:
        NoEndpoint: no address, or a key that would go over a network unencrypted.
    """

    url: str
    model: str
    key: str | None = None
    seconds: float = 60.0
    temperature: float | None = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", base_of(self.url))
        parts = urlsplit(self.url)
        if self.key is not None and parts.scheme == "http" and not _own(parts.hostname or ""):
            raise NoEndpoint(
                "the key would go over the network unencrypted",
                received=self.url,
                allowed="https, or a service of this machine's",
            )
        if not self.model.strip():
            raise NoEndpoint("the service's model is not said", received=repr(self.model))

    @property
    def told(self) -> dict[str, Any]:
        return {"endpoint": self.url, "endpoint model": self.model}

    def ask(self, question: str) -> str:
        """The answer; asked again after a pause where the service has no time.

        Raises:
            NoEndpoint: the key's variable is not set. EndpointFailed: it cannot be reached, refuses, takes too long, or answers
            in another form.
        """
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": question}]}
        body |= {} if self.temperature is None else {"temperature": self.temperature}
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), self._headers(), method="POST"
        )
        for attempt in range(TRIES):
            status, pause, answer = self._answer(request)
            if status not in LATER or attempt == TRIES - 1:
                break
            time.sleep(min(pause if pause is not None else 2.0**attempt, LONGEST_PAUSE))
        if status != 200:
            raise self._refused(status, answer)
        return self._content(answer)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "residscope"}
        return headers if self.key is None else headers | {"Authorization": f"Bearer {self._secret()}"}

    def _secret(self) -> str:
        secret = os.environ.get(self.key or "", "").strip()
        if not secret or not secret.isascii() or not secret.isprintable():
            raise NoEndpoint(
                "the environment variable of the key is not set, or holds no key",
                received=self.key,
                fix=f"export {self.key}=... before Residscope is started",
            )
        return secret

    def _answer(self, request: urllib.request.Request) -> tuple[int, float | None, bytes]:
        """Status, what the service asks to wait, and the body; in a thread of its own, since a slow server may drip for ever."""
        found: queue.SimpleQueue[tuple[int, float | None, bytes] | Exception] = queue.SimpleQueue()
        until = time.monotonic() + self.seconds
        threading.Thread(
            target=lambda: found.put(_sent(request, until)), name="residscope-endpoint", daemon=True
        ).start()
        try:
            answer = found.get(timeout=self.seconds)
        except queue.Empty:
            answer = TimeoutError()
        if isinstance(answer, TimeoutError):
            raise EndpointFailed(
                "the service took too long", received=self.url, allowed=f"{self.seconds:g} seconds an answer"
            ) from None
        if isinstance(answer, Exception):
            raise EndpointFailed(
                "the service cannot be reached",
                received=f"{self.url}: {said(getattr(answer, 'reason', answer))}",
                fix="check the address, and that the service runs",
            ) from None
        return answer

    def _refused(self, status: int, answer: bytes) -> EndpointFailed:
        words = answer[: 10 * MOST_SAID].decode("utf-8", "replace")
        if self.key is not None:
            words = words.replace(os.environ.get(self.key, "").strip() or "\0", "…")
        fix = {
            401: "check the key" if self.key else "say which environment variable holds the key",
            403: "check the key" if self.key else "say which environment variable holds the key",
            404: "the address ends in front of /chat/completions, mostly with /v1; check the model's name",
        }.get(status)
        what = "the service sends elsewhere, which is not followed" if 300 <= status < 400 else "the service refuses"
        return EndpointFailed(what, received=f"{status} from {self.url}: {said(words)}", fix=fix)

    def _content(self, answer: bytes) -> str:
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            content = None
        if not isinstance(content, str):
            raise EndpointFailed(
                "the service answers in another form than chat completions",
                received=f"{self.url}: {said(answer[: 4 * MOST_SAID].decode('utf-8', 'replace'))}",
                allowed='JSON with choices[0]["message"]["content"]',
            )
        return content[:MOST_ANSWER]


def base_of(url: str) -> str:
    """A base address as it is compared: no slash at its end. Raises NoEndpoint for what is none, or holds a password."""
    try:
        parts = urlsplit(url.strip())
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not url.strip().isprintable() or " " in url.strip():
        raise NoEndpoint("that is no address of a service", received=url[:200], allowed="https://host/v1, or http")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise NoEndpoint(
            "the address of a service holds no user, key or question",
            received=f"{parts.scheme}://{parts.hostname}",
            fix="give the key in an environment variable",
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def said(what: object) -> str:
    """What somebody else's program says, on one short line that can be shown."""
    words = " ".join("".join(sign if sign.isprintable() else " " for sign in str(what)).split())
    return words if len(words) <= MOST_SAID else words[: MOST_SAID - 1] + "…"


def _own(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **more: Any) -> None:
        """What was allowed is this address, and the key is for it alone."""


def _sent(request: urllib.request.Request, until: float) -> tuple[int, float | None, bytes] | Exception:
    left = max(0.1, until - time.monotonic())
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=left) as response:
            return response.status, None, _read(response, until)
    except urllib.error.HTTPError as error:
        with error:
            pause = error.headers.get("Retry-After", "")
            try:
                return error.code, float(pause) if pause.isdigit() else None, _read(error, until)
            except Exception:
                return error.code, None, b""
    except urllib.error.URLError as error:
        return error.reason if isinstance(error.reason, TimeoutError) else error
    except Exception as error:  # what a server sends may be no HTTP at all
        return error


def _read(response: Any, until: float) -> bytes:
    """The body. Raises TimeoutError, ValueError for one without end."""
    parts, size = list[bytes](), 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > until:
            raise TimeoutError
        if size > MOST_ANSWER:
            raise ValueError(f"an answer of over {MOST_ANSWER:,} bytes")
    return b"".join(parts)
