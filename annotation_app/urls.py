"""The addresses, by room."""

from django.contrib.auth import views as auth
from django.urls import path

from annotation_app.views import annotate, answers, batches, people, rewards, rounds, runs

urlpatterns = [
    path("", people.home, name="home"),
    path(
        "sign-in",
        auth.LoginView.as_view(
            template_name="people/sign_in.html", redirect_authenticated_user=True
        ),
        name="sign_in",
    ),
    path("sign-in/<str:uid>/<str:token>", people.sign_in_link, name="sign_in_link"),
    path("sign-out", auth.LogoutView.as_view(), name="sign_out"),
    path("password", people.set_password, name="set_password"),
    path("preferences", people.preferences, name="preferences"),
    path("people", people.people, name="people"),
    path("people/invite", people.invite, name="invite"),
    path("people/<int:pk>/deactivate", people.deactivate, name="deactivate"),
    path("annotate", annotate.annotate, name="annotate"),
    path("annotate/<str:criterion>", annotate.annotate_next, name="annotate_next"),
    path("annotate/<str:criterion>/write", annotate.write_prompt, name="write_prompt"),
    path("annotations/<int:pk>", annotate.annotation, name="annotation"),
    path("annotate/<str:criterion>/next", answers.next_card, name="next_card"),
    path("annotations/<int:pk>/record", answers.record, name="record"),
    path("annotations/<int:pk>/revise", answers.revise, name="revise"),
    path("annotations/<int:pk>/skip", answers.skip, name="skip"),
    path("annotations/<int:pk>/flag", answers.flag, name="flag"),
    path("annotations/<int:pk>/release", answers.release, name="release"),
    path("annotations/<int:pk>/heartbeat", answers.heartbeat, name="heartbeat"),
    path("batches", batches.batches, name="batches"),
    path("batches/<int:pk>", batches.batch, name="batch"),
    path("batches/<int:pk>/open", batches.open_batch, name="open_batch"),
    path("batches/<int:pk>/close", batches.close_batch, name="close_batch"),
    path("runs", runs.runs, name="runs"),
    path("runs/<int:pk>", runs.run, name="run"),
    path("runs/<int:pk>/cancel", runs.cancel_run, name="cancel_run"),
    path("runs/<int:pk>/retry", runs.retry_run, name="retry_run"),
    path("rewards", rewards.rewards, name="rewards"),
    path("rewards/retrain", rewards.retrain, name="retrain"),
    path("rewards/<int:pk>/promote", rewards.promote, name="promote"),
    path("models", rewards.chat_models, name="chat_models"),
    path("rounds", rounds.rounds, name="rounds"),
    path("rounds/start", rounds.start_round, name="start_round"),
    path("rounds/<int:pk>", rounds.round_, name="round"),
    path("rounds/<int:pk>/release", rounds.release_round, name="release_round"),
    path("rounds/<int:pk>/hold", rounds.hold_round, name="hold_round"),
    path("rounds/<int:pk>/cancel", rounds.cancel_round, name="cancel_round"),
    path("rounds/<int:pk>/retry", rounds.retry_round, name="retry_round"),
]
