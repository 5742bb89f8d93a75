"""A real LiteLLM proxy with the configuration of docs/litellm.md, in front of a stub model.

tests/install-litellm.sh installs it into an environment of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stillwatch.serving.http.auth import new_key
from tests.serving.http.litellm_processes import (
    FAILS,
    ROOT,
    STILLWATCH,
    Answer,
    block,
    call,
    eventually,
    free_port,
    gateway_environment,
    model,
    process,
    wait_until_it_answers,
)

LITELLM = ROOT / ".cache" / "litellm" / "bin" / "litellm"
PAGE = (ROOT / "docs" / "litellm.md").read_text(encoding="utf-8")
CONNECTED_WITHIN_S = 5.0
"""No answer of the gateway may take as long as this because of Stillwatch."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not LITELLM.exists(), reason="LiteLLM is not installed; run tests/install-litellm.sh"
    ),
]

# Virtual keys need LiteLLM's database; this hook is the way to have many keys without.
AUTH = """
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

async def check(request, api_key):
    if not api_key.startswith("sk-customer-"):
        raise ProxyException("the key must be a customer's", "auth_error", "api_key", 401)
    return UserAPIKeyAuth(api_key=api_key, team_id="team-1")
"""
MODELS = """
model_list:
  - model_name: assistant
    litellm_params: {{model: openai/stub, api_base: {model}, api_key: none}}
general_settings:
  custom_auth: gateway_auth.check
"""


