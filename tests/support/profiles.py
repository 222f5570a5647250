"""Profiles with made-up records, the same at every call."""

from __future__ import annotations

import numpy as np

from nbruntime.profiling.profile_data import ProfileData
from nbruntime.profiling.records import RequestRecord
from nbruntime.protocol.step_log import Step

BEGIN = 1_800_000_000.0


def busy_steps(count: int, *, fixed: float = 0.008, each: float = 0.0004, seed: int = 0) -> list[Step]:
    """Return steps as of a server on a GPU whose load rises and falls, with a prefill among twelve steps."""
    random = np.random.default_rng(seed)
    at, steps = BEGIN, []
    for number in range(count):
        running = 1 + int(15 * (0.5 - 0.5 * np.cos(number / count * 4 * np.pi)) + random.integers(0, 2))
        if number % 12 == 0:
            batch = int(random.integers(1, 4))
            tokens = int(batch * random.integers(20, 900))
            seconds = 0.012 + tokens * 0.00006
            stage = "EXTEND"
        else:
            batch = tokens = running
            seconds = fixed + each * running
            stage = "DECODE"
        seconds *= float(random.gamma(60, 1 / 60))
        steps.append(Step(stage, at, seconds, batch, tokens, number))
        at += seconds + float(random.exponential(0.0015))
        if random.random() < 0.004:
            at += float(random.uniform(0.05, 0.4))
    return steps


def busy_profile(count: int = 1_500, *, slowness: float = 1.0, seed: int = 0) -> ProfileData:
    """Return a profile with such steps, and requests that take part in them."""
    random = np.random.default_rng(seed)
    steps = busy_steps(count, fixed=0.008 * slowness, seed=seed)
    end = steps[-1].end
    requests = []
    for number in range(max(count // 20, 8)):
        sent = BEGIN + (end - BEGIN) * 0.95 * number / max(count // 20, 8)
        ttft = float(random.gamma(4, 0.02 * slowness))
        tokens = int(random.integers(16, 64))
        gaps = random.gamma(20, 0.0006 * slowness, tokens - 1)
        arrivals = tuple((float(at), 1) for at in ttft + np.concatenate([[0.0], np.cumsum(gaps)]))
        ended = sent + arrivals[-1][0] + 0.001
        requests.append(
            RequestRecord(f"r{number}", sent, ended, arrivals, prompt_tokens=200, completion_tokens=tokens)
        )
    return ProfileData(
        server="http://127.0.0.1:30000",
        model="SmolLM2-135M",
        started=BEGIN - 0.1,
        ended=max(end, max(each.ended for each in requests)) + 0.1,
        requests=requests,
        steps=steps,
        steps_from="step log",
    )
