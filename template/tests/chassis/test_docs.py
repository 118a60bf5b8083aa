"""The page at /docs and the OpenAPI document."""

import base64
import hashlib
import re

import pytest
from fastapi.testclient import TestClient

from .support import create_service


def test_the_docs_page_loads_nothing_from_another_host(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assets = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(assets) == 3
    for asset in assets:
        assert client.get(f"/{asset}").status_code == 200
    assert client.get("/docs/__init__.py").status_code == 404
    assert "/health/live" in client.get("/openapi.json").json()["paths"]


def test_the_policy_of_the_page_allows_its_own_script_by_hash(client: TestClient) -> None:
    page = client.get("/docs")
    policy = page.headers.get_list("content-security-policy")
    assert len(policy) == 1
    (script,) = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy[0]
    assert "default-src 'none'" in policy[0]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_docs_can_be_disabled(path: str) -> None:
    client = TestClient(create_service(docs_enabled=False))
    assert client.get(path).status_code == 404
