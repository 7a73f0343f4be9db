"""`tunewright key reset`: begin again with a pepper that is there, when the one of the keys is lost."""

from __future__ import annotations

from contextlib import closing

from tunewright.service.audit import DONE, AuditEntry, AuditLog
from tunewright.service.db.keys import revoke_all
from tunewright.service.db.opening import open_database
from tunewright.service.keys import DEFAULT_PROJECT, create_key
from tunewright.service.pepper import replace_pepper
from tunewright.service.server import hold_home
from tunewright.service.settings import ServeSettings


def reset_keys(settings: ServeSettings, user: str) -> str:
    """End every key, hold the database to the pepper of the home folder and return an admin key.

    A home folder without a pepper gets a new one. user: who asks, for the audit log. Raises OSError and
    ServiceError (`service.home-in-use`, `service.database`, `service.pepper`).
    """
    with hold_home(settings.home), closing(open_database(settings.database_url)) as database:
        with database.write() as connection:
            pepper = replace_pepper(settings.home, connection)
            revoke_all(connection)
            made = create_key(
                connection, pepper, name="first", project=DEFAULT_PROJECT, scopes=("admin",), seconds=None
            )
        entry = AuditEntry("key reset", DONE, {"key_id": made.record.id}, user=user)
        AuditLog(settings.home).write(entry)
    return made.secret
