"""Many definitions on one machine."""

from __future__ import annotations

from tests.system.container import Container

DEFINITION = """\
description = "App number {number}"
[service]
units = ["app{number:03}.service"]
[source]
type = "http"
url = "http://127.0.0.1:9/index.json"
asset = "app-{{version}}.tar.gz"
[verify]
require = ["sha256"]
checksums = "SHA256SUMS"
[data]
paths = ["/var/lib/app{number:03}"]
[[health]]
type = "http"
url = "http://127.0.0.1:{port}/health"
"""
UNIT = """\
[Unit]
Description=App number {number}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
"""


def define(machine: Container, count: int) -> None:
    """So many definitions, each with a unit that is loaded."""
    apps, units = machine.path("/etc/slotd/apps.d"), machine.path("/etc/systemd/system")
    apps.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        (apps / f"app{number:03}.toml").write_text(DEFINITION.format(number=number, port=9000 + number))
        (units / f"app{number:03}.service").write_text(UNIT.format(number=number))
    machine.run(
        "systemctl daemon-reload && systemctl start --no-block 'app*.service' $(ls /etc/systemd/system | "
        "grep '^app.*service$')",
        timeout_s=300,
    )
