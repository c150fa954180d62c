from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message

from minivess.contracts import Domain
from minivess.errors import ServingError, UsageError
from minivess.serving import model_record, upload
from minivess.serving.middleware import ServiceMiddleware, page

Client = Callable[..., TestClient]
GONE = {"model": "tubes:1", "status": "499"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


async def size(request: Request) -> Response:
    """Answer with the size of the body."""
    return PlainTextResponse(str(len(await request.body())))


async def fail(_: Request) -> Response:
    """Fail like BentoML, which wraps its errors in a list."""
    return JSONResponse([{"error": "Something broke"}], status_code=400)


@pytest.fixture
def client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: model_record.ServedModel
) -> Client:
    """A client of a small application behind the gate, with limits as given."""

    def make(**limits: int) -> TestClient:
        model_record.write(tmp_path, model.replace(**limits))
        monkeypatch.chdir(tmp_path)
        routes = [Route("/predict", size, methods=["POST"]), Route("/fail", fail)]
        return TestClient(ServiceMiddleware(Starlette(routes=routes)))

    return make


def test_every_answer_names_model_and_lineage(
    client: Client, model: model_record.ServedModel
) -> None:
    for answer in (client().post("/predict", headers=MULTIPART), client().get("/nowhere")):
        assert model_record.lineage_of(dict(answer.headers)) == {
            "model": "tubes:1",
            **model.lineage,
        }


def test_a_body_that_says_it_is_too_large_is_not_read(client: Client) -> None:
    answer = client(max_upload_mb=1).post("/predict", headers=MULTIPART, content=b"0" * 2**21)
    assert answer.status_code == 413
    assert answer.json()["remedy"] == "send the volume compressed (.nii.gz), or in blocks"


def test_a_body_of_unknown_length_is_cut_at_the_limit(client: Client) -> None:
    def parts() -> Iterator[bytes]:
        yield from [b"0" * 2**19] * 5

    answer = client(max_upload_mb=1).post("/predict", headers=MULTIPART, content=parts())
    assert answer.status_code == 413
    assert "larger than 1 MiB" in answer.json()["error"]


def test_what_fits_passes_whole(client: Client) -> None:
    assert client().post("/predict", headers=MULTIPART, content=b"0" * 1000).text == "1000"


def test_too_many_waiting_are_asked_to_come_back(client: Client) -> None:
    answer = client(max_waiting=0).post("/predict", headers=MULTIPART)
    assert (answer.status_code, answer.json()["remedy"]) == (429, "ask again in 1 s")
    assert answer.headers["Retry-After"] == "1"


TOKENS = ("first-token-of-the-lab", "second-token-of-the-lab")


def bearer(token: str) -> dict[str, str]:
    """Headers of an upload with a token."""
    return {**MULTIPART, "Authorization": f"Bearer {token}"}


def test_a_service_with_tokens_lets_in_who_sends_one_each_at_its_own_rate(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("\n".join(TOKENS))
    monkeypatch.setenv("MINIVESS_TOKEN_FILE", str(tmp_path / "tokens"))
    monkeypatch.setenv("MINIVESS_REQUESTS_PER_MINUTE", "2")
    service = client()

    def status(headers: dict[str, str]) -> int:
        return service.post("/predict", headers=headers).status_code

    wrong = [MULTIPART, bearer("first-token-of-the-la"), {**MULTIPART, "Authorization": TOKENS[0]}]
    assert [status(headers) for headers in wrong] == [401, 401, 401]
    assert [status(bearer(TOKENS[0])) for _ in range(3)] == [200, 200, 429]
    answer = service.post("/predict", headers=bearer(TOKENS[0]))
    assert answer.json()["error"] == "This token may ask 2 times a minute."
    assert 1 <= int(answer.headers["Retry-After"]) <= 31
    assert status(bearer(TOKENS[1])) == 200
    assert service.get("/").status_code == 200
    assert service.get("/fail").status_code == 401


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MINIVESS_TOKEN": "short"}, "fewer than 16 characters"),
        ({"MINIVESS_TOKEN_FILE": "absent"}, "cannot be read from absent"),
        ({"MINIVESS_TOKEN_FILE": "/dev/null"}, "holds no token"),
        ({"MINIVESS_TOKEN": TOKENS[0], "MINIVESS_TOKEN_FILE": "t"}, "are both set"),
        ({"MINIVESS_REQUESTS_PER_MINUTE": "-1"}, "is no whole number"),
    ],
)
def test_a_token_that_cannot_be_meant_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said):
        client()


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: model_record.ServedModel
) -> Callable[..., ServiceMiddleware]:
    """The middleware before an application that needs 0.2 s for each request."""

    async def slow(request: Request) -> Response:
        body = await request.body()
        await asyncio.sleep(0.2)
        return PlainTextResponse(str(len(body)))

    def make(**limits: float) -> ServiceMiddleware:
        model_record.write(tmp_path, model.replace(**limits))
        monkeypatch.chdir(tmp_path)
        return ServiceMiddleware(Starlette(routes=[Route("/predict", slow, methods=["POST"])]))

    return make


