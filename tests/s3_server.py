"""A real server of S3 on loopback (moto's) that lets in one user alone, and checks the signature of each request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

PACKAGES = Path(__file__).resolve().parents[1] / "build" / "s3"
START_S = 60.0
_SERVE = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
_USER = """
import boto3, json
iam = boto3.client("iam", endpoint_url="http://127.0.0.1:{port}", region_name="us-east-1",
                   aws_access_key_id="first", aws_secret_access_key="first")
iam.create_user(UserName="backup")
allowed = [{{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}]
policy = json.dumps({{"Version": "2012-10-17", "Statement": allowed}})
iam.put_user_policy(UserName="backup", PolicyName="all", PolicyDocument=policy)
key = iam.create_access_key(UserName="backup")["AccessKey"]
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
"""
_CALLS_OF_USER = 3  # before which nobody is asked who they are


class S3Server:
    """Its buckets are in memory. `environment` are the lines of the credential of who may use it."""

    def __init__(self, directory: Path, port: int) -> None:
        assert PACKAGES.is_dir(), "build/s3 is not there: packaging/bootstrap makes it"
        self.directory, self.port = directory, port
        self.secret = self.environment = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        own = {**os.environ, "PYTHONPATH": str(PACKAGES), "INITIAL_NO_AUTH_ACTION_COUNT": str(_CALLS_OF_USER)}
        line = [sys.executable, "-B", "-c", _SERVE.format(port=self.port)]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(line, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait()
        line = [sys.executable, "-B", "-c", _USER.format(port=self.port)]
        made = subprocess.run(line, env=own, capture_output=True, text=True, check=True)
        key, self.secret = json.loads(made.stdout)
        self.environment = f"AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={self.secret}\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """A repository, but for its bucket."""
        return f"s3:http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/moto-api/", timeout=5).close()
                return
            except (OSError, urllib.error.URLError):
                assert self._process is not None
                ended = self._process.poll() is not None or time.monotonic() > deadline
                assert not ended, (self.directory / "log").read_text()
                time.sleep(0.1)
