"""URLs of object stores (SU1-SU3)."""

import pytest

from backends.s3 import S3Store
from backends.s3_url import GIB, MIB, S3Url
from sds.core.errors import BadInput

FULL = (
    "s3://bucket/some/prefix?endpoint_url=https://store.example:9000/s3&region=eu-west-1&path_style=0"
    "&storage_class=STANDARD_IA&sse=aws:kms&sse_kms_key=arn:aws:kms:eu-west-1:1:key/abc&profile=backup"
    "&credentials_file=/etc/sds/keys&parallelism=4&part_size=8M&cache_size=1G&journal_size=512M&capacity=2T&conditional=no"
)


def test_the_defaults() -> None:
    url = S3Url.parse("s3://bucket/prefix")
    assert url == S3Url("bucket", "prefix")
    assert (url.parallelism, url.part_size, url.path_style, url.conditional) == (16, 64 * MIB, False, "auto")
    assert (url.cache_size, url.journal_size, url.capacity) == (10 * GIB, 4 * GIB, 1 << 50)
    assert str(url) == "s3://bucket/prefix"


def test_every_option_is_kept_and_written_back() -> None:
    url = S3Url.parse(FULL)
    assert url.endpoint_url == "https://store.example:9000/s3"
    assert (url.sse, url.sse_kms_key) == ("aws:kms", "arn:aws:kms:eu-west-1:1:key/abc")
    assert (url.parallelism, url.part_size, url.capacity) == (4, 8 * MIB, 2 << 40)
    assert str(url) == FULL
    assert S3Url.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("s3://bucket?parallelism=16&part_size=65536K", "s3://bucket"),
        ("s3://bucket?region=x&endpoint_url=HTTP://Host:1/", "s3://bucket?endpoint_url=http://host:1&region=x"),
        ("s3://bucket?endpoint_url=http%3A%2F%2Fh%3A1", "s3://bucket?endpoint_url=http://h:1"),
        ("s3://bucket?endpoint_url=http://h:1&path_style=1", "s3://bucket?endpoint_url=http://h:1"),
        ("s3://bucket?credentials_file=/a%20b%26c", "s3://bucket?credentials_file=/a%20b%26c"),
    ],
)
def test_one_text_for_one_meaning(text: str, canonical: str) -> None:
    assert str(S3Url.parse(text)) == canonical
    assert S3Url.parse(canonical) == S3Url.parse(text)


def test_path_style_is_on_for_other_endpoints_unless_switched_off() -> None:
    assert S3Url.parse("s3://bucket?endpoint_url=http://h:1").path_style
    assert not S3Url.parse("s3://bucket?endpoint_url=http://h:1&path_style=0").path_style


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAHIDDEN:HIDDEN@bucket/prefix",
        "s3://HIDDEN@bucket",
        "s3://bucket?aws_secret_access_key=HIDDEN",
        "s3://bucket?secret_key=HIDDEN",
        "s3://bucket?access_key=HIDDEN",
        "s3://bucket?aws_session_token=HIDDEN",
        "s3://bucket?endpoint_url=http://user:HIDDEN@host:9000",
        "s3://bucket?endpoint_url=http://host:9000/?key=HIDDEN%26x=1",
        "s3://bucket?profile=%20HIDDEN",
    ],
)
def test_secrets_are_refused_and_never_repeated(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        S3Url.parse(text)
    assert "HIDDEN" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://bucket", "s3://bucket"),
        ("s3://", "name of a bucket"),
        ("s3:///prefix", "name of a bucket"),
        ("s3://bucket:9000/x", "endpoint_url="),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/../b", "prefix"),
        ("s3://bucket/a b", "prefix"),
        ("s3://bucket#x", "s3://bucket"),
        ("s3://bucket?regoin=x", "'regoin' is not an option"),
        ("s3://bucket?region", "s3://bucket"),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket?region=", "region"),
        ("s3://bucket?parallelism=0", "parallelism"),
        ("s3://bucket?parallelism=257", "parallelism"),
        ("s3://bucket?parallelism=many", "parallelism"),
        ("s3://bucket?part_size=4M", "between 5M and 5G"),
        ("s3://bucket?part_size=6G", "between 5M and 5G"),
        ("s3://bucket?capacity=0", "capacity"),
        ("s3://bucket?cache_size=much", "cache_size"),
        ("s3://bucket?path_style=yes", "path_style"),
        ("s3://bucket?conditional=yes", "auto, no"),
        ("s3://bucket?sse=none", "AES256"),
        ("s3://bucket?sse_kms_key=k", "needs sse=aws:kms"),
        ("s3://bucket?credentials_file=keys", "absolute"),
        ("s3://bucket?endpoint_url=host:9000", "endpoint_url"),
        ("s3://bucket?endpoint_url=ftp://host", "endpoint_url"),
        ("s3://bucket?endpoint_url=http://host:99999", "endpoint_url"),
    ],
)
def test_what_can_never_work_is_refused_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        S3Url.parse(text)
    assert "\n" not in str(caught.value)


def test_without_boto3_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install"):
        S3Store("s3://bucket")
