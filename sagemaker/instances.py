"""What the rules know of instance types beyond their names."""

import re
from typing import Any

from request import entries, mapping

# Families whose instances have NVMe disks of their own (EC2's "instance store volumes"): SageMaker puts no volume
# beside them, and the disks are encrypted with a key of the hardware's.
_WITH_LOCAL_DISKS = re.compile(
    r"ml\.(g4dn|g5|g6|g6e|g7|g7e|p3dn|p4d|p4de|p5|p5e|p5en|p6-b200|p6-b300|p6e-gb200|r5d|trn1|trn1n|trn2)\..+"
)
_ULTRASERVERS = ("ml.p6e-",)


def has_local_disk(instance_type: str) -> bool:
    """Whether instances of a type, such as ml.g5.xlarge, bring a disk of their own."""
    return _WITH_LOCAL_DISKS.fullmatch(instance_type) is not None


def is_of_ultraserver(instance_type: str) -> bool:
    """Whether instances of a type are parts of an UltraServer."""
    return instance_type.startswith(_ULTRASERVERS)


def instance_types(job: dict[str, Any]) -> list[str]:
    """Every instance type that a training job names, whichever way it does."""
    resources = mapping(job.get("ResourceConfig"))
    named = [resources, *entries(resources.get("InstanceGroups")), *entries(resources.get("InstancePreferences"))]
    return [str(entry["InstanceType"]) for entry in named if "InstanceType" in entry]
