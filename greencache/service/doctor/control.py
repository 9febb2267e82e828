"""What settings ask for by name: whether there is such a policy, and such an engine to control."""

from __future__ import annotations

from greencache.controller.assembly import forecasters
from greencache.errors import InputError, SettingsError
from greencache.service.doctor.finding import Finding, fail, ok
from greencache.service.http import HttpServer
from greencache.service.preloading import named_engine
from greencache.service.steering import reason_off
from greencache.settings import ServeSettings, Settings
from greencache.tiers import Policy

__all__ = ["check_control", "check_metrics_address", "check_policy"]


def check_control(settings: Settings) -> Finding:
    """Whether the tiers would be sized, if they are to be."""
    name = "control"
    if (why := reason_off(settings)) is not None:
        return ok(name, f"off, tiers keep their sizes: {why}")
    try:
        forecasters(settings.control)
        engine = named_engine(settings)
    except InputError as fault:
        advice = "mend that setting: tiers keep their sizes, or the daemon does not start"
        return fail(name, str(fault), advice)
    hardware = engine.hardware
    return ok(name, f"sizes the tiers for {hardware.model.name} on {hardware.name}")


def check_policy(policy: str) -> Finding:
    """Whether there is such an eviction policy."""
    name = "eviction policy"
    try:
        return ok(name, Policy.parse(policy).value)
    except InputError as fault:
        return fail(name, str(fault), "set GREENCACHE_STORAGE__POLICY to one of these")


def check_metrics_address(settings: ServeSettings) -> Finding:
    """Whether metrics may be served at the address that is set."""
    name, token = "metrics address", settings.metrics_token
    try:
        HttpServer(
            {},
            address=settings.metrics_address,
            token=token.get_secret_value() if token else None,
        )
    except SettingsError as fault:
        return fail(name, str(fault), "the daemon does not start as it is")
    return ok(name, settings.metrics_address)
