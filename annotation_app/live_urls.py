"""The addresses of the live process; ``asgi`` serves these alone, and the web process none."""

from django.urls import path

from annotation_app.views import live, live_playground

urlpatterns = [
    path("live/<str:criterion>/begin", live.begin, name="begin_live"),
    path("live/dialogues/<int:pk>/go-on", live.go_on, name="go_on_live"),
    path("live/turns/<uuid:pk>/stop", live.stop, name="stop_live"),
    path("live/playground", live_playground.ask, name="ask_live"),
]
handler400 = live.bad_request
handler403 = live.forbidden
handler404 = live.not_found
handler500 = live.failed
