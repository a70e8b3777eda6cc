"""Servers that answer wrongly, too much, too slowly or from elsewhere: always a clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_server as fake  # by conftest.py
import pytest

from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.http import client as client_module
from mismatch_lab.engines.http.address import KEY, checked_url
from mismatch_lab.engines.http.engine import HttpEngine
from mismatch_lab.errors import EngineError, InputError, MismatchLabError
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.schema import SideSpec

Connect = Callable[..., Any]
SECRET = "sk-do-not-print-me"


def spec_of(url: str, **args: Any) -> SideSpec:
    """The engine on one server."""
    return SideSpec(
        side="infer", engine="http", model=str(checkpoint_dir()), dtype="float32", urls=(url,),
        args=args,
    )  # fmt: skip


def quiet(*_: Any) -> None:
    """A progress that is not shown."""


def in_choice(**fields: Any) -> Callable[[str, Any], Any]:
    """Fields of a completion in place of the right ones."""

    def spoil(path: str, body: Any) -> Any:
        if "choices" in body:
            body["choices"][0] |= fields
        return body

    return spoil


def in_logprobs(**fields: Any) -> Callable[[str, Any], Any]:
    """Fields of a completion's log-probs."""

    def spoil(path: str, body: Any) -> Any:
        if "choices" in body and body["choices"][0]["logprobs"]:
            body["choices"][0]["logprobs"] |= fields
        return body

    return spoil


def in_meta(**fields: Any) -> Callable[[str, Any], Any]:
    """Fields of SGLang's meta_info."""

    def spoil(path: str, body: Any) -> Any:
        if isinstance(body, dict) and "meta_info" in body:
            body["meta_info"] |= fields
        return body

    return spoil


def whole(value: Any, path_ends: str = "completions") -> Callable[[str, Any], Any]:
    """Another body."""
    return lambda path, body: value if path.endswith(path_ends) else body


SAMPLING: dict[str, tuple[str, Callable[[str, Any], Any], str]] = {
    "no choices": ("vllm", whole({}), "no choices"),
    "a list": ("vllm", whole([1, 2]), "no choices"),
    "two choices": ("vllm", whole({"choices": [{}, {}]}), "2 choices"),
    "choices that are none": ("vllm", whole({"choices": [3]}), "choices"),
    "no ids": ("vllm", in_choice(token_ids=None), "returns no token ids"),
    "ids as text": ("vllm", in_choice(token_ids=["1"] * 6), "as a token id"),
    "ids beyond": ("vllm", in_choice(token_ids=[576] * 6), "576 as a token id"),
    "ids below": ("vllm", in_choice(token_ids=[-1] * 6), "-1 as a token id"),
    "ids that are true": ("vllm", in_choice(token_ids=[True] * 6), "as a token id"),
    "other ids": ("vllm", in_choice(token_ids=[3] * 6), "other tokens than it sampled"),
    "another prompt": ("vllm", in_choice(prompt_token_ids=[1, 2, 3]), "other token ids"),
    "a longer prompt": ("vllm", in_choice(prompt_token_ids=[1] * 9), "9 token ids where 3 belong"),
    "no prompt": ("vllm", in_choice(prompt_token_ids=None), "returns no token ids"),
    "broken off": ("vllm", in_choice(finish_reason="abort"), "broken off"),
    "NaN": ("vllm", in_logprobs(token_logprobs=[float("nan")] * 6), "as a log-prob"),
    "null": ("vllm", in_logprobs(token_logprobs=[None] * 6), "null as a log-prob"),
    "infinity": ("vllm", in_logprobs(token_logprobs=[float("inf")] * 6), "as a log-prob"),
    "text": ("vllm", in_logprobs(token_logprobs=["-1"] * 6), "as a log-prob"),
    "above 0": ("vllm", in_logprobs(token_logprobs=[3.5] * 6), "above 0"),
    "a huge number": ("vllm", in_logprobs(token_logprobs=[10**400] * 6), "as a log-prob"),
    "too few": ("vllm", in_logprobs(token_logprobs=[-1.0]), "1 log-probs for 6 tokens"),
    "no log-probs": ("vllm", in_choice(logprobs=None), "no logprobs"),
    "HTML": ("vllm", whole("<html>Log in</html>"), "what is no JSON: <html>Log in</html>"),
    "nothing": ("vllm", whole(b""), "what is no JSON: nothing"),
    "half": ("vllm", whole(b'{"choices": [{"tok'), "what is no JSON"),
    "nested": ("vllm", whole(b"[" * 200_000), "what is no JSON"),
    "control characters": ("vllm", whole("\x1b[2J\x07gone"), "what is no JSON"),
    "a key": ("vllm", whole(f"you said Bearer {SECRET}"), "you said Bearer …"),
    "no version": ("vllm", whole({"version": 3}, "version"), "no server of vLLM or SGLang"),
    "no models": ("vllm", whole({"data": []}, "models"), "lists no models"),
    "no length": ("vllm", whole({"data": [{"id": "m"}]}, "models"), "no max_model_len"),
    "SGLang: no ids": ("sglang", whole({"meta_info": {}}, "generate"), "returns no token ids"),
    "SGLang: no meta": ("sglang", whole({"output_ids": [1]}, "generate"), "no meta_info"),
    "SGLang: aborted": ("sglang", in_meta(finish_reason={"type": "abort"}), "broken off"),
    "SGLang: other ids": (
        "sglang", in_meta(output_token_logprobs=[[-1.0, 3, None]] * 6), "other token ids",
    ),
    "SGLang: null": ("sglang", in_meta(output_token_logprobs=None), "no output_token_logprobs"),
    "SGLang: shape": ("sglang", in_meta(output_token_logprobs=[[]] * 6), "no output_token"),
}  # fmt: skip