@dataclass
class Site:
    """LiteLLM's proxy, which runs, and a place for Stillwatch, which a test starts."""

    folder: Path
    proxy: str
    port: int
    key: str
    sha256: str
    customers: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "stillwatch.log"

    def customer(self) -> str:
        """A key that was not used before."""
        self.customers.append(f"sk-customer-{len(self.customers)}")
        return self.customers[-1]

    def ask(self, key: str, content: Any = "Where is my parcel?", **headers: str) -> Answer:
        """A customer's request to the gateway."""
        messages = [
            {"role": "system", "content": "You answer for a parcel service."},
            {"role": "user", "content": content},
        ]
        body = {"model": "assistant", "temperature": 0.5, "messages": messages}
        headers = {"Authorization": f"Bearer {key}", **headers}
        return call(f"{self.proxy}/v1/chat/completions", body, headers)

    def get(self, path: str) -> Answer:
        return call(f"http://127.0.0.1:{self.port}{path}", headers={"X-API-Key": self.key})

    def post(self, path: str, body: Any) -> Answer:
        return call(f"http://127.0.0.1:{self.port}{path}", body, {"X-API-Key": self.key})

    def events(self, key: str) -> int:
        """How many events Stillwatch holds of a customer."""
        answer = self.get(f"/v1/accounts/{account_of(key)}")
        return int(answer.body["events"]) if answer.status == 200 else 0

    def counted(self, line: str) -> float:
        """A metric of Stillwatch, all its labels together."""
        found = [text for text in self.get("/metrics").body.splitlines() if text.startswith(line)]
        return sum(float(text.rsplit(" ", 1)[1]) for text in found)

    def ask_logged(self, key: str, content: Any = "Where is my parcel?", **headers: str) -> Answer:
        """`ask`, and wait until the call came by LiteLLM's log too.

        LiteLLM drops from its log what ends while it posts a batch, so a test that wants both
        doors may not make the next call before."""
        before = self.counted("stillwatch_litellm_payloads_total")
        answer = self.ask(key, content, **headers)
        eventually(lambda: self.counted("stillwatch_litellm_payloads_total"), lambda n: n > before)
        return answer

    @contextmanager
    def stillwatch(
        self, policy: Path | None = None, desk_folder: Path | None = None, **litellm: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Stillwatch with the page's settings and others over them; with a desk its key may do
        all."""
        text = block(PAGE, "toml").replace("<from stillwatch keys new>", self.sha256)
        text = text.replace("port = 8080", f"port = {self.port}")
        text = f'store = "sqlite:///{self.folder / "state.sqlite"}"\n' + text
        text = f'dead_letters = "{self.folder / "dead.jsonl"}"\n' + text
        for name, path in (("policy", policy), ("desk_folder", desk_folder)):
            if path is not None:
                text = f"{name} = {json.dumps(str(path))}\n" + text
        if desk_folder is not None:
            text = text.replace('role = "scorer"', 'role = "admin"')
        for name, value in litellm.items():
            text = re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
            text += f"{name} = {json.dumps(value)}\n"
        config = self.folder / "stillwatch.toml"
        config.write_text(text)
        command = [sys.executable, "-m", "tests.serving.http.litellm_processes", str(config)]
        with process(command, self.log) as running:
            wait_until_it_answers(f"http://127.0.0.1:{self.port}/healthz", running, self.log)
            yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    key = new_key()
    port, own = free_port(), free_port()
    here = Site(folder, f"http://127.0.0.1:{own}", port, key.key, key.sha256)
    with model() as address:
        (folder / "gateway_auth.py").write_text(AUTH)
        text = block(PAGE, "yaml").replace(STILLWATCH, f"http://127.0.0.1:{port}")
        config = folder / "config.yaml"
        config.write_text(text + MODELS.format(model=address))
        command = [LITELLM, "--config", config, "--host", "127.0.0.1", "--port", own]
        log = folder / "litellm.log"
        environment = gateway_environment(folder, key.key)
        with process([*map(str, command), "--telemetry", "False"], log, environment) as running:
            wait_until_it_answers(f"{here.proxy}/health/liveliness", running, log)
            # Its first call takes longer than the guardrail may, and passes: nobody listens yet.
            assert here.ask(here.customer()).status == 200
            yield here


def account_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def took_s(started: float) -> float:
    return time.monotonic() - started


def test_a_call_passes_and_counts_once_by_both_doors(site: Site) -> None:
    customer = site.customer()
    with site.stillwatch():
        answer = site.ask_logged(customer).body
        assert answer["choices"][0]["message"]["content"] == "It is on its way."
        assert site.counted('stillwatch_litellm_answers_total{action="NONE"}') == 1
        verdict = site.get(f"/v1/accounts/{account_of(customer)}").body
        assert verdict["events"] == 1
        # Flagged accounts pass.
        assert verdict["flagged"] is True
        assert site.ask_logged(customer, "And my second parcel?").status == 200
        assert site.events(customer) == 2
        assert site.counted("stillwatch_litellm_unscored_total") == 0


def test_failed_calls_count_and_strangers_do_not(site: Site) -> None:
    customer = site.customer()
    with site.stillwatch():
        assert site.ask_logged(customer, FAILS).status == 400
        assert site.ask_logged("sk-stranger").status == 401
        assert site.events(customer) == 1
        assert site.events("sk-stranger") == 0
        assert site.counted('stillwatch_litellm_payloads_total{outcome="not_served"}') == 1


def test_one_id_for_all_calls_hides_none(site: Site) -> None:
    customer = site.customer()
    with site.stillwatch():
        for number in range(3):
            headers = {"x-litellm-call-id": "always-the-same"}
            assert site.ask_logged(customer, f"Parcel {number}?", **headers).status == 200
        assert site.events(customer) == 3


def test_what_the_guardrail_missed_comes_by_the_log(site: Site) -> None:
    customer = site.customer()
    with site.stillwatch(mode="off"):
        content = [{"type": "text", "text": "Where is it?"}]
        assert site.ask_logged(customer, content).status == 200
        assert site.events(customer) == 1


def test_only_accounts_that_a_reviewer_confirmed_are_refused(site: Site) -> None:
    blocked, other = site.customer(), site.customer()
    policy = site.folder / "policy.yaml"
    policy.write_text(block((ROOT / "docs" / "response.md").read_text("utf-8"), "yaml"))
    with site.stillwatch(policy=policy, desk_folder=site.folder / "desk"):
        # Both are flagged, and pass until somebody has decided.
        assert [site.ask_logged(one).status for one in (blocked, other)] == [200, 200]
        body = {"account_id": account_of(blocked), "verdict": "confirm", "reason": "case 12",
                "intents": ["cot_harvesting"]}  # fmt: skip
        made = site.post("/v1/decisions", body)
        assert made.status == 200, made.body
        refused = eventually(lambda: site.ask(blocked), lambda answer: answer.status != 200)
        assert refused.status == 400
        assert "contact support" in json.dumps(refused.body)
        assert "It is on its way." not in json.dumps(refused.body)
        assert site.ask(other).status == 200
        (action,) = site.get("/v1/actions?active=true").body["actions"]
        undone = site.post(f"/v1/actions/{action['id']}/undo", {"reason": "a customer"})
        assert undone.status == 200, undone.body
        assert site.ask(blocked).status == 200


def test_customers_notice_nothing_when_stillwatch_goes(site: Site) -> None:
    customer = site.customer()
    with site.stillwatch() as running:
        assert site.ask_logged(customer).status == 200
        # It hangs: nothing is answered, connections are still taken.
        running.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        assert site.ask(customer, "While it hangs").status == 200
        assert took_s(started) < CONNECTED_WITHIN_S
        running.kill()
        running.wait()
        started = time.monotonic()
        assert site.ask(customer, "While it is down").status == 200
        assert took_s(started) < CONNECTED_WITHIN_S
    with site.stillwatch():
        before = site.events(customer)
        assert before >= 1
        assert site.ask(customer, "When it is back").status == 200
        eventually(lambda: site.events(customer), lambda events: events > before)


def test_customers_notice_nothing_when_stillwatch_refuses(site: Site) -> None:
    customer = site.customer()
    sha256, site.sha256 = site.sha256, new_key().sha256
    try:
        with site.stillwatch():
            assert site.ask(customer).status == 200
            # The gateway's key is unknown here, so both doors are closed to it.
            assert site.get("/v1/accounts/anyone").status == 401
    finally:
        site.sha256 = sha256
