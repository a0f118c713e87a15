"""A job of several hosts on this machine: a process each, on loopback, with the files that SageMaker would write."""

import json
import signal
import socket

from job_folder import JobFolder

DEADLINE = 540  # seconds that a process may take under a loaded machine; none needs them


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class HostJobs:
    """The folders of a job's hosts, and the processes on them.

    Args:
        folder: gets one folder a host.
        hyperparameters: name to value.
        channel: files of the channel `train` of every host.
        count: of hosts.
        addresses: by host, where not 127.0.0.1.
    """

    def __init__(self, folder, hyperparameters, *, channel, count=2, addresses=()):
        self.names = [f"algo-{number}" for number in range(1, count + 1)]
        self.port = free_port()
        self.addresses = dict.fromkeys(self.names, "127.0.0.1") | dict(addresses)
        self.jobs = [
            JobFolder(folder / name, hyperparameters, channel=channel, checkpoints=True, hosts=self.names)
            for name in self.names
        ]
        self.write_resources()

    @property
    def first(self):
        return self.jobs[0]

    def write_resources(self):
        for name, job in zip(self.names, self.jobs, strict=True):
            resources = {
                "current_host": name,
                "hosts": self.names[::-1],
                "network_interface_name": "lo",
                "addresses": self.addresses,
                "ports": dict.fromkeys(self.names, self.port),
            }
            (job.base / "input/config/resourceconfig.json").write_text(json.dumps(resources))

    def start(self, **environment):
        """Starts the hosts' processes, on a port that is free now."""
        self.port = free_port()
        self.write_resources()
        self.processes = [job.start(**environment) for job in self.jobs]
        return self.processes

    def end(self):
        """Waits until all have ended; their exit codes."""
        for job, process in zip(self.jobs, self.processes, strict=True):
            job.output, job.errors = process.communicate(timeout=DEADLINE)
        return [process.returncode for process in self.processes]

    def run(self, **environment):
        self.start(**environment)
        return self.end()

    @property
    def errors(self):
        return "\n".join(f"{name}:\n{job.output}{job.errors}" for name, job in zip(self.names, self.jobs, strict=True))


def kill(process):
    process.send_signal(signal.SIGKILL)
