"""Alerts to people: a flow run that failed, crashed for good, is late or waits for a person. No patient data.

The text names the flow, its deployment, the state and the page in Prefect; never parameters, results or error texts.
Delivery is by Prefect's own notification blocks: a webhook as JSON, e-mail by SMTP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from urllib.parse import quote, urlencode

from pydantic import Field, SecretStr

from medml.config import Config, load_config
from medml.errors import ConfigError
from medml.io.files import read_record, write_record
from medml.records.home import Home
from medml.records.record import Record

if TYPE_CHECKING:
    from prefect.blocks.abstract import NotificationBlock

logger = logging.getLogger(__name__)

MOST_REMEMBERED = 2000
Reason = Literal["failed", "crashed", "late", "missed", "waiting"]


class EmailConfig(Config):
    """Where e-mail goes, and the server that takes it.

    Attributes
    ----------
    security : str
        "starttls" (port 587 as a rule), "ssl" (465), or "none" for a server on this machine.
    """

    to: Annotated[tuple[str, ...], Field(min_length=1)]
    sender: str
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    security: Literal["starttls", "ssl", "none"] = "starttls"
    user: str = ""
    password: SecretStr = SecretStr("")


class AlertsConfig(Config):
    """``HOME/secrets/alerts.yaml``: who is told, and about what.

    Attributes
    ----------
    webhook : str
        Address that takes a POST of JSON ``{"text": …, "subject": …}``, as Slack, Teams and Mattermost do.
    reasons : tuple of str
        What is worth an alert.
    """

    webhook: SecretStr = SecretStr("")
    email: EmailConfig | None = None
    reasons: tuple[Reason, ...] = ("failed", "crashed", "late", "missed", "waiting")


class Alert(Record):
    """One thing to tell; ``key`` keeps it from being told twice."""

    key: str
    reason: Reason
    subject: str
    text: str


class Told(Record):
    """What ``prefect/alerts.json`` holds: keys of what was delivered, the newest last."""

    keys: tuple[str, ...] = ()


def alerts_file(home: Home) -> Path:
    """Return where the configuration lies; it may hold passwords, so it is among the secrets."""
    return home.secrets / "alerts.yaml"


def load_alerts(home: Home) -> AlertsConfig | None:
    """Return who is told; None where nobody is.

    Raises
    ------
    ConfigError
        If a key is wrong, or others may read the file.
    """
    path = alerts_file(home)
    if not path.exists():
        return None
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:o}, so others may read what it holds; expected 600: chmod 600 {path}")
    return load_config(path, AlertsConfig)


def deliver(home: Home, config: AlertsConfig, alerts: Sequence[Alert]) -> int:
    """Send what was not sent before; what cannot be delivered now is tried again at the next call.

    Returns
    -------
    int
        How many were delivered.
    """
    path = home.prefect / "alerts.json"
    told = read_record(path, Told).keys if path.exists() else ()
    new = [alert for alert in alerts if alert.reason in config.reasons and alert.key not in told]
    sent = [alert.key for alert in new if _send(config, alert)]
    if sent:
        write_record(path, Told(keys=(*told, *sent)[-MOST_REMEMBERED:]))
    return len(sent)


def _send(config: AlertsConfig, alert: Alert) -> bool:
    """Deliver to everybody; False if somebody could not be reached."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    blocks: list[NotificationBlock] = []
    if address := config.webhook.get_secret_value():
        body = {"text": "{{subject}}\n{{body}}", "subject": "{{subject}}"}
        blocks.append(CustomWebhookNotificationBlock(name="medml", url=address, json_data=body))
    if config.email:
        blocks.append(_email_block()(url=SecretStr(_mail_address(config.email))))
    delivered = True
    for block in blocks:
        try:
            with block.raise_on_failure():
                cast(Any, block).notify(alert.text, subject=alert.subject)  # awaited by nobody: it is not async here
        except Exception as error:  # whatever a mail or web server does wrong must not stop what is looked after
            logger.warning("an alert could not be delivered (%s); it is tried again", type(error).__name__)
            delivered = False
    return delivered


@cache
def _email_block() -> type[NotificationBlock]:
    """Return a block for e-mail by SMTP: Prefect has none of its own, but Apprise, which its blocks use, has."""
    from prefect.blocks.notifications import AppriseNotificationBlock

    class Email(AppriseNotificationBlock):
        """E-mail by SMTP."""

        _block_type_name = "medml e-mail"

    return Email


def _mail_address(email: EmailConfig) -> str:
    """Return Apprise's way of writing a mail server, a login and receivers."""
    login = f"{quote(email.user, safe='')}:{quote(email.password.get_secret_value(), safe='')}@" if email.user else ""
    kind = "mailto" if email.security == "none" else "mailtos"
    options = {"from": email.sender, "to": ",".join(email.to), "smtp": email.host, "format": "text"}
    options |= {} if email.security == "none" else {"mode": email.security}
    return f"{kind}://{login}{email.host}:{email.port}?{urlencode(options)}"
