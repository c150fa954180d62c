"""A webhook that is called when a flow fails, and events of which Prefect made no run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from minivess.orchestration import prefect_client, prefect_server
from minivess.orchestration.session import Session

BLOCK, AUTOMATION = "minivess-failed", "minivess a flow failed"
FAILED = ("Failed", "Crashed", "TimedOut")
REFUSED, DAYS = "prefect.automation.action.failed", 1
FIX = (
    "send it again with parameters that the flow takes; `settings` is a list of words key=value "
    "(minivess data-changed data.root=FOLDER)"
)
# The form that Slack, Mattermost, Rocket.Chat and Teams have in common.
TEXT = (
    '{"text": {{ (flow.name ~ " " ~ flow_run.state.name ~ ": " ~ flow_run.state.message'
    ' ~ " " ~ flow_run|ui_url) | tojson }}}'
)


def notify(session: Session, url: str) -> dict[str, Any]:
    """Let Prefect's server POST one line to `url` whenever a deployed flow fails.

    Raises:
        OrchestrationError: no Prefect server listens.
    """
    prefect_server.require(session.home, session.env, "`minivess notify`")
    with prefect_client.client(session.home, session.env):
        from prefect.blocks.webhook import Webhook
        from prefect.events.actions import CallWebhook
        from prefect.events.schemas.automations import AutomationCore, EventTrigger

        hook = Webhook.model_validate({"url": url, "headers": {"Content-Type": "application/json"}})
        block = cast(UUID, hook.save(BLOCK, overwrite=True))
        wanted = AutomationCore(
            name=AUTOMATION,
            description="Made by `minivess notify URL`.",
            trigger=EventTrigger(
                expect={f"prefect.flow-run.{state}" for state in FAILED},
                # Every deployment of deployments/prefect.yaml carries this tag.
                match_related={"prefect.resource.id": "prefect.tag.minivess"},
            ),
            actions=[CallWebhook(block_document_id=block, payload=TEXT)],
        )
        with prefect_client.asking() as client:
            for old in client.read_automations_by_name(AUTOMATION):
                client.delete_automation(old.id)
            made = client.create_automation(wanted)
    session.print(
        f"  failures of deployed flows are posted to that address (automation {AUTOMATION!r})"
    )
    return {"automation": AUTOMATION, "automation_id": str(made)}


def refused(api: str) -> list[dict[str, str]]:
    """Events of the last day of which Prefect made no run, and why; newest first.

    Raises:
        httpx.HTTPError: the server does not answer, or not without a key.
    """
    import httpx

    since = (datetime.now(UTC) - timedelta(days=DAYS)).isoformat()
    wanted = {"event": {"name": [REFUSED]}, "occurred": {"since": since}}
    answer = httpx.post(f"{api}/events/filter", json={"filter": wanted}, trust_env=False)
    return [
        {
            "occurred": event["occurred"],
            "automation": event["resource"]["prefect.resource.name"],
            "reason": event["payload"]["reason"],
            "fix": FIX,
        }
        for event in answer.raise_for_status().json()["events"]
    ]
