"""The servers of a team in deployments/compose.yaml, as podman-compose reads them."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from minivess.runtime.processes import supervised
from minivess.runtime.servers import free_port, is_free

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
FILE = DEPLOYMENTS / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
FILLED = {
    "DATA_FOLDER": "/volumes", "SERVICE_IMAGE": "demo:2", "POSTGRES_PASSWORD": "pw-of-postgres",
    "S3_ACCESS_KEY": "key-of-s3", "S3_SECRET_KEY": "secret-of-s3", "PREFECT_AUTH": "user:pw",
    "GRAFANA_PASSWORD": "pw-of-grafana", "SERVICE_TOKEN": "token-of-the-service",
    "PUBLIC_NAME": "vessels.example.org",
}  # fmt: skip


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing of this machine's passwords."""
    kept = {k: v for k, v in os.environ.items() if k not in FILLED}
    return subprocess.run(
        command, env=kept | variables, capture_output=True, text=True, check=False
    )


def parsed(tmp_path: Path, *profiles: str, **values: str) -> subprocess.CompletedProcess[str]:
    """The file as podman-compose understands it, with the variables of a .env file."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed (apt install podman)")
    pytest.importorskip("podman_compose", reason="pip install podman-compose")
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    words = ("--env-file", str(tmp_path / "env"), "-f", str(FILE), *chosen, "config")
    return run(sys.executable, "-m", "podman_compose", *words)


def test_podman_compose_reads_the_servers_of_each_profile(tmp_path: Path) -> None:
    done = parsed(tmp_path, "team", "service", "watch", "tls", **FILLED)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)["services"]
    assert set(found) == set(SERVICES)
    assert found["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg://minivess:pw-of-postgres@postgres:5432/mlflow"
    )
    assert found["service"]["image"] == "demo:2"
    assert all(one["profiles"] for one in found.values())


def test_a_password_that_is_not_set_stops_the_start(tmp_path: Path) -> None:
    for name in ("POSTGRES_PASSWORD", "SERVICE_IMAGE"):
        done = parsed(tmp_path, "team", **{k: v for k, v in FILLED.items() if k != name})
        assert done.returncode != 0
        assert "deployments/.env" in done.stderr


def test_each_key_is_one_that_compose_knows() -> None:
    parser = pytest.importorskip("podman_compose", reason="pip install podman-compose")
    source = Path(parser.__file__).read_text()
    known = {"profiles"} | set(re.findall(r"""(?:get\(|pop\(|\[)["'](\w+)["']""", source))
    assert {key for service in SERVICES.values() for key in service} <= known


def test_no_password_stands_in_the_file_and_each_has_its_line_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", FILE.read_text()))
    listed = re.findall(r"^(\w+)=(.*)$", (DEPLOYMENTS / ".env.example").read_text(), re.MULTILINE)
    assert asked == set(dict(listed)) == set(FILLED)
    assert not any(value for _, value in listed)
    words = re.findall(
        r"^\s+\w*(?:PASSWORD|SECRET|KEY|AUTH\w*|TOKEN): (.+)$", FILE.read_text(), re.M
    )
    assert words
    assert all(re.match(r"\$\{\w+:\?", word) for word in words)


def test_images_name_their_release_and_ports_are_of_this_machine_alone() -> None:
    assert SERVICES["proxy"]["ports"] == ["80:80", "443:443"]  # what others are to reach
    for service in [one for name, one in SERVICES.items() if name != "proxy"]:
        assert re.search(r"\$\{(SERVICE|FLOW)_IMAGE|:v?\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_what_is_mounted_is_there_and_waited_for() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert not source.startswith("./") or (DEPLOYMENTS / source).exists()
        assert set(service.get("depends_on", ())) <= set(SERVICES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefect", "mlflow", "worker"])
def test_commands_use_options_that_the_pinned_programs_have(name: str) -> None:
    words = SERVICES[name]["command"]
    program = words[: next(i for i, word in enumerate(words) if word.startswith("-"))]
    shown = run(sys.executable, "-m", *program, "--help", COLUMNS="200", NO_COLOR="1")
    options = {word for word in words if word.startswith("--")}
    assert options <= set(re.findall(r"--[\w-]+", shown.stdout)), shown.stderr


class Upstream(BaseHTTPRequestHandler):
    """A service that says what it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.path} {self.headers['Authorization']} {len(body)}".encode())

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def test_caddy_passes_uploads_on_by_tls_and_keeps_the_figures_to_itself(tmp_path: Path) -> None:
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed (apt install caddy)")
    text = (DEPLOYMENTS / "compose" / "Caddyfile").read_text()
    # Ports of an ordinary user, and no certificate in the system's store.
    globals_ = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (tmp_path / "Caddyfile").write_text(globals_ + text)
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    port = free_port()
    variables = {
        "PUBLIC_NAME": f"https://localhost:{port}", "SERVICE": f"127.0.0.1:{upstream.server_port}",
        "XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": os.environ["PATH"],
    }  # fmt: skip
    command = [program, "run", "--config", str(tmp_path / "Caddyfile")]
    with supervised(command, variables, tmp_path / "log"):
        root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        deadline = time.monotonic() + 60
        while not root.exists() or is_free(port):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        trusted = ssl.create_default_context(cafile=str(root))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusted) as client:
            said = client.post("/predict", content=b"12345", headers={"Authorization": "Bearer x"})
            assert said.text == "/predict Bearer x 5"
            assert "max-age" in said.headers["Strict-Transport-Security"]
            assert client.get("/metrics").status_code == 404
    upstream.shutdown()
