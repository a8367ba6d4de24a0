"""The reward server: real models over real HTTP, and everything that a stranger may send."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from reward import serve
from reward.config import ServeConfig
from reward.preferences import Message
from reward.score import Scorer
from reward.serve import MOST_BYTES, RewardServer, question
from tests.reward.reward_models import encoder, ours
from tests.tiny_models import tiny_chat_model

PROMPT = [{"role": "user", "content": "How long is the warranty of my kettle?"}]
ANSWERS = ["Two years.", "I cannot help with that, and here is why.", ""]


def chats(*answers: str) -> list[list[dict[str, str]]]:
    return [[*PROMPT, {"role": "assistant", "content": answer}] for answer in answers]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two reward models, a chat model beside them, and one outside."""
    folder = tmp_path_factory.mktemp("reward-server")
    for number, name in enumerate(["root/runs/1/model", "root/runs/2/model", "outside"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ours(folder / name, seed=number)
    return folder / "root"


@contextmanager
def served(root: Path, key: str = "", **settings) -> Iterator[httpx.Client]:
    config = ServeConfig(root=root, port=0, device="cpu", **settings)
    server = RewardServer(config, key)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=60) as client:
            client.models = server.models
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def client(root):
    with served(root) as client:
        yield client


def ask(client: httpx.Client, model: str, conversations=None) -> httpx.Response:
    wanted = chats(*ANSWERS) if conversations is None else conversations
    return client.post("/score", json={"model": model, "conversations": wanted})


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/json"
    (said,) = answer.json().values()
    return answer.status_code, said


def test_it_works(client, root):
    found = ask(client, "runs/1/model")
    assert found.status_code == 200
    scorer = Scorer(root / "runs/1/model", "cpu")
    for answer, score in zip(ANSWERS, found.json()["scores"], strict=True):
        alone = scorer([[Message("user", PROMPT[0]["content"]), Message("assistant", answer)]])
        assert score == pytest.approx(alone.item(), abs=1e-5)
    other = ask(client, "runs/2/model").json()["scores"]
    assert other != found.json()["scores"]
    assert ask(client, str(root / "runs/1/model")).json() == found.json()  # the folder itself
    assert client.get("/health").json() == {"status": "ok", "loaded": 2}


def test_a_conversation_of_many_turns_with_a_system_message(client):
    system = [{"role": "system", "content": "Be kind."}]
    first, second = ask(
        client, "runs/1/model", [[*system, *c, *c] for c in chats("a", "b")]
    ).json()["scores"]
    assert first != second


# --- which folders --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../outside", "runs/../../outside", "/etc", "runs", "runs/3/model", ".", "..", "~",
     "runs/1/model\x00", "link", "loop", "x/" * 240],
)  # fmt: skip
def test_nothing_outside_the_root_is_read(client, root, name):
    for link, target in (("link", root.parent / "outside"), ("loop", root / "loop")):
        if not (root / link).is_symlink():
            (root / link).symlink_to(target)
    status, said = refusal(ask(client, name))
    assert (status, said) == (404, f"There is no model {name!r} here.")


def test_an_absolute_folder_outside_is_not_there(client, root):
    assert refusal(ask(client, str(root.parent / "outside")))[0] == 404


def test_what_is_no_reward_model_is_a_sentence(root, tmp_path):
    tiny_chat_model(tmp_path / "chat")
    encoder(tmp_path / "encoder")
    shutil.copytree(root / "runs/1/model", tmp_path / "torn")
    (tmp_path / "torn/model.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}")
    with served(tmp_path) as client:
        status, said = refusal(ask(client, "chat"))
        assert status == 422
        assert said == "chat holds LlamaForCausalLM, not a reward model"
        for name in ("torn", "empty", "encoder"):
            status, said = refusal(ask(client, name))
            assert status in (422, 500), name
            assert str(tmp_path) not in said
        assert client.get("/health").json()["loaded"] <= 1


