"""What went wrong with a request, and who must act.

  SE1  fault_of knows every exception: what it has not seen before is a BackendError with its cause attached (OS6).
  SE2  Texts of the server are shown only for faults that are not about credentials, one line, cut; keys never are.
  SE3  Missing is only said on the word of an S3 store (its code NoSuchKey), never for any page with status 404:
       a wrong endpoint must not look like a lost object.

    kind         tried again                          in the end
    MISSING      no                                   Missing
    CONDITION    no                                   Exists
    CONFLICT     0.1 s doubling to 1 s, 5 times       Exists
    SPACE        no                                   NoSpace
    RANGE        no                                   Corrupt (the object is too short)
    OPERATOR     no                                   BadInput
    CREDENTIALS  once, with credentials read anew     BadInput
    UNSUPPORTED  no                                   BadInput
    NO_UPLOAD    no                                   BackendError
    THROTTLED    0.5 s doubling to 8 s, to the limit  BackendError
    SERVER       0.1 s doubling to 4 s, to the limit  BackendError
    NETWORK      0.1 s doubling to 4 s, to the limit  BackendError
    GARBLED      0.1 s doubling to 1 s, 3 times       BackendError
    UNKNOWN      no                                   BackendError
"""

import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

from sds.core.errors import BackendError, BadInput, Corrupt, Exists, Missing, NoSpace, SdsError


class Kind(Enum):
    MISSING = auto()
    CONDITION = auto()
    CONFLICT = auto()
    SPACE = auto()
    RANGE = auto()
    OPERATOR = auto()
    CREDENTIALS = auto()
    UNSUPPORTED = auto()
    NO_UPLOAD = auto()
    THROTTLED = auto()
    SERVER = auto()
    NETWORK = auto()
    GARBLED = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Backoff:
    first_s: float
    cap_s: float
    tries_max: float

    def delay_s(self, tries: int, chance: float) -> float:
        """After `tries` tries. `chance` in 0..1 makes half of it, so that those who failed together come back apart."""
        whole = min(self.cap_s, self.first_s * 2.0 ** min(tries - 1, 30))
        return whole * (0.5 + 0.5 * chance)


BACKOFFS = {
    Kind.CONFLICT: Backoff(0.1, 1, 5),
    Kind.CREDENTIALS: Backoff(0, 0, 2),
    Kind.THROTTLED: Backoff(0.5, 8, math.inf),
    Kind.SERVER: Backoff(0.1, 4, math.inf),
    Kind.NETWORK: Backoff(0.1, 4, math.inf),
    Kind.GARBLED: Backoff(0.1, 1, 3),
}

class Unsupported(BadInput):
    """The store knows no such request."""


_CLASSES: dict[Kind, type[SdsError]] = {
    Kind.MISSING: Missing,
    Kind.CONDITION: Exists,
    Kind.CONFLICT: Exists,
    Kind.SPACE: NoSpace,
    Kind.RANGE: Corrupt,
    Kind.OPERATOR: BadInput,
    Kind.CREDENTIALS: BadInput,
    Kind.UNSUPPORTED: Unsupported,
}
_CODES = {
    "NoSuchKey": (Kind.MISSING, "no such object"),
    "PreconditionFailed": (Kind.CONDITION, "somebody else was first"),
    "ConditionalRequestConflict": (Kind.CONFLICT, "somebody else writes it at the same time"),
    "OperationAborted": (Kind.CONFLICT, "somebody else writes it at the same time"),
    "QuotaExceeded": (Kind.SPACE, "the store's quota is used up: raise it or free space"),
    "XMinioStorageFull": (Kind.SPACE, "the store is full: free space there"),
    "InsufficientStorage": (Kind.SPACE, "the store is full: free space there"),
    "InvalidRange": (Kind.RANGE, "too short for what is read"),
    "NoSuchBucket": (Kind.OPERATOR, "no such bucket: create it, or mend the URL"),
    "InvalidBucketName": (Kind.OPERATOR, "not a name for a bucket: mend the URL"),
    "AccessDenied": (Kind.OPERATOR, "permission denied: the credentials need to get, put, delete and list here"),
    "AllAccessDisabled": (Kind.OPERATOR, "the bucket is disabled: ask its owner"),
    "InvalidStorageClass": (Kind.OPERATOR, "the store does not know this storage_class: mend the URL"),
    "EntityTooLarge": (Kind.OPERATOR, "too large for the store: use a smaller segment size or part_size"),
    "PermanentRedirect": (Kind.OPERATOR, "the bucket is elsewhere: set region= or endpoint_url= to where it is"),
    "AuthorizationHeaderMalformed": (Kind.OPERATOR, "the bucket is in another region: set region="),
    "IllegalLocationConstraintException": (Kind.OPERATOR, "the bucket is in another region: set region="),
    "ExpiredToken": (Kind.CREDENTIALS, "the credentials have expired: renew them"),
    "InvalidToken": (Kind.CREDENTIALS, "the session token is not valid: renew the credentials"),
    "InvalidAccessKeyId": (Kind.CREDENTIALS, "the store does not know this access key: check the credentials"),
    "InvalidAccessKey": (Kind.CREDENTIALS, "the store does not know this access key: check the credentials"),
    "SignatureDoesNotMatch": (Kind.CREDENTIALS, "the secret key is wrong: check the credentials"),
    "NotImplemented": (Kind.UNSUPPORTED, "the store does not support this request"),
    "NoSuchUpload": (Kind.NO_UPLOAD, "the upload in parts is gone"),
    "SlowDown": (Kind.THROTTLED, "the store asks to slow down"),
    "TooManyRequests": (Kind.THROTTLED, "the store asks to slow down"),
    "Throttling": (Kind.THROTTLED, "the store asks to slow down"),
    "RequestLimitExceeded": (Kind.THROTTLED, "the store asks to slow down"),
    "RequestTimeout": (Kind.NETWORK, "the request reached the store too slowly"),
    "BadDigest": (Kind.GARBLED, "the content changed on its way to the store"),
    "XAmzContentSHA256Mismatch": (Kind.GARBLED, "the content changed on its way to the store"),
    "XAmzContentChecksumMismatch": (Kind.GARBLED, "the content changed on its way to the store"),
    "IncompleteBody": (Kind.GARBLED, "only a part of the content reached the store"),
}  # fmt: skip
_STATUSES = {
    304: (Kind.CONDITION, "somebody else was first"),
    403: (Kind.OPERATOR, "permission denied: check credentials and policies"),
    404: (Kind.OPERATOR, "answers 404, but not as an S3 store does: check endpoint_url and bucket"),
    405: (Kind.OPERATOR, "does not answer as an S3 store: check endpoint_url"),
    412: (Kind.CONDITION, "somebody else was first"),
    416: (Kind.RANGE, "too short for what is read"),
    429: (Kind.THROTTLED, "the store asks to slow down"),
    501: (Kind.UNSUPPORTED, "the store does not support this request"),
    507: (Kind.SPACE, "the store is full: free space there"),
}
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")


