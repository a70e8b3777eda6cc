"""The server's protocol, with an engine that only keeps what it was asked."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.trainer.config import read_config
from mismatch_lab.trainer.rollout import (
    Answer,
    Answers,
    EngineSpec,
    Rollout,
    Sample,
    SamplingParams,
    Score,
    Scores,
    Transfer,
)
from mismatch_lab.trainer.rollout_client import TOKEN, ServerRollout
from mismatch_lab.trainer.rollout_server import Host, main, serve
from mismatch_lab.trainer.run import check

HELD = Transfer(3, 2, ("head",), ("norm",), "")
KEPT = np.array([[True, False, True]])


class Kept(Rollout):
    """An engine that answers by rote."""

    version = "vllm 0"

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.asked: list[Any] = []
        self.folders: list[Path] = []
        self.closed = False

    def ask(self, request: Any, wanted: type[Any]) -> Any:
        self.asked.append(request)
        match request:
            case Sample(contexts):
                return Answers([Answer([7], [-0.5], True, support=KEPT) for _ in contexts])
            case Score([]):
                raise EngineError("no rows", "give some")
            case Score(rows):
                return Scores([[-1.0] * (len(row) - 1) for row in rows])
        return HELD

    def restart(self, folder: Path) -> None:
        self.folders.append(folder)

    def close(self) -> None:
        self.closed = True


class Running:
    """A server in a thread."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def engines() -> list[Kept]:
    return []


@pytest.fixture
def running(
    engines: list[Kept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    monkeypatch.setenv(TOKEN, "secret")

    def begin(spec: EngineSpec) -> Kept:
        engines.append(Kept(spec))
        return engines[-1]

    found = Running(serve(Host(begin, tmp_path / "server.log"), "127.0.0.1", 0, "secret"))
    yield found
    found.stop()


def spec(url: str) -> EngineSpec:
    return EngineSpec("model", "float32", 512, "processed", {"seed": 3}, ("a", "plain"), url=url)


def test_an_engine_is_started_asked_and_ended(
    running: Running, engines: list[Kept], tmp_path: Path
) -> None:
    rollout = ServerRollout(spec(running.url))
    (engine,) = engines
    assert rollout.version == "vllm 0"
    assert engine.spec.log == str(tmp_path / "server.log")  # not a path of the trainer's host
    assert (engine.spec.folder, engine.spec.args) == ("model", {"seed": 3})
    answers = rollout.sample([[1, 2], [3]], [5, 5], SamplingParams(1.0, seed=4, first_row=6))
    assert [answer.token_ids for answer in answers] == [[7], [7]]
    assert engine.asked == [Sample([[1, 2], [3]], [5, 5], SamplingParams(1.0, seed=4, first_row=6))]
    np.testing.assert_array_equal(answers[1].support, KEPT)
    assert answers[1].routing is None
    assert rollout.score([[1, 2, 3]], 1.0)[0][1:] == [-1.0, -1.0]
    assert rollout.transfer(tmp_path) == rollout.verify(tmp_path) == HELD
    rollout.restart(tmp_path)
    assert engine.folders == [tmp_path]
    rollout.close()
    assert engine.closed


def test_errors_of_the_engine_keep_their_kind_and_hint(running: Running) -> None:
    rollout = ServerRollout(spec(running.url))
    with pytest.raises(EngineError, match="no rows") as error:
        rollout.score([], 1.0)
    assert error.value.hint == "give some"
    with pytest.raises(InputError, match="sees no folder"):
        rollout.transfer(Path("not-there"))


def test_a_run_whose_server_was_taken_over_is_told(running: Running, engines: list[Kept]) -> None:
    first = ServerRollout(spec(running.url))
    second = ServerRollout(spec(running.url))
    assert [engine.closed for engine in engines] == [True, False]
    with pytest.raises(EngineError, match="another has taken it over"):
        first.score([[1, 2]], 1.0)
    first.close()  # and does not end the other's engine
    assert not engines[1].closed
    assert second.score([[1, 2]], 1.0)[0][1] == -1.0


def test_a_wrong_token(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "guess")
    with pytest.raises(InputError, match="refuses the key") as error:
        ServerRollout(spec(running.url))
    assert TOKEN in error.value.hint
    assert "guess" not in str(error.value) + error.value.hint


def test_a_server_that_is_not_there_and_one_that_went(running: Running) -> None:
    rollout = ServerRollout(spec(running.url))
    running.stop()
    with pytest.raises(EngineError, match="is gone"):
        rollout.score([[1, 2]], 1.0)
    rollout.close()
    with pytest.raises(InputError, match="No rollout server at"):
        ServerRollout(spec(running.url))


class Silent(BaseHTTPRequestHandler):
    """Somebody else's server."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


def test_a_url_of_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")
    other = Running(HTTPServer(("127.0.0.1", 0), Silent))
    with pytest.raises(InputError, match=r"No rollout server at .* \(HTTP 501\)"):
        ServerRollout(spec(other.url))
    other.stop()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host:1", "http://host:port", "http://"])
def test_what_is_no_url_is_refused_before_anything_is_loaded(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(None, {"rollout.engine": "vllm-server", "rollout.urls": [url]})
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(InputError, match=TOKEN):
        check(config)
    monkeypatch.setenv(TOKEN, "secret")
    with pytest.raises(InputError, match=r"rollout\.urls"):
        check(config)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rollout.engine": "vllm-server"}, "which needs them"),
        ({"rollout.urls": ["http://a:1"]}, "are for engine vllm-server"),
    ],
)
def test_urls_and_the_engine_go_together(settings: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_config(None, settings)


def test_a_server_without_a_token_or_on_a_taken_port(
    running: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(running.server.server_port)
    assert main(["--port", port]) == 2
    assert "Cannot listen on 127.0.0.1" in capsys.readouterr().err
    monkeypatch.delenv(TOKEN)
    assert main(["--port", "0"]) == 2
    assert TOKEN in capsys.readouterr().err
