"""The CloudFormation template of an account (account.yaml), with what the options of `setup` add to the job's role."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from ml.errors import UserError

STACK = "position-trainer"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"

_TEMPLATE = Path(__file__).resolve().parents[1] / "account.yaml"
_ACCESS = "PositionTrainerAccess"
_INTERFACES = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:network-interface/*"

# What a job's KYDB calls need; a test holds these lists to the calls that KYDB makes.
_S3_READ, _S3_WRITE = ["s3:GetObject"], ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
_DYNAMODB_READ = ["dynamodb:GetItem", "dynamodb:Query"]
_DYNAMODB_WRITE = ["dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:Query", "dynamodb:UpdateItem"]
_KMS = ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"]


class Permission(NamedTuple):
    """One statement of a policy, as it is shown to a person."""

    policy: str
    effect: str
    actions: list[str]
    resources: list[str]
    reason: str


class Access(NamedTuple):
    """What the options of `setup` give the job's role beside its own bucket, repository and logs.

    Attributes:
        kydb: KYDB URLs that jobs read and write.
        read: KYDB URLs or S3 prefixes that jobs only read.
        subnets: of the VPC that jobs run in.
        security_groups: of those jobs.
        kms_key: ARN of the key that volumes and results are encrypted with.
    """

    kydb: Sequence[str] = ()
    read: Sequence[str] = ()
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    kms_key: str = ""


_NO_ACCESS = Access()


def account_template(access: Access = _NO_ACCESS) -> dict[str, Any]:
    """The template, with the statements that `access` needs added to the job's role.

    Raises:
        UserError: a URL is of no kind that a job on SageMaker can reach.
    """
    template = yaml.safe_load(_TEMPLATE.read_text(encoding="utf-8"))
    template["Metadata"] = {_ACCESS: {name: _plain(value) for name, value in access._asdict().items() if value}}
    statements = [
        *url_statements("Kydb", access.kydb, write=True),
        *url_statements("Read", access.read, write=False),
        *(vpc_statements(access.subnets, access.security_groups) if access.subnets else []),
        *(_key_statements(access.kms_key) if access.kms_key else []),
    ]
    if statements:
        role = template["Resources"]["JobRole"]
        role["Metadata"]["Reasons"] |= {statement["Sid"]: reason for statement, reason in statements}
        role["Properties"]["Policies"].append(
            {
                "PolicyName": "access",
                "PolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [statement for statement, _ in statements],
                },
            }
        )
    return template


def access_in(template: str) -> Access:
    """What the options were that a deployed template was made with."""
    content = yaml.safe_load(template)
    found = content.get("Metadata", {}).get(_ACCESS, {}) if isinstance(content, dict) else {}
    return Access(**{name: value for name, value in found.items() if name in Access._fields})


def template_text(template: dict[str, Any]) -> str:
    """The template as CloudFormation takes it; the same template gives the same text."""
    return yaml.safe_dump(template, sort_keys=False, width=120, allow_unicode=True)


def permissions(template: dict[str, Any]) -> list[Permission]:
    """Every statement of every policy in the template with its reason."""
    found = []
    for name, resource in template["Resources"].items():
        reasons = resource.get("Metadata", {}).get("Reasons", {})
        found += [
            Permission(
                name,
                statement["Effect"],
                _list(statement["Action"]),
                [_shown(item) for item in _list(statement.get("Resource", "this role"))],
                reasons[statement["Sid"]],
            )
            for statement in statements_of(resource)
        ]
    return found


def statements_of(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The policy statements of a template's resource."""
    properties = resource.get("Properties", {})
    documents = [properties.get("AssumeRolePolicyDocument"), properties.get("PolicyDocument")]
    documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    for document in documents:
        if document:
            yield from document["Statement"]


def endpoints(region: str, access: Access) -> list[str]:
    """The VPC endpoints that jobs in subnets without a way to the internet need, and what for.

    SageMaker itself pulls the image and writes the log outside of the subnets (AWS's guide, "Give SageMaker AI
    training jobs access to resources in your Amazon VPC"); channels, checkpoints and results go through them.
    """
    lines = [f"com.amazonaws.{region}.s3, a gateway: channels, checkpoints, results, and KYDB on S3"]
    if any("dynamodb:" in url for url in (*access.kydb, *access.read)):
        lines.append(f"com.amazonaws.{region}.dynamodb, a gateway: KYDB on DynamoDB")
    return lines


