"""Who is signed in: a session and its person, read by one statement on every request."""

from __future__ import annotations

from django.conf import settings
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import connection, models
from django.utils import timezone

from annotation_app.models.person import Person

READ = """
SELECT {columns}, s.session_data FROM annotation_app_signin s
LEFT JOIN annotation_app_person p ON p.id = s.person_id
WHERE s.session_key = %s AND s.expire_date > %s"""


class SignIn(AbstractBaseSession):
    """A browser's session; without a person until one signs in."""

    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="sign_ins"
    )

    def __str__(self) -> str:
        return f"sign-in of {self.person_id}"

    @classmethod
    def read(cls, session_key: str) -> tuple[str, Person | None] | None:
        """The session's data and its person; None where there is none or it has ended."""
        columns = ", ".join(f"p.{field.column}" for field in Person._meta.concrete_fields)
        now = connection.ops.adapt_datetimefield_value(timezone.now())
        found = Person.objects.raw(READ.format(columns=columns), [session_key, now])
        for person in found:
            data: str = person.session_data  # type: ignore[attr-defined]
            return data, person if person.pk else None
        return None
