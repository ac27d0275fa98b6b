"""Runs the Python tool (mirror-git-to-s3 0.0.24) once: SOURCE BUCKET/PREFIX ENDPOINT KEY SECRET.

git's own http-backend wants the Content-Type that the tool does not send, so its client gets it."""

import sys

import boto3
import httpx
from botocore.config import Config
from mirror_git_to_s3 import mirror_repos

source, target, endpoint, key, secret = sys.argv[1:]
headers = {"Content-Type": "application/x-git-upload-pack-request"}
mirror_repos(
    [(source, "s3://" + target)],
    get_http_client=lambda: httpx.Client(
        transport=httpx.HTTPTransport(retries=3), headers=headers, timeout=600, trust_env=False
    ),
    get_s3_client=lambda: boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            max_pool_connections=64,
            proxies={},
            request_checksum_calculation="when_required",
        ),
    ),
)
