import os
import sys

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotation_app.settings")
# A thread that comes back from the database waits this long for another one to let go of the
# interpreter. Python's own 5 ms, at each of a request's queries, cost a third of the throughput.
sys.setswitchinterval(0.0005)
application = get_wsgi_application()
