"""Costs on SageMaker: AWS's Price List where it can be asked, and no word where it cannot."""

import boto3
import botocore.exceptions
import botocore.stub
import pytest
import yaml

from launching import REPOSITORY, price_list_entry
from place import cost

TYPE = "ml.g5.xlarge"


@pytest.fixture
def price_list():
    """What the Price List answers, set by a test."""
    client = boto3.client("pricing", "us-east-1", aws_access_key_id="nobody", aws_secret_access_key="nothing")
    with botocore.stub.Stubber(client) as stub:
        stub.client = client
        yield stub


def price(price_list, *products):
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value}
        for field, value in (
            ("regionCode", "eu-west-1"),
            ("instanceName", TYPE),
            ("component", "Training"),
            ("locationType", "AWS Region"),
        )
    ]
    expected = {"ServiceCode": "AmazonSageMaker", "Filters": filters}
    price_list.add_response("get_products", {"PriceList": list(products)}, expected)
    return cost.hourly_price(lambda: price_list.client, TYPE, "eu-west-1")


def test_the_price_of_training_on_demand_is_found(price_list):
    assert price(price_list, price_list_entry(f"EU-Train:{TYPE}", "1.5700000000")) == 1.57


@pytest.mark.parametrize(
    "products",
    [
        [],
        [price_list_entry(f"EU-SpotTrain:{TYPE}", "0.5")],
        [price_list_entry(f"EU-Host:{TYPE}", "1.6")],
        [price_list_entry(f"EU-Train:{TYPE}", "1", unit="GB-Mo")],
        [price_list_entry(f"EU-Train:{TYPE}", "1"), price_list_entry(f"EU-Train:{TYPE}", "2")],
        ["no JSON"],
        ["[]"],
        ["{}"],
    ],
    ids=["none", "spot", "hosting", "disk", "two", "text", "list", "other keys"],
)
def test_a_price_that_is_not_certain_is_none(price_list, products):
    assert price(price_list, *products) is None


def test_a_price_list_that_cannot_be_asked_costs_no_more_than_the_price(price_list):
    price_list.add_client_error("get_products", "AccessDeniedException")
    assert cost.hourly_price(lambda: price_list.client, TYPE, "eu-west-1") is None

    def without_credentials():
        raise botocore.exceptions.NoCredentialsError

    assert cost.hourly_price(without_credentials, TYPE, "eu-west-1") is None


def test_a_grids_cost_is_that_of_all_its_points():
    request = yaml.safe_load((REPOSITORY / "sagemaker" / "tuning_job.yaml").read_text())
    request["HyperParameterTuningJobConfig"] |= {
        "Strategy": "Grid",
        "ResourceLimits": {"MaxParallelTrainingJobs": 1},
        "ParameterRanges": {
            "CategoricalParameterRanges": [
                {"Name": "nodes", "Values": ["64", "128", "256"]},
                {"Name": "optimizer", "Values": ["adam", "nadam"]},
            ]
        },
    }
    request["TrainingJobDefinition"] |= {
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        "ResourceConfig": {"InstanceType": TYPE, "InstanceCount": 1, "KeepAlivePeriodInSeconds": 3600},
    }
    assert "at most 10.99 USD" in cost.estimate(request, 1.57)  # 6 points and a warm hour
    assert cost.estimate(request, None) == ""
