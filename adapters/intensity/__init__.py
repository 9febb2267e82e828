"""The grid's carbon intensity for a daemon that runs now.

====================  ==================================================================
``base``              ``Provider``: what every source is; ``Label``: what its series is
``file``              a zone that ships, or a CSV file of the user's
``electricitymaps``   Electricity Maps, API version 3
``watttime``          WattTime, API version 3
``gb``                Great Britain's public Carbon Intensity API
``cache``             what is known, over a restart
``feed``              ``IntensityFeed``: asks in the background, answers from memory
``choice``            ``open_feed``: all of that from the settings
====================  ==================================================================

docs/providers.md has their settings, fallbacks and limits.
"""

from greencache.adapters.intensity.base import Label, Provider
from greencache.adapters.intensity.choice import intensity_feed, provider_of
from greencache.adapters.intensity.feed import FeedReport, IntensityFeed

__all__ = ["FeedReport", "IntensityFeed", "Label", "Provider", "intensity_feed", "provider_of"]
