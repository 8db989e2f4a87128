"""The package's own nodes."""

from flower_kd import client_app

app = client_app.app
