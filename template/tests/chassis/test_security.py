"""The edge: headers, hosts and origins."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response

from .support import assert_problem, create_service

POLICY = "default-src 'none'; frame-ancestors 'none'"


def client_of_hosts(*hosts: str) -> TestClient:
    return TestClient(create_service(allowed_hosts=list(hosts)))


@pytest.fixture
def app() -> FastAPI:
    app = create_service(max_body_bytes=100)

    @app.post("/v1/quotients")
    async def divide(divisor: int) -> int:
        return 1 // divisor

    return app


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/docs", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/quotients", 405),
        ("POST", "/v1/quotients?divisor=many", 422),
        ("POST", "/v1/quotients?divisor=0", 500),
    ],
)
def test_every_response_has_security_headers(
    client: TestClient, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy if path == "/docs" else policy == POLICY


def test_the_refusal_of_a_large_body_has_security_headers(client: TestClient) -> None:
    response = client.post("/v1/quotients?divisor=1", content=b"x" * 101)
    assert response.status_code == 413
    assert response.headers["content-security-policy"] == POLICY


def test_any_host_is_served_by_default(client: TestClient) -> None:
    assert client.get("/openapi.json", headers={"Host": "anything"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("shop.example.com", 200),
        ("SHOP.example.com:8000", 200),
        ("eu.shops.example.com", 200),
        ("shops.example.com", 400),
        ("evil.com", 400),
        ("evilshop.example.com", 400),
    ],
)
def test_only_allowed_hosts_are_served_except_for_probes(host: str, status: int) -> None:
    client = client_of_hosts("shop.example.com", "*.shops.example.com")
    response = client.get("/openapi.json", headers={"Host": host})
    assert response.status_code == status
    assert client.get("/health/live", headers={"Host": host}).status_code == 200
    if status == 400:
        assert_problem(response, 400)


@pytest.mark.parametrize("host", ["[::1]", "[::1]:8000", "[::ffff:127.0.0.1]", "shop.example.com."])
def test_ipv6_addresses_and_absolute_names_are_served(host: str) -> None:
    client = client_of_hosts("[::1]", "[::ffff:127.0.0.1]", "shop.example.com")
    assert client.get("/openapi.json", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "shop.example.com:80:80",
        "shop.example.com:http",
        "shop.example.com:123456",
        "evil.com@shop.example.com",
        "evil.com shop.example.com",
        "evil.com,shop.example.com",
        "evil.com/.shop.example.com",
        "evil..shop.example.com",
        ".shop.example.com",
        "shop.example.com..",
        "[::1",
        "[:::1]",
        "[::1]evil.com",
        "::1",
    ],
)
def test_a_malformed_host_is_refused(host: str) -> None:
    client = client_of_hosts("shop.example.com", "*.shop.example.com", "[::1]")
    assert client.get("/openapi.json", headers={"Host": host}).status_code == 400


def test_a_malformed_host_is_refused_even_if_any_host_is_served(client: TestClient) -> None:
    refused = client.get("/openapi.json", headers={"Host": "evil.com@shop.example.com"})
    assert refused.status_code == 400
    assert refused.json()["detail"] == "The Host header is malformed"
    assert client.get("/openapi.json", headers={"Host": ""}).status_code == 200


@pytest.mark.parametrize("allowed", ["*", "shop.example.com"])
def test_two_host_headers_are_refused(allowed: str) -> None:
    client = client_of_hosts(allowed)
    hosts = [("Host", "shop.example.com"), ("Host", "shop.example.com")]
    assert client.get("/openapi.json", headers=hosts).status_code == 400


def test_no_origin_is_allowed_by_default(client: TestClient) -> None:
    response = client.get("/health/live", headers={"Origin": "https://shop.example.com"})
    assert "access-control-allow-origin" not in response.headers


def test_only_listed_origins_are_allowed() -> None:
    client = TestClient(create_service(cors_origins=["https://shop.example.com"]))
    named = client.get("/nowhere", headers={"Origin": "https://shop.example.com"})
    assert named.headers["access-control-allow-origin"] == "https://shop.example.com"
    assert named.headers["vary"] == "Origin"
    other = client.get("/nowhere", headers={"Origin": "https://evil.com"})
    assert "access-control-allow-origin" not in other.headers


def preflight(origin: str, method: str = "PUT") -> Response:
    client = TestClient(create_service(cors_origins=["https://shop.example.com"]))
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type",
    }
    return client.options("/v1/quotients", headers=asked)


def test_a_preflight_of_a_listed_origin_is_allowed() -> None:
    response = preflight("https://shop.example.com")
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://shop.example.com"
    assert "PUT" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "content-type"
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize(
    ("origin", "method"), [("https://evil.com", "PUT"), ("https://shop.example.com", "BREW")]
)
def test_a_preflight_of_another_origin_or_method_is_refused(origin: str, method: str) -> None:
    response = preflight(origin, method)
    assert response.status_code == 400
    assert response.headers["x-request-id"]
    assert "Origin" in response.headers["vary"]
