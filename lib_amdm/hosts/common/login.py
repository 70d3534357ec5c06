"""Logins: AMDM's routes accept the logins that the WebUI was started with."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import compare_digest
from typing import Any

from fastapi import Depends, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials


def guard(logins: Mapping[str, str]) -> list[Any]:
    """Return FastAPI dependencies that require one of these names and its password; none without logins."""
    if not logins:
        return []

    def check(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
        # constant-time comparison over all entries, so that timing does not reveal names
        fits = [
            _same(credentials.username, name) & _same(credentials.password, password)
            for name, password in logins.items()
        ]
        if not any(fits):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return [Depends(check)]


def _same(received: str, known: str) -> bool:
    # a command line that is not UTF-8 has lone surrogates
    return compare_digest(received.encode(errors="surrogateescape"), known.encode(errors="surrogateescape"))