# --- what stays loaded ----------------------------------------------------------------------------


def test_the_models_asked_for_last_stay_loaded(root, tmp_path):
    for name in ("a", "b", "c"):
        shutil.copytree(root / "runs/1/model", tmp_path / name)
    with served(tmp_path, models=2) as client:
        for name in ("a", "b", "a", "c"):
            assert ask(client, name).status_code == 200
        assert [folder.name for folder in client.models.loaded] == ["a", "c"]


def test_a_folder_that_changed_is_loaded_anew(root, tmp_path):
    shutil.copytree(root / "runs/1/model", tmp_path / "model")
    with served(tmp_path) as client:
        first = ask(client, "model").json()
        shutil.rmtree(tmp_path / "model")
        assert ask(client, "model").status_code == 404
        shutil.copytree(root / "runs/2/model", tmp_path / "model")
        assert ask(client, "model").json() != first


def test_many_at_once_have_each_their_own_scores(client):
    wanted = {name: ask(client, name).json() for name in ("runs/1/model", "runs/2/model")}
    names = [*wanted] * 6
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda name: ask(client, name).json(), names))
    for name, scores in zip(names, found, strict=True):
        assert scores["scores"] == pytest.approx(wanted[name]["scores"], abs=1e-6)


# --- what may be asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ([], "The request cannot be read"),
        ({"model": "x"}, "The request cannot be read"),
        ({"model": "x", "conversations": [], "more": 1}, "The request cannot be read"),
        ({"model": 5, "conversations": chats("a")}, "model cannot be read"),
        ({"model": "", "conversations": chats("a")}, "model cannot be read"),
        ({"model": "x" * 501, "conversations": chats("a")}, "model cannot be read"),
        ({"model": "x", "conversations": []}, "conversations cannot be read"),
        ({"model": "x", "conversations": [*chats("a"), []]}, "conversation 2 cannot be read"),
        ({"model": "x", "conversations": [PROMPT]}, "ends with an assistant's answer"),
        ({"model": "x", "conversations": [["a"]]}, "a message of conversation 1"),
        ({"model": "x", "conversations": [[{"role": "tool", "content": ""}]]}, "with the role"),
        ({"model": "x", "conversations": [[{"role": ["user"], "content": ""}]]}, "with the role"),
        ({"model": "x", "conversations": [[{"role": "user", "content": None}]]}, "and a text"),
    ],
)
def test_what_is_no_question_is_a_sentence(client, asked, sentence):
    status, said = refusal(client.post("/score", json=asked))
    assert status == 400
    assert sentence in said


HALF = b'{"model": "x", "conversations": [[{"role": "assistant", "content": "\\ud83e"}]]}'


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, HALF])
def test_what_is_no_json_is_a_sentence(client, body):
    answer = client.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer)[0] == 400


def test_what_is_longer_than_the_context_is_named(client):
    status, said = refusal(ask(client, "runs/1/model", chats("short", "word " * 300)))
    assert status == 422
    assert re.fullmatch(
        r"conversation 2 has \d+ tokens, allowed are 256: the model's context", said
    )


def test_what_the_template_refuses_is_a_sentence(root, tmp_path):
    shutil.copytree(root / "runs/1/model", tmp_path / "strict")
    (tmp_path / "strict/chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }}<|end|>{% endfor %}"
    )
    with served(tmp_path) as client:
        conversation = [{"role": "system", "content": "Be kind."}, *chats("Yes.")[0]]
        status, said = refusal(ask(client, "strict", [conversation]))
    assert (status, said) == (
        422, "the chat template refuses the roles system, user, assistant: no system",
    )  # fmt: skip


def test_a_body_without_end_is_not_kept(client):
    body = b" " * (MOST_BYTES + 1)
    answer = client.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer) == (
        413, f"The request is too long: at most {MOST_BYTES} bytes. Send it in parts.",
    )  # fmt: skip
    assert client.get("/health").status_code == 200


