"""Signing in, passwords, and who is here."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.forms import PasswordChangeForm, SetPasswordForm
from django.contrib.auth.tokens import default_token_generator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.encoding import force_str
from django.utils.http import urlsafe_base64_decode
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation_app import keys
from annotation_app.access import administrator_required, person, refusal_page, signed_in
from annotation_app.forms import (
    InvitationForm,
    PersonForm,
    PreferencesForm,
    SkillForm,
)
from annotation_app.models import KeyLayout, Organisation, Person

BACKEND = "django.contrib.auth.backends.ModelBackend"


@require_GET
@signed_in
def home(request: HttpRequest) -> HttpResponse:
    return redirect("batches" if person(request).is_researcher else "annotate")


@require_http_methods(["GET", "POST"])
def sign_in_link(request: HttpRequest, uid: str, token: str) -> HttpResponse:
    """Used by pressing its button, so that a link preview does not use it up."""
    who = _person_of(uid)
    if who is None or not default_token_generator.check_token(who, token):
        sentence = "This sign-in link has been used or has run out. Ask for a new one."
        return refusal_page(request, sentence, 410)
    if request.method == "GET":
        return render(request, "people/sign_in_link.html", {"who": who})
    login(request, who, backend=BACKEND)
    return redirect("home" if who.has_usable_password() else "set_password")


def _person_of(uid: str) -> Person | None:
    try:
        pk = int(force_str(urlsafe_base64_decode(uid)))
    except (ValueError, UnicodeDecodeError):
        return None
    return Person.objects.filter(pk=pk, is_active=True).first()


@require_http_methods(["GET", "POST"])
@signed_in
def set_password(request: HttpRequest) -> HttpResponse:
    """Choose or change one's own password; the session goes on."""
    who = person(request)
    kind = PasswordChangeForm if who.has_usable_password() else SetPasswordForm
    form = kind(who, request.POST or None)
    if request.method == "POST" and form.is_valid():
        update_session_auth_hash(request, form.save())
        messages.success(request, "Your password is set.")
        return redirect("home")
    return render(request, "people/password.html", {"form": form})


@require_http_methods(["GET", "POST"])
@signed_in
def preferences(request: HttpRequest) -> HttpResponse:
    """One's own settings: the keys of the judging page."""
    organisation = Organisation.current()
    form = PreferencesForm(organisation, request.POST or None, instance=person(request))
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved.")
        return redirect("preferences")
    layouts = [(layout.label, keys.described(layout)) for layout in KeyLayout]
    return render(request, "people/preferences.html", {"form": form, "layouts": layouts})


@require_GET
@administrator_required
def people(request: HttpRequest) -> HttpResponse:
    return people_page(request, InvitationForm(), SkillForm())


def people_page(
    request: HttpRequest, invitation: InvitationForm, skill: SkillForm, status: int = 200
) -> HttpResponse:
    """Everyone who can sign in, with a form to invite and one for a new skill."""
    rows = Person.objects.filter(is_active=True).order_by("role", "username")
    page = {"people": rows.prefetch_related("skills"), "form": invitation, "skill_form": skill}
    return render(request, "people/list.html", page, status=status)


@require_POST
@administrator_required
def invite(request: HttpRequest) -> HttpResponse:
    form = InvitationForm(request.POST)
    if not form.is_valid():
        return people_page(request, form, SkillForm(), status=400)
    invited = form.save(commit=False)
    invited.set_unusable_password()
    invited.save()
    link = request.build_absolute_uri(invited.one_time_sign_in_path())
    return render(request, "people/invited.html", {"invited": invited, "link": link})


@require_POST
@administrator_required
def add_skill(request: HttpRequest) -> HttpResponse:
    form = SkillForm(request.POST)
    if not form.is_valid():
        return people_page(request, InvitationForm(), form, status=400)
    messages.success(request, f"{form.save()} can now be asked for by a batch.")
    return redirect("people")


@require_http_methods(["GET", "POST"])
@administrator_required
def one_person(request: HttpRequest, pk: int) -> HttpResponse:
    """Someone's role and skills."""
    who = get_object_or_404(Person, pk=pk)
    form = PersonForm(request.POST or None, instance=who)
    if request.method == "POST" and form.is_valid():
        if who == person(request) and not who.is_administrator:
            return refusal_page(request, "You cannot take your own role away.", 409)
        form.save()
        messages.success(request, "Saved.")
        return redirect("person", who.pk)
    return render(request, "people/person.html", {"who": who, "form": form})


@require_POST
@administrator_required
def deactivate(request: HttpRequest, pk: int) -> HttpResponse:
    who = get_object_or_404(Person, pk=pk)
    if who == person(request):
        return refusal_page(request, "You cannot deactivate yourself.", 409)
    who.is_active = False
    who.save(update_fields=["is_active"])
    messages.success(request, f"{who} can no longer sign in.")
    return redirect("people")