SCORING: dict[str, tuple[str, Callable[[str, Any], Any], str]] = {
    "none": ("vllm", in_choice(prompt_logprobs=None), "no prompt_logprobs of 9"),
    "shorter": ("vllm", in_choice(prompt_logprobs=[None, {}]), "no prompt_logprobs of 9"),
    "not its own": (
        "vllm", in_choice(prompt_logprobs=[None] + [{"575": {"logprob": -1}}] * 8), "no log-prob",
    ),
    "keys": ("vllm", in_choice(prompt_logprobs=[None] + [{"x": {"logprob": -1}}] * 8), "a key"),
    "values": ("vllm", in_choice(prompt_logprobs=[None] + [{"5": -1.0}] * 8), "null as a log"),
    "SGLang: none": ("sglang", in_meta(input_token_logprobs=None), "no input_token_logprobs"),
    "SGLang: other": (
        "sglang",
        in_meta(input_token_logprobs=[[None, 1, None]] + [[-1.0, 575, None]] * 8),
        "other token ids .input",
    ),
    "SGLang: no routing": ("sglang", in_meta(routed_experts="%%%"), "experts that cannot be read"),
    "experts": ("vllm", in_choice(routed_experts="AAAA"), "experts that cannot be read"),
}  # fmt: skip


AT_FIRST = ("no version", "no models", "no length")
"""What is seen when the engine starts."""


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, tuple[Any, Any]]]:
    """An engine on each kind of fake."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv(KEY, SECRET)
        found = {}
        for kind in ("vllm", "sglang"):
            settings = fake.Settings(kind=kind)
            url = stack.enter_context(fake.serving(settings))
            engine = HttpEngine(spec_of(url))
            stack.callback(engine.close)
            found[kind] = settings, engine
        yield found


@pytest.fixture
def engines(started: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The same, unspoiled."""
    for settings, _ in started.values():
        settings.spoil = fake.Settings().spoil
    return started


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API key, and no waiting between tries."""
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setattr(client_module, "LONGEST_WAIT_S", 0.01)


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("what", SAMPLING)
def test_wrong_answers_to_sampling_are_named(
    what: str, engines: Any, connect: Connect, sample: Any
) -> None:
    kind, spoil, words = SAMPLING[what]
    settings, engine = engines[kind]
    settings.spoil = spoil
    with pytest.raises(MismatchLabError, match=words) as caught:
        sample(engine) if what not in AT_FIRST else connect(settings)
    said = str(caught.value)
    assert SECRET not in said
    assert "127.0.0.1" in said
    assert all(c.isprintable() or c == "\n" for c in said)
    assert len(said) < 800


@pytest.mark.parametrize("what", SCORING)
def test_wrong_answers_to_scoring_are_named(what: str, engines: Any, sample: Any) -> None:
    kind, spoil, words = SCORING[what]
    settings, engine = engines[kind]
    rows = sample(engine).rows
    settings.spoil = spoil
    with pytest.raises(EngineError, match=words):
        engine.score(rows, ScoreRequest(routing=True), quiet)


def test_an_endless_list_is_cut_off(connect: Connect, fakes: Any, sample: Any) -> None:
    """Of six tokens an answer has a few kilobytes; a billion entries are never held."""
    sent = []

    def endless(handler: Any, path: str) -> bool:
        if not path.endswith("completions"):
            return False
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        block = b"0," * 50_000
        for _ in range(20_000):  # a billion
            handler.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
            sent.append(len(block))
        return True

    settings = fakes.Settings()
    engine = connect(settings, concurrency=1)
    settings.raw = endless
    tracemalloc.start()
    with pytest.raises(EngineError, match=r"more than [0-9,]+ bytes"):
        sample(engine)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20  # with what the server's thread holds
    tracemalloc.stop()
    assert sum(sent) < 32 << 20


def test_a_slow_drip_ends_when_the_time_is_up(connect: Connect, fakes: Any, sample: Any) -> None:
    settings = fakes.Settings()
    engine = connect(settings, timeout_s=1.5)
    settings.raw = fakes.drip
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"no whole answer within 1\.5 s"):
        sample(engine)
    assert time.monotonic() - began < 6


def test_half_an_answer_is_an_error(connect: Connect, fakes: Any, sample: Any) -> None:
    def half(handler: Any, path: str) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"version": "0.3')
        handler.close_connection = True
        return True

    settings = fakes.Settings()
    engine = connect(settings)
    settings.raw = half
    with pytest.raises(EngineError, match="broke its answer off"):
        sample(engine)


@pytest.mark.usefixtures("secret")
def test_a_redirect_is_not_followed(connect: Connect, fakes: Any) -> None:
    elsewhere = fakes.Settings()

    def redirect(handler: Any, path: str) -> bool:
        handler.send_response(307)
        handler.send_header("Location", f"{target}{path}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    with (
        fakes.serving(elsewhere) as target,
        pytest.raises(EngineError, match=r"sends elsewhere .HTTP 307"),
    ):
        connect(fakes.Settings(raw=redirect))
    assert elsewhere.asked == []


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_asked_again_and_not_for_ever(
    status: int, connect: Connect, fakes: Any, sample: Any
) -> None:
    refusals = iter(range(1000))

    def busy(handler: Any, path: str) -> bool:
        if not path.endswith("completions") or next(refusals) >= storm:
            return False
        handler.send_response(status)
        handler.send_header("Retry-After", "1e9")
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"busy")
        return True

    storm = 0
    settings = fakes.Settings(raw=busy)
    engine = connect(settings, concurrency=1)
    storm = 3
    assert sample(engine).rows.n_rows == 4
    storm = 1000
    with pytest.raises(EngineError, match=f"refused 6 times, at last with HTTP {status}: busy"):
        sample(engine)


def test_an_error_of_the_server_is_in_its_words(connect: Connect, fakes: Any, sample: Any) -> None:
    def dead(handler: Any, path: str) -> bool:
        handler.send(500, {"error": {"message": "EngineDeadError"}})
        return True

    settings = fakes.Settings()
    engine = connect(settings)
    settings.raw = dead
    with pytest.raises(EngineError, match=r"failed .HTTP 500.*EngineDeadError"):
        sample(engine)


def test_a_server_that_ends_is_an_error(fakes: Any) -> None:
    with fakes.serving(fakes.Settings()) as url:
        pass
    with pytest.raises(EngineError, match=r"No server answers at http://127"):
        HttpEngine(spec_of(url, timeout_s=20.0))


def test_a_key_is_sent_and_a_missing_one_is_asked_for(
    connect: Connect, fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(InputError, match="wants an API key") as caught:
        connect(fakes.Settings(key=SECRET))
    assert KEY in caught.value.hint
    monkeypatch.setenv(KEY, "sk-another")
    with pytest.raises(InputError, match="refuses the key") as caught:
        connect(fakes.Settings(key=SECRET))
    assert "sk-another" not in str(caught.value)
    monkeypatch.setenv(KEY, SECRET)
    engine = connect(fakes.Settings(key=SECRET))
    assert SECRET not in json.dumps([engine.options, engine.spec.model_dump(), repr(engine)])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host:1", "is no server's"),
        ("localhost:8000", "is no server's"),
        ("http://:8000", "is no server's"),
        ("http://host:8000?key=1", "is no server's"),
        ("http://host:x", "is no URL"),
        (f"http://user:{SECRET}@host:8000", "holds a user or a password"),
    ],
)
def test_a_url_is_an_address_and_nothing_more(url: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        checked_url(url)
    assert SECRET not in str(caught.value)
    assert checked_url("http://host:8000/v1/") == "http://host:8000"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("HTML", "what is no JSON: <html>Bearer …"),
        ("drip", "no whole answer within 2 s"),
        ("null", "null as a log-prob"),
    ],
)
def test_the_command_line_ends_with_two_lines_and_code_2(
    what: str, words: str, fakes: Any, tmp_path: Path
) -> None:
    settings = fakes.Settings()
    if what == "HTML":
        settings.spoil = whole(f"<html>Bearer {SECRET}</html>", "models")
    elif what == "drip":
        settings.raw = fakes.drip
    else:
        settings.spoil = in_logprobs(token_logprobs=[None])
    with fakes.serving(settings) as url:
        done = subprocess.run(
            [
                sys.executable, "-m", "mismatch_lab.cli", "diagnose", "--engine-url", url,
                "--engine-arg", "timeout_s=2", "--out", str(tmp_path / "run"),
            ],
            capture_output=True, text=True, check=False, timeout=120,
            env=os.environ | {KEY: SECRET},
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    written = [done.stdout.encode(), done.stderr.encode()]
    written += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in written if SECRET.encode() in text]
