"""What cannot be kept is told in one line that names the variable, and shows no secret."""

from __future__ import annotations

import pytest

from service.settings import Settings
from service.workers import worker


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WORKERS", "0", "greater than 0"),
        ("MAX_K", "many", "valid integer"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
        ("CORS_ORIGINS", "https://a.example", "not JSON"),
        ("TRUSTED_PROXIES", '["10.0.0.0/8", "balancer"]', "network"),
        ("STORE_TIMEOUT", "a secret", "valid number"),
    ],
)
def test_a_bad_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(f"CROSSMODAL_{name}", value)
    with pytest.raises(ValueError, match=f"^CROSSMODAL_{name}: [^\\n]*{words}[^\\n]*$") as told:
        Settings()
    assert "secret" not in str(told.value)


def test_a_worker_without_its_file_of_keys_is_one_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other exit code, and the process above would start the next at once, for ever."""
    monkeypatch.setenv("CROSSMODAL_KEYS_FILE", "/nowhere/keys.json")
    with pytest.raises(SystemExit) as ended:
        worker()
    assert ended.value.code == 3