class Garbled(Exception):
    """An answer that contradicts itself or the request; asking again may help."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    text: str

    def error(self, where: str) -> SdsError:
        return _CLASSES.get(self.kind, BackendError)(f"{where}: {self.text}")


def fault_of(error: Exception) -> Fault:
    """SE1. botocore is imported here: whoever has its errors has imported it already."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, aws.ClientError):
        return _fault_of_answer(error.response)
    if isinstance(error, Garbled):
        return Fault(Kind.GARBLED, str(error))
    if isinstance(error, ResponseParserError):
        return Fault(Kind.GARBLED, "the answer is not one of an S3 store: check endpoint_url")
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.CredentialRetrievalError):
        text = "no credentials found: set credentials_file= or profile=, or what AWS's tools read (~/.aws/credentials)"
        return Fault(Kind.CREDENTIALS, text)
    if isinstance(error, aws.ProfileNotFound):
        return Fault(Kind.CREDENTIALS, "no such profile in the credentials file: mend profile= or the file")
    if isinstance(error, aws.SSLError) and _is_certificate(error):
        return Fault(Kind.OPERATOR, f"no trusted TLS here: check endpoint_url and certificates ({_line(error)})")
    if isinstance(error, aws.EndpointConnectionError):
        return Fault(Kind.NETWORK, "cannot be reached: is it running, are host and port of endpoint_url right?")
    if isinstance(error, aws.ConnectTimeoutError | aws.ReadTimeoutError):
        return Fault(Kind.NETWORK, "no answer in time: is the store up, is the network?")
    if isinstance(error, aws.HTTPClientError | aws.IncompleteReadError | HTTPError | OSError):
        return Fault(Kind.NETWORK, f"connection lost ({type(error).__name__}): is the store up, is the network?")
    if isinstance(error, aws.ParamValidationError | aws.InvalidRegionError):
        return Fault(Kind.OPERATOR, f"the URL cannot work: {_line(error)}")
    if isinstance(error, aws.ConfigParseError):
        return Fault(Kind.OPERATOR, "the credentials file cannot be read: it must be in AWS's format")
    return Fault(Kind.UNKNOWN, f"{type(error).__name__}: {_line(error)}")


def _fault_of_answer(response: dict[str, Any]) -> Fault:
    said = response.get("Error", {})
    code = str(said.get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _SKEWED:
        return Fault(Kind.OPERATOR, _skewed(response))
    kind, text = _CODES.get(code) or _STATUSES.get(status) or _by_class(status)
    if kind is Kind.SERVER and code in ("", str(status)):  # boto3 makes a 500 of a page it cannot read.
        text = "the answer is an error, or not one of an S3 store: look at it, check endpoint_url"
    if kind is Kind.CREDENTIALS:
        return Fault(kind, text)
    return Fault(kind, f"{text} (answer {status} {_line(code)})")


def _by_class(status: int) -> tuple[Kind, str]:
    if status == 503:
        return Kind.THROTTLED, "the store is overloaded"
    if status >= 500:
        return Kind.SERVER, "the store has an error of its own: look at it"
    if 300 <= status < 400:
        return Kind.OPERATOR, "the store sends requests elsewhere: set region= or endpoint_url= to where it is"
    if 200 <= status < 300:
        return Kind.GARBLED, "the answer is not one of an S3 store: check endpoint_url"
    return Kind.UNKNOWN, "the store refuses the request: is it an S3 store, does it support what the URL asks?"


def _skewed(response: dict[str, Any]) -> str:
    skew_s = skew_of(response)
    by = f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead'}" if skew_s is not None else "too far"
    return f"this machine's clock is off by {by}, seen from the store: set it"


def skew_of(response: dict[str, Any]) -> float | None:
    """By how many seconds the store's clock is ahead of ours; None if it does not say."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"]).timestamp() - time.time()
    except (KeyError, ValueError, TypeError):
        return None


def _is_certificate(error: Exception) -> bool:
    text = str(error)
    return "CERTIFICATE_VERIFY_FAILED" in text or "WRONG_VERSION_NUMBER" in text


def _line(what: object) -> str:
    """One line of at most 120 characters."""
    return " ".join(str(what).split())[:120]
