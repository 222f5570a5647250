"""A model folder becomes a service: its end tokens count wherever its files name them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from support.small_models import SMALL, make_model
from support.tiny_tokenizers import IDS, tokenizer_folder

from nbruntime.embedded.arguments import ServerArguments
from nbruntime.embedded.service.admission import Admission
from nbruntime.embedded.service.generate_input import check_body
from nbruntime.embedded.service.loading import load_service

CONFIG, TOKENIZER, MESSAGE = IDS["<|user|>"], IDS["</s>"], IDS["<|eom_id|>"]
GENERATION = 90
"""A token of the model that the tokenizer does not have."""
BEYOND = 500
"""A token that the model does not have."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that each of its files gives another end token, and some that it has no logits for."""
    tokenizer_folder(tmp_path, tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>")
    (tmp_path / "config.json").unlink()
    make_model(tmp_path, "LlamaConfig", SMALL | {"eos_token_id": [CONFIG, BEYOND]})
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [{GENERATION}, -1]}}')
    return tmp_path


async def test_end_tokens_of_all_files_end_an_answer(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ServerArguments(model_path=str(folder), dtype="float32")
    with caplog.at_level(logging.WARNING):
        service = await asyncio.to_thread(
            load_service,
            arguments,
            lambda phase: None,
            startup_seconds={},
            post=asyncio.get_running_loop().call_soon_threadsafe,
            on_finished=lambda request: None,
        )
    admission = Admission(arguments, lambda: service)

    async def ask(**params: Any) -> dict[str, Any]:
        body = {"text": "a", "sampling_params": {"temperature": 0, "max_new_tokens": 6, **params}}
        async with admission.submit(service, *check_body(body), received=0.0) as submission:
            answer: dict[str, Any] = await submission.collect()
            return answer

    try:
        assert service.end_token_ids == {CONFIG, GENERATION, TOKENIZER, MESSAGE}
        assert f"[-1, {BEYOND}] never ends an answer" in caplog.text
        for token_id in service.end_token_ids:
            forced = {"logit_bias": {str(token_id): 100.0}}
            ended = await ask(**forced)
            assert ended["meta_info"]["finish_reason"] == {"type": "stop", "matched": token_id}
            late = await ask(**forced, min_new_tokens=3)
            assert late["output_ids"].index(token_id) == 3
            ignored = await ask(**forced, ignore_eos=True)
            assert ignored["output_ids"] == [token_id] * 6
            written = await ask(**forced, regex="[a-z]{2}")
            assert written["meta_info"]["finish_reason"]["type"] == "stop"
            assert written["output_ids"][2:] == [token_id] or token_id == GENERATION
            assert len(written["output_ids"]) == 3
        beyond = await ask(stop_token_ids=[BEYOND, -1, 2**70], min_new_tokens=3)
        assert len(beyond["output_ids"]) >= 3
    finally:
        admission.close()
        await asyncio.to_thread(service.engine.stop)
