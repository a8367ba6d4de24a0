"""Print a one-time sign-in address for an administrator who has no password yet."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand

from annotation_app.models import Person


class Command(BaseCommand):
    help = "Print a one-time sign-in for the first administrator, until one has a password."

    def handle(self, *args: Any, **options: Any) -> None:
        administrators = Person.objects.filter(role=Person.Role.ADMINISTRATOR, is_active=True)
        if any(person.has_usable_password() for person in administrators):
            return
        person = administrators.order_by("pk").first()
        if person is None:
            person = get_user_model().objects.create_user(
                "administrator", role=Person.Role.ADMINISTRATOR
            )
        self.stdout.write(settings.SITE_URL + person.one_time_sign_in_path())
