from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from minivess.errors import ServingError
from minivess.serving import model_record
from minivess.serving.middleware import ServiceMiddleware, page

Client = Callable[..., TestClient]
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
    assert (answer.status_code, answer.json()["remedy"]) == (429, "ask again in a minute")


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
    text = page(model.replace(lineage={"note": "<script>"}))
    assert "<script" not in text
    assert "https://" not in text


def test_a_folder_without_a_record_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServingError, match=r"model_config\.json"):
        ServiceMiddleware(Starlette())
