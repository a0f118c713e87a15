"""Looks, before an instance is paid for, whether the account can run a request: one finding for each thing.

What cannot be asked (no permission, no network) is told as not known; it stops nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import botocore.exceptions

from account import looks
from account.setup import Aws
from error_lines import mendable
from ml.errors import UserError, one_line
from request import host_names, hyperparameters_of, s3_sources, training_part

OK, WRONG, UNKNOWN = "ok", "wrong", "not known"


class Finding(NamedTuple):
    """What one look came to.

    Attributes:
        what: the thing looked at, a word or two.
        state: OK, WRONG or UNKNOWN.
        text: what was found.
        cure: the command or page that mends it; empty where nothing is to be done.
    """

    what: str
    state: str
    text: str
    cure: str = ""


def told(finding: Finding) -> str:
    """A finding as one line."""
    cure = f"; mend it with: {finding.cure}" if finding.cure else ""
    return f"{finding.what}: {finding.text}{cure}"


def examined(aws: Aws, request: dict[str, Any], *, cheap: bool = False) -> Iterator[Finding]:
    """Every look at the account for a checked request, in the order in which a job would meet the things.

    Args:
        aws: the account.
        request: complete and checked, as it would be sent.
        cheap: only what takes a call or two each and changes nothing: what `train --on aws` looks at.
    """
    first = _finding("credentials", lambda: looks.credentials(aws))
    yield first
    if first.state != OK:  # every other call would fail for the same reason
        return
    account = first.text.rsplit(" ", 1)[-1]
    job = training_part(request)
    wanted: list[tuple[str, Callable[[], str], bool]] = [
        ("role", lambda: looks.role(aws, job["RoleArn"], account), True),
        ("bucket", lambda: looks.bucket(aws, request), True),
        ("image", lambda: looks.image(aws, job), True),
        ("permissions", lambda: looks.permissions(aws, request, account), False),
        ("writing", lambda: looks.writing(aws, job), False),
        ("accelerator", lambda: looks.accelerator(aws, request), False),
        ("quota", lambda: looks.quota(aws, request), False),
        *(
            (f"channel {name}", lambda uri=source["S3Uri"]: looks.channel(aws, uri), False)
            for name, source in s3_sources(request).items()
            if source["S3Uri"].startswith("s3://")
        ),
        *(
            (name, lambda name=name: looks.kydb(aws, request, name), False)
            for name in ("prices_db", "model_db")
            if hyperparameters_of(request).get(name)
        ),
    ]
    if job.get("VpcConfig"):
        wanted.append(("vpc", lambda: looks.vpc(aws, job["VpcConfig"], len(host_names(job))), False))
    for what, look, is_cheap in wanted:
        if is_cheap or not cheap:
            yield _finding(what, look)


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, OK, look())
    except looks.Wrong as wrong:
        return Finding(what, WRONG, wrong.text, wrong.cure)
    except (looks.Unknown, UserError) as unknown:
        return Finding(what, UNKNOWN, str(unknown))
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, OSError) as error:
        return Finding(what, UNKNOWN, mendable(error) or one_line(error))