Body = list[Message | float]
Received = tuple[int, dict[str, str], bytes]
WHOLE: Body = [{"type": "http.request", "body": b"1234", "more_body": False}]
STALLED: Body = [{"type": "http.request", "body": b"12", "more_body": True}, 1e9]
HUNG_UP: Body = [*WHOLE, 0.05, {"type": "http.disconnect"}]


async def post(service: ServiceMiddleware, body: Body) -> Received:
    """Status (0: no answer), headers and body of an answer; numbers in `body` are pauses in s."""
    parts, complete = list(body), asyncio.Event()
    sent: list[Message] = []

    async def receive() -> Message:
        while parts:
            part = parts.pop(0)
            if not isinstance(part, float):
                return part
            await asyncio.sleep(part)
        await complete.wait()
        return {"type": "http.disconnect"}  # as servers do when the answer is complete

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            complete.set()
            await asyncio.sleep(0.01)

    headers = [(name.encode(), value.encode()) for name, value in MULTIPART.items()]
    scope = {
        "type": "http", "method": "POST", "path": "/predict", "headers": headers,
        "query_string": b"",
    }  # fmt: skip
    await service(scope, receive, send)
    if not sent:
        return 0, {}, b""
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent)


def test_clients_that_stop_sending_shut_nobody_out_and_are_refused_in_time(
    service: Callable[..., ServiceMiddleware], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "GRACE_S", 1.5)

    async def story() -> list[Received]:
        one = service(max_waiting=2)
        stalled = [asyncio.create_task(post(one, STALLED)) for _ in range(20)]
        await asyncio.sleep(0.1)
        served = await asyncio.wait_for(post(one, WHOLE), 1)
        return [served, *await asyncio.gather(*stalled)]

    served, *stalled = asyncio.run(story())
    assert (served[0], served[2]) == (200, b"4")
    assert {status for status, _, _ in stalled} == {408}
    assert json.loads(stalled[0][2])["error"].startswith("2 bytes arrived")


def test_as_many_wait_as_the_stated_time_allows_and_the_rest_are_told_when_to_come_back(
    service: Callable[..., ServiceMiddleware],
) -> None:
    async def story() -> list[Received]:
        one = service(max_wait_s=0.7)
        await post(one, WHOLE)  # shows how long one takes
        return await asyncio.gather(*(post(one, WHOLE) for _ in range(20)))

    answers = asyncio.run(story())
    served = [answer for answer in answers if answer[0] == 200]
    refused = {(status, headers["retry-after"]) for status, headers, _ in answers if status != 200}
    assert 3 <= len(served) <= 5
    assert refused == {(429, "1")}


def test_a_client_that_hangs_up_leaves_the_queue_and_counts_as_499(
    service: Callable[..., ServiceMiddleware],
) -> None:
    async def story() -> tuple[list[Received], ServiceMiddleware]:
        one = service()
        bodies = (WHOLE, HUNG_UP, WHOLE)
        return await asyncio.gather(*(post(one, body) for body in bodies)), one

    good = GONE | {"status": "200"}
    before, served = (
        REGISTRY.get_sample_value("minivess_requests_total", labels) or 0 for labels in (GONE, good)
    )
    answers, one = asyncio.run(story())
    assert [status for status, _, _ in answers] == [200, 0, 200]
    assert one.queue.waiting == 0
    assert REGISTRY.get_sample_value("minivess_requests_total", GONE) == before + 1
    assert REGISTRY.get_sample_value("minivess_requests_total", good) == served + 2


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/predict", 405, "Method Not Allowed"),
        ("/nowhere", 404, "Not Found"),
        ("/fail", 400, "Something broke"),
    ],
)
def test_every_error_has_a_remedy(client: Client, path: str, status: int, error: str) -> None:
    answer = client().get(path)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["remedy"].startswith("curl -F image=@")
    assert answer.json()["model"] == "tubes:1"


def test_what_is_no_upload_is_refused(client: Client) -> None:
    answer = client().post("/predict", json={"image": "http://example.org/volume.nii.gz"})
    assert answer.status_code == 415


def test_the_page_loads_nothing_from_elsewhere(model: model_record.ServedModel) -> None:
    text = page(model.replace(lineage={"note": "<script>alert(1)"}))
    assert "<script>alert" not in text
    assert not re.findall(r"(src|href)=.?(https?:|//)|url\(|@import", text)


def test_a_folder_without_a_record_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServingError, match=r"model_config\.json"):
        ServiceMiddleware(Starlette())


def test_the_page_says_what_the_model_was_trained_on(model: model_record.ServedModel) -> None:
    domain = Domain(
        spacing=((0.5699999928, 0.57, 1.5), (0.63, 0.63, 2.0)), unit="micron",
        min_shape=(55, 54, 5), max_shape=(71, 72, 16),
        intensities={"0.5": (10, 12), "50": (40, 50), "99.5": (800, 900)},
    )  # fmt: skip
    text = page(model.replace(domain=domain.model_dump()))
    assert "0.57 x 0.57 x 1.5 to 0.63 x 0.63 x 2 micron" in text
    assert "55 x 54 x 5 to 71 x 72 x 16 voxels" in text
    assert "10 to 900" in text
