from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # how long one example takes says nothing here
settings.load_profile("shared machine")
