"""The service over TLS: clients that check its certificate are served, plain HTTP is not."""

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import threading

import pytest
from redis_servers import write_certificate
from service_models import service_environment
from service_process import ROOT, end, free_port

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Port and certificate of a service that was started as the documents say."""
    folder, certificate = tmp_path_factory.mktemp("tls"), tmp_path_factory.mktemp("pem") / "own.pem"
    write_certificate(certificate)
    port = free_port()
    told = os.environ | service_environment(tmp_path_factory.mktemp("models"))
    told |= {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_PORT": str(port)}
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Stillhouse"]
    command += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=told, stdout=log, stderr=log)
        try:
            wait(process, port, certificate, folder / "log")
            yield port, certificate
        finally:
            end(process)


def wait(process, port, certificate, log):
    """Until it is ready."""
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(port, trusting(certificate), "GET", "/readyz")[0] == 200:
                return
        threading.Event().wait(0.1)
    raise AssertionError(log.read_text())


def trusting(certificate):
    return ssl.create_default_context(cafile=str(certificate))


def ask(port, context, method="POST", path="/generate"):
    line = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    try:
        line.request(method, path, '{"prompt": "fish"}', {"content-type": "application/json"})
        response = line.getresponse()
        return response.status, response.read()
    finally:
        line.close()


def test_a_client_that_knows_the_certificate_is_answered(service):
    port, certificate = service
    status, body = ask(port, trusting(certificate))
    assert status == 200 and json.loads(body)["choices"]


def test_a_client_that_does_not_know_it_goes_no_further(service):
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(service[0], ssl.create_default_context())


def test_a_connection_is_modern(service):
    port, certificate = service
    old = trusting(certificate)
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, OSError)):
        ask(port, old)


def test_plain_http_gets_nothing(service):
    line = http.client.HTTPConnection("127.0.0.1", service[0], timeout=60)
    with pytest.raises((http.client.HTTPException, OSError)):
        line.request("GET", "/readyz")
        line.getresponse()
    line.close()
