"""nginx with one worker, not recording: what forwarding costs in C. It streams both ways, as the others are asked to."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import processes
from bench.arms.arm import Target

PROXYING = """
    upstream backend {{ server 127.0.0.1:{backend}; keepalive 8192; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=8192;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
"""
AROUND = """
daemon off;
worker_processes 1;
pid {place}/nginx.pid;
error_log stderr error;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    {servers}
}}
"""


@contextmanager
def serving(servers: str, port: int, place: Path) -> Iterator[list[int]]:
    """An nginx with these servers, one of which listens on `port`; its processes."""
    place.mkdir(exist_ok=True)
    config, log = place / "nginx.conf", place / "nginx.log"
    config.write_text(AROUND.format(place=place, servers=servers))
    with processes.started(["nginx", "-e", log, "-c", config], log=log) as (pid,):
        processes.wait_for_port(port, pid, log)
        yield processes.family(pid)


class Nginx:
    """The measure of a plain proxy."""

    name = "nginx"

    def version(self) -> str:
        """As it says itself."""
        return subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip().rpartition("/")[2]

    @contextmanager
    def running(self, backend_port: int, place: Path) -> Iterator[Target]:
        """Master and one worker."""
        port = processes.free_port()
        with serving(PROXYING.format(backend=backend_port, port=port), port, place / "proxy") as pids:
            yield Target(port, pids, pids)
