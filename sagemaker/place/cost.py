"""What a job on SageMaker costs, by AWS's own Price List, where the credentials may read it (pricing:GetProducts)."""

import contextlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

import botocore.config
import botocore.exceptions

from request import TUNING, host_names, operation_of, ranges_of, training_part

REGION = "us-east-1"  # of the Price List's endpoint; it knows the prices of all regions
IMPATIENT = botocore.config.Config(connect_timeout=2, read_timeout=4, retries={"total_max_attempts": 1})

_DEFAULT_SECONDS = 24 * 3600  # SageMaker's own MaxRuntimeInSeconds


def hourly_price(pricing_client: Callable[[], Any], instance_type: str, region: str) -> float | None:
    """USD an hour of training on demand; None where AWS does not say, whatever the reason.

    Args:
        pricing_client: makes boto3's client of the Price List.
        instance_type: such as ml.g5.xlarge.
        region: code of the region that the job runs in.
    """
    filters = {
        "regionCode": region,
        "instanceName": instance_type,
        "component": "Training",
        "locationType": "AWS Region",
    }
    try:
        answer = pricing_client().get_products(
            ServiceCode="AmazonSageMaker",
            Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in filters.items()],
        )
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
        return None
    prices = {price for product in answer["PriceList"] for price in _prices_of(product, instance_type)}
    return prices.pop() if len(prices) == 1 else None


def _prices_of(product: str, instance_type: str) -> list[float]:
    """The hourly prices in a product, which is JSON; spot and free-tier products have another usage type."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # a shape that AWS did not announce
        content = json.loads(product)
        usage_type = content["product"]["attributes"]["usagetype"]  # USE1-Train:ml.g5.xlarge
        if re.fullmatch(rf"(.+-)?Train:{re.escape(instance_type)}", usage_type):
            return [
                float(dimension["pricePerUnit"]["USD"])
                for term in content["terms"]["OnDemand"].values()
                for dimension in term["priceDimensions"].values()
                if dimension["unit"] == "Hrs"
            ]
    return []


def estimate(request: dict[str, Any], hourly: float | None) -> str:
    """A line: what a request costs at most; empty where the price is not known.

    Args:
        request: a complete request.
        hourly: USD an hour of all its instances.
    """
    if hourly is None:
        return ""
    job = training_part(request)
    seconds = job["StoppingCondition"].get("MaxRuntimeInSeconds", _DEFAULT_SECONDS)
    if operation_of(request) == TUNING:
        points = math.prod(len(entry["Values"]) for _, entry in ranges_of(request) if "Values" in entry)  # Grid's
        seconds *= request["HyperParameterTuningJobConfig"]["ResourceLimits"].get("MaxNumberOfTrainingJobs", points)
    seconds += job["ResourceConfig"].get("KeepAlivePeriodInSeconds", 0)
    spot = ", less on spot" if job.get("EnableManagedSpotTraining") else ""
    return (
        f"estimated cost: at most {hourly * seconds / 3600:.2f} USD, if it runs for all of {seconds} s "
        f"({hourly:g} USD an hour{spot}; disk not counted)"
    )


def bill(record: dict[str, Any], hourly: float | None) -> str:
    """A line: the billed seconds of an ended job and, where the price is known, what they cost."""
    seconds = record["BillableTimeInSeconds"]
    saved = record.get("TrainingTimeInSeconds", seconds) - seconds
    hosts = len(host_names(record))
    return (
        f"billed: {seconds} s"
        + (f" of each of {hosts} instances" if hosts > 1 else "")
        + (f", {saved} s saved by spot" if saved > 0 else "")
        + ("" if hourly is None else f"; about {hourly * seconds / 3600:.4f} USD at {hourly:g} USD an hour")
    )
