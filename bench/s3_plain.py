"""Plain boto3 in a process of its own: `python -m bench.s3_plain put|get ENDPOINT BUCKET COUNT BYTES THREADS`.

Objects in one piece, each thread with a connection of its own; what is read goes into memory and no further. Prints
the seconds; keys come from the environment.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def client(endpoint_url: str, threads: int) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=threads, s3={"addressing_style": "path"}, retries={"max_attempts": 1})
    return boto3.client("s3", endpoint_url=endpoint_url, region_name="us-east-1", config=config)


def key(number: int) -> str:
    return f"plain/{number:06}"


def main() -> None:
    verb, endpoint_url, bucket = sys.argv[1:4]
    count, size_bytes, threads = map(int, sys.argv[4:7])
    store = client(endpoint_url, threads)
    content = os.urandom(size_bytes)

    def put(number: int) -> None:
        store.put_object(Bucket=bucket, Key=key(number), Body=content)

    def get(number: int) -> None:
        got = len(store.get_object(Bucket=bucket, Key=key(number))["Body"].read())
        assert got == size_bytes, f"{key(number)} has {got} bytes"

    begin_s = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put if verb == "put" else get, range(count)))
    print(time.perf_counter() - begin_s)


if __name__ == "__main__":
    main()
