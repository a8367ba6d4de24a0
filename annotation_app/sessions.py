"""The session engine: Django's own in the database, which brings the person along."""

from __future__ import annotations

from typing import Any, cast

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends import db
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare
from django.utils.functional import SimpleLazyObject

from annotation_app.models import Person, SignIn


class SessionStore(db.SessionStore):
    """A session and, once it is loaded, its ``person``."""

    person: Person | None = None

    @classmethod
    def get_model_class(cls) -> type[SignIn]:
        return SignIn

    def load(self) -> dict[str, Any]:
        found = SignIn.read(self.session_key) if self.session_key else None
        if found is None:
            self._session_key = None
            return {}
        data, self.person = found
        return dict(self.decode(data))

    def create_model_instance(self, data: dict[str, Any]) -> SignIn:
        row = cast(SignIn, super().create_model_instance(data))
        row.person_id = data.get(SESSION_KEY)
        return row


class PersonMiddleware(AuthenticationMiddleware):
    """Puts who is signed in on the request, without a query of its own in the usual case."""

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        request.user = SimpleLazyObject(lambda: _signed_in(request))  # type: ignore[assignment]


def _signed_in(request: HttpRequest) -> Person | AnonymousUser:
    """The session's person where everything agrees; anything else is for Django to judge."""
    session: Any = request.session
    data = {key: session.get(key) for key in (SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY)}
    person: Person | None = session.person
    if (
        person is not None
        and person.is_active
        and data[SESSION_KEY] == str(person.pk)
        and data[BACKEND_SESSION_KEY] in settings.AUTHENTICATION_BACKENDS
        and constant_time_compare(data[HASH_SESSION_KEY] or "", person.get_session_auth_hash())
    ):
        return person
    found: Person | AnonymousUser = get_user(request)
    return found
