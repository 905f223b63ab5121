"""Batches at the endpoint: uploaded, waited for and fetched. What was submitted is written down, so that no restart
submits it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefeval.api import ChatClient
from prefeval.api_batch import URL
from prefeval.api_faults import explain
from prefeval.errors import ConfigError, RunError
from prefeval.files import read_json, write_bytes, write_json
from prefeval.log import logger

if TYPE_CHECKING:
    from openai import OpenAI

_ENDED = ("completed", "failed", "expired", "cancelled")
_MARK = "prefeval"  # a batch's metadata name its input file: found again where our own note of it was lost


class Batches:
    """The batches of one folder; `batches.json` in it holds each one's id, input file, model and status.

    Raises RunError when the endpoint fails; the same call goes on from what is written down.
    """

    def __init__(
        self, folder: str | Path, *, poll_seconds: float = 30.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.folder, self.poll_seconds, self._sleep = Path(folder), poll_seconds, sleep
        self._file = self.folder / "batches.json"
        self.known: dict[str, dict[str, Any]] = read_json(self._file) if self._file.exists() else {}

    def submit(self, files: Mapping[Path, ChatClient]) -> None:
        """Upload the files and start a batch of each; one that is not read to its end yet is not started again."""
        for file, client in files.items():
            if file.name in self.known and not self.known[file.name].get("read"):
                continue
            ended = self.known.get(file.name, {})
            former = [*ended.get("former", []), *([ended["id"]] if ended else [])]
            with _Endpoint(client) as api:
                marked = (b for b in api.batches.list(limit=100) if (b.metadata or {}).get(_MARK) == file.name)
                batch = next((b for b in marked if b.id not in former), None)
                if batch is None:
                    uploaded = api.files.create(file=file, purpose="batch")
                    batch = api.batches.create(
                        input_file_id=uploaded.id,
                        endpoint=URL,
                        completion_window="24h",
                        metadata={_MARK: file.name},
                    )
            self.known.pop(file.name, None)
            self._note(file.name, id=batch.id, model=client.model, status=batch.status, former=former)
            logger.info("%s is batch %s", file.name, batch.id)

    def fetch(self, clients: Sequence[ChatClient]) -> list[Path]:
        """Wait for every batch to end; the output and error files of those that were not read yet."""
        while waiting := [name for name, batch in self.known.items() if "outputs" not in batch]:
            for name in waiting:
                self._look(name, self._client(name, clients))
            if any("outputs" not in batch for batch in self.known.values()):
                self._sleep(self.poll_seconds)
        unread = [batch for batch in self.known.values() if not batch.get("read")]
        return [self.folder / name for batch in unread for name in batch["outputs"]]

    def mark_read(self) -> None:
        """All that was fetched is in the store."""
        for name, batch in self.known.items():
            if "outputs" in batch and not batch.get("read"):
                self._note(name, read=True)

    def _look(self, name: str, client: ChatClient) -> None:
        """One look at a batch; its files are fetched once it has ended."""
        with _Endpoint(client) as api:
            batch = api.batches.retrieve(self.known[name]["id"])
            if batch.status != self.known[name]["status"]:
                self._note(name, status=batch.status)
                logger.info("batch %s: %s", batch.id, batch.status)
            if batch.status not in _ENDED:
                return
            files = []
            for kind, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
                if file_id:
                    content = api.files.content(file_id).read()
                    files.append(write_bytes(self.folder / f"{kind}-{batch.id}.jsonl", content))
        for problem in (batch.errors.data if batch.errors else None) or []:
            logger.warning("batch %s, line %s: %s", batch.id, problem.line, problem.message)
        self._note(name, outputs=[file.name for file in files])

    def _client(self, name: str, clients: Sequence[ChatClient]) -> ChatClient:
        model = self.known[name]["model"]
        for client in clients:
            if client.model == model:
                return client
        raise ConfigError(f"{self._file}: {name} was submitted for '{model}', which is not the judge now")

    def _note(self, name: str, **values: Any) -> None:
        self.known[name] = {**self.known.get(name, {}), **values}
        write_json(self._file, self.known)


class _Endpoint:
    """The openai library's plain client for one exchange; what goes wrong becomes a RunError without secrets."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client

    def __enter__(self) -> OpenAI:
        from openai import OpenAI

        url, key = self._client.endpoint()
        self._api = OpenAI(api_key=key, base_url=url, timeout=self._client.timeout, max_retries=4)
        return self._api

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from openai import OpenAIError

        self._api.close()
        if isinstance(error, OpenAIError):
            client = self._client
            failure = explain(error, secret=client.secret, where=client.base_url or "the API", timeout=client.timeout)
            raise RunError(f"batch: {failure.message}; the same command goes on from there") from None
