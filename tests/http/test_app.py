"""Health, readiness, metrics, keys; and that none of it loads torch."""

import subprocess
import sys

import httpx
import pytest
from fake_frontend import FakeFrontend, Server


def test_liveness_is_not_readiness(server, fox):
    def get(path):
        return httpx.get(server.url + path)

    assert (get("/health").status_code, get("/ready").status_code) == (200, 200)
    fox.ready = False
    assert get("/health").status_code == 200
    response = get("/ready")
    assert (response.status_code, response.json()["deployments"]) == (503, {"fox": "not ready"})
    server.frontends = {}
    assert get("/ready").status_code == 503
    server.alive = False
    assert get("/health").status_code == 503


def test_one_ready_deployment_is_enough(server, tokenizer):
    server.frontends = {"fox": FakeFrontend(tokenizer), "cat": FakeFrontend(tokenizer, "cat")}
    server.frontends["cat"].ready = False
    assert httpx.get(server.url + "/ready").json()["deployments"] == {"fox": "ready", "cat": "not ready"}
    assert httpx.get(server.url + "/ready").status_code == 200


def test_metrics(server):
    response = httpx.get(server.url + "/metrics")
    assert (response.text, response.headers["content-type"].split(";")[0]) == ("up 1\n", "text/plain")


@pytest.fixture(scope="module")
def guarded(tokenizer):
    with Server(FakeFrontend(tokenizer), api_key="sesame") as server, httpx.Client(base_url=server.url) as client:
        yield client


@pytest.mark.parametrize("key", [None, "wrong", "sesamé", "sesame2"])
def test_api_key(guarded, key):
    headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    response = guarded.get("/v1/models", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert guarded.get("/metrics", headers=headers).status_code == 401
    assert guarded.get("/ready").status_code == 200
    assert guarded.get("/v1/models", headers={"Authorization": "Bearer sesame"}).status_code == 200


def test_no_torch():
    code = "import sys, runtime.daemon.http.app, runtime.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
