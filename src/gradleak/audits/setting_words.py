"""A setting in words, as far as it differs from the others."""

from collections.abc import Mapping, Sequence

from gradleak.audits.summary import Group


def family(group: Group) -> str:
    """Model and data of a group."""
    settings = group.settings
    parts = (settings.get("model.name"), settings.get("stage"), group.data)
    return ", ".join(str(part) for part in parts if part)


def setting_label(group: Group, others: Sequence[Group]) -> str:
    """The defenses, and of client and batch size what differs among the settings."""
    parts = [group.defenses or "no defense"]
    if len({other.batch_size for other in others}) > 1:
        parts.append(f"batch of {group.batch_size}")
    clients = {_client(other.settings) for other in others}
    if len(clients) > 1:
        parts.append(_client(group.settings))
    return ", ".join(parts)


def _client(settings: Mapping[str, object]) -> str:
    told = ("epochs", "lr", "batch_size", "count")
    values = [f"{name}={settings[f'client.{name}']}" for name in told if settings.get(f"client.{name}") is not None]
    name = str(settings.get("client.name", "?"))
    return f"{name}({', '.join(values)})" if values else name