def test_other_addresses_and_methods(client):
    assert refusal(client.get("/score"))[0] == 404
    assert refusal(client.post("/other", json={}))[0] == 404
    assert refusal(client.put("/score", json={}))[0] == 501
    assert refusal(client.options("/score"))[0] == 501  # so no page's script may send JSON


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_what_a_page_of_another_site_could_send_is_refused(client, kind):
    body = json.dumps({"model": "runs/1/model", "conversations": chats("a")}).encode()
    answer = client.post("/score", content=body, headers={"Content-Type": kind})
    assert refusal(answer)[0] == 415


def test_a_body_of_unknown_length(client):
    parts = iter([b"{}"])
    answer = client.post("/score", content=parts, headers={"Content-Type": "application/json"})
    assert refusal(answer)[0] == 411


def raw(client: httpx.Client, sent: bytes) -> bytes:
    with socket.create_connection((client.base_url.host, client.base_url.port), 10) as peer:
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(2**16), b""))


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"POST\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /score HTTP/1.1\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"POST /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /score HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /score HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{}",
    ],
)
def test_broken_requests_leave_it_answering(client, sent, capfd):
    raw(client, sent)
    assert client.get("/health").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_one_who_goes_away_leaves_it_answering(client, capfd):
    body = json.dumps({"model": "runs/1/model", "conversations": chats(*"abcdefgh")}).encode()
    head = b"POST /score HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for _ in range(4):
        with socket.create_connection((client.base_url.host, client.base_url.port), 10) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            peer.sendall(head % len(body) + body)
    assert ask(client, "runs/1/model").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_too_many_at_once_are_told(root, monkeypatch):
    monkeypatch.setattr(serve, "MOST_REQUESTS", 2)
    with served(root) as client:
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address), socket.create_connection(address):
            for _ in range(100):
                if client.get("/health").status_code == 503:
                    break
            assert client.get("/health").status_code == 503
        for _ in range(100):
            if client.get("/health").status_code == 200:
                break
        assert client.get("/health").status_code == 200


def test_a_key(root):
    with served(root, key="secret") as client:
        assert ask(client, "runs/1/model").status_code == 200
        for given in ("", "Bearer other", "Bearer secret2", "secret", "Bearer sécret"):
            client.headers = [(b"Authorization", given.encode("latin-1"))]
            assert refusal(ask(client, "runs/1/model")) == (
                401, "The key is missing, or is another one.",
            )  # fmt: skip
        assert client.get("/health").status_code == 200


# --- the command ----------------------------------------------------------------------------------


def test_the_command_answers_and_is_small_until_asked(root):
    """A process of its own; torch comes with the first question."""
    environment = {**os.environ, "SCORER_API_KEY": "secret"}
    command = [sys.executable, "-m", "reward.serve", "--root", str(root), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], env=environment, text=True, stdout=subprocess.PIPE
    )
    try:
        address = re.search(r"http://127.0.0.1:\d+", process.stdout.readline())[0]
        headers = {"Authorization": "Bearer secret"}
        with httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=60) as client:
            before = resident_kilobytes(process.pid)
            assert client.get("/health").json() == {"status": "ok", "loaded": 0}
            assert ask(client, "runs/1/model").status_code == 200
            assert before < 60_000 < resident_kilobytes(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def resident_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def test_a_taken_port_is_one_sentence(root):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"127.0.0.1 port {port} cannot be listened on"):
            serve.main(["--root", str(root), "--port", str(port)])


def test_a_port_that_is_none(root):
    with pytest.raises(SystemExit):
        serve.main(["--root", str(root), "--port", "70000"])


def test_a_question_knows_its_messages():
    asked = question({"model": "m", "conversations": chats("Yes.")})
    assert asked.conversations == [
        [Message("user", PROMPT[0]["content"]), Message("assistant", "Yes.")]
    ]
