#!/usr/bin/python3
"""Lists the applications that slotd keeps. With the name of one: updates it, and follows the job to its end.

follow.py [--user] [APP]. Needs python3-gi. Exits 0 when the application is as it was asked to be, 4 when it was rolled
back, 1 for everything else.
"""

import sys

from gi.repository import Gio, GLib

NAME, ROOT = "org.slotd1", "/org/slotd1"
APP, JOB, PROPERTIES = "org.slotd1.App", "org.slotd1.Job", "org.freedesktop.DBus.Properties"
EXIT = {"updated": 0, "unchanged": 0, "up-to-date": 0, "rolled-back": 4}


def open_manager(is_user):
    """All objects of slotd with their properties, kept up to date by its signals as long as the main loop turns."""
    bus = Gio.BusType.SESSION if is_user else Gio.BusType.SYSTEM
    flags = Gio.DBusObjectManagerClientFlags.NONE
    return Gio.DBusObjectManagerClient.new_for_bus_sync(bus, flags, NAME, ROOT, None, None, None)


def apps(manager):
    """Name -> the proxy of its org.slotd1.App."""
    found = [each.get_interface(APP) for each in manager.get_objects()]
    return {proxy.get_cached_property("Name").unpack(): proxy for proxy in found if proxy is not None}


def show(_manager, _object, proxy, changed, _invalidated, path):
    if proxy.get_object_path() == path:
        for name, value in changed.unpack().items():
            if name in ("Step", "Progress"):
                print(name.lower(), value, flush=True)


def result_of(manager, path):
    """Empty while the job goes on."""
    proxy = manager.get_interface(path, JOB)
    if proxy is not None:
        return proxy.get_cached_property("Result").unpack()
    # Not told of yet, or it had ended before the daemon was started anew: at its path it can be read all the same.
    arguments = GLib.Variant("(ss)", (JOB, "Result"))
    reply = manager.get_connection().call_sync(
        NAME, path, PROPERTIES, "Get", arguments, None, Gio.DBusCallFlags.NONE, -1, None
    )
    return reply.unpack()[0]


def follow(manager, app):
    arguments = GLib.Variant("(a{sv})", ({"now": GLib.Variant("b", True)},))
    # Whoever has a person to ask adds Gio.DBusCallFlags.ALLOW_INTERACTIVE_AUTHORIZATION, and a longer time.
    (path,) = app.call_sync("Update", arguments, Gio.DBusCallFlags.NONE, -1, None).unpack()
    manager.connect("interface-proxy-properties-changed", show, path)
    while not (result := result_of(manager, path)):
        GLib.MainContext.default().iteration(True)
    print("result", result)
    return EXIT.get(result, 1)


def main(words):
    manager = open_manager("--user" in words)
    known = apps(manager)
    wanted = [word for word in words if word != "--user"]
    try:
        if wanted:
            return follow(manager, known[wanted[0]])
    except KeyError:
        print(f"there is no app {wanted[0]}", file=sys.stderr)
        return 1
    except GLib.Error as error:
        print(f"{Gio.DBusError.get_remote_error(error)}: {error.message}", file=sys.stderr)
        return 1
    for name, proxy in sorted(known.items()):
        version, state = (proxy.get_cached_property(each).unpack() for each in ("Version", "State"))
        print(name, version or "-", state)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
