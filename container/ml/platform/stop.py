"""The signals that ask a job to end."""

import signal


class StopSignal:
    """Set once the process is asked to end (SIGTERM from SageMaker and Docker, SIGINT from a terminal).

    Make it first: as PID 1 a process without a handler never learns of a SIGTERM.
    """

    def __init__(self):
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number, _frame):
        self.is_set = True
        print(f"received {signal.Signals(number).name}: stopping as soon as the step under way ends", flush=True)