def url_statements(prefix: str, urls: Sequence[str], *, write: bool) -> list[tuple[dict[str, Any], str]]:
    """The statements that let a job use KYDB URLs or S3 prefixes, each with its reason; Sids begin with `prefix`."""
    statements = []
    parts = [part.strip() for url in urls for part in url.replace("|", ";").split(";") if part.strip()]
    for number, url in enumerate(dict.fromkeys(parts), 1):
        kind, name, path = _taken_apart(url)
        what = f"jobs read{' and write' if write else ''} {url}"
        sid = f"{prefix}{number}"
        if kind == "dynamodb":
            table = f"arn:${{AWS::Partition}}:dynamodb:${{AWS::Region}}:${{AWS::AccountId}}:table/{name}"
            statements.append(
                (
                    _statement(
                        sid, _DYNAMODB_WRITE if write else _DYNAMODB_READ, [table, f"{table}/index/folder-index"]
                    ),
                    what,
                )
            )
        elif kind == "s3":
            bucket = f"arn:${{AWS::Partition}}:s3:::{name}"
            objects = [f"{bucket}/{path}/*", *_folder_marks(bucket, path)] if path and write else [f"{bucket}/{path}*"]
            statements += [
                (_statement(sid, _S3_WRITE if write else _S3_READ, objects), what),
                (
                    _statement(f"{sid}List", ["s3:ListBucket"], [bucket]),
                    f"{what}: without it S3 does not say whether a key exists",
                ),
            ]
    return statements


def _taken_apart(url: str) -> tuple[str, str, str]:
    """Kind, bucket or table, and path of a URL.

    Raises:
        UserError: SageMaker's instances cannot reach it, or need no permission of AWS's for it but another way in.
    """
    parts = urlsplit(url)
    if parts.scheme in ("s3", "dynamodb") and parts.netloc:
        return parts.scheme, parts.netloc, parts.path.strip("/")
    if parts.scheme in ("redis", "http", "https") and parts.netloc:
        return parts.scheme, parts.netloc, ""  # no permission of AWS's: the network decides
    raise UserError(
        "--kydb and --read take s3://BUCKET[/PATH], dynamodb://TABLE[/PATH], redis:// and http:// URLs, "
        f"received {url!r}"
    )


def _folder_marks(bucket: str, path: str) -> list[str]:
    """The objects beside a KYDB's base path in which KYDB notes that its folders exist."""
    parents = ["", *(f"{'/'.join(path.split('/')[:depth])}/" for depth in range(1, path.count("/") + 1))]
    return [f"{bucket}/{parent}.folder-*" for parent in parents]


def vpc_statements(subnets: Sequence[str], security_groups: Sequence[str]) -> list[tuple[dict[str, Any], str]]:
    """The statements that let SageMaker put a job into a VPC, each with its reason.

    Source: AWS's list of permissions of an execution role whose jobs have a VpcConfig.
    """
    ec2 = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:"
    places = [f"{ec2}subnet/{name}" for name in subnets]
    places += [f"{ec2}security-group/{name}" for name in security_groups]
    return [
        (
            _statement("JoinVpc", ["ec2:CreateNetworkInterface"], [_INTERFACES, *places]),
            "SageMaker gives a job an interface in these subnets",
        ),
        (
            _statement(
                "HandleInterfaces",
                ["ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface"],
                [_INTERFACES],
            ),
            "SageMaker lets its instance use that interface, and deletes it after the job",
        ),
        (
            _statement(
                "LookAtVpc",
                [
                    "ec2:DeleteNetworkInterfacePermission",
                    "ec2:DescribeDhcpOptions",
                    "ec2:DescribeNetworkInterfaces",
                    "ec2:DescribeSecurityGroups",
                    "ec2:DescribeSubnets",
                    "ec2:DescribeVpcs",
                ],
                ["*"],
            ),
            "SageMaker looks the VPC up; AWS has no narrower resource for these",
        ),
    ]


def _key_statements(key: str) -> list[tuple[dict[str, Any], str]]:
    if not key.startswith("arn:"):
        raise UserError(f"--kms-key must be the key's ARN (aws kms describe-key prints it), received {key!r}")
    return [(_statement("UseKey", _KMS, [key]), "volumes and results are encrypted with this key")]


def _statement(sid: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    written = [{"Fn::Sub": resource} if "${" in resource else resource for resource in resources]
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": written}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else list(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("Fn::Sub") or ".".join(value.get("Fn::GetAtt", [json.dumps(value)])))
    return str(value)
