"""Whether an image of this machine is one that SageMaker's instances can run."""

import subprocess

from ml.errors import UserError

PLATFORM = "linux/amd64"


def refuse_wrong_platform(image: str) -> None:
    """Refuses an image that was built for another processor, as on a Mac, before it is pushed.

    Args:
        image: an image's name on this machine.

    Raises:
        UserError: it is not there, is for another platform, or docker does not answer.
    """
    try:
        asked = subprocess.run(
            ["docker", "image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("the docker command is not installed; install it to push an image") from None
    if asked.returncode:
        raise UserError(
            f"the image {image} cannot be looked at: {' '.join(asked.stderr.split())}; `make image` builds it"
        )
    if (platform := asked.stdout.strip()) != PLATFORM:
        raise UserError(
            f"the image {image} is for {platform or 'an unknown platform'}, and SageMaker's instances are {PLATFORM}; "
            f"build it with: docker build --platform {PLATFORM} --tag {image} ."
        )
