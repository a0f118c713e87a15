"""What a job on SageMaker costs: prices that somebody can look up again, or `unknown`.

Source: the account statement of December 2023 that AWS published at
https://github.com/aws-samples/sagemaker-ssh-helper/blob/main/Sample_Costs.md, USD an hour of training on
demand. AWS changes prices and they differ by region: add what you know from
https://aws.amazon.com/sagemaker/pricing/ with its date.
"""

import math
from typing import Any

from request import TUNING, operation_of, ranges_of, training_part

_DATE = "December 2023"
_USD_PER_HOUR = {
    "eu-west-1": {"ml.m5.xlarge": 0.257, "ml.g4dn.xlarge": 0.822, "ml.g5.xlarge": 1.57, "ml.p3.2xlarge": 4.131},
}


def estimate(request: dict[str, Any], region: str) -> str:
    """One line: what the request costs at most, or why that is unknown."""
    job = training_part(request)
    resources, stopping = job["ResourceConfig"], job["StoppingCondition"]
    hourly = _hourly(resources, region)
    seconds = stopping.get("MaxRuntimeInSeconds", 24 * 3600)  # SageMaker's own default
    if operation_of(request) == TUNING:
        points = math.prod(len(entry["Values"]) for _, entry in ranges_of(request) if "Values" in entry)  # Grid's
        seconds *= request["HyperParameterTuningJobConfig"]["ResourceLimits"].get("MaxNumberOfTrainingJobs", points)
    seconds += resources.get("KeepAlivePeriodInSeconds", 0)
    if hourly is None:
        return f"estimated cost: unknown ({_unknown(resources, region)})"
    spot = ", less on spot" if job.get("EnableManagedSpotTraining") else ""
    return (
        f"estimated cost: at most {hourly * seconds / 3600:.2f} USD, if it runs for all of {seconds} s "
        f"({hourly} USD an hour in {_DATE}{spot}; disk not counted)"
    )


def bill(description: dict[str, Any], region: str) -> str:
    """One line: the billed seconds of an ended job and what they cost."""
    seconds = description["BillableTimeInSeconds"]
    hourly = _hourly(description["ResourceConfig"], region)
    cost = (
        f"unknown ({_unknown(description['ResourceConfig'], region)})"
        if hourly is None
        else f"about {hourly * seconds / 3600:.4f} USD at {hourly} USD an hour ({_DATE})"
    )
    saved = description.get("TrainingTimeInSeconds", seconds) - seconds
    return f"billed: {seconds} s" + (f", {saved} s saved by spot" if saved > 0 else "") + f"; cost: {cost}"


def _hourly(resources: dict[str, Any], region: str) -> float | None:
    price = _USD_PER_HOUR.get(region, {}).get(resources.get("InstanceType", ""))
    return None if price is None else price * resources.get("InstanceCount", 1)


def _unknown(resources: dict[str, Any], region: str) -> str:
    return f"sagemaker/prices.py has no price of {resources.get('InstanceType')} in {region}"
